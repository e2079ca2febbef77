"""Stage 1: existing queries that may suit a document, the nearest by words and by meaning.

Shape letters: Q queries, N documents of a shard, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_training.config.ssra import CandidateConfig, SsraConfig, embed_training
from relsdk_training.engine.identity import checkpoint_hash
from relsdk_training.ssra._shards import Make, map_shards, read_lines, read_shards
from relsdk_training.ssra.job import DOCUMENTS, QUERIES, Job
from relsdk_training.ssra.pair_records import document_of

__all__ = ["are_used", "identity", "work"]


def are_used(config: SsraConfig) -> bool:
    """Whether a query model or the encoder learns from re-annotated pairs."""
    return config.synthesis.reannotate or config.balance.annotated


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    model = embed_training(config).model
    return [asdict(config.candidates), checkpoint_hash(model.checkpoint), model.max_tokens]


def work(job: Job) -> dict[str, Any]:
    """Write shards of documents and the queries that are nearest to each."""
    shards = map_shards(job, job.paths(DOCUMENTS), "candidates", _open)
    return {"pairs": sum(len(line["queries"]) for line in read_shards(shards))}


def _open(job: Job) -> Make:
    model = embed_training(job.config).model
    queries = [line["query"] for line in read_lines(job.path(QUERIES))]
    finder = _Candidates(queries, Path(model.checkpoint), job.config.candidates, model.max_tokens)

    def make(lines: list[dict[str, Any]], shard: int) -> list[dict[str, Any]]:
        nearest = finder.nearest([document_of(line) for line in lines])
        return [{"document": d, "queries": q} for d, q in zip(lines, nearest, strict=True)]

    return make


class _Candidates:
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
        candidates = []
        for one, other in zip(lexical, semantic, strict=True):
            longest = max(len(one), len(other))
            mixed = [rows[at] for at in range(longest) for rows in (one, other) if at < len(rows)]
            candidates.append([self.queries[row] for row in list(dict.fromkeys(mixed))[: self.config.most]])
        return candidates

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
