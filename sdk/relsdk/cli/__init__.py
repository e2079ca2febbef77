"""The command `relsdk`. One file a command group; a group is imported when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
from click.shell_completion import shell_complete

from relsdk.cli._warnings import keep_warning
from relsdk.cli.ending import Signals, close_streams, ending_of, open_streams, shorten
from relsdk.cli.output import echo, escape_what_is_lacking

__all__ = ["LazyGroup", "main"]

# name -> (module, attribute, one line of help)
_COMMANDS = {
    "demo": ("relsdk_export.cli.demo", "demo", "The whole product in one command, on a sample corpus."),
    "index": ("relsdk.cli.index", "index", "Build, change, inspect, read and verify an index."),
    "query": ("relsdk.cli.query", "query", "Search an index."),
    "serve": ("relsdk_serve.cli.serve", "serve", "Serve models and indexes over HTTP, with a page."),
    "encode": ("relsdk.cli.encode", "encode", "Turn texts into vectors: an .npy file, or a folder of parts."),
    "score": ("relsdk.cli.score", "score", "Grade pairs of query and document, one or a file of them."),
    "eval": (
        "relsdk.cli.evaluate",
        "evaluate",
        "Measure a bundle on labelled pairs, an index or a run on judgements, a judge.",
    ),
    "label": ("relsdk.cli.label", "label", "Choose which pairs to label next."),
    "calibrate": ("relsdk.cli.calibrate", "calibrate", "Fit levels and probabilities on labelled pairs."),
    "model": ("relsdk.cli.model", "model", "Pull a pretrained encoder; show what a bundle holds."),
    "mine": ("relsdk.cli.mine", "mine", "Find hard negatives for training in an index."),
    "train": ("relsdk_training.cli.train", "train", "Train an encoder or a score model on graded pairs."),
    "judge": ("relsdk_training.cli.judge", "judge", "Let a language model grade pairs."),
    "synth": ("relsdk_training.cli.synth", "synth", "Look at the queries that an SSRA run has written."),
    "export": ("relsdk_export.cli.export", "export", "Make a bundle from a checkpoint."),
    "bench": ("relsdk.cli.bench", "bench", "Can your model serve your queries within a budget?"),
    "doctor": ("relsdk.cli.doctor", "doctor", "Show what this machine offers and what relsdk makes of it."),
}

_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # before click 8.2 it prints itself


class LazyGroup(click.Group):
    """Knows its commands by name and imports the one that is called.

    Args:
        lazy: Module, attribute and one line of help of each command, by name.
        options: See `click.Group`.
    """

    def __init__(self, *, lazy: Mapping[str, tuple[str, str, str]], **options: Any) -> None:
        super().__init__(**options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._lazy:
            return None
        module, attribute, _ = self._lazy[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and their lines of help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self._lazy.items()])


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, asked: _version(context, asked),
    help="Show the version and exit.",
)
def _relsdk() -> None:
    """Search relevance that runs anywhere."""


def _version(context: click.Context, wanted: bool) -> None:
    if wanted:
        try:
            echo(f"relsdk, version {version('relsdk')}")
        except PackageNotFoundError:
            echo("relsdk, not installed (run from its source)")
        context.exit()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; whatever goes wrong ends with one line on stderr and an exit code of `ending`."""
    open_streams()
    lacking = escape_what_is_lacking()
    logged = _Logged(logging.WARNING)
    logging.getLogger().addHandler(logged)
    with warnings.catch_warnings(), Signals() as signals:
        warnings.showwarning = _show_warning
        code = _run(sys.argv[1:] if arguments is None else arguments, signals)
    logging.getLogger().removeHandler(logged)
    for encoding in sorted(lacking):
        echo(
            f"relsdk: warning: characters that this terminal's encoding, {encoding}, lacks are shown as "
            "escapes; set LC_ALL=C.UTF-8 or PYTHONIOENCODING=utf-8",
            err=True,
        )
    close_streams()
    if code:
        sys.exit(code)


def _run(arguments: list[str], signals: Signals) -> int:
    """Run a command, print what went wrong, and return the exit code."""
    if instruction := os.environ.get("_RELSDK_COMPLETE"):
        return shell_complete(_relsdk, {}, "relsdk", "_RELSDK_COMPLETE", instruction)
    try:
        with _relsdk.make_context("relsdk", list(arguments)) as context:
            _relsdk.invoke(context)
        sys.stdout.flush()
        return 0
    except _NO_ARGUMENTS as error:  # a group without a command: as with --help
        echo(error.ctx.get_help())
        return 0
    except BaseException as error:
        message, code = ending_of(error, arguments[0] if arguments else "", signals)
        if message and os.environ.get("RELSDK_TRACEBACK"):
            echo("".join(traceback.format_exception(error)).rstrip(), err=True)
        if message:
            echo("relsdk: error: " + shorten(message), err=True)
        return code


class _Logged(logging.Handler):
    """Prints what libraries log as every other warning."""

    def emit(self, record: logging.LogRecord) -> None:
        _show_warning(record.getMessage(), UserWarning)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    text = " ".join(str(message).split())
    echo(f"relsdk: warning: {text}", err=True)
    keep_warning(text)
