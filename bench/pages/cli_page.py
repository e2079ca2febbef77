"""docs/cli.md, made of the command tree: every command and option, exit codes, environment variables."""

from __future__ import annotations

from collections.abc import Iterator

import click

from relsdk.cli import _relsdk
from relsdk.cli.ending import EXIT_CODES

__all__ = ["cli_page"]

_VARIABLES = {
    "RELSDK_THREADS": "CPU threads where `--threads` is not given.",
    "RELSDK_CACHE": "Folder of pulled checkpoints.",
    "RELSDK_TRACEBACK": "When set, an error shows where in the code it was raised.",
    "HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME": "Of the Hugging Face hub: a mirror, never ask it, its folder.",
    "NO_COLOR, TERM=dumb": "No styles; TERM=dumb: no line is redrawn, either.",
    "COLUMNS": "Width that titles are cut to.",
    "PYTHONIOENCODING, LC_ALL": "Encoding of what is printed; characters that it lacks are shown as escapes.",
}
_START = """# Command line

Made of the commands' own help by `make readme`; do not edit.

`--json` prints exact values, one object or one list; progress and warnings go to stderr, and warnings stand
in `warnings` of the JSON, too. Where stderr is a terminal, progress is one line that is redrawn; elsewhere,
work of more than ten seconds prints a line now and then with the time that is left. Titles, ids and paths
are printed with control characters and marks of the reading direction as escapes. `relsdk COMMAND --help`
shows what is below.
"""


def cli_page() -> str:
    """Return the page."""
    codes = "".join(f"| {code} | {_cell(text)} |\n" for code, text in EXIT_CODES.items())
    variables = "".join(f"| `{name}` | {text} |\n" for name, text in _VARIABLES.items())
    commands = "\n".join(_command(path, command) for path, command in walk(_relsdk, "relsdk"))
    return (
        f"{_START}\n## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}\n"
        f"## Environment variables\n\n| variable | effect |\n|---|---|\n{variables}\n{commands}"
    )


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, with its words."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None:
            yield from walk(inner, f"{path} {name}")


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
    usage = command.get_usage(context).removeprefix("Usage: ")
    paragraphs = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    rows = [_row(option) for option in command.params if isinstance(option, click.Option)]
    table = "".join(f"| {name} | {text} |\n" for name, text in rows)
    example = (command.epilog or "").removeprefix("Example: ")
    return (
        f"## {path}\n\n```\n{usage}\n```\n\n{paragraphs}\n\n| option | effect |\n|---|---|\n{table}\n"
        f"```\n{example}\n```\n"
    )


def _row(option: click.Option) -> tuple[str, str]:
    """Return an option's name and help, in words that are those of every version of click."""
    names = ", ".join([*sorted(option.opts, key=len), *option.secondary_opts])
    kind = option.type
    values = f"[{'|'.join(map(str, kind.choices))}]" if isinstance(kind, click.Choice) else kind.name.upper()
    name = names if option.is_flag else f"{names} {option.metavar or values}"
    notes = ["may be repeated"] * option.multiple + ["required"] * option.required
    if option.show_default and option.default is not None:
        default = option.default if isinstance(option.default, tuple) else (option.default,)
        notes.append(f"default: {', '.join(map(str, default))}")
    return f"`{_cell(name)}`", _cell(f"{option.help} [{'; '.join(notes)}]" if notes else option.help or "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
