"""Level control: how often a query that was written for a level has it, and what could be found at best.

A score model that learned from all labels and has no part in the method, the outsider, says which level a
query has. It does not find every level in pairs that people labelled either: the share that it finds there
is the ceiling, and a writer is measured by it. `make train-real` trains the outsider
(WORK/score_categorical_-_seed_0), `make llm-real` makes the run, `make level-control` does the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.harness.machine import machine_record
from relsdk.bundle import is_scorer_folder
from relsdk.cli.output import echo_table
from relsdk.files.folders import write_file_atomically
from relsdk.levels import NUM_LEVELS
from relsdk.metrics import bootstrap_interval
from relsdk_checkpoint.pair_scores import PairClassifier
from relsdk_training.data.pairs import load_pairs, pair_arrays
from relsdk_training.data.text import normal_form
from relsdk_training.engine.identity import weights_hash
from relsdk_training.ssra.pair_records import Record, document_of, read_records, sample
from relsdk_training.ssra.stage_runner import read_stages

LEVELS = (1, 2, 3)  # level 0 needs no writer
# Records of each wanted level that a row of the SSRA study has checked.
_CHECKED = 200
_FILTER = re.compile(r"\d+-filter-\w+")


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option(
    "--outsider",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="A score model trained on all labels: RUN folder.",
)
@click.option("--run", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--queries", default=400, show_default=True, help="Kept queries of each level, at most.")
@click.option("--seed", default=0, show_default=True, help="Of the choice.")
def main(shared: Path, outsider: Path, run: Path, output: Path, queries: int, seed: int) -> None:
    """Measure the ceiling, and the queries that the SSRA run RUN kept."""
    if not is_scorer_folder(outsider / "best"):
        raise click.UsageError(f"{outsider} has no score model in best/; make train-real makes one")
    test = shared / "data/kuake_qtr/test.jsonl"
    row = {"machine": machine_record(seed), **level_control(outsider, test, run, queries=queries, seed=seed)}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(row, indent=1) + "\n")
    tell(row)


def level_control(
    outsider: Path, test: Path, run: Path, *, queries: int = 400, seed: int = 0
) -> dict[str, Any]:
    """Ask the outsider for the level of labelled pairs, and of queries that an SSRA run kept.

    Args:
        outsider: Its run's folder.
        test: File of labelled pairs that it did not learn from.
        run: Folder of the SSRA run.
        queries: Most queries of a level that are asked about, a seeded choice.
        seed: Of the choice and of the intervals.

    Returns:
        "ceiling": for each level 0-3 the number of labelled `pairs` and the share whose label is `found`.
        "kept": for each of `LEVELS` how many own queries the run kept (`queries`), how many were `checked`,
        the share `found` to have the wanted level, its 95 % `interval` and that share `of_ceiling`; null
        where there is nothing to take a share of. "given": the same of the kept queries of `data.written`.
        "repeats": of all kept own queries, the share that occur before. "first_repeats": see `first_repeats`,
        of each stage.
    """
    model = Outsider(outsider)
    ceiling = _ceiling(model, test)
    stages = [stage for stage in read_stages(run) if _FILTER.fullmatch(stage.name)]
    kept = [record for stage in stages for record in read_records(stage.folder) if record["kept"]]
    own = [record for record in kept if record["source"] == "synthesised"]
    given = [record for record in kept if record["source"] == "written"]

    def control(records: Sequence[Record]) -> list[dict[str, Any]]:
        return [_of_level(model, records, level, ceiling[level]["found"], queries, seed) for level in LEVELS]

    return {
        "outsider": weights_hash(outsider / "best"),
        "run": run.resolve().name,
        "ceiling": ceiling,
        "kept": control(own),
        "given": control(given),
        "repeats": repeated_share(normal_form(record["query"]) for record in own),
        "first_repeats": {stage.name: first_repeats(stage.folder) for stage in stages},
    }


def _ceiling(model: Outsider, test: Path) -> list[dict[str, Any]]:
    """Say in how many labelled pairs of each level the outsider finds the label."""
    pairs = pair_arrays(load_pairs(str(test)))
    found = model.levels(pairs.texts())
    rows = []
    for level in range(NUM_LEVELS):
        of_level = pairs.labels == level
        share = round(float((found[of_level] == level).mean()), 4) if of_level.any() else None
        rows.append({"level": level, "pairs": int(of_level.sum()), "found": share})
    return rows


def _of_level(
    model: Outsider, kept: Sequence[Record], level: int, ceiling: float | None, most: int, seed: int
) -> dict[str, Any]:
    """Say how often the outsider finds a wanted level in a sample of the queries that were kept for it."""
    of_level = [record for record in kept if record["wanted"] == level]
    chosen = sample(of_level, most, seed)
    row = {"level": level, "queries": len(of_level), "checked": len(chosen)}
    if not chosen:
        return {**row, "found": None, "interval": None, "of_ceiling": None}
    right = model.levels(pairs_of(chosen)) == level
    interval = bootstrap_interval(right.astype(np.float64), seed)
    return {
        **row,
        "found": round(interval.mean, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "of_ceiling": round(interval.mean / ceiling, 4) if ceiling else None,
    }


def outside_agreement(stage: Path, outsider: Path) -> dict[str, Any]:
    """Let a score model that saw all labels say how often a written query has the level that was wanted.

    Returns:
        For all usable queries and for those kept: the share for each wanted level, of a seeded sample.
    """
    model = Outsider(outsider)
    records = [record for record in read_records(stage) if record["predicted"] is not None]
    found: dict[str, Any] = {}
    for name, some in (("written", records), ("kept", [r for r in records if r["kept"]])):
        shares = []
        for level in range(NUM_LEVELS):
            of_level = [record for record in some if record["wanted"] == level]
            rows = np.random.default_rng(level).permutation(len(of_level))[:_CHECKED]
            pairs = pairs_of([of_level[row] for row in rows])
            shares.append(round(float((model.levels(pairs) == level).mean()), 4) if pairs else None)
        found[name] = {"agreement": shares, "queries": len(some)}
    return found


def first_repeats(stage: Path) -> float:
    """Return the share of queries that were written before, of the first for each document and level alone.

    It tells whether the query model has something new to say, and not whether it says it again when it is
    asked again; `stage_report` counts all samples.

    Args:
        stage: Folder of a filter stage.
    """
    asked, first = set[tuple[str, int]](), list[str]()
    for record in read_records(stage):
        query, question = normal_form(record["query"]), (document_of(record["document"]), record["wanted"])
        if query and question not in asked:
            first.append(query)
            asked.add(question)
    return repeated_share(first)


def repeated_share(texts: Iterable[str]) -> float:
    """Return the share of texts that occur before; 0 without texts."""
    some = list(texts)
    return round(1 - len(set(some)) / len(some), 4) if some else 0.0


def pairs_of(records: Iterable[Record]) -> list[tuple[str, str]]:
    """Return the query and the document text of records."""
    return [(record["query"], document_of(record["document"])) for record in records]


class Outsider:
    """The levels that a score model names, of its own accord.

    Args:
        run: Folder of its training, with a categorical head.
    """

    def __init__(self, run: Path) -> None:
        self.model = PairClassifier(run / "best", "categorical", max_tokens=96)

    def levels(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.int64]:
        """Return the most probable level of each pair, (N,)."""
        return self.model.logits(self.model.tokenizer.tokenize(list(pairs))).argmax(axis=1)


def tell(row: dict[str, Any]) -> None:
    """Print the shares of each level, and the repeats."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f} %"

    echo_table(
        ["level", "labelled pairs", "ceiling", "kept queries", "checked", "found", "of the ceiling"],
        [
            [
                str(of["level"]),
                f"{row['ceiling'][of['level']]['pairs']:,}",
                percent(row["ceiling"][of["level"]]["found"]),
                f"{of['queries']:,}",
                f"{of['checked']:,}",
                percent(of["found"]),
                percent(of["of_ceiling"]),
            ]
            for of in row["kept"]
        ],
        right=range(7),
    )
    click.echo(f"repeats: {percent(row['repeats'])} of the kept queries")


if __name__ == "__main__":
    main()
