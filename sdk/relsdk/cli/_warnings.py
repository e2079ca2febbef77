"""What commands warn of: on stderr, and once more in what they print as JSON."""

from __future__ import annotations

import click

from relsdk.cli.output import echo

__all__ = ["keep_warning", "take_warnings", "warn"]

_KEY = "relsdk.warnings"


def warn(text: object) -> None:
    """Print a warning on stderr, and keep it for the JSON."""
    echo(text, err=True)
    keep_warning(str(text))


def keep_warning(text: str) -> None:
    """Keep a warning that was printed, where a command of this thread may have JSON to print it in."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta.setdefault(_KEY, []).append(text)


def take_warnings() -> list[str]:
    """Return the warnings of this command since they were taken last, each once."""
    kept: list[str] = click.get_current_context().meta.pop(_KEY, [])
    return list(dict.fromkeys(kept))
