"""The report of `make trust`, from its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from bench.experiments.ssra_report import markdown
from relsdk.files.folders import write_file_atomically

_HEAD = (
    "# Do levels and probabilities keep what they promise?\n\n"
    "An encoder, a query tower and a score model learned from 2,000 labelled pairs of KUAKE-QTR. Everything "
    "here is measured on labelled pairs whose queries none of them saw. Written by `make trust`; settings "
    "and versions are in the JSON.\n"
)


def write_report(rows: Mapping[str, Any], path: Path) -> None:
    """Write what has been measured so far."""
    parts = [_HEAD]
    for name, part in _PARTS.items():
        if name in rows:
            parts.append(part(rows[name]["found"], rows[name]["pairs"]))
    write_file_atomically(path, "\n".join(parts))


def _promises(found: Sequence[Mapping[str, Any]], pairs: Mapping[str, int]) -> str:
    splits = found[0]["splits"]
    return section(
        "Promises of precision, confidence 0.95",
        f"{splits} splits by query of {pairs['unseen']:,} pairs of train: a calibration and its promises "
        f"from {pairs['fitted']:,} of them, precision on the rest. A promise may be broken in 5 % of the "
        "splits; beside it the interval of that share (Wilson), too narrow since splits share pairs. "
        '"Without a '
        'promise": the lowest threshold that has the precision on the pairs it was chosen on. Given away: '
        "median precision on the rest less what was promised, of the splits whose threshold had at least "
        "500 pairs and did not let all through. Best recall: of the lowest threshold that has the "
        "precision on the rest.",
        _of_a_sample(pairs["fitted"] / (pairs["unseen"] - pairs["fitted"])),
        promise_table(found),
    )


def _of_a_sample(ratio: float) -> str:
    """Say how often a test of 5 % breaks where the rest is a sample, too.

    Args:
        ratio: Of fitted pairs to those of the rest; both are of one set.
    """
    seen = NormalDist().cdf(NormalDist().inv_cdf(0.05) / (1 + ratio) ** 0.5)
    return (
        "The rest is a sample, too, and what the fitted pairs have too much it has too little: a promise "
        f"that is broken in exactly 5 % of cases is broken in {seen:.1%} of such splits."
    )


def promise_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return one row for each level and precision."""
    rows = []
    for one in found:
        cells = [
            at_least(one["level"]),
            f"{one['target_precision']:g}",
            f"{one['promised']} of {one['splits']}",
            f"{one['plain_broken_share']:.0%}",
        ]
        if one["promised"]:
            low, high = one["broken_interval"]
            given = one["median_given_away"]
            cells += [
                f"{one['broken_share']:.1%} [{low:.1%}, {high:.1%}]",
                "-" if given is None else f"{given * 100:+.1f} ({one['given_away_splits']})",
                f"{one['median_precision']:.3f}",
                f"{one['median_recall']:.3f}",
                f"{one['median_best_recall']:.3f}",
            ]
        rows.append(cells + ["-"] * (9 - len(cells)))
    head = ["level", "precision", "promised", "broken without a promise", "broken"]
    head += ["given away, points (splits)", "median precision", "median recall", "best recall"]
    return markdown(tuple(head), rows)


def _from_dev(found: Sequence[Mapping[str, Any]], pairs: Mapping[str, int]) -> str:
    rows = [
        [at_least(one["level"]), f"{one['target_precision']:g}"]
        + (
            ["refused", "", "", "", ""]
            if "refused" in one
            else [
                f"{one['threshold']:.3f}",
                f"{one['reached']:.3f}",
                f"{one['precision_on_test']:.3f}",
                f"{one['recall']:.3f}",
                f"{one['recall_on_test']:.3f}",
            ]
        )
        for one in found
    ]
    head = ["level", "precision", "threshold", "on dev", "on test", "recall on dev", "recall on test"]
    return section(
        f"From dev ({pairs['dev']:,} pairs) to test ({pairs['test']:,}), once",
        "An illustration: one draw.",
        markdown(tuple(head), rows),
    )


def _errors(found: Sequence[Mapping[str, Any]], pairs: Mapping[str, int]) -> str:
    rows = []
    for one in found:
        errors = [one["debiased_ece"], *one["debiased_ece_at_least"]]
        changes = [f"{one[name]:.2%}" for name in ("levels_changed", "levels_changed_by_rounding")]
        cells = [one["model"], one["variant"], *changes, f"{one['ece']:.3f}"]
        cells += [_error(error) for error in errors]
        rows.append([*cells, f"{one['accuracy']:.3f}", f"{one['qwk']:.3f}"])
    head = [
        "model",
        "file",
        "levels other than fp32's",
        "by fp32's fit",
        "ECE",
        "debiased: most probable level",
    ]
    head += ["P(level >= 1)", "P(level >= 2)", "P(level = 3)", "accuracy", "QWK"]
    return section(
        "Calibration error on test",
        "Calibrated on dev, one fit for each file; \"by fp32's fit\": levels that the file's rounding alone "
        "changes. Debiased: less what the labels' noise adds, with the 95 % interval of a bootstrap over "
        'queries; "~0": not distinguishable from 0.',
        markdown(tuple(head), rows),
    )


def _error(error: Mapping[str, Any]) -> str:
    about = "" if error["is_distinguishable"] else " ~0"
    return f"{error['value']:.3f} [{error['low']:.3f}, {error['high']:.3f}]{about}"


def _few(found: Sequence[Mapping[str, Any]], pairs: Mapping[str, int]) -> str:
    rows = []
    for one in found:
        cells = [f"{one['pairs']:,}", _spread(one["ece"]), f"{one['promised']} of {one['draws']}"]
        cells += [str(one["broken"]), _spread(one["precision"]), _spread(one["recall"])]
        rows.append(cells)
    head = ["labelled pairs", "ECE", "promised 0.9 at level >= 2", "broken", "precision", "recall"]
    return section(
        "Few labels",
        f"A calibration on so many pairs, measured on the rest of {pairs['unseen']:,}: median and 90 % "
        "interval over the draws. The rest is large, so its ECE has little noise.",
        markdown(tuple(head), rows),
    )


def _spread(values: Sequence[float] | None) -> str:
    return "-" if values is None else f"{values[1]:.3f} [{values[0]:.3f}, {values[2]:.3f}]"


def _shift(found: Mapping[str, Any], pairs: Mapping[str, int]) -> str:
    names = {"before": "as calibrated on dev", "after": "corrected from the pairs without labels"}
    rows = [
        [names[name], *(f"{value:.3f}" for value in found[name]["ece"]), f"{found[name]['share_of_0']:.3f}"]
        for name in names
    ]
    head = [
        "probabilities",
        "debiased ECE",
        "P(level >= 1)",
        "P(level >= 2)",
        "P(level = 3)",
        "mean P(level 0)",
    ]
    return section(
        "Prior shift",
        f"Test re-sampled {found['draws']} times so that {found['share']:.0%} of {found['pairs']:,} pairs "
        "are of level 0; the shares of the levels are estimated from these pairs without their labels. "
        "Means over the draws.",
        markdown(tuple(head), rows),
    )


def _spline(found: Sequence[Mapping[str, Any]], pairs: Mapping[str, int]) -> str:
    splines = list(dict.fromkeys((row["pieces"], row["bend"]) for row in found))
    names = {"unseen": "KUAKE-QTR", "others": "QBQTC"}
    cases = dict.fromkeys((row["data"], row["pairs"]) for row in found)
    cells = {(row["data"], row["pairs"], row["pieces"], row["bend"]): row for row in found}
    rows = [
        [
            "straight" if pieces == 1 else f"{pieces} pieces, {bend}",
            *(
                "+0"
                if not one["standard_error"]
                else f"{1000 * one['more']:+.1f} ± {1000 * one['standard_error']:.1f}"
                for case in cases
                for one in [cells[(*case, pieces, bend)]]
            ),
        ]
        for pieces, bend in splines
    ]
    return section(
        "The spline of a calibration",
        "It has at most so many pieces, and a prior that takes a change of so much, of a slope's logarithm "
        "from piece to piece, for little. Log loss of the rest in thousandths, more than by the one that is "
        f"used, with its standard error, when it is fitted to so many pairs: of the {pairs['unseen']:,} of "
        f"train, by which it was chosen, and of {pairs['others']:,} of another search engine (levels 0-2), "
        "which were not looked at.",
        markdown(("spline", *(f"{names[data]}, {count:,}" for data, count in cases)), rows),
    )


def _sample(found: Mapping[str, Any], pairs: Mapping[str, int]) -> str:
    counted = f"{found['documents']:,} documents, {found['queries']:,} queries, the first ten hits of each"
    promises = [
        part
        for name, one in found["encoders"].items()
        for part in (f"Promises of an encoder that learned from {name}:", promise_table(one["promises"]))
    ]
    rows = [
        [name, str(said["queries"]), f"{said['without_relevant']:.1%}", f"{said['with_relevant']:.1%}"]
        for name, one in found["encoders"].items()
        for said in [one["nothing_relevant"]]
    ]
    return section(
        "The sample corpus: search over the whole index, exact levels",
        f"{counted}, by two encoders: the one above, which never saw this corpus, and one of "
        f"{found['labels']:,} labelled pairs of it. No query here is one of those. Promises are of a half of "
        "the queries, measured on the other.",
        _of_a_sample(1.0),
        *promises,
        "How often does search say of a test query that nothing relevant (level >= 2) is there, when its "
        "relevant documents are left out, and when they are there? Calibrated on the hits of other queries.",
        markdown(("the encoder learned from", "queries", "left out", "there"), rows),
    )


def at_least(level: int) -> str:
    """Name a level and those above it."""
    return str(level) if level == 3 else f">= {level}"


def section(title: str, text: str, *parts: str) -> str:
    """Return a section: a title, what it is about, and tables and text."""
    return "\n\n".join([f"## {title}", text, *parts]) + "\n"


_PARTS: dict[str, Callable[[Any, Mapping[str, int]], str]] = {
    "promises": _promises,
    "from dev to test": _from_dev,
    "few labels": _few,
    "spline": _spline,
    "errors": _errors,
    "prior shift": _shift,
    "sample corpus": _sample,
}
