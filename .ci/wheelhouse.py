"""Collect what an installation without a network needs, and install it so.

    python .ci/wheelhouse.py                                   # the base installation
    python .ci/wheelhouse.py --extras backbone,export          # a pretrained encoder and its export, too

`make wheelhouse` runs it. The folder holds relsdk's wheel and those of everything it needs, for this version
of Python and this platform; hnswlib, which has no wheels, is built here. On the other machine:

    pip install --no-index --find-links wheelhouse relsdk
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from clean_environment import ROOT, CleanEnvironment, TrialError
from dist import build


def main() -> None:
    """Collect and try; end with 1 and the reason where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--extras", default="", help="of relsdk, with commas [default: none]")
    parser.add_argument("--output", type=Path, default=ROOT / "wheelhouse", help="[default: wheelhouse]")
    options = parser.parse_args()
    suffix = f"[{options.extras}]" if options.extras else ""
    try:
        with tempfile.TemporaryDirectory(prefix="relsdk-wheelhouse-") as work:
            collect(options.output, suffix, Path(work))
            try_offline(options.output, suffix, Path(work))
    except (TrialError, subprocess.CalledProcessError) as error:
        sys.exit(f"wheelhouse: {error}")
    files = list(options.output.iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{options.output}: {len(files)} wheels, {size:.0f} MB, for relsdk{suffix}")


def collect(output: Path, suffix: str, work: Path) -> None:
    """Fill a new folder with wheels, in the versions that relsdk was tested with."""
    shutil.rmtree(output, ignore_errors=True)
    _, wheel = build(work / "dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--wheel-dir", str(output), "-c", str(ROOT / "constraints.txt")]
    # By itself hnswlib is built for the very CPU that builds it, and pip's cache keeps that wheel.
    portable = {**os.environ, "HNSWLIB_NO_NATIVE": "1"}
    subprocess.run([*command, "--no-deps", "--no-cache-dir", "hnswlib"], check=True, env=portable)
    subprocess.run([*command, "--find-links", str(output), f"{wheel}{suffix}"], check=True, env=portable)


def try_offline(output: Path, suffix: str, work: Path) -> None:
    """Install from the folder alone: without an index, the user's settings of pip and its cache."""
    environment = CleanEnvironment("offline", work)
    alone = ("--isolated", "--no-index", "--no-cache-dir", "--find-links", str(output.resolve()))
    environment.install(*alone, f"relsdk{suffix}")
    environment.check_relsdk()


if __name__ == "__main__":
    main()
