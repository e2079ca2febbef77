"""What a language model's grades and queries are worth: a curve over human labels, `make llm-real`.

Every row is one entry of `bench/results/llm_labels.json`. The language model's answers were recorded before
(`SHARED/data/llm`). All rows of a budget take the same number of steps; with labels the checkpoint is the one
that is best on dev, without labels there is no dev and the last one counts. Resumable: a row that is there is
not made again, and a run that was stopped goes on where it stood. Test is read once a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click

from bench.experiments.graded_pairs import add_to, read_rows
from bench.experiments.llm_labels_report import ALONE, pack, write_report
from bench.experiments.rows import row_key, study_options
from bench.experiments.ssra import BASE, FULL, UPPER, measures, supervised
from bench.experiments.ssra import made_row as ssra_row
from bench.harness.machine import machine_record
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays

AS_IT_IS = "+ grades and written queries as they are"
CORRECTED = "+ grades corrected, human labels last, and written queries"
PROMPTED = "+ written queries alone"
SSRA = "SSRA with grades and written queries"
ROWS = (ALONE, AS_IT_IS, CORRECTED, PROMPTED, SSRA, UPPER, BASE)
# What needs labels: to learn from, to correct by, or to choose by.
_NEED_LABELS = (ALONE, CORRECTED, SSRA)
# What learns from no label of the budget is made once.
_WHATEVER_BUDGET = (UPPER, BASE)
# Share of the steps that learn from human labels alone, and what a written query counts beside a labelled
# pair: chosen on dev (bench/experiments/llm_choices.py).
HUMAN_LAST = 0.3
WRITTEN_WEIGHT = 0.5
_EVALUATIONS = 6
# Unlabelled documents that SSRA writes for.
DOCUMENTS = 1000


@click.command()
@study_options
@click.option("--budget", "budgets", multiple=True, type=int, default=(0, 500, 2000), show_default=True)
@click.option("--steps", default=200, show_default=True, help="Of every encoder's training.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--only", multiple=True, help=f"Rows out of {ROWS} [default: all].")
def main(
    shared: Path,
    output: Path,
    work: Path,
    budgets: tuple[int, ...],
    steps: int,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    overrides: tuple[str, ...],
) -> None:
    """Run what has no row yet: seed by seed, budget by budget."""
    unknown = [name for name in only if name not in ROWS]
    if unknown:
        raise click.UsageError(f"unknown rows {unknown}; there are {ROWS}")
    test = pair_arrays(load_pairs(str(shared / "data/kuake_qtr/test.jsonl")))
    backbone = shared / "models/me5-small-zh"
    for seed, budget, name in product(seeds, budgets, [name for name in ROWS if name in (only or ROWS)]):
        if not budget and name in _NEED_LABELS:
            continue
        key = row_key(name, 0 if name in _WHATEVER_BUDGET else budget, steps, seed)
        if key in read_rows(output):
            continue
        click.echo(key, err=True)
        settings = [*study(shared, backbone, budget, steps, seed), *overrides]
        folder = work / f"llm_{budget}_{steps}_{seed}" / name.replace(" ", "_").replace(",", "")
        row = made_row(name, settings, shared / "data/llm", folder, backbone)
        row = measured(row, "test", test, seed)
        add_to(output, key, row, partial(write_report, test=test))
        click.echo(json.dumps(row["test"]), err=True)


def study(shared: Path, backbone: Path, budget: int, steps: int, seed: int) -> list[str]:
    """Return what all rows of a budget have in common; the rest of train is text without labels."""
    data = shared / "data/kuake_qtr"
    return [
        *(f"data.{split}={data / split}.jsonl" for split in ("train", "dev", "test")),
        "data.rare_share=0.045",
        f"data.limit={budget}",
        f"unlabelled.pairs=['{data}/train.jsonl', '{data}/unlabelled.jsonl']",
        f"unlabelled.limit={DOCUMENTS}",
        f"training.checkpoint={backbone}",
        f"embed.max_steps={steps}",
        f"embed.evaluate_every={max(1, steps // _EVALUATIONS)}",
        f"run.seed={seed}",
    ]


def made_row(
    name: str,
    settings: list[str],
    answers: Path,
    folder: Path,
    backbone: Path,
    loss: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Train what a row is about; return where its encoder is, and what is worth telling.

    Args:
        name: Of `ROWS`.
        settings: What `study` returned; more of them win over the row's own.
        answers: Folder of the language model's answers.
        folder: Where to train.
        backbone: The untrained encoder.
        loss: Settings of `[loss]` in place of the recipe's; not for SSRA.
    """
    if name == BASE:
        return {"encoder": str(backbone)}
    grades, written = [f"{answers}/kuake_grades.jsonl"], [f"{answers}/kuake_written.jsonl"]
    if name in (CORRECTED, SSRA):  # they say how far the grades can be believed
        grades.append(f"{answers}/kuake_grades_dev.jsonl")
    if name in (AS_IT_IS, CORRECTED, SSRA):
        settings = [f"data.weak={grades}", *settings]
    if name in (AS_IT_IS, CORRECTED, SSRA, PROMPTED):
        settings = [f"data.written={written}", *settings]
    if name in (CORRECTED, SSRA):
        settings = [f"data.human_last={HUMAN_LAST}", f"data.written_weight={WRITTEN_WEIGHT}", *settings]
    if name == SSRA:
        return ssra_row(FULL, settings, folder, backbone, None)
    config = load_config(SsraConfig, RECIPES / "ssra.toml", [*settings, f"run.output={folder}"])
    data = config.data
    if name == UPPER:
        data = replace(data, rare_share=0.0, limit=0)
    elif not data.limit:  # no label: no dev to choose by
        data = replace(data, train="", dev="", rare_share=0.0)
    return supervised(config, folder, data, loss)


def measured(row: Mapping[str, Any], split: str, pairs: PairArrays, seed: int) -> dict[str, Any]:
    """Return a row with what its encoder does on the pairs of a split."""
    cosines = TextEmbedder(Path(row["encoder"]), max_tokens=128).scores(pairs.texts())
    return {
        **row,
        "machine": machine_record(seed),
        "encoder": Path(row["encoder"]).name,
        split: measures(pairs, cosines),
        "cosines": pack(cosines),
    }


if __name__ == "__main__":
    main()
