"""SSRA on real data against what it should beat: every row is one entry of `bench/results/ssra.json`.

The paper's imbalance (levels 1 and 2 cut to 4.5 % of the labelled pairs) at several label budgets; the rest
is unlabelled. All rows take the same number of optimiser steps (`--steps`) with the same settings. Resumable:
a row that is there is not made again, and a run that was stopped goes on where it stood. Settings were chosen
on dev; test is read once a row.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.experiments.graded_pairs import add_to, read_rows
from bench.experiments.level_control import first_repeats, outside_agreement
from bench.experiments.rows import check_ended, row_key, study_options
from bench.experiments.ssra_report import against, write_report
from bench.harness.machine import machine_record
from relsdk.bundle import is_scorer_folder
from relsdk.formats import read_pairs, write_pairs
from relsdk.levels import RelevanceLevel
from relsdk.metrics import ranking_report
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DataConfig, EmbedConfig
from relsdk_training.config.ssra import SsraConfig, embed_training
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays
from relsdk_training.engine.identity import weights_hash
from relsdk_training.objectives.measures import order_statistics
from relsdk_training.runs.embed import train_embed
from relsdk_training.ssra.recipe import train_ssra
from relsdk_training.ssra.stage_runner import read_stages

FULL = "SSRA"
BASE = "untrained"
VANILLA = "vanilla SFT"
UPPER = "all labels"
BINARY = "SSRA, binary labels"
PROMPTED = "prompt synthesis"
UNFILTERED = ["filter.by_score=false", "filter.judge=none"]
WITHOUT_STAGE_1 = ["synthesis.reannotate=false", "balance.annotated=false"]
BETTER_JUDGE = ["filter.checkpoint={folder}/all_labels/best"]
# name -> what differs from the recipe; stages that are the same are shared.
VARIANTS = {
    FULL: [],
    "SSRA without the judge": ["filter.judge=none"],
    "SSRA without stage 2": UNFILTERED,
    "SSRA without stages 1 and 2": [*WITHOUT_STAGE_1, *UNFILTERED],
    "pseudo-labels, no generation": ["synthesis.rounds=0"],
    # A language model behind `--endpoint` writes, told by examples, and nobody checks.
    PROMPTED: [*WITHOUT_STAGE_1, *UNFILTERED],
    # No methods but a question: what if the annotator were better? It is the encoder of the row "all labels".
    "SSRA, judged by the encoder of all labels": BETTER_JUDGE,
    "pseudo-labels, judged by the encoder of all labels": ["synthesis.rounds=0", *BETTER_JUDGE],
}
ROWS = (VANILLA, BASE, UPPER, *VARIANTS, BINARY)  # in this order: the others are compared with the first
_COSINES = "vanilla.npy"  # of the test pairs, for the paired intervals of the other rows
_EVALUATIONS = 6


@click.command()
@study_options
@click.option("--budget", "budgets", multiple=True, type=int, default=(2000, 500, 10_000), show_default=True)
@click.option("--steps", default=300, show_default=True, help="Of every encoder's training.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--only", multiple=True, help=f"Rows out of {ROWS} [default: all].")
@click.option("--documents", default=1000, show_default=True, help="Unlabelled documents; 0 takes all.")
@click.option(
    "--outsider",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A score model trained on all labels: RUN folder.",
)
@click.option("--endpoint", nargs=2, help=f"OpenAI-compatible URL and its model, for the row {PROMPTED!r}.")
def main(
    shared: Path,
    output: Path,
    work: Path,
    budgets: tuple[int, ...],
    steps: int,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    documents: int,
    outsider: Path | None,
    endpoint: tuple[str, str] | None,
    overrides: tuple[str, ...],
) -> None:
    """Run what has no row yet."""
    unknown = [name for name in only if name not in ROWS]
    if unknown:
        raise click.UsageError(f"unknown rows {unknown}; there are {ROWS}")
    if PROMPTED in only and endpoint is None:
        raise click.UsageError(f"the row {PROMPTED!r} needs --endpoint URL MODEL")
    if outsider is not None and not is_scorer_folder(outsider / "best"):
        raise click.UsageError(f"{outsider} has no score model in best/; make train-real makes one")
    names = [name for name in ROWS if name in (only or ROWS) and (name != PROMPTED or endpoint)]
    data = {
        split: shared / f"data/kuake_qtr/{split}.jsonl" for split in ("train", "dev", "test", "unlabelled")
    }
    test = pair_arrays(load_pairs(str(data["test"])))
    backbone = shared / "models/me5-small-zh"
    for budget, seed, name in product(budgets, seeds, names):
        key = row_key(name, budget, steps, seed)
        if is_there(output, key, documents):
            continue
        click.echo(key, err=True)
        settings = [*study(data, backbone, budget, steps, seed), f"unlabelled.limit={documents}", *overrides]
        if name == PROMPTED and endpoint:
            settings += [f"synthesis.endpoint.url={endpoint[0]}", f"synthesis.endpoint.name={endpoint[1]}"]
        folder = work / f"ssra_{budget}_{steps}_{seed}"
        row = made_row(name, settings, folder, backbone, outsider)
        folder.mkdir(parents=True, exist_ok=True)
        cosines = TextEmbedder(Path(row["encoder"]), max_tokens=128).scores(test.texts())
        if name == VANILLA:
            np.save(folder / _COSINES, cosines)
        elif (folder / _COSINES).is_file():
            row["against_vanilla"] = against(test, np.load(folder / _COSINES), cosines)
        row |= {
            "machine": machine_record(seed),
            "documents": documents,
            "encoder": Path(row["encoder"]).name,
            "test": measures(test, cosines),
        }
        add_to(output, key, row, write_report)
        click.echo(json.dumps(row["test"]), err=True)


def study(data: dict[str, Path], backbone: Path, budget: int, steps: int, seed: int) -> list[str]:
    """Return what all rows of one study have in common: few labels, the rest without labels, equal steps."""
    return [
        *(f"data.{split}={data[split]}" for split in ("train", "dev", "test")),
        "data.rare_share=0.045",
        f"data.limit={budget}",
        f"unlabelled.pairs=['{data['train']}', '{data['unlabelled']}']",
        f"training.checkpoint={backbone}",
        f"embed.max_steps={steps}",
        f"embed.evaluate_every={max(1, steps // _EVALUATIONS)}",
        f"run.seed={seed}",
    ]


def is_there(output: Path, key: str, documents: int) -> bool:
    """Whether a row is there, made with so many unlabelled documents; with another number it is an error."""
    row = read_rows(output).get(key)
    if row is not None and row["documents"] != documents:
        raise click.ClickException(
            f"{key} is there with {row['documents']} documents, and {documents} are asked for; "
            "take another --output"
        )
    return row is not None


def made_row(
    name: str, settings: list[str], folder: Path, backbone: Path, outsider: Path | None
) -> dict[str, Any]:
    """Train what a row is about; return where its encoder is, and what is worth telling."""
    if name == BASE:
        return {"encoder": str(backbone)}
    recipe = RECIPES / "ssra.toml"
    run = folder / name.replace(" ", "_").replace(",", "")
    changes = [change.format(folder=folder) for change in VARIANTS.get(name, [])]
    config = load_config(SsraConfig, recipe, [*settings, *changes, f"run.output={run}"])
    if name == VANILLA:
        return supervised(config, run, config.data)
    if name == UPPER:
        return supervised(config, run, DataConfig(**_files(config.data)))
    if name == BINARY:
        return supervised(config, run, DataConfig(**_files(config.data) | {"train": _binary(folder)}))
    for source in sorted(folder.glob("*/stages")):
        _share_stages(source, run / "stages")
    result = train_ssra(config, on_note=lambda note: click.echo(note, err=True), on_progress=_print)
    stages = read_stages(run)
    reports = {stage.name: _told(stage.report) for stage in stages}
    filters = {stage.name: stage.folder for stage in stages if "-filter-" in stage.name}
    row = {
        "encoder": result.encoder,
        "dev": result.dev,
        "seconds": result.stages,
        "stages": reports,
        "settings": without_places(asdict(config)),
        "first_repeats": {name: first_repeats(folder) for name, folder in filters.items()},
    }
    if outsider is not None:
        row["outsider"] = weights_hash(outsider / "best")
        row["agreement"] = {name: outside_agreement(folder, outsider) for name, folder in filters.items()}
    return row


def supervised(
    config: SsraConfig, run: Path, data: DataConfig, loss: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Train the encoder on labelled pairs alone, with other settings of the loss if any are given."""
    embed = embed_training(config)
    settings: EmbedConfig = replace(
        embed,
        data=data,
        loss=replace(embed.loss, **(loss or {})),
        run=replace(embed.run, output=str(run), seed=config.run.seed, threads=config.run.threads),
    )
    result = train_embed(settings, resume=run.exists(), on_step=lambda s, n, _: _print("embed", s, n))
    check_ended(result)
    return {
        "encoder": str(run / "best"),
        "dev": result.best,
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": {"embed": round(result.seconds, 1)},
        "settings": without_places(asdict(settings)),
    }


def _files(data: DataConfig) -> dict[str, str]:
    """Return where the splits are, without what makes labels few."""
    return {"train": data.train, "dev": data.dev, "test": data.test}


def _binary(folder: Path) -> str:
    """Write the pairs of SSRA's encoder with two levels: 2 and 3 become relevant, 0 and 1 irrelevant."""
    balanced = sorted((folder / FULL / "stages").glob("*-balance/pairs.jsonl"))
    if not balanced:
        raise click.ClickException(f"the row {BINARY!r} takes the pairs of {FULL!r}; run that first")
    target = folder / "binary.jsonl"
    write_pairs(
        target,
        (
            replace(pair, level=RelevanceLevel.FULL if pair.level >= 2 else RelevanceLevel.IRRELEVANT)
            for pair in read_pairs(balanced[-1])
        ),
    )
    return str(target)


def without_places(settings: Any) -> Any:
    """Return settings with the last part of each absolute path: where a machine keeps things is its own."""
    if isinstance(settings, dict):
        return {name: without_places(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_places(value) for value in settings]
    return Path(settings).name if isinstance(settings, str) and settings.startswith("/") else settings


def _share_stages(source: Path, target: Path) -> None:
    """Link the stages of another row; what is of other settings is made anew."""
    for stage in source.iterdir():
        if source != target and not (target / stage.name).exists():
            shutil.copytree(stage, target / stage.name, copy_function=os.link)


def measures(test: PairArrays, cosines: NDArray[np.float64]) -> dict[str, float]:
    """Return AP and nDCG of given cosines (N,)."""
    report = ranking_report([str(query) for query in test.query_of], test.labels, cosines)
    return {name: round(value, 4) for name, value in order_statistics(report).items()}


def _told(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a stage's report what names texts: the data may not be passed on."""
    return {key: value for key, value in report.items() if key != "examples"}


def _print(stage: str, done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        click.echo(f"{stage}: {done}/{total}", err=True)


if __name__ == "__main__":
    main()
