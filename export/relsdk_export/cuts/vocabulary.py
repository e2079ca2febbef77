"""Cut a vocabulary to a corpus: most weights of a multilingual encoder are pieces that a user never meets.

Kept are the special tokens, every piece the corpus uses, and every piece of one character, so that whatever
the corpus does not cover still encodes, in smaller pieces. The best segmentation of a covered text uses kept
pieces only, so it stays the best one.

Shape letters: V pieces, D dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from relsdk.errors import BundleError
from relsdk.files.folders import json_sha256
from relsdk.typed_json import read_json

__all__ = ["cut_vocabulary", "keep_pieces"]

_WORD_START = "\u2581"


@dataclass(frozen=True, slots=True)
class _VocabularyCut:
    """The result of a cut.

    Attributes:
        kept: (V',) old ids in their new order.
        tokenizer: The content of the new `tokenizer.json`.
        pieces_before: V.
        unknown_share: Share of the corpus's tokens that are the unknown token, after the cut.
    """

    kept: NDArray[np.int64]
    tokenizer: dict[str, Any]
    pieces_before: int
    unknown_share: float

    def new_id(self, old: int) -> int:
        """Return the new id of a piece that was kept."""
        return int(np.searchsorted(self.kept, old))

    def to_dict(self) -> dict[str, Any]:
        """Return sizes, cost and identity of the cut, in a JSON form."""
        return {
            "pieces_before": self.pieces_before,
            "pieces": len(self.kept),
            "unknown_share": self.unknown_share,
            "kept_sha256": json_sha256(self.kept.tolist()),
        }


def cut_vocabulary(tokenizer_json: Path, texts: Iterable[str]) -> _VocabularyCut:
    """Choose the pieces to keep and renumber the tokenizer.

    Args:
        tokenizer_json: A tokenizer of type Unigram.
        texts: The corpus; read once.

    Raises:
        BundleError: The tokenizer is of another type, or has tokens beyond its vocabulary.
    """
    content = read_json(tokenizer_json, dict[str, Any], error=BundleError, remedy="copy the checkpoint again")
    model = content["model"]
    if model.get("type") != "Unigram":
        raise BundleError(
            f"{tokenizer_json} is of type {model.get('type')!r}; only Unigram vocabularies can be cut"
        )
    beyond = [token["content"] for token in content["added_tokens"] if token["id"] >= len(model["vocab"])]
    if beyond:
        raise BundleError(
            f"{tokenizer_json} has added tokens beyond its vocabulary ({beyond[0]!r}, ...); it cannot be "
            "cut: export the whole model"
        )
    used = np.zeros(len(model["vocab"]), dtype=np.int64)
    full = Tokenizer.from_file(str(tokenizer_json))
    full.no_truncation()
    for batch in _batches(texts, 1000):
        for encoding in full.encode_batch_fast(batch, add_special_tokens=False):
            np.add.at(used, encoding.ids, 1)
    special = {token["id"] for token in content["added_tokens"]} | {model["unk_id"]}
    kept = [
        row
        for row, (piece, _) in enumerate(model["vocab"])
        if used[row] or row in special or len(piece.removeprefix(_WORD_START)) <= 1
    ]
    unknown = used[model["unk_id"]] / max(int(used.sum()), 1)
    return _VocabularyCut(
        kept=np.array(kept, dtype=np.int64),
        tokenizer=_renumber(content, kept),
        pieces_before=len(used),
        unknown_share=float(unknown),
    )


def _renumber(content: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    new_id = {old: new for new, old in enumerate(kept)}
    model = content["model"]
    result = {**content, "model": {**model, "vocab": [model["vocab"][old] for old in kept]}}
    result["model"]["unk_id"] = new_id[model["unk_id"]]
    result["added_tokens"] = [{**token, "id": new_id[token["id"]]} for token in content["added_tokens"]]
    result["post_processor"] = _renumber_template(content.get("post_processor"), new_id)
    return result


def _renumber_template(processor: dict[str, Any] | None, new_id: dict[int, int]) -> dict[str, Any] | None:
    """Renumber the ids that post-processors hold: the lists of a template."""
    if processor is None:
        return None
    if processor.get("type") == "Sequence":
        inner = [_renumber_template(item, new_id) for item in processor["processors"]]
        return {**processor, "processors": inner}
    if processor.get("type") != "TemplateProcessing":
        raise BundleError(f"a tokenizer with post-processor {processor.get('type')!r} cannot be renumbered")
    special = {
        name: {**token, "ids": [new_id[old] for old in token["ids"]]}
        for name, token in processor["special_tokens"].items()
    }
    return {**processor, "special_tokens": special}


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch


def keep_pieces(model: PreTrainedModel, cut: _VocabularyCut) -> dict[str, Any]:
    """Keep the embedding rows of a cut vocabulary, in place; return what changes in the configuration."""
    embedding = model.get_input_embeddings()
    smaller = nn.Embedding(len(cut.kept), embedding.weight.shape[1])
    smaller.weight = nn.Parameter(embedding.weight.detach()[torch.from_numpy(cut.kept)].clone())
    model.set_input_embeddings(smaller)
    changes = {"vocab_size": len(cut.kept)}
    pad = getattr(model.config, "pad_token_id", None)
    if pad is not None:
        changes["pad_token_id"] = cut.new_id(pad)
    for key, value in changes.items():
        setattr(model.config, key, value)
    return changes
