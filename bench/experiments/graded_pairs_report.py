"""The Markdown of `bench/results/train.json`: a table of test measures, mean and spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from relsdk.files.folders import write_file_atomically

ORDER = ("mean_ap", "ap_1", "ap_2", "ap_3", "ndcg_at_10")
HEADINGS = ("mean AP", "AP>=1", "AP>=2", "AP=3", "nDCG@10")
BY_DEV = ("accuracy_by_dev", "qwk_by_dev", "log_loss_by_dev", "ece_by_dev")
GRADES = ("accuracy", "qwk", "log_loss", "ece", *BY_DEV)
SHARES = (*ORDER, "accuracy", "accuracy_by_dev")
DIMS = (32, 64, 128, 256)
Runs = dict[str, dict[str, Any]]  # the rows of one name by their seed, "" where nothing is drawn


def write_report(rows: dict[str, Any], path: Path) -> None:
    """Write the tables of all rows."""
    runs: dict[str, Runs] = {}
    for key, row in rows.items():
        name, _, seed = key.partition(" / seed ")
        runs.setdefault(name, {})[seed] = row
    scorers = {name: found for name, found in runs.items() if _grades(found)}
    encoders = {name: found for name, found in runs.items() if name not in scorers}
    parts = [
        "# Training on real data",
        "Test split, percent; mean over seeds, with the standard deviation where there are several. Compare "
        "runs of the same seeds: seeds differ by as much as many runs do. nDCG@10: exponential gain, queries "
        f"with at least three documents and more than one level{_counts(rows)}. Settings were chosen on dev. "
        "All seeds of the taught score model have the same teachers, so that they differ by less than whole "
        "repetitions would. Written by `make train-real`; machine, versions and settings are in the JSON.",
        "## Encoders",
        _table(("run", "seeds", *HEADINGS), [_row(name, found, ORDER) for name, found in encoders.items()]),
        "## Mean AP by dimension",
        _table(
            ("run", "seeds", *map(str, DIMS), "full"),
            [
                _row(name, found, (*(f"mean_ap@{dim}" for dim in DIMS), "mean_ap"))
                for name, found in encoders.items()
            ],
        ),
    ]
    kept = _gain_kept(rows)
    if kept:
        timed = _query_times(path.parent)
        header = ("run", "seeds", "nDCG@10", "mean AP", *(f"query time, {machine}" for machine, _ in timed))
        parts += [
            "## Students and query towers: share of the teacher's gain kept, and of its query time, percent",
            "Query time: int8, one thread, models of a column by turns in one run (`make train-latency`).",
            _table(header, [[*line, *(times.get(line[0], "") for _, times in timed)] for line in kept]),
        ]
    if scorers:
        names = ("accuracy", "QWK", "log loss (nats)", "ECE")
        lines = [_row(name, found, (*ORDER, *GRADES)) for name, found in scorers.items()]
        header = ("run", "seeds", *HEADINGS, *names, *(f"{name}, calibrated on dev" for name in names))
        parts += ["## Score models", _table(header, lines)]
    write_file_atomically(path, "\n\n".join(parts) + "\n")


def _counts(rows: dict[str, Any]) -> str:
    """Say how many queries nDCG is a mean over: a mean over a handful says nothing."""
    counted = {key for key, row in rows.items() if "ndcg_queries" in row}
    names = {"untrained": "KUAKE-QTR", "QBQTC: untrained": "QBQTC"}
    found = [f"{rows[key]['ndcg_queries']} in {name}" for key, name in names.items() if key in counted]
    return f" ({', '.join(found)})" if found else ""


def _gain_kept(rows: dict[str, Any]) -> list[list[str]]:
    """Return (run - untrained) / (teacher of the same seed - untrained), the mean over seeds."""
    shares: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, row in rows.items():
        name, _, seed = key.rpartition(" / seed ")
        teacher = rows.get(f"embed / seed {seed}")
        if not name.startswith(("student", "query tower")) or teacher is None:
            continue
        start, best, found = (measured["test"] for measured in (rows["untrained"], teacher, row))
        keys = ("ndcg_at_10", "mean_ap")
        if any(best[k] <= start[k] for k in keys):  # no gain to keep a share of
            continue
        share = tuple((found[k] - start[k]) / (best[k] - start[k]) for k in keys)
        shares.setdefault(name, {})[seed] = share
    return [
        [name, _told(found), *(f"{100 * share:.1f}" for share in np.mean([*found.values()], axis=0))]
        for name, found in shares.items()
    ]


def _query_times(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Return what `student_latency` measured, a file each: the machine, and percents by run."""
    found = []
    for path in sorted(folder.glob("student_latency*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        amx = " with AMX" if "amx_int8" in content["machine"]["cpu_features"] else ""
        shares = {name: f"{100 * model['time_to_teacher']:.1f}" for name, model in content["models"].items()}
        found.append((f"{content['machine']['cpu']}{amx}, {content['variant']}", shares))
    return found


def _grades(runs: Runs) -> bool:
    return any("accuracy" in run["test"] for run in runs.values())


def _row(name: str, runs: Runs, keys: tuple[str, ...]) -> list[str]:
    values = ([run["test"].get(key) for run in runs.values()] for key in keys)
    return [name, _told(runs), *map(_cell, keys, values)]


def _told(seeds: Iterable[str]) -> str:
    """Return the numbers of seeds; nothing is drawn in what was not trained."""
    return ", ".join(sorted(seeds)) or "-"


def _cell(key: str, values: list[float | None]) -> str:
    found = [value for value in values if value is not None]
    if len(found) < len(values) or not found:  # a mean over other seeds than its row's misleads
        return ""
    unit, digits = (100.0, 2) if key.partition("@")[0] in SHARES else (1.0, 3)
    text = f"{unit * np.mean(found):.{digits}f}"
    return text + (f" ± {unit * np.std(found, ddof=1):.{digits}f}" if len(found) > 1 else "")


def _table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows))
