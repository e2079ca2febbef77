"""Train on real data and report on test: every run is one row of `bench/results/train.json`.

Resumable: a run that has a row is not repeated, a run that was killed goes on from its last checkpoint.
Settings were chosen on dev; test is read once, at the end of a run. Processes may share the work (`--only`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from numpy.typing import NDArray

from bench.experiments.data import near_pairs, query_texts, split_qbqtc
from bench.experiments.graded_pairs_report import write_report
from bench.experiments.rows import check_ended, study_options
from bench.harness.machine import machine_record
from relsdk.calibration import fit_calibration
from relsdk.files.atomic import hold_lock
from relsdk.files.folders import write_file_atomically
from relsdk.metrics import grade_report, ranking_report
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.pair_scores import embed_tokens
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DistillConfig, EmbedConfig, RunConfig, ScoreConfig
from relsdk_training.data.lessons import label_targets
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays
from relsdk_training.engine.loop import TrainResult
from relsdk_training.objectives.embedding import EmbeddingObjective
from relsdk_training.objectives.measures import ranking_statistics, tokenise_pairs
from relsdk_training.objectives.score import ScoreObjective
from relsdk_training.runs.average import average_checkpoints
from relsdk_training.runs.distill import train_distill
from relsdk_training.runs.embed import train_embed
from relsdk_training.runs.score import train_score

DIMS = (32, 64, 128, 256)
TEACHER = "embed"
RARE_TEACHER = "embed, levels 1 and 2 rare"
SCORER = "score categorical"
TWO = "score categorical, mean of two runs"
TAUGHT = "score categorical, taught by an encoder and two score models"
# name -> recipe and what differs from it. In the ablation, one epoch each, a row adds to the one before it,
# but for what it says it leaves out again.
ONE = ["run.epochs=1"]
PLAIN = ["loss.weighting=binary", "loss.self_contrast=false", "loss.mask_margin=-1", "loss.cosent=0"]
PLAIN += ["loss.matryoshka_dims=[]"]
RARE = ["data.rare_share=0.045"]
ENCODER = ["distill.student=encoder"]
EXPERIMENTS: dict[str, tuple[str, list[str]]] = {
    TEACHER: ("embed", []),
    SCORER: ("score", []),
    "query tower, 2 layers": ("distill", []),
    RARE_TEACHER: ("embed", RARE),
    "score categorical, levels 1 and 2 rare": ("score", RARE),
    "query tower, 1 layer": ("distill", ["model.layers=[11]"]),
    "query tower, static": ("static", []),
    "query tower, 3 layers": ("distill", ["model.layers=[0, 6, 11]"]),
    "one epoch: InfoNCE on positives": ("embed", [*ONE, *PLAIN]),
    "one epoch: + label weights": ("embed", [*ONE, *PLAIN[1:]]),
    "one epoch: + Matryoshka": ("embed", [*ONE, *PLAIN[1:4]]),
    "one epoch: + self-contrast, masking": ("embed", [*ONE, "loss.cosent=0"]),
    "one epoch: + hard negatives": ("embed", [*ONE, "loss.cosent=0", "loss.hard_negatives=3"]),
    "one epoch: + CoSENT, - hard negatives (the recipe)": ("embed", ONE),
    "one epoch: + ordinal": ("embed", [*ONE, "loss.ordinal=0.3"]),
    "score ordinal": ("score", ["model.head=ordinal"]),
    TWO: ("score", []),
    TAUGHT: ("score", []),
    # At the recipe's rate, which two layers want, six diverge.
    "student, 6 layers": (
        "distill",
        [*ENCODER, "model.layers=[0, 2, 4, 7, 9, 11]", "optimiser.learning_rate=1e-3"],
    ),
    "student, 4 layers": ("distill", [*ENCODER, "model.layers=[0, 4, 7, 11]"]),
    "student, 3 layers": ("distill", [*ENCODER, "model.layers=[0, 6, 11]"]),
    "student, 2 layers": ("distill", [*ENCODER, "model.layers=[0, 11]"]),
    "QBQTC: embed": ("embed", ["data.label_map=[0, 1, 3]"]),
}
# name -> the run whose encoder it starts from, which must have seen no other labels.
STARTS = {
    name: RARE_TEACHER if "rare" in name else TEACHER
    for name, (recipe, _) in EXPERIMENTS.items()
    if recipe != "embed"
}
# name -> the run with whose weights those of this one, of the same start and the next seed, are averaged.
MIXED = {TWO: SCORER}
# What teaches `TAUGHT`, whatever its own seed: runs before they are averaged. The first finds near pairs.
TAUGHT_BY = [(TEACHER, 1), (SCORER, 1), (TWO, 1)]
Objective = EmbeddingObjective | ScoreObjective
Config = EmbedConfig | ScoreConfig | DistillConfig
KINDS: dict[str, tuple[type[Config], Callable[..., TrainResult]]] = {
    "embed": (EmbedConfig, train_embed),
    "score": (ScoreConfig, train_score),
    "distill": (DistillConfig, train_distill),
    "static": (DistillConfig, train_distill),
}


@click.command()
@study_options
@click.option("--only", multiple=True, help="Names of experiments [default: all].")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
def main(
    shared: Path,
    output: Path,
    work: Path,
    only: tuple[str, ...],
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
) -> None:
    """Run what has no row yet."""
    unknown = [name for name in only if name not in EXPERIMENTS]
    if unknown:
        raise click.UsageError(f"unknown experiments {unknown}; there are {list(EXPERIMENTS)}")
    kuake = {split: shared / f"data/kuake_qtr/{split}.jsonl" for split in ("train", "dev", "test")}
    qbqtc = split_qbqtc(shared / "data/qbqtc/train.jsonl", work / "qbqtc")
    backbone = shared / "models/me5-small-zh"
    for key, files, label_map in (("untrained", kuake, ()), ("QBQTC: untrained", qbqtc, (0, 1, 3))):
        if key not in read_rows(output):
            pairs = pair_arrays(load_pairs(str(files["test"]), label_map))
            found = rounded(measured(encoder_objective(TextEncoder.load(backbone, max_tokens=128), pairs)))
            row = {"machine": machine_record(), "ndcg_queries": ndcg_queries(pairs), "test": found}
            add_to(output, key, row, write_report)
    for name in only or EXPERIMENTS:
        for seed in seeds:
            key = f"{name} / seed {seed}"
            if key in read_rows(output):
                continue
            click.echo(key, err=True)
            recipe, changes = EXPERIMENTS[name]
            files = qbqtc if name.startswith("QBQTC") else kuake
            start = other_run(work, name, STARTS, seed) or backbone
            partner = other_run(work, name, MIXED, seed)
            settings = [
                f"model.checkpoint={start}",
                f"run.output={run_folder(work, key)}",
                f"run.seed={seed + 1 if partner else seed}",
            ]
            if name == TAUGHT:
                settings += teaching(shared, work)
            if KINDS[recipe][0] is DistillConfig:
                texts = query_texts(shared, work / "query_texts.txt")
                settings += [f"distill.queries=['{texts}']", f"data.dev={files['dev']}"]
            else:
                settings += [f"data.{split}={path}" for split, path in files.items()]
            row = experiment(recipe, [*settings, *changes, *overrides], files["test"], partner)
            add_to(output, key, row, write_report)
            click.echo(json.dumps(row["test"]), err=True)


def teaching(shared: Path, work: Path) -> list[str]:
    """Return what names the teachers, and the pairs that they grade."""
    checkpoints = [needed_run(work, TAUGHT, *teacher) for teacher in TAUGHT_BY]
    near = near_pairs(shared, checkpoints[0], work / "near_pairs.jsonl")
    pairs = [shared / "data/kuake_qtr/unlabelled.jsonl", near]
    return [
        f"teacher.{name}={[str(path) for path in of]}"
        for name, of in (("checkpoints", checkpoints), ("pairs", pairs))
    ]


def ndcg_queries(pairs: PairArrays) -> int:
    """How many queries nDCG is a mean over, whatever the scores are."""
    queries = [str(query) for query in pairs.query_of]
    return ranking_report(queries, pairs.labels, np.zeros(len(queries))).queries_used


def other_run(work: Path, name: str, of: dict[str, str], seed: int) -> Path | None:
    """Return the checkpoint of another experiment that this one needs; None where it needs none."""
    return needed_run(work, name, of[name], seed) if name in of else None


def needed_run(work: Path, name: str, other: str, seed: int) -> Path:
    """Return the checkpoint of another experiment.

    Raises:
        click.ClickException: It has not been run to its end.
    """
    checkpoint = trained_checkpoint(work, f"{other} / seed {seed}")
    if checkpoint is None:
        raise click.ClickException(
            f"{name!r} needs the checkpoint of {other!r}, seed {seed}, whose run has not ended "
            f'under {work}; run it first: --only "{other}" --seed {seed}'
        )
    return checkpoint


def run_folder(work: Path, key: str) -> Path:
    """Where a run's checkpoints are."""
    return work / key.replace("/", "-").replace(" ", "_")


def trained_checkpoint(work: Path, key: str) -> Path | None:
    """Return a run's best checkpoint, once the run has ended: before, another one may still become best."""
    run = run_folder(work, key)
    result = run / "result.json"
    if not result.is_file() or json.loads(result.read_text())["stopped"] in ("interrupted", "terminated"):
        return None
    return run / "best"


def read_rows(path: Path) -> dict[str, Any]:
    """Return the rows there are."""
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return rows


def add_to(path: Path, key: str, row: dict[str, Any], report: Callable[[dict[str, Any], Path], None]) -> None:
    """Add a row to those that are there now, and write the report of them all."""
    with hold_lock(path.with_suffix(".lock"), wait=True):
        rows = {**read_rows(path), key: row}
        write_file_atomically(path, json.dumps(rows, indent=1) + "\n")
        report(rows, path.with_suffix(".md"))


def experiment(recipe: str, settings: list[str], test: Path, partner: Path | None) -> dict[str, Any]:
    """Train one run, or go on with it, and measure its best checkpoint on test.

    With a partner, the mean of its weights and the best checkpoint's is measured instead.
    """
    kind, task = KINDS[recipe]
    config = load_config(kind, RECIPES / f"{recipe}.toml", settings)
    output = Path(config.run.output)
    result: TrainResult = task(config, resume=output.exists(), on_step=_print)
    check_ended(result)
    for state in output.glob("state-*"):
        shutil.rmtree(state)
    checkpoint, best = output / "best", result.best
    test_pairs, dev_pairs = (
        pair_arrays(load_pairs(str(path), config.data.label_map)) for path in (test, config.data.dev)
    )
    if partner is not None:
        checkpoint = output / "mixed"
        average_checkpoints([partner, output / "best"], checkpoint, overwrite=True)
        best = measured(trained_objective(config, checkpoint, dev_pairs))
    objective = trained_objective(config, checkpoint, test_pairs)
    row = {
        "machine": machine_record(config.run.seed),
        "config": without_folders(asdict(config)),
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        "rows_per_second": round(result.rows_per_second, 2),
        "dev": rounded(best),
        "test": rounded(measured(objective)),
    }
    if isinstance(objective, ScoreObjective):
        of_dev = cast("ScoreObjective", trained_objective(config, checkpoint, dev_pairs))
        row["test"] |= rounded(calibrated(of_dev, objective))
    return row


def calibrated(of_dev: ScoreObjective, of_test: ScoreObjective) -> dict[str, float]:
    """Grade test as a bundle does, by levels that were calibrated on dev."""
    queries = [str(key) for key in of_dev.dev.query_of]
    calibration, _ = fit_calibration(_logits(of_dev), of_dev.dev.labels, queries)
    grades = grade_report(of_test.dev.labels, calibration.probabilities(_logits(of_test))).to_dict()
    return {f"{name}_by_dev": grades[name] for name in ("accuracy", "qwk", "log_loss", "ece")}


def _logits(objective: ScoreObjective) -> NDArray[np.float32]:
    objective.module.eval()
    with torch.inference_mode():
        return objective.logits(objective.dev_tokens, torch.device("cpu"))


def trained_objective(config: Config, checkpoint: Path, test: PairArrays) -> Objective | _TowerObjective:
    """Return what measures a checkpoint in fp32 as its dev was measured."""
    limit = config.model.max_tokens
    if isinstance(config, ScoreConfig):
        model = ScoreModel.load(checkpoint, config.model.head, max_tokens=limit)
        return ScoreObjective(model, label_targets(test), test, RunConfig())
    encoder = TextEncoder.load(checkpoint, max_tokens=limit)
    if isinstance(config, DistillConfig) and config.distill.student != "encoder":
        return _TowerObjective(
            encoder, TextEncoder.load(Path(config.model.checkpoint), max_tokens=limit), test
        )
    return encoder_objective(encoder, test)


def encoder_objective(encoder: TextEncoder, test: PairArrays) -> EmbeddingObjective:
    """Return what measures an encoder at every dimension."""
    return EmbeddingObjective(
        encoder, label_targets(test), test, replace(EmbedConfig().loss, matryoshka_dims=DIMS), RunConfig()
    )


class _TowerObjective:
    """Measures a query tower beside the vectors of its teacher."""

    def __init__(self, tower: TextEncoder, teacher: TextEncoder, test: PairArrays) -> None:
        self.module = tower
        self.teacher = encoder_objective(teacher, test)

    def evaluate(self, device: torch.device) -> dict[str, float]:
        """Return the measures at every dimension."""
        tokenizer, pairs = self.teacher.tokenizer, self.teacher.dev.pairs
        tokens = tokenise_pairs(tokenizer, pairs, self.module.settings.prompts)
        embed = partial(embed_tokens, tokenizer=tokenizer, device=device)
        queries = embed(self.module, tokens=tokens.queries)[pairs.query_of]
        documents = embed(self.teacher.module.encoder.eval(), tokens=tokens.documents)[pairs.document_of]
        return ranking_statistics(pairs, queries, documents, DIMS)


def measured(objective: Objective | _TowerObjective) -> dict[str, float]:
    """Measure on the CPU."""
    objective.module.eval()
    with torch.inference_mode():
        return objective.evaluate(torch.device("cpu"))


def rounded(measures: dict[str, float]) -> dict[str, float]:
    """Round to four digits."""
    return {name: round(float(np.float64(value)), 4) for name, value in measures.items()}


def without_folders(content: dict[str, Any]) -> dict[str, Any]:
    """Keep of every path its last part: where this machine has its files is nobody's business."""
    for section, keys in {
        "data": ("train", "dev", "test"),
        "model": ("checkpoint",),
        "run": ("output",),
    }.items():
        for key in keys:
            content[section][key] = Path(content[section][key]).name
    for section, key, parts in (
        ("distill", "queries", 1),
        ("teacher", "checkpoints", 2),
        ("teacher", "pairs", 1),
    ):
        if section in content:
            content[section][key] = ["/".join(Path(name).parts[-parts:]) for name in content[section][key]]
    return content


def _print(step: int, steps: int, statistics: dict[str, float]) -> None:
    if step % 20 == 0:
        speed = statistics["rows_per_second"]
        click.echo(f"{step}/{steps}  loss {statistics['loss']:.3f}  {speed:.1f} rows/s", err=True)


if __name__ == "__main__":
    main()
