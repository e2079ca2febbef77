"""The output that README shows: the demo's, and that of README's own twelve lines, run for real.

Run by `make bench`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from relsdk.files.folders import write_file_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results"


@click.command()
def main() -> None:
    """Run the demo and README's code in a fresh folder; write bench/results/demo.txt and example.txt."""
    with TemporaryDirectory() as folder:
        demo = run_demo(Path(folder))
        example = run_code(readme_code(), Path(folder))
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_file_atomically(RESULTS / "demo.txt", demo)
    write_file_atomically(RESULTS / "example.txt", example)
    click.echo(demo + "\n" + example)


def readme_code() -> str:
    """Return README's Python block."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise click.ClickException("README.md has no Python block")
    return found[1]


def run_demo(folder: Path, *options: str) -> str:
    """Run `relsdk demo` in a folder; return what it prints."""
    return _run([sys.executable, "-m", "relsdk", "demo", *options], folder)


def run_code(code: str, folder: Path) -> str:
    """Run Python code in a folder; return what it prints."""
    return _run([sys.executable, "-c", code], folder)


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise click.ClickException(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
