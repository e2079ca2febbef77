"""The Markdown of `bench/results/llm_labels.json`: the curve, and what the answers are worth."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.experiments.rows import row_key, row_name, study_of
from bench.experiments.ssra_report import COMPARED, ORDER, UNTRAINED, UPPER, markdown
from relsdk.files.folders import write_file_atomically
from relsdk.metrics import paired_bootstrap
from relsdk_training.data.pairs import PairArrays
from relsdk_training.ssra.stages.compare import draw_rows, mean_ap, ndcg_values

ALONE = "labels alone"
_DRAWS = 500


def pack(cosines: NDArray[np.floating]) -> str:
    """Return cosines as base64 of little-endian float32: later seeds are pooled with these."""
    return base64.b64encode(np.asarray(cosines, dtype="<f4").tobytes()).decode("ascii")


def unpack(text: str) -> NDArray[np.float32]:
    """Return what `pack` packed, (N,) float32."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def write_report(rows: dict[str, Any], path: Path, *, test: PairArrays) -> None:
    """Write the tables of all rows.

    Args:
        rows: Of the JSON, by key.
        path: Markdown file.
        test: The pairs that the rows' cosines are of.
    """
    parts = [
        "# What a language model's grades and queries are worth, on KUAKE-QTR",
        "Test split, percent. nDCG@10: exponential gain, queries with at least three documents and more than "
        "one level. The language model graded 4,000 pairs and wrote 5,396 queries; with labels, 480 of its "
        "grades of dev pairs say how far it can be believed, besides the labels of the budget. Without "
        "labels there is no dev: the last step counts. Written by `make llm-real`; settings and versions are "
        "in the JSON.",
        *(
            part
            for steps in sorted({study_of(key)[1] for key in rows})
            for part in _study({key: row for key, row in rows.items() if study_of(key)[1] == steps}, test)
        ),
        "## Seconds of each row",
        markdown(
            ("row / labels / steps / seed", "best step", "seconds"),
            [
                [key, str(row.get("best_step", "-")), f"{sum(row['seconds'].values()):,.0f}"]
                for key, row in rows.items()
                if "seconds" in row
            ],
        ),
    ]
    write_file_atomically(path, "\n\n".join(parts) + "\n")


def _study(rows: dict[str, Any], test: PairArrays) -> list[str]:
    """Return the tables of the rows of one number of steps."""
    found: dict[tuple[int, str], list[str]] = {}
    for key in rows:
        found.setdefault((study_of(key)[0], row_name(key)), []).append(key)
    lines = [
        [
            f"{budget:,}" if name not in (UPPER, UNTRAINED) else "-",
            name,
            str(len(keys)),
            *(_mean_and_spread([rows[key]["test"][measure] for key in keys]) for measure in ORDER),
            *(_against(rows, keys, budget, measure, test) for measure in COMPARED),
        ]
        for (budget, name), keys in sorted(found.items(), key=lambda item: item[0][0])
    ]
    header = ("labels", "trained on", "seeds", "mean AP", "AP>=1", "AP>=2", "AP=3", "nDCG@10")
    parts = [
        f"## {study_of(next(iter(rows)))[1]:,} steps",
        markdown((*header, "mean AP - labels alone", "nDCG@10 - labels alone"), lines),
        "The last two columns: the mean difference to the same seeds of labels alone, with the 95 % interval "
        "of a bootstrap over queries; without labels, to labels alone of the largest budget.",
    ]
    worth = _worth({key: row for key, row in rows.items() if row_name(key) != UNTRAINED})
    return parts + ([worth] if worth else [])


def pooled_interval(
    test: PairArrays, pairs: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]], measure: str
) -> tuple[float, float, float]:
    """Return the mean over seeds of other - one, and its 95 % interval when queries are drawn again.

    The same queries are drawn for all seeds: seeds are trainings, and share the test.

    Args:
        test: N pairs.
        pairs: For each seed the cosines (N,) of one and of the other.
        measure: "mean_ap", over all pairs drawn, or "ndcg_at_10", the mean over queries.
    """
    if measure == "ndcg_at_10":
        one, other = (np.mean([ndcg_values(test, pair[side]) for pair in pairs], axis=0) for side in (0, 1))
        found = paired_bootstrap(other, one, 0)
        return found.mean, found.low, found.high

    def difference(rows: NDArray[np.int64]) -> float:
        return float(np.mean([mean_ap(test, other, rows) - mean_ap(test, one, rows) for one, other in pairs]))

    low, high = np.quantile([difference(rows) for rows in draw_rows(test, _DRAWS, 0)], (0.025, 0.975))
    return difference(np.arange(len(test))), float(low), float(high)


def _against(rows: dict[str, Any], keys: Sequence[str], budget: int, measure: str, test: PairArrays) -> str:
    """Tell the difference to labels alone of the same seeds."""
    if any(row_name(key) in (ALONE, UPPER, UNTRAINED) for key in keys):
        return ""
    beside = budget or max((study_of(key)[0] for key in rows if row_name(key) == ALONE), default=0)
    both = []
    for key in keys:
        _, _, steps, seed = key.split(" / ")
        alone = rows.get(row_key(ALONE, beside, int(steps), int(seed)))
        if alone is not None:
            both.append((unpack(alone["cosines"]), unpack(rows[key]["cosines"])))
    if not both:
        return "-"
    mean, low, high = (100 * value for value in pooled_interval(test, both, measure))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _worth(rows: Mapping[str, Any]) -> str:
    """Say how many human labels a row without any equals: between the points of labels alone."""
    curve: dict[int, list[float]] = {}
    for key, row in rows.items():
        if row_name(key) == ALONE:
            curve.setdefault(study_of(key)[0], []).append(row["test"]["mean_ap"])
    points = sorted((labels, float(np.mean(values))) for labels, values in curve.items())
    if len(points) < 2:
        return ""
    told = []
    for name in dict.fromkeys(map(row_name, rows)):
        for budget in sorted({study_of(key)[0] for key in rows if row_name(key) == name}):
            values = [
                row["test"]["mean_ap"] for key, row in rows.items() if key.startswith(f"{name} / {budget} / ")
            ]
            if name not in (ALONE, UPPER):
                told.append(f"- {name}, {budget:,} labels: {_labels_for(float(np.mean(values)), points)}")
    lead = "How many labels give that mean AP alone, by the logarithm of their number between the budgets:"
    return "\n".join([lead, "", *told]) if told else ""


def _labels_for(value: float, points: Sequence[tuple[int, float]]) -> str:
    """Return where a rising curve through points (labels, mean AP) reaches a value."""
    labels, values = np.array([point[0] for point in points]), np.array([point[1] for point in points])
    if value < values.min():
        return f"fewer than {labels[0]:,}"
    if value > values.max():
        return f"more than {labels[-1]:,}"
    return f"about {round(float(np.exp(np.interp(value, values, np.log(labels)))), -1):,.0f}"


def _mean_and_spread(values: Sequence[float]) -> str:
    shares = 100 * np.asarray(values)
    return f"{shares.mean():.2f}" + (f" ± {shares.std(ddof=1):.2f}" if len(shares) > 1 else "")
