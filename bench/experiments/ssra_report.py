"""The Markdown of `bench/results/ssra.json`: rows, paired intervals against vanilla SFT, agreement, costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.experiments.rows import row_name, study_of
from relsdk.files.folders import write_file_atomically
from relsdk.metrics import paired_bootstrap
from relsdk_training.data.pairs import PairArrays
from relsdk_training.ssra.stages.compare import draw_rows, mean_ap, ndcg_values

ORDER = ("mean_ap", "ap_1", "ap_2", "ap_3", "ndcg_at_10")
VANILLA, UPPER, FULL, UNTRAINED = "vanilla SFT", "all labels", "SSRA", "untrained"
COMPARED = ("mean_ap", "ndcg_at_10")
_DRAWS = 500


def write_report(rows: dict[str, Any], path: Path) -> None:
    """Write the tables of all rows."""
    picture = path.with_suffix(".png")
    draw(rows, picture)
    parts = [
        "# SSRA on KUAKE-QTR in the paper's imbalance",
        "Test split, percent. nDCG@10: exponential gain, queries with at least three documents and more than "
        "one level. Difference to vanilla SFT of the same labels and seed, with the 95 % interval of a "
        "paired bootstrap over queries. Written by `make ssra-real`; settings, versions and stage reports "
        "are in the JSON.",
        f"![mean AP against vanilla SFT of the same labels and seed]({picture.name})",
    ]
    for budget, steps in sorted({study_of(key) for key in rows}):
        found = {key: row for key, row in rows.items() if study_of(key) == (budget, steps)}
        parts += [f"## {budget:,} labelled pairs, {steps:,} steps", _table(found)]
        gap = _gap(found)
        if gap:
            parts.append(gap)
    agreement = _agreement(rows)
    if agreement:
        parts += [
            "## Does a written query have the wanted level?",
            "Percent of the written queries that have it, and of those that stage 2 keeps, by a score model "
            "that learned from all labels and has no part in the method; a seeded sample of 200 a level. In "
            "brackets what keeping changes, relative; the target is +50 % for levels 1 and 2 and no more "
            "than -6 % for level 3.",
            agreement,
        ]
    repeated = _repeats(rows)
    if repeated:
        parts += [
            "## Are written queries new?",
            "Percent of the written queries that were written before in the same run: of all samples, three "
            "a level, and of the first for each document and level alone. Stage 1 is to cut them by 20 %, "
            "relative: compare the row without it.",
            repeated,
        ]
    parts += ["## Seconds of each stage", _costs(rows)]
    write_file_atomically(path, "\n\n".join(parts) + "\n")


def paired_interval(
    test: PairArrays, one: NDArray[np.floating], other: NDArray[np.floating], measure: str, seed: int = 0
) -> tuple[float, float, float]:
    """Return other - one in a measure, and its 95 % interval when queries are drawn again.

    Args:
        test: N pairs.
        one: (N,) cosines.
        other: (N,) cosines.
        measure: "mean_ap", over all pairs drawn, or "ndcg_at_10", the mean over queries.
        seed: Of the draws.
    """
    if measure == "ndcg_at_10":
        values = [ndcg_values(test, cosines) for cosines in (one, other)]
        found = paired_bootstrap(values[1], values[0], seed)
        return found.mean, found.low, found.high

    def difference(rows: NDArray[np.int64]) -> float:
        return mean_ap(test, other, rows) - mean_ap(test, one, rows)

    low, high = np.quantile([difference(rows) for rows in draw_rows(test, _DRAWS, seed)], (0.025, 0.975))
    return difference(np.arange(len(test))), float(low), float(high)


def against(
    test: PairArrays, vanilla: NDArray[np.floating], cosines: NDArray[np.floating]
) -> dict[str, list[float]]:
    """Return the difference to vanilla SFT and its interval for each measure, as a row keeps them."""
    return {
        measure: [round(value, 5) for value in paired_interval(test, vanilla, cosines, measure)]
        for measure in COMPARED
    }


def _table(rows: dict[str, Any]) -> str:
    found: dict[str, list[str]] = {}
    for key in rows:
        found.setdefault(row_name(key), []).append(key)
    header = (
        "row",
        "seeds",
        "mean AP",
        "AP>=1",
        "AP>=2",
        "AP=3",
        "nDCG@10",
        "mean AP - vanilla",
        "nDCG@10 - vanilla",
    )
    lines = []
    for name, keys in found.items():
        cells = [name, str(len(keys))]
        for measure in ORDER:
            values = np.array([rows[key]["test"][measure] for key in keys]) * 100
            spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2f}{spread}")
        for measure in COMPARED:
            cells.append("; ".join(_told(rows[key], measure) for key in keys) if name != VANILLA else "")
        lines.append(cells)
    return markdown(header, lines)


def draw(rows: dict[str, Any], path: Path) -> None:
    """Draw each row's difference to vanilla SFT in mean AP, with its interval, as a PNG: a panel a study."""
    studies: dict[tuple[int, int], dict[str, list[tuple[float, float, float]]]] = {}
    for key, row in rows.items():
        if row_name(key) != UNTRAINED and "against_vanilla" in row:
            mean, low, high = (100 * value for value in row["against_vanilla"]["mean_ap"])
            studies.setdefault(study_of(key), {}).setdefault(row_name(key), []).append((mean, low, high))
    panels = sorted(studies.items())
    heights = [len(found) + 1 for _, found in panels] or [1]
    figure = Figure(figsize=(9, 1 + 0.4 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights, sharex=True).ravel()
    for axis, ((budget, steps), found) in zip(axes, panels, strict=False):
        for at, values in enumerate(found.values()):
            mean, low, high = np.array(values).T
            places = at + 0.15 * (np.arange(len(mean)) - (len(mean) - 1) / 2)
            axis.errorbar(mean, places, xerr=(mean - low, high - mean), fmt="o")
        axis.set_yticks(range(len(found)), list(found))
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_title(f"{budget:,} labelled pairs, {steps:,} steps")
    axes[-1].set_xlabel("mean AP - vanilla SFT, percent, with its 95 % interval; a line a seed")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=100)


def _told(row: dict[str, Any], measure: str) -> str:
    found = row.get("against_vanilla")
    if found is None:
        return "-"
    mean, low, high = (100 * x for x in found[measure])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _gap(rows: dict[str, Any]) -> str:
    """Say how wide the gap between vanilla SFT and full supervision is, and how much of it SSRA closes."""
    studies = [key.removeprefix(FULL) for key in rows if row_name(key) == FULL]
    runs = [[rows.get(f"{name}{rest}") for name in (VANILLA, UPPER, FULL)] for rest in studies]
    told = []
    for measure in COMPARED:
        values = [[100 * row["test"][measure] for row in run if row] for run in runs if all(run)]
        if not values:
            return ""
        vanilla, upper, full = np.mean(values, axis=0)
        gap, gain = upper - vanilla, full - vanilla
        share = f" ({gain / gap:.0%})" if gap > 0 else ""
        told.append(f"{gain:+.2f} of {gap:+.2f}{share} {measure}")
    return f"Share of the gap between vanilla SFT and full supervision that SSRA closes: {', '.join(told)}."


def _agreement(rows: dict[str, Any]) -> str:
    lines = []
    for key, row in rows.items():
        for stage, found in row.get("agreement", {}).items():
            written, kept = (found[which]["agreement"] for which in ("written", "kept"))
            cells = [f"{found[which]['queries']:,}" for which in ("written", "kept")]
            cells += [_change(*shares) for shares in zip(written, kept, strict=True)]
            lines.append([key, stage, *cells])
    header = ("row", "stage", "written", "kept", *(f"level {level}" for level in range(4)))
    return markdown(header, lines) if lines else ""


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "-"
    relative = f" ({after / before - 1:+.0%})" if before else ""
    return f"{100 * before:.1f} to {100 * after:.1f}{relative}"


def _repeats(rows: dict[str, Any]) -> str:
    lines = []
    for key, row in rows.items():
        for stage, report in row.get("stages", {}).items():
            if "-filter-" in stage:
                shares = report.get("duplicate_rate"), row.get("first_repeats", {}).get(stage)
                lines.append([key, stage, *("-" if x is None else f"{100 * x:.2f}" for x in shares)])
    header = ("row", "stage", "all samples", "first of each document and level")
    return markdown(header, lines) if lines else ""


def _costs(rows: dict[str, Any]) -> str:
    lines = [
        [key, ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in row["seconds"].items())]
        for key, row in rows.items()
        if "seconds" in row
    ]
    return markdown(("row", "seconds"), lines)


def markdown(header: tuple[str, ...], lines: list[list[str]]) -> str:
    """Return a Markdown table."""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (list(header), rule, *lines))
