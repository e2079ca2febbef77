"""The last stages: a checkpoint to a bundle with levels, and what it measures.

They run relsdk's own commands in processes of their own: training and export never import each other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from relsdk.bundle import read_bundle
from relsdk.errors import MissingExtraError, TrainingError

__all__ = ["check_export", "make_bundle", "measure_bundle"]

OnNote = Callable[[str], None]


def check_export() -> None:
    """Check that what exports is there: before the hours of training, not after them.

    Raises:
        MissingExtraError: It is not installed.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise MissingExtraError("relsdk train few", "train,export")


def make_bundle(
    checkpoint: Path, folder: Path, variants: tuple[str, ...], dev: Path | None, on_note: OnNote
) -> dict[str, Any]:
    """Export a checkpoint to FOLDER/bundle, and fit its levels on dev pairs.

    Args:
        checkpoint: Of the encoder.
        folder: To fill.
        variants: ONNX files; empty exports all.
        dev: Pairs to fit levels on; None fits none.
        on_note: Called with a line for people on each command.

    Returns:
        The report: of each variant its `bytes` and, with `dev`, what `relsdk calibrate` measured on held-out
        queries.

    Raises:
        TrainingError: A command failed.
    """
    bundle = folder / "bundle"
    if not bundle.is_dir():  # a stopped try may have got so far; the folder appears when it is whole
        chosen = [word for variant in variants for word in ("--variant", variant)]
        _run("export", "encoder", str(checkpoint), str(bundle), *chosen, on_note=on_note)
    fitted = [] if dev is None else _run("calibrate", str(bundle), str(dev), on_note=on_note)["calibrations"]
    sizes = {variant.name: variant.quality["bytes"] for variant in read_bundle(bundle).variants}
    return {"bytes": sizes, "calibrations": fitted}


def measure_bundle(bundle: Path, files: dict[str, Path], on_note: OnNote) -> dict[str, Any]:
    """Measure a bundle on labelled pairs.

    Args:
        bundle: Its folder.
        files: Pairs by the name of the split.
        on_note: See `make_bundle`.

    Returns:
        The report: for each split what `relsdk eval` says of each variant.

    Raises:
        TrainingError: A command failed.
    """
    return {name: _run("eval", str(bundle), str(path), on_note=on_note) for name, path in files.items()}


def _run(*arguments: str, on_note: OnNote) -> Any:
    """Run a command of relsdk and return the JSON that it prints; what it tells people passes through."""
    on_note(f"relsdk {' '.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "relsdk", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise TrainingError(
            f"relsdk {' '.join(arguments)} ended with {done.returncode} and said why above; what was done "
            "before is kept, and the same command goes on from there"
        )
    return json.loads(done.stdout)
