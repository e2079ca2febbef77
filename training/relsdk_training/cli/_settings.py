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
        origin = ": relsdk's own, as this folder has none" if settings_file(path) != path else ""
        echo(f"# {path}{origin}", err=True)
    echo("# settings; * marks those that are not default", err=True)
    echo(describe_config(settings), err=True)
