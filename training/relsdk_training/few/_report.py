"""What a run of `relsdk train few` made, as JSON and as Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relsdk.files.folders import write_file_atomically
from relsdk.levels import NUM_LEVELS
from relsdk_training.few._data import DEV_LABELS
from relsdk_training.ssra.markdown import markdown_table, markdown_text, opinions_section

__all__ = ["describe_run", "write_report"]

_MEASURES = {"mean_ap": "mean AP", "ap_1": "AP>=1", "ap_2": "AP>=2", "ap_3": "AP=3", "ndcg_at_10": "nDCG@10"}
_LEVELS = [f"level {level}" for level in range(NUM_LEVELS)]


def describe_run(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a run has to say.

    Args:
        reports: Of its stages, by their names.

    Returns:
        A JSON object: `asked` (of a language model, by stage), `pairs` of each level by what they are,
        `opinions` (see `Opinions.to_dict`; None without any), `training`, `levels` (of each variant, on
        queries they were not fitted on), `bytes`, `measures`, `notes` and `next`, in words.
    """
    by_name = {name.partition("-")[2]: report for name, report in reports.items()}
    data, trained, opinions = by_name["data"], by_name["train"], by_name["train"]["opinions"]
    return {
        "asked": {name: dict(by_name[name]) for name in ("judge", "write") if name in by_name},
        "pairs": {
            "labels": data["train"],
            "dev": data["dev"],
            "opinions": opinions["levels"] if opinions else [0] * NUM_LEVELS,
            "written queries": trained["written"],
        },
        "opinions": opinions,
        "training": {name: trained[name] for name in ("steps", "best_step", "dev")},
        "levels": {one["variant"]: one["grading"] for one in by_name["bundle"]["calibrations"]},
        "bytes": by_name["bundle"]["bytes"],
        "measures": by_name["eval"],
        "notes": _notes(data, opinions),
        "next": _next(data, trained),
    }


def _notes(data: Mapping[str, Any], opinions: Mapping[str, Any] | None) -> list[str]:
    """Say what was decided, and what could not be done."""
    notes = []
    labels, dev = sum(data["train"]), sum(data["dev"])
    if data["dev_is_of_labels"] and dev:
        notes.append(
            f"{dev} of the {labels + dev} labels, with queries of their own, were set apart: they choose the "
            "best step, correct opinions and fit levels."
        )
    if data["left_out"]:
        notes.append(
            f"{data['left_out']:,} unlabelled pairs were not asked about: their query is in dev or test, or "
            "the pair has a label."
        )
    if not dev:
        notes.append("Nothing was measured: the number of steps is that of the settings.")
    if not data["calibrates"]:
        notes.append(
            "The bundle ranks, and has no levels: they are fitted on 50 labelled pairs of 5 queries or more, "
            "some of level 0 and some of level 3."
        )
    if opinions and opinions["confusion"] is None:
        notes.append(f"{opinions['told']}.")
    return notes


def _next(data: Mapping[str, Any], trained: Mapping[str, Any]) -> list[str]:
    """Say what would make it better."""
    labels, dev = sum(data["train"]), sum(data["dev"])
    advice = []
    if not dev:
        advice.append(
            f"Label {DEV_LABELS} pairs and give them with --labels: a part of them chooses the best step, "
            "corrects what the language model says by its own mistakes, gives the bundle levels, and says "
            "how good it is."
        )
    elif not data["calibrates"]:
        advice.append("Label more pairs for --dev, of other queries, until levels can be fitted.")
    if not trained["opinions"] and not sum(trained["written"]):
        advice.append("Let a language model help: --endpoint URL --model NAME --unlabelled FILE.")
    if dev and labels >= 2000:
        advice.append("With so many labels, compare with relsdk train embed on them alone.")
    advice.append(
        "Measure on pairs that nothing was chosen on, beside the encoder that the run started from: "
        "relsdk eval BUNDLE TEST (relsdk export encoder CHECKPOINT FOLDER makes a bundle of that one)."
    )
    return advice


def write_report(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write report.json and report.md into the folder of a run.

    Returns:
        The Markdown file.
    """
    body = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    write_file_atomically(folder / "report.json", body + "\n")
    parts = [
        f"# {markdown_text(folder.resolve().name)}",
        f"Bundle: `{content['bundle']}`",
        _list(content["notes"]),
        _asked(content["asked"]),
        _pairs(content["pairs"]),
        opinions_section(content["opinions"]) if content["opinions"] else "",
        _measures(content),
        _grades(content["levels"]),
        _seconds(content["seconds"]),
        "## Next\n\n" + _list(content["next"]),
    ]
    path = folder / "report.md"
    write_file_atomically(path, "\n\n".join(filter(None, parts)) + "\n")
    return path


def _asked(asked: Mapping[str, Mapping[str, int]]) -> str:
    if not asked:
        return ""
    rows = [
        [name, markdown_text(what), f"{n:,}"] for name, counts in asked.items() for what, n in counts.items()
    ]
    table = markdown_table(["stage", "what", "number"], rows, numbers={2})
    note = (
        "Tokens are estimated from characters. The answers are in answers.jsonl, unless settings say where."
    )
    return f"## Asked of the language model\n\n{table}\n\n{note}"


def _pairs(pairs: Mapping[str, Sequence[int]]) -> str:
    rows = [[name, *(f"{n:,}" for n in counts), f"{sum(counts):,}"] for name, counts in pairs.items()]
    note = "The levels of opinions are what the model said, before any correction."
    return (
        "## Pairs\n\n"
        + markdown_table(["pairs", *_LEVELS, "all"], rows, numbers={1, 2, 3, 4, 5})
        + f"\n\n{note}"
    )


def _measures(content: Mapping[str, Any]) -> str:
    training, measures = content["training"], content["measures"]
    rows = [
        [split, markdown_text(one["variant"]), *(_figure(one["ranking"][key], 100, 2) for key in _MEASURES)]
        for split, variants in measures.items()
        for one in variants
    ]
    told = f"Trained for {training['steps']} steps"
    told += f"; the best on dev was step {training['best_step']}." if training["dev"] else "."
    if not rows:
        return f"## Measures\n\n{told}"
    header = ["pairs", "variant", *_MEASURES.values()]
    told += " Dev chose the step, so what it measures is a little too good." if "dev" in measures else ""
    table = markdown_table(header, rows, numbers=set(range(2, len(header))))
    return f"## Measures\n\n{told} All in percent.\n\n{table}"


def _grades(levels: Mapping[str, Mapping[str, Any]]) -> str:
    if not levels:
        return ""
    rows = [
        [
            markdown_text(variant),
            str(grading["pairs"]),
            *(_figure(grading[key], 1, 3) for key in ("accuracy", "qwk", "ece")),
        ]
        for variant, grading in levels.items()
    ]
    header = ["variant", "pairs", "accuracy", "QWK", "ECE"]
    return (
        "## Levels\n\nOf dev's pairs, each graded by a fit that has not seen its query. Accuracy is a "
        "share of the pairs; the calibration error (ECE) is 0 at best.\n\n"
        + markdown_table(header, rows, numbers={1, 2, 3, 4})
    )


def _figure(value: float | None, scale: int, digits: int) -> str:
    """Return a measure for people; one that does not exist, for want of a level among the pairs, as "-"."""
    return "-" if value is None else f"{scale * value:.{digits}f}"


def _seconds(seconds: Mapping[str, float]) -> str:
    rows = [[markdown_text(name), f"{value:.1f}"] for name, value in seconds.items()]
    return "## Stages\n\n" + markdown_table(["stage", "seconds"], rows, numbers={1})


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
