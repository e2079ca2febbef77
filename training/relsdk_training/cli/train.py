"""`relsdk train`: graded pairs to checkpoints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from relsdk.cli.output import echo, echo_json, echo_next, shell
from relsdk.errors import InputError
from relsdk.progress import Progress
from relsdk_training.cli._settings import show_settings
from relsdk_training.cli.few import few

__all__ = ["train"]

# How a training is stopped from outside, and what a shell calls it: nothing behind && follows.
_STOPPED = {"interrupted": 130, "terminated": 143}
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def train() -> None:
    """Train models on graded pairs (needs relsdk[train]).

    CONFIG is a TOML file, or one of relsdk's own, whose settings were chosen on real data: embed.toml,
    score.toml, distill.toml, static.toml, query.toml, ssra.toml, few.toml.
    """


train.add_command(few)


def _options(command: F) -> F:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("--resume", is_flag=True, help="Go on from the last checkpoint of run.output."),
        click.option(
            "--set", "overrides", multiple=True, metavar="A.B=C", help="Change one setting; may be repeated."
        ),
        click.argument("config", type=click.Path(path_type=Path), required=False),
    ):
        command = option(command)
    return command


@train.command(
    epilog="Example: relsdk train embed embed.toml --set data.train=train.jsonl --set "
    "data.dev=dev.jsonl --set model.checkpoint=checkpoint --set run.output=run"
)
@_options
def embed(config: Path | None, overrides: tuple[str, ...], resume: bool, as_json: bool) -> None:
    """Train an encoder as CONFIG says; run.output/best is what relsdk export encoder takes."""
    from relsdk_training.config.settings import EmbedConfig

    _run(EmbedConfig, "embed", config, overrides, resume, as_json, "export encoder {best} BUNDLE")


@train.command(
    epilog="Example: relsdk train score score.toml --set data.train=train.jsonl --set "
    "data.dev=dev.jsonl --set model.checkpoint=run/best --set run.output=grader"
)
@_options
def score(config: Path | None, overrides: tuple[str, ...], resume: bool, as_json: bool) -> None:
    """Train a score model (cross-encoder); run.output/best is what relsdk export scorer takes."""
    from relsdk_training.config.settings import ScoreConfig

    _run(ScoreConfig, "score", config, overrides, resume, as_json, "export scorer {best} BUNDLE")


@train.command(
    epilog="Example: relsdk train query query.toml --set data.train=train.jsonl --set "
    "data.dev=dev.jsonl --set model.checkpoint=checkpoint --set run.output=writer"
)
@_options
def query(config: Path | None, overrides: tuple[str, ...], resume: bool, as_json: bool) -> None:
    """Train a query model, which writes a query for a document and a wanted level."""
    from relsdk_training.config.settings import QueryConfig

    _run(QueryConfig, "query", config, overrides, resume, as_json, "train ssra CONFIG.toml")


@train.command(
    epilog="Example: relsdk train ssra ssra.toml --set data.train=train.jsonl --set "
    "data.dev=dev.jsonl --set \"unlabelled.documents=['docs.jsonl']\" --set training.checkpoint=checkpoint "
    "--set run.output=runs/ssra"
)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="Change one setting; may be repeated."
)
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Processes that write and grade; on a cluster, workers [default: 1; on a cluster what it has room "
    "for].",
)
@click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="auto",
    help="Write and grade on a Ray cluster: the one this machine belongs to, or that of an address. All its "
    "machines see the folder of the run and the checkpoint under the same paths.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def ssra(
    config: Path | None, overrides: tuple[str, ...], workers: int | None, ray: str | None, as_json: bool
) -> None:
    """Write the relevance levels that labelled data lacks, and train an encoder on the balanced result.

    A stage whose settings and data are unchanged is not done again: the same command goes on where a run was
    stopped.
    """
    from relsdk_training.config.files import load_config
    from relsdk_training.config.ssra import SsraConfig

    settings = load_config(SsraConfig, config, overrides)
    from relsdk.shards.runner import open_runner

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("relsdk train ssra is started once, without torchrun; it takes --workers or --ray")
    runner = open_runner(workers, ray)
    from relsdk_training.ssra.recipe import train_ssra  # torch, which takes seconds

    show_settings(config, settings)
    with Progress() as progress:

        def on_note(note: str) -> None:
            progress.finish()
            echo(note, err=True)

        result = train_ssra(settings, shard_runner=runner, on_note=on_note, on_progress=progress)
    if as_json:
        echo_json(asdict(result))
        return
    measures = ", ".join(f"{name} {value:.4f}" for name, value in result.dev.items() if "@" not in name)
    echo(f"dev: {measures}")
    echo(f"look at what was written: relsdk synth inspect {shell(settings.run.output)}")
    echo_next("export encoder", Path(result.encoder), "BUNDLE")


@train.command(
    epilog="Example: relsdk train distill distill.toml --set model.checkpoint=run/best --set "
    "\"distill.queries=['queries.txt']\" --set data.dev=dev.jsonl --set run.output=tower"
)
@_options
def distill(config: Path | None, overrides: tuple[str, ...], resume: bool, as_json: bool) -> None:
    """Train a student of fewer layers, or a query tower, on its teacher's vectors of unlabelled texts."""
    from relsdk_training.config.settings import DistillConfig

    following = {
        "encoder": "export encoder {best} BUNDLE",
        "query": "export encoder {teacher} BUNDLE --query-tower {best}",
        "static": "export encoder {teacher} BUNDLE --query-tower {best}",
    }
    _run(
        DistillConfig,
        "distill",
        config,
        overrides,
        resume,
        as_json,
        lambda settings: following[settings.distill.student],
    )


@train.command(epilog="Example: relsdk train mix run-0/best run-1/best mixed")
@click.argument("checkpoints", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--share", "shares", type=float, multiple=True, help="Of each checkpoint, in order [default: all alike]."
)
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that is there.")
def mix(checkpoints: tuple[Path, ...], output: Path, shares: tuple[float, ...], overwrite: bool) -> None:
    """Average the weights of CHECKPOINTS, two or more, into the folder OUTPUT.

    They are runs that differ in seed, or a trained model and the one it started from, which then keeps more
    of what it could before. All but weights is that of the first. Choose shares on dev.
    """
    from relsdk.bundle import is_scorer_folder
    from relsdk_training.runs.average import average_checkpoints

    average_checkpoints(checkpoints, output, shares=shares, overwrite=overwrite)
    kind = "scorer" if is_scorer_folder(output) else "encoder"
    echo(f"averaged {len(checkpoints)} checkpoints into {output}")
    echo_next(f"export {kind}", output, "BUNDLE")


@train.command(epilog="Example: relsdk train plot run")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Picture [default: RUN/curves.png].")
def plot(run: Path, output: Path | None) -> None:
    """Draw the curves of the folder RUN: loss, accuracy, learning rate, gradient norm, dev measures."""
    from relsdk_training.engine.plot import plot_run

    echo(plot_run(run, output or run / "curves.png"))


def _run(
    kind: Any,
    name: str,
    path: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    as_json: bool,
    following: str | Callable[[Any], str],
) -> None:
    from relsdk_training.config.files import load_config

    config = load_config(kind, path, overrides)
    # Torch, which takes seconds: what is wrong above is told before.
    task = getattr(import_module(f"relsdk_training.runs.{name}"), f"train_{name}")
    if os.environ.get("RANK", "0") != "0":  # one of several processes speaks
        stopped = task(config, resume=resume).stopped
        if stopped in _STOPPED:
            sys.exit(_STOPPED[stopped])
        return
    show_settings(path, config)
    with Progress() as progress:

        def on_step(step: int, steps: int, statistics: dict[str, float]) -> None:
            progress("train", step, steps, _figures(statistics))

        def on_note(note: str) -> None:
            progress.finish()
            echo(note, err=True)

        result = task(config, resume=resume, on_step=on_step, on_note=on_note)
    for warning in result.warnings:
        echo(f"relsdk: warning: {warning}", err=True)
    if as_json:
        echo_json(asdict(result))
    else:
        command = following if isinstance(following, str) else following(config)
        best, teacher = Path(config.run.output) / "best", config.model.checkpoint
        _echo_result(result, command.format(best=shell(best), teacher=shell(teacher)))
    if result.stopped in _STOPPED:
        sys.exit(_STOPPED[result.stopped])


def _echo_result(result: Any, following: str) -> None:
    """Print how a training ended, and what to do next."""
    measures = ", ".join(f"{name} {value:.4f}" for name, value in result.best.items() if "@" not in name)
    best = f"best on dev at step {result.best_step}: {measures}"
    if not result.best:
        best = "nothing is measured without data.dev, and the last step is the best"
    echo(f"{result.stopped} after {result.steps} steps, {result.rows_per_second:.1f} pairs/s; {best}")
    if result.stopped in _STOPPED:
        echo("go on with the same command and --resume")
    else:
        echo_next(following)


def _figures(statistics: dict[str, float]) -> str:
    if not statistics:
        return ""
    return f"loss {statistics['loss']:.3f}  {statistics['rows_per_second']:.0f} pairs/s"
