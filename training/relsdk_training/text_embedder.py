"""A checkpoint as a user of vectors sees it: texts in, unit vectors out.

Shape letters: N texts, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from relsdk.runtime.tokenizer import open_tokenizer
from relsdk_checkpoint.device import default_device
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_training.data.pairs import PairArrays
from relsdk_training.objectives.measures import embed_tokens

__all__ = ["TextEmbedder"]


class TextEmbedder:
    """Embeds queries and documents with their prompts.

    Args:
        checkpoint: Folder of an encoder.
        max_tokens: Limit of a text; None takes the checkpoint's.

    Raises:
        InputError: The folder is no checkpoint.
    """

    def __init__(self, checkpoint: Path, max_tokens: int | None = None) -> None:
        self.encoder = TextEncoder.load(checkpoint, max_tokens=max_tokens).eval()
        settings = self.encoder.settings
        self.tokenizer = open_tokenizer(checkpoint, settings)
        self.device = default_device()
        self.encoder.to(self.device)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of queries, (N, D)."""
        return self._embedded("query", texts)

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of document texts, (N, D)."""
        return self._embedded("document", texts)

    def cosines(self, pairs: PairArrays) -> NDArray[np.float64]:
        """Return the cosine of each of N pairs, (N,); each distinct text is embedded once."""
        left, right = self.queries(pairs.queries), self.documents(pairs.documents)
        products = left[pairs.query_of].astype(np.float64) * right[pairs.document_of]
        return np.asarray(products.sum(axis=1))

    @torch.inference_mode()
    def _embedded(self, name: str, texts: Sequence[str]) -> NDArray[np.float32]:
        prompt = self.encoder.settings.prompts.get(name, "")
        tokens = self.tokenizer.tokenize([prompt + text for text in texts])
        vectors = embed_tokens(self.encoder, self.tokenizer, tokens, device=self.device)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
