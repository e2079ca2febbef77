"""A new virtual environment, and commands in it that cannot see the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["ROOT", "CleanEnvironment", "TrialError"]

ROOT = Path(__file__).resolve().parent.parent


class TrialError(Exception):
    """A command failed, or did not do what it should."""


class CleanEnvironment:
    """A virtual environment in a new folder; commands run in a folder beside it.

    Attributes:
        name: How messages call it.
        place: Folder that commands run in.
    """

    def __init__(self, name: str, work: Path) -> None:
        self.name = name
        self.place = work / name.replace(",", "-") / "place"
        self.place.mkdir(parents=True)
        self._venv = self.place.parent / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(self._venv)], check=True)

    def install(self, *arguments: str) -> None:
        """Run `pip install`."""
        self.run("python", "-m", "pip", "install", "--quiet", "--no-compile", *arguments)

    def run(self, program: str, *arguments: str, fails: bool = False) -> str:
        """Run a program of the environment; return its output, or its stderr if it has to fail.

        Args:
            program: Its name in the environment's `bin`.
            *arguments: Its arguments.
            fails: It has to fail.

        Raises:
            TrialError: It failed, or it did not where it has to.
        """
        shown = " ".join([program, *(word if len(word) < 60 else f"{word[:57]}..." for word in arguments)])
        print(f"[{self.name}] {shown!r}", flush=True)
        start = time.perf_counter()
        ended = subprocess.run(
            [str(self._venv / "bin" / program), *arguments],
            cwd=self.place,
            env=self._variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        if (ended.returncode != 0) != fails:
            raise TrialError(
                f"[{self.name}] {shown} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
            )
        print(f"    {time.perf_counter() - start:.1f} s", flush=True)
        return ended.stderr if fails else ended.stdout

    def check_relsdk(self) -> None:
        """Check that relsdk is the installed one, that nothing it needs is missing, and that it works here.

        Raises:
            TrialError: relsdk comes from elsewhere, or a requirement is not met.
        """
        origin = Path(self.run("python", "-c", "import relsdk; print(relsdk.__file__)").strip())
        if not origin.is_relative_to(self._venv):
            raise TrialError(f"[{self.name}] relsdk comes from {origin}, not from {self._venv}")
        self.run("python", "-m", "pip", "check")
        self.run("relsdk", "doctor")

    def _variables(self) -> dict[str, str]:
        """Return the variables of this process without those that lead to another Python."""
        ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        path = os.pathsep.join([str(self._venv / "bin"), kept.get("PATH", "")])
        return {**kept, "PATH": path, "PYTHONNOUSERSITE": "1"}
