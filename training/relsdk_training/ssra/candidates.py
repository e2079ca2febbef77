"""Existing queries that may suit a document: the nearest by words and by meaning.

Shape letters: Q queries, N documents of a shard, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray

from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_training.config.ssra import CandidateConfig

__all__ = ["Candidates"]


class Candidates:
    """Finds the queries that are nearest to documents.

    Args:
        queries: Q distinct queries.
        checkpoint: Folder of an encoder; its tokens are the words of BM25.
        config: How many of which kind.
        max_tokens: Limit of a text.

    Raises:
        InputError: The folder is no checkpoint.
    """

    def __init__(
        self, queries: Sequence[str], checkpoint: Path, config: CandidateConfig, max_tokens: int
    ) -> None:
        self.queries, self.config = list(queries), config
        self.embedder = TextEmbedder(checkpoint, max_tokens)
        self.words = bm25s.BM25()
        if config.lexical:
            self.words.index(self._words(queries), show_progress=False)
        self.vectors = self.embedder.queries(queries)  # (Q, D)

    def nearest(self, documents: Sequence[str]) -> list[list[str]]:
        """Return each document's candidates, the nearest by words and by meaning in turn."""
        lexical, semantic = self._lexical(documents), self._semantic(documents)
        found = []
        for one, other in zip(lexical, semantic, strict=True):
            longest = max(len(one), len(other))
            mixed = [rows[at] for at in range(longest) for rows in (one, other) if at < len(rows)]
            found.append([self.queries[row] for row in list(dict.fromkeys(mixed))[: self.config.most]])
        return found

    def _lexical(self, documents: Sequence[str]) -> list[list[int]]:
        count = min(self.config.lexical, len(self.queries))
        if not count:
            return [[] for _ in documents]
        rows, scores = self.words.retrieve(self._words(documents), k=count, show_progress=False)
        return [
            [int(row) for row, score in zip(of_one, by, strict=True) if score > 0]
            for of_one, by in zip(rows, scores, strict=True)
        ]

    def _semantic(self, documents: Sequence[str]) -> list[list[int]]:
        count = min(self.config.semantic, len(self.queries))
        if not count:
            return [[] for _ in documents]
        vectors = self.embedder.documents(documents)  # (N, D)
        return [_largest(vectors[row] @ self.vectors.T, count) for row in range(len(vectors))]

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        """Return tokens as words, without those that nearly every text has."""
        tokenize = self.embedder.tokenizer.tokenize
        tokens = tokenize([*texts, ""]).ids
        common = {*tokens.pop(), *tokenize([" "]).ids[0]}
        return [[str(token) for token in ids if token not in common] for ids in tokens]


def _largest(values: NDArray[np.float32], count: int) -> list[int]:
    """Return where the largest `count` of (Q,) are, the largest first; of equal ones the first."""
    least = -np.partition(-values, count - 1)[count - 1]
    rows = np.flatnonzero(values >= least)
    return [int(row) for row in rows[np.argsort(-values[rows], kind="stable")][:count]]
