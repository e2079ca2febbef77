"""Write and change the `relsdk.json` of a bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from relsdk.bundle._description import LOCK, check_variants, description
from relsdk.bundle.calibration_key import CalibrationKey
from relsdk.bundle.layout import (
    MODEL_CARD,
    TOKENIZER_JSON,
    EncoderSettings,
    ScorerSettings,
    settings_content,
    write_layout,
    write_scorer_layout,
)
from relsdk.bundle.model import RELSDK_JSON, Bundle, Variant
from relsdk.bundle.reading import read_bundle
from relsdk.errors import BundleError
from relsdk.files.atomic import hold_lock, remove
from relsdk.files.folders import file_sha256, json_sha256, write_file_atomically

__all__ = ["finish_bundle", "open_for_calibration", "repository_files", "save_calibration"]


def finish_bundle(
    folder: Path,
    *,
    name: str,
    settings: EncoderSettings | ScorerSettings,
    variants: tuple[Variant, ...],
    weights_sha256: str,
    provenance: Mapping[str, Any],
) -> Bundle:
    """Write the configuration files of a bundle whose ONNX and tokenizer files are in place.

    Args:
        folder: The (staging) folder; must hold `tokenizer.json`, `config.json` and every variant's file.
        name: The bundle's name.
        settings: What the model's outputs depend on besides the weights; says whether it is a scorer.
        variants: The ONNX files.
        weights_sha256: Hash of the checkpoint's weights.
        provenance: Checkpoint, options, versions.

    Returns:
        The bundle, as `read_bundle` would.
    """
    if isinstance(settings, EncoderSettings):
        kind = "encoder"
        write_layout(folder, settings)
    else:
        kind = "scorer"
        write_scorer_layout(folder, settings)
    identity = {
        "weights": weights_sha256,
        "tokenizer": file_sha256(folder / TOKENIZER_JSON),
        "kind": kind,
        "settings": settings_content(settings),
    }
    present = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != RELSDK_JSON)
    bundle = Bundle(
        path=folder,
        name=name,
        kind=kind,
        fingerprint=json_sha256(identity)[:16],
        settings=settings,
        variants=variants,
        provenance=provenance,
        files={p.relative_to(folder).as_posix(): file_sha256(p) for p in present},
    )
    (folder / RELSDK_JSON).write_text(_to_json(description(bundle)), encoding="utf-8")
    return read_bundle(folder)


def open_for_calibration(path: str | Path) -> Bundle:
    """Read a bundle, and find out before the work whether a calibration could be stored.

    Raises:
        BundleError: relsdk did not write this folder.
        RelsdkError: The file system refuses.
    """
    bundle = read_bundle(path)
    if not bundle.files:
        raise BundleError(
            f"{bundle.path} was not made by relsdk, so it has no place for a calibration; "
            "make a bundle of it with: relsdk export encoder"
        )
    with _changing(bundle.path) as now:
        return _write(now)


def save_calibration(
    bundle: Bundle,
    variant: Variant,
    key: CalibrationKey,
    content: Mapping[str, Any],
    report: Mapping[str, Any],
    promises: Sequence[Mapping[str, Any]] = (),
) -> Bundle:
    """Add one calibration, and what was measured of it, to a bundle's `relsdk.json`, atomically.

    What other processes have stored since the bundle was read stays.

    Args:
        bundle: As it was read.
        variant: Whose calibration.
        key: What the calibration is for.
        content: The calibration.
        report: What was measured.
        promises: Of this calibration; those of the one before go.

    Returns:
        The bundle as it is now.

    Raises:
        BundleError: The folder holds another model now.
        RelsdkError: The file system refuses.
    """
    with _changing(bundle.path) as now:
        if any(now.files.get(graph) != bundle.files.get(graph) for graph in variant.graphs):
            raise BundleError(
                f"{bundle.path} was written again while it was calibrated; calibrate the new bundle"
            )
        old = now.variant(variant.name)
        measured = {**old.quality.get("calibration", {}), str(key): report}
        others = {name: kept for name, kept in old.promises.items() if name != str(key)}
        fitted = replace(
            old,
            promises={**others, str(key): tuple(promises)} if promises else others,
            calibrations={**old.calibrations, str(key): content},
            quality={**old.quality, "calibration": measured},
        )
        return _write(replace(now, variants=tuple(fitted if v.name == old.name else v for v in now.variants)))


def repository_files(bundle: Bundle, card: str) -> dict[str, Path | bytes]:
    """Return what a repository of a bundle holds: its files, and the `relsdk.json` that belongs to its card.

    Args:
        bundle: As it was read.
        card: The model card to put in place of the bundle's own.

    Returns:
        Files to copy and bytes to write, by their path in the repository.
    """
    changed = {MODEL_CARD: card.encode()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in changed.items()}
    described = replace(bundle, files={**bundle.files, **hashes})
    files: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.files}
    return {**files, **changed, RELSDK_JSON: _to_json(description(described)).encode()}


@contextmanager
def _changing(folder: Path) -> Iterator[Bundle]:
    """Read a bundle while no other process changes its `relsdk.json`."""
    with hold_lock(folder / LOCK, wait=True) as lock:
        if lock.exclusive:
            for left in folder.glob(f".{RELSDK_JSON}.????????"):  # of a killed version before this one
                remove(left)
        yield read_bundle(folder)


def _write(bundle: Bundle) -> Bundle:
    check_variants(bundle)
    content = description(bundle)
    write_file_atomically(bundle.path / RELSDK_JSON, _to_json(content))
    return replace(bundle, checksum=content["checksum"])


def _to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
