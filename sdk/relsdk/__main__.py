"""`python -m relsdk` is the command `relsdk`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Import and run the command line; Ctrl-C while it is imported says so in one line, too."""
    try:
        from relsdk.cli import main as command
    except KeyboardInterrupt:
        sys.stderr.write("relsdk: error: interrupted before anything was done\n")
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
