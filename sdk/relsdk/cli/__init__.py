"""The command `relsdk`. One file a command group; a group is imported when it is called."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import click

from relsdk.errors import MissingExtraError, RelsdkError

__all__ = ["LazyGroup", "main"]

# name -> (module, attribute, one line of help)
_COMMANDS = {
    "demo": ("relsdk.cli.demo", "demo", "The whole product in one command, on a sample corpus."),
    "index": ("relsdk.cli.index", "index", "Build, inspect and verify an index."),
    "query": ("relsdk.cli.query", "query", "Search an index."),
    "encode": ("relsdk.cli.encode", "encode", "Turn texts into vectors (.npy)."),
    "score": ("relsdk.cli.score", "score", "Grade pairs of query and document."),
    "eval": ("relsdk.cli.evaluate", "evaluate", "Measure a bundle on labelled pairs."),
    "calibrate": ("relsdk.cli.calibrate", "calibrate", "Fit levels and probabilities on labelled pairs."),
    "model": ("relsdk.cli.model", "model", "Pull a pretrained encoder; show what a bundle holds."),
    "mine": ("relsdk.cli.mine", "mine", "Find hard negatives for training in an index."),
    "train": ("relsdk.cli.train", "train", "Train an encoder or a score model on graded pairs."),
    "synth": ("relsdk.cli.synth", "synth", "Look at the queries that an SSRA run has written."),
    "export": ("relsdk.cli.export", "export", "Make a bundle from a checkpoint."),
    "bench": ("relsdk.cli.bench", "bench", "Measure latency of your own model and queries."),
    "doctor": ("relsdk.cli.doctor", "doctor", "Show what this machine offers and what relsdk makes of it."),
}
# Packages that only an extra brings.
_HEAVY = ("accelerate", "bm25s", "onnx", "onnx_ir", "onnxscript", "safetensors", "torch", "transformers")


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
@click.version_option(package_name="relsdk")
def _relsdk() -> None:
    """Search relevance that runs anywhere."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a title may hold what the terminal's encoding lacks
            stream.reconfigure(errors="replace")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        _run(arguments)


def _run(arguments: list[str] | None) -> None:
    try:
        _relsdk.main(args=arguments, prog_name="relsdk", standalone_mode=False)
    except RelsdkError as error:
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _HEAVY:
            raise
        called = (arguments or sys.argv[1:])[:1]
        _fail(str(MissingExtraError("this command", "train" if called == ["train"] else "export")), 2)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; finished work is kept, unfinished work was removed", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; nothing is left to say
        sys.exit(0)


def _fail(message: str, code: int) -> None:
    click.echo("relsdk: error: " + " ".join(message.split()), err=True)
    sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    click.echo(f"relsdk: warning: {message}", err=True)
