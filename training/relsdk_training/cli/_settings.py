"""How a command shows its settings before it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relsdk.cli.output import echo

__all__ = ["show_settings"]


def show_settings(path: Path | None, settings: Any) -> None:
    """Print where settings come from, and what they are."""
    from relsdk_training.config.files import describe_config, settings_file

    if path is not None:
        own = settings_file(path) != path
        echo(f"# {path}{', of relsdk itself: this folder has none' if own else ''}", err=True)
    echo("# settings; * marks those that are not default", err=True)
    echo(describe_config(settings), err=True)
