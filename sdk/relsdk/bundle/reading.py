"""A model folder is read and checked.

A bundle is a sentence-transformers folder with an `onnx/` sub-folder, plus `relsdk.json` which carries what
that layout has no place for: calibration, variants, quality, provenance, hashes. A folder without it opens,
too, as long as it has an ONNX file; it just has no levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from relsdk.bundle.json_files import read_json
from relsdk.bundle.layout import (
    HEADS,
    TOKENIZER_JSON,
    EncoderSettings,
    ScorerSettings,
    is_scorer_folder,
    read_encoder_settings,
    read_scorer_settings,
)
from relsdk.bundle.model import FORMAT_VERSION, RELSDK_JSON, Bundle, Variant
from relsdk.bundle.modules import POOLINGS
from relsdk.bundle.onnx_names import find_onnx_files
from relsdk.errors import BundleError
from relsdk.folders import file_sha256, json_sha256, restore_folder

__all__ = ["read_bundle"]


def read_bundle(path: str | Path) -> Bundle:
    """Read a model folder that relsdk or sentence-transformers wrote.

    Hashes are not read here: `Bundle.check_hashes` does that for the files that are used.

    Raises:
        BundleError: The folder is missing, damaged, of an unknown version, or has no ONNX file.
    """
    folder = Path(path).absolute()  # what is opened later is found from another folder, too
    if not folder.is_dir():
        restore_folder(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; name a bundle (make one with: relsdk export encoder)")
    if (folder / RELSDK_JSON).is_file():
        return _read_own(folder)
    return _read_foreign(folder)


def _read_own(folder: Path) -> Bundle:
    content = read_json(folder / RELSDK_JSON, dict[str, Any])
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(f"{folder / RELSDK_JSON} has format {version!r}; only {FORMAT_VERSION} is known")
    try:
        settings = _settings(content["kind"], content["settings"])
        variants = tuple(Variant(**item) for item in content["variants"])
        bundle = Bundle(
            path=folder,
            name=content["name"],
            kind=content["kind"],
            fingerprint=content["fingerprint"],
            settings=settings,
            variants=variants,
            provenance=content["provenance"],
            files=content["files"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / RELSDK_JSON} is damaged ({error}); export the bundle again") from error
    if not bundle.variants or not bundle.files:
        raise BundleError(
            f"{folder / RELSDK_JSON} is damaged (no variants or files); export the bundle again"
        )
    graphs = [graph for variant in variants for graph in variant.graphs]
    for name in [*bundle.files, *graphs]:
        _check_inside(folder, name)
    for graph in graphs:
        if not (folder / graph).is_file():
            raise BundleError(f"{folder / graph} is missing; copy the bundle again or export it again")
    return bundle


def _settings(kind: str, content: Mapping[str, Any]) -> EncoderSettings | ScorerSettings:
    if kind == "scorer":
        scorer = ScorerSettings(**content)
        if scorer.head not in HEADS:
            raise ValueError(f"head {scorer.head!r}")
        return scorer
    if kind != "encoder":
        raise ValueError(f"kind {kind!r}")
    dims = tuple(content.get("matryoshka_dims", ()))
    encoder = EncoderSettings(**{**content, "matryoshka_dims": dims})
    if encoder.pooling not in POOLINGS:
        raise ValueError(f"pooling {encoder.pooling!r}")
    return encoder


def _check_inside(folder: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    escapes = name.startswith("/") or "\\" in name or ".." in parts or not parts
    if escapes or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{folder / RELSDK_JSON} names {name!r}, outside the bundle; do not use it")


def _read_foreign(folder: Path) -> Bundle:
    if not (folder / TOKENIZER_JSON).is_file():
        raise BundleError(f"{folder} has no {TOKENIZER_JSON}; it is not a model folder that relsdk can open")
    found, ignored = find_onnx_files(folder)
    if not found:
        others = f" whose name says fp32 or int8 (it has {ignored})" if ignored else ""
        raise BundleError(
            f"{folder} has no ONNX file{others}; make a bundle: relsdk export "
            f"{'scorer' if is_scorer_folder(folder) else 'encoder'} {folder} OUT"
        )
    variants = tuple(Variant(*item) for item in found)
    scorer = is_scorer_folder(folder)
    settings = read_scorer_settings(folder) if scorer else read_encoder_settings(folder)
    kind = "scorer" if scorer else "encoder"
    bundle = Bundle(folder, folder.resolve().name, kind, "", settings, variants)
    hashes = [
        file_sha256(folder / name)
        for name in bundle.variant_files(min(variants, key=lambda v: v.quantisation != "fp32"))
    ]
    identity = {
        "onnx": hashes[0] if len(hashes) == 1 else hashes,
        "tokenizer": file_sha256(folder / TOKENIZER_JSON),
        "settings": asdict(settings),
    }
    return replace(bundle, fingerprint=json_sha256(identity)[:16])
