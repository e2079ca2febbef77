"""`hybrid.json` of a generation: what turns cosine and BM25 of its documents into an order and levels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relsdk.calibration import HybridLink
from relsdk.errors import IndexFolderError
from relsdk.index._manifest import HYBRID_FILE, AnalyserEntry, Manifest
from relsdk.typed_json import read_json

__all__ = ["load_hybrid", "write_hybrid"]

_FORMAT = "relsdk-hybrid"


@dataclass(frozen=True)
class _Content:
    """The file.

    Attributes:
        format: Ours.
        version: 1.
        encoder_fingerprint: Of the encoder that the models were fitted with.
        analyser: Of the words that they were fitted with.
        models: By variant of the encoder, whose cosines differ a little.
    """

    format: str
    version: int
    encoder_fingerprint: str
    analyser: AnalyserEntry
    models: dict[str, HybridLink]


def write_hybrid(folder: Path, manifest: Manifest, models: Mapping[str, HybridLink]) -> None:
    """Write the models of a generation that is being made."""
    analyser = manifest.analyser
    content = {
        "format": _FORMAT,
        "version": 1,
        "encoder_fingerprint": manifest.encoder.fingerprint,
        "analyser": analyser and {"name": analyser.name, "version": analyser.version},
        "models": {variant: model.to_dict() for variant, model in models.items()},
    }
    (folder / HYBRID_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_hybrid(folder: Path, manifest: Manifest) -> dict[str, HybridLink]:
    """Read the models of a generation, by variant; none where there is no file.

    Raises:
        IndexFolderError: The file is damaged, or of another encoder or analyser.
    """
    if HYBRID_FILE not in manifest.files:
        return {}
    path, remedy = folder / HYBRID_FILE, "run: relsdk calibrate BUNDLE PAIRS --index INDEX"
    content = read_json(path, _Content, error=IndexFolderError, remedy=remedy)
    found = (content.format, content.version, content.encoder_fingerprint, content.analyser)
    if found != (_FORMAT, 1, manifest.encoder.fingerprint, manifest.analyser):
        raise IndexFolderError(f"{path} belongs to another encoder, analyser or version; {remedy}")
    return content.models
