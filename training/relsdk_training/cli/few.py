"""`relsdk train few`: few labels or none, and a language model, to a calibrated bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from relsdk.cli.options import json_option
from relsdk.cli.output import echo, echo_json, echo_next, shell
from relsdk.progress import Progress
from relsdk_training.cli._settings import show_settings
from relsdk_training.cli.judge import echo_cost, is_interactive, price_option

__all__ = ["few"]

_RECIPE = Path("few.toml")
# Options that stand for settings.
_SETTINGS = {
    "labels": "data.train",
    "dev": "data.dev",
    "unlabelled": "ask.unlabelled",
    "checkpoint": "model.checkpoint",
    "output": "run.output",
    "endpoint": "endpoint.url",
    "model": "endpoint.name",
    "key_env": "endpoint.key_env",
    "rubric": "endpoint.rubric",
    "weak": "data.weak",
    "written": "data.written",
}
F = TypeVar("F", bound=Callable[..., Any])


def _inputs(command: F) -> F:
    """Options that stand for settings: paths are checked where they are read."""
    for option in reversed(
        [
            click.option("--labels", help="Pairs that people labelled: none to some 2,000."),
            click.option("--dev", help="Labelled pairs to decide with [default: a part of --labels]."),
            click.option(
                "--unlabelled", multiple=True, help="Pairs, or documents, for the language model to work on."
            ),
            click.option("--checkpoint", help="Encoder to start from; relsdk model pull gets one."),
            click.option("--output", "-o", help="Folder of the run."),
            click.option("--endpoint", help="URL of an OpenAI-compatible endpoint."),
            click.option("--model", help="Name of its model."),
            click.option("--key-env", help="Environment variable that holds its key."),
            click.option("--rubric", help="Text file that says what the levels mean for you."),
            click.option("--weak", multiple=True, help="Pairs that a model has graded: asks for no grades."),
            click.option(
                "--written", multiple=True, help="Pairs whose query a model has written: asks for none."
            ),
        ]
    ):
        command = option(command)
    return command


@click.command(
    epilog="Example: relsdk train few --labels few.jsonl --unlabelled pairs.jsonl --checkpoint checkpoint "
    "--endpoint http://localhost:8000/v1 --model NAME --output runs/few"
)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@_inputs
@price_option
@click.option("--yes", is_flag=True, help="Ask the language model without asking you first.")
@click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="Change one setting; may be repeated."
)
@json_option
def few(
    config: Path | None,
    overrides: tuple[str, ...],
    price: tuple[float, float] | None,
    yes: bool,
    as_json: bool,
    **inputs: str | tuple[str, ...] | None,
) -> None:
    """Train, export and calibrate an encoder with few labels or none, and what a language model says.

    The language model grades unlabelled pairs, and the labelled dev pairs without seeing their labels: how
    far it can be believed corrects its other grades. It writes queries of known level for documents. The
    encoder learns from all of it and becomes a bundle with levels; OUTPUT/report.md says what it is worth.

    What is done is not done again, and no question is asked twice: the same command goes on where a run was
    stopped. CONFIG is a TOML file [default: relsdk's own few.toml].
    """
    from relsdk_training.config.few import FewConfig
    from relsdk_training.config.files import load_config

    given = [f"{_SETTINGS[name]}={_toml(value)}" for name, value in inputs.items() if value]
    settings = load_config(FewConfig, config or _RECIPE, [*given, *overrides])
    from relsdk_training.few.recipe import train_few  # torch, which takes seconds

    show_settings(config or _RECIPE, settings)
    with Progress() as progress:

        def on_note(note: str) -> None:
            progress.finish()
            echo(note, err=True)

        def on_questions(cost: Any) -> None:
            progress.finish()
            echo_cost(cost, settings.endpoint.name, 1, price)
            if cost.questions and not yes and is_interactive():
                click.confirm("Go on?", abort=True, err=True)

        result = train_few(settings, on_note=on_note, on_progress=progress, on_questions=on_questions)
    if as_json:
        echo_json({"bundle": result.bundle, "report": result.report, **result.content})
        return
    for line in (*result.content["notes"], *(f"next: {line}" for line in result.content["next"])):
        echo(line)
    echo(f"report: {shell(result.report)}")
    echo_next("index build INDEX --model", Path(result.bundle), "--input DOCS")


def _toml(value: str | tuple[str, ...]) -> str:
    """Return a path, or several, as a setting is written; a JSON string is one of TOML."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
