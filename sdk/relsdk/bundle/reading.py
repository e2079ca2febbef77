"""Read and check a model folder.

A bundle is a sentence-transformers folder with an `onnx/` sub-folder, plus `relsdk.json` which carries what
that layout has no place for: calibration, variants, quality, provenance, hashes. A folder without it opens,
too, as long as it has an ONNX file; it just has no levels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from relsdk.bundle._dense import dense_files
from relsdk.bundle._description import LOCK, REMEDY, read_description
from relsdk.bundle._onnx_names import find_onnx_files
from relsdk.bundle.foreign import is_scorer_folder, read_encoder_settings, read_scorer_settings
from relsdk.bundle.golden import GOLDEN_JSON
from relsdk.bundle.inside import check_inside, name_of_model
from relsdk.bundle.layout import (
    TOKENIZER_JSON,
    EncoderSettings,
    settings_content,
)
from relsdk.bundle.model import RELSDK_JSON, Bundle, Variant, onnx_file
from relsdk.errors import BundleError
from relsdk.files.folders import file_sha256, json_sha256, restore_folder

__all__ = ["open_bundle", "read_bundle"]

Opened = TypeVar("Opened")

# What no other program leaves in a model folder.
_TRACES = (GOLDEN_JSON, LOCK, onnx_file("fp32", "any", tower="query_model"))


def read_bundle(path: str | Path) -> Bundle:
    """Read a model folder that relsdk or sentence-transformers wrote.

    Hashes of other files are not read here: `Bundle.check_hashes` does that for the files that are used.

    Raises:
        BundleError: The folder is missing, damaged, of an unknown version, or has no ONNX file; or relsdk
            wrote it and its `relsdk.json` is missing or was changed.
    """
    folder = Path(path).absolute()  # what is opened later is found from another folder, too
    if not folder.is_dir():
        restore_folder(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; name a bundle (make one with: relsdk export encoder)")
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError:
        raise BundleError(
            f"{folder}: this name is not UTF-8, and onnxruntime opens no such path; rename the folder"
        ) from None
    if os.path.lexists(folder / RELSDK_JSON):
        return read_description(folder)
    trace = next((name for name in _TRACES if os.path.lexists(folder / name)), None)
    if trace is not None:
        raise BundleError(
            f"{folder} is a relsdk bundle (it has {trace}) whose {RELSDK_JSON} is missing: levels and hashes "
            f"are in it; {REMEDY}"
        )
    return _read_foreign(folder)


def open_bundle(path: str | Path, load: Callable[[Bundle], Opened]) -> Opened:
    """Read a model folder and load its files, or those of its successor when it is overwritten meanwhile.

    Raises:
        BundleError: See `read_bundle`; or `load` raised it, and `relsdk.json` is still the same file.
    """
    while True:
        before = _identity(path)
        try:
            return load(read_bundle(path))
        except BundleError:
            if before is None or _identity(path) == before:
                raise


def _identity(path: str | Path) -> tuple[int, ...] | None:
    """Tell one `relsdk.json` from another that has its inode, size and time: that of a copy made later."""
    try:
        status = os.stat(Path(path) / RELSDK_JSON)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _read_foreign(folder: Path) -> Bundle:
    if not (folder / TOKENIZER_JSON).is_file():
        raise BundleError(f"{folder} has no {TOKENIZER_JSON}; it is not a model folder that relsdk can open")
    names, others = find_onnx_files(folder)
    scorer = is_scorer_folder(folder)
    kind = "scorer" if scorer else "encoder"
    if not names and not others:
        raise BundleError(f"{folder} has no ONNX file; make a bundle: relsdk export {kind} {folder} OUT")
    settings = read_scorer_settings(folder) if scorer else read_encoder_settings(folder)
    variants = tuple(Variant(*item) for item in names)
    bundle = Bundle(folder, name_of_model(folder), kind, "", settings, variants)
    # The same for every file that the folder may be opened with.
    first = min(variants, key=lambda v: v.quantisation != "fp32") if variants else bundle.variant(others[0])
    for name in (TOKENIZER_JSON, first.file):
        check_inside(folder, name)
    hashes = [file_sha256(folder / name) for name in bundle.variant_files(first)]
    identity = {
        "onnx": hashes[0] if len(hashes) == 1 else hashes,
        "tokenizer": file_sha256(folder / TOKENIZER_JSON),
        "settings": settings_content(settings),
    }
    layers = dense_files(settings.dense) if isinstance(settings, EncoderSettings) else ()
    if layers:
        identity["dense"] = [file_sha256(folder / name) for name in layers if (folder / name).is_file()]
    return replace(bundle, fingerprint=json_sha256(identity)[:16])
