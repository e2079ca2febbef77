"""Scores of pairs by a checkpoint: the cosine of an encoder's vectors, or what a score model says.

Shape letters: N texts or pairs, B of one batch, T tokens, D dimension, C outputs of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relsdk.bundle import Head
from relsdk.calibration import Temperature
from relsdk.levels import expected_level
from relsdk.runtime.batching import token_budget_batches
from relsdk.runtime.tokenizer import TextTokenizer, TokenizedTexts, open_tokenizer
from relsdk_checkpoint.device import default_device
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.scorer import ScoreModel

__all__ = [
    "PairClassifier",
    "PairKind",
    "PairScores",
    "TextEmbedder",
    "embed_tokens",
    "open_pair_scores",
    "pair_logits",
    "token_tensors",
]

PairKind = Literal["cross_encoder", "encoder"]


class PairScores(Protocol):
    """What orders pairs of query and document text."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return a score of each of N pairs (N,); higher is more relevant."""


def open_pair_scores(
    checkpoint: Path, kind: PairKind, *, head: Head, max_tokens: int | None = None
) -> PairScores:
    """Open a checkpoint that scores pairs.

    Args:
        checkpoint: The folder.
        kind: What it is.
        head: Of a cross-encoder.
        max_tokens: Limit of a pair, or of an encoder's text; None takes the checkpoint's.

    Raises:
        InputError: The folder is no checkpoint.
    """
    if kind == "encoder":
        return TextEmbedder(checkpoint, max_tokens)
    return PairClassifier(checkpoint, head, max_tokens)


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
        return self._embed("query", texts)

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of document texts, (N, D)."""
        return self._embed("document", texts)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the cosine of each of N pairs, (N,); each distinct text is embedded once."""
        queries, query_rows = _distinct([query for query, _ in pairs])
        documents, document_rows = _distinct([document for _, document in pairs])
        left = self.queries(queries)[query_rows]  # (N, D)
        right = self.documents(documents)[document_rows]
        return np.asarray((left.astype(np.float64) * right).sum(axis=1))

    @torch.inference_mode()
    def _embed(self, name: str, texts: Sequence[str]) -> NDArray[np.float32]:
        prompt = self.encoder.settings.prompts.get(name, "")
        tokens = self.tokenizer.tokenize([prompt + text for text in texts])
        vectors = embed_tokens(self.encoder, self.tokenizer, tokens, device=self.device)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


class PairClassifier:
    """Reads pairs with a score model.

    Args:
        checkpoint: Folder of a score model.
        head: Of it.
        max_tokens: Limit of a pair; None takes the checkpoint's.

    Raises:
        InputError: The folder is no checkpoint.
    """

    def __init__(self, checkpoint: Path, head: Head, max_tokens: int | None = None) -> None:
        self.model = ScoreModel.load(checkpoint, head, max_tokens=max_tokens).eval()
        self.outputs = self.model.settings.outputs
        self.tokenizer = open_tokenizer(checkpoint, self.model.settings)
        self.device = default_device()
        self.model.to(self.device)
        self._plain = Temperature(1.0, ordinal=head == "ordinal")

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the log-odds of the expected level of each of N pairs, (N,)."""
        logits = self.logits(self.tokenizer.tokenize(list(pairs)))
        share = np.clip(expected_level(self._plain.probabilities(logits)) / 3, 1e-6, 1 - 1e-6)
        return np.asarray(np.log(share / (1 - share)), dtype=np.float64)

    @torch.inference_mode()
    def logits(self, tokens: TokenizedTexts) -> NDArray[np.float32]:
        """Return the logits of N tokenised pairs, (N, C)."""
        return pair_logits(self.model, self.tokenizer, tokens, device=self.device)


def embed_tokens(
    encoder: TextEncoder, tokenizer: TextTokenizer, tokens: TokenizedTexts, *, device: torch.device
) -> NDArray[np.float32]:
    """Embed tokenised texts in batches of similar length: (N, D) float32, not normalised."""
    return _in_batches(encoder, encoder.settings.dimension, tokenizer, tokens, device)


def pair_logits(
    model: ScoreModel, tokenizer: TextTokenizer, tokens: TokenizedTexts, *, device: torch.device
) -> NDArray[np.float32]:
    """Judge tokenised pairs in batches of similar length: (N, C) float32."""
    return _in_batches(model, model.settings.outputs, tokenizer, tokens, device)


def token_tensors(
    tokenizer: TextTokenizer, tokens: TokenizedTexts, rows: NDArray[np.int64], device: torch.device
) -> dict[str, Tensor]:
    """Pad some of the tokenised texts to the longest of them: (B, T) int64 tensors by input name."""
    padded = tokenizer.pad(tokens, rows)
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: torch.from_numpy(padded[name]).to(device) for name in names}


def _in_batches(
    model: Callable[[Mapping[str, Tensor]], Tensor],
    width: int,
    tokenizer: TextTokenizer,
    tokens: TokenizedTexts,
    device: torch.device,
) -> NDArray[np.float32]:
    """Run a model over texts of which those of similar length share a batch."""
    result = np.empty((len(tokens.ids), width), dtype=np.float32)
    for rows in token_budget_batches(tokens.lengths):
        result[rows] = model(token_tensors(tokenizer, tokens, rows, device)).float().cpu().numpy()
    return result


def _distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return each text once, in order, and the row of every text among them."""
    rows: dict[str, int] = {}
    row_of = [rows.setdefault(text, len(rows)) for text in texts]
    return list(rows), row_of
