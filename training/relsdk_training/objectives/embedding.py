"""The objective of `relsdk train embed`.

Shape letters: B pairs of one batch, D dimension, K hard negatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relsdk.runtime.tokenizer import TokenizedTexts, open_tokenizer
from relsdk_checkpoint.device import default_device
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.pair_scores import embed_tokens, token_tensors
from relsdk_training.config.settings import LossConfig, RunConfig
from relsdk_training.data.lessons import Lesson
from relsdk_training.data.negatives import DocumentQueue, MomentumCopy, known_pairs
from relsdk_training.data.pairs import PairArrays
from relsdk_training.data.samplers import balanced_rows, conflict_free_batches, grouped_batches
from relsdk_training.engine.gather import all_gather, all_gather_with_gradient
from relsdk_training.engine.objective import Statistics
from relsdk_training.losses.contrastive import label_weighted_info_nce
from relsdk_training.losses.cosent import cosent
from relsdk_training.losses.matryoshka import over_dimensions
from relsdk_training.losses.ordinal import CumulativeLink, ordinal_nll
from relsdk_training.losses.similarity import paired_cosine
from relsdk_training.losses.temperature import Temperature
from relsdk_training.losses.wasserstein import batch_wasserstein
from relsdk_training.objectives._grad_cache import encode_in_chunks
from relsdk_training.objectives.measures import ranking_statistics, tokenise_pairs

__all__ = ["EmbeddingObjective"]

# Rows of like length that a CPU encodes at once: enough for its full rate, few enough to need little padding.
_CPU_ROWS = 32


class _EmbeddingModule(nn.Module):
    """Everything that embedding training learns."""

    def __init__(self, encoder: TextEncoder, loss: LossConfig, thresholds: Sequence[float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.temperature = Temperature(loss.temperature)
        self.link = CumulativeLink(thresholds) if loss.ordinal else None


@dataclass(frozen=True)
class _Rows:
    """Pairs of a batch, of all processes: (B,) each, targets (B, 4)."""

    query_keys: Tensor
    document_keys: Tensor
    labels: Tensor
    targets: Tensor
    weights: Tensor


class EmbeddingObjective:
    """Label-weighted InfoNCE and its companions, on batches of pairs.

    Args:
        encoder: What is trained.
        lesson: Pairs to train on, the probabilities of their levels, and how much each counts.
        dev: Pairs to measure on; none measure nothing.
        loss: Which terms.
        run: Batch size, chunks, seed.
    """

    def __init__(
        self, encoder: TextEncoder, lesson: Lesson, dev: PairArrays, loss: LossConfig, run: RunConfig
    ) -> None:
        settings, train = encoder.settings, lesson.pairs
        self.lesson = lesson
        self.config = loss
        self.run = run
        self.tokenizer = open_tokenizer(encoder.source, settings)
        self.train, self.dev = (
            tokenise_pairs(self.tokenizer, pairs, settings.prompts) for pairs in (train, dev)
        )
        self.cuts = tuple(dim for dim in loss.matryoshka_dims if dim <= settings.dimension)
        self.dims = tuple(dict.fromkeys((*self.cuts, settings.dimension)))
        self.module = _EmbeddingModule(encoder, loss, thresholds=(0.25, 0.5, 0.75))
        self.queue: DocumentQueue | None = None
        self.copy: MomentumCopy | None = None
        if loss.hard_negatives:
            # Neither is a part of the module, which the loop moves: both start where it will be.
            self.queue = DocumentQueue(loss.queue, settings.dimension, default_device())
            self.copy = MomentumCopy(encoder, loss.momentum)
            self.copy.model.to(default_device())
        self._judged_documents = _documents_of_queries(train)
        self._positive_keys = _pair_keys(train.query_of, train.document_of, train)[train.labels >= 1]

    def batches(self, epoch: int, *, human: bool = False) -> Sequence[NDArray[np.int64]]:
        """Return rows of the training pairs, (B,) each."""
        pairs, run, rows = self.train.pairs, self.run, self.lesson.rows(human=human)
        rows = rows[balanced_rows(pairs.labels[rows], run.repeat, seed=run.seed, epoch=epoch)]
        queries, documents = pairs.query_of[rows], pairs.document_of[rows]
        if run.group:
            batches = grouped_batches(queries, run.batch_size, seed=run.seed, epoch=epoch)
        else:
            batches = conflict_free_batches(queries, documents, run.batch_size, seed=run.seed, epoch=epoch)
        return [rows[batch] for batch in batches]

    def loss(self, batch: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Statistics]:
        """Return the weighted sum of the terms that are switched on."""
        config, pairs, lesson = self.config, self.train.pairs, self.lesson
        sides = (
            (self.train.queries, pairs.query_of[batch]),
            (self.train.documents, pairs.document_of[batch]),
        )
        queries, documents = (
            all_gather_with_gradient(self._encode(self.module.encoder, *side, device)) for side in sides
        )  # (B, D) each
        anchors, own = None, None
        if self.copy is not None:
            with torch.no_grad():
                anchors, own = (
                    all_gather(self._encode(self.copy.model, *side, device).float()) for side in sides
                )
        columns = (pairs.query_of, pairs.document_of, pairs.labels, lesson.targets, lesson.weights)
        rows = _Rows(*(all_gather(torch.from_numpy(values[batch]).to(device)) for values in columns))
        keys = (rows.query_keys, rows.document_keys)
        mined, valid = self._mine(anchors, own, *keys)
        known = known_pairs(*keys, rows.labels) | self._positives(*keys)
        contrast = partial(self._contrast, rows=rows, known=known, valid=valid)
        total, stats = over_dimensions(contrast, (queries, documents, mined), self.dims)
        total = config.info_nce * total
        statistics = {
            "accuracy": stats.accuracy,
            "masked": stats.masked,
            "embedding_std": stats.embedding_std,
            "temperature": float(self.module.temperature().detach()),
        }
        if config.cosent or config.wasserstein or self.module.link is not None:
            ranked, parts = over_dimensions(partial(self._rank, rows=rows), (queries, documents), self.dims)
            total = total + ranked
            statistics |= parts
        return total, statistics

    def after_step(self) -> None:
        """Move the momentum copy."""
        if self.copy is not None:
            self.copy.update(self.module.encoder)

    def evaluate(self, device: torch.device) -> Statistics:
        """Return mean AP, AP per level and nDCG@10 on dev, at the full width and at each Matryoshka width."""
        pairs = self.dev.pairs
        if not len(pairs):
            return {}
        embed = partial(embed_tokens, self.module.encoder, self.tokenizer, device=device)
        queries = embed(self.dev.queries)[pairs.query_of]  # (N, D)
        documents = embed(self.dev.documents)[pairs.document_of]  # (N, D)
        return ranking_statistics(pairs, queries, documents, self.dims)

    def save(self, folder: Path) -> None:
        """Write the encoder."""
        self.module.encoder.save(folder, matryoshka_dims=self.cuts)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the queue and, where it moves, the momentum copy."""
        if self.queue is None or self.copy is None:
            return {}
        state = {f"queue.{name}": value for name, value in self.queue.state_dict().items()}
        return state | {f"copy.{name}": value for name, value in self.copy.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        if self.queue is not None and self.copy is not None:
            for name, part in (("queue.", self.queue), ("copy.", self.copy)):
                part.load_state_dict(
                    {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
                )

    def _encode(
        self, encoder: nn.Module, tokens: TokenizedTexts, rows: NDArray[np.int64], device: torch.device
    ) -> Tensor:
        """Embed texts (B,) of which some are equal: each distinct one is encoded once."""
        distinct, where = np.unique(rows, return_inverse=True)
        inputs = token_tensors(self.tokenizer, tokens, distinct, device)
        at_once = self.run.chunk or (_CPU_ROWS if device.type == "cpu" else len(distinct))
        vectors = encode_in_chunks(encoder, inputs, at_once, keep_activations=not self.run.chunk)
        return vectors[torch.from_numpy(where).to(device)]

    def _positives(self, query_keys: Tensor, document_keys: Tensor) -> Tensor:
        """Say which documents of the batch were judged relevant to which of its queries: (B, B) bool."""
        keys = _pair_keys(
            query_keys.cpu().numpy()[:, None], document_keys.cpu().numpy()[None], self.train.pairs
        )
        return torch.from_numpy(np.isin(keys, self._positive_keys)).to(query_keys.device)

    def _contrast(
        self,
        queries: Tensor,
        documents: Tensor,
        mined: Tensor | None,
        *,
        rows: _Rows,
        known: Tensor,
        valid: Tensor | None,
    ) -> tuple[Tensor, Any]:
        config = self.config
        return label_weighted_info_nce(
            queries,
            documents,
            rows.targets,
            temperature=self.module.temperature(),
            hard_negatives=mined,
            hard_negatives_valid=valid,
            known=known,
            self_contrast=config.self_contrast,
            mask_margin=None if config.mask_margin < 0 else config.mask_margin,
            weighting=config.weighting,
            row_weights=rows.weights,
        )

    def _rank(self, queries: Tensor, documents: Tensor, *, rows: _Rows) -> tuple[Tensor, Statistics]:
        """Return the terms on the cosines of pairs and of lists."""
        config, targets, weights = self.config, rows.targets, rows.weights
        scores = paired_cosine(queries, documents)  # (B,)
        total, parts = scores.new_zeros(()), Statistics()
        if config.cosent:
            term = cosent(scores, targets, temperature=config.cosent_temperature, weights=weights)
            total, parts["cosent"] = total + config.cosent * term, float(term.detach())
        if self.module.link is not None:
            term = ordinal_nll(self.module.link(scores), targets, weights=weights)
            total, parts["ordinal"] = total + config.ordinal * term, float(term.detach())
        if config.wasserstein:
            keys, temperature = (rows.query_keys, rows.document_keys), config.temperature
            term = batch_wasserstein(
                queries, documents, targets, *keys, temperature=temperature, weights=weights
            ).to(total)
            total, parts["wasserstein"] = total + config.wasserstein * term, float(term.detach())
        return total, parts

    @torch.no_grad()
    def _mine(
        self, anchors: Tensor | None, own: Tensor | None, query_keys: Tensor, document_keys: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Take hard negatives out of the queue, then add the batch to it.

        Args:
            anchors: (B, D) queries as the momentum copy embeds them.
            own: (B, D) documents likewise.
            query_keys: (B,) of the queries.
            document_keys: (B,) of the documents.

        Returns:
            Negatives (B, K, D) and which are there (B, K); None and None where none are mined.
        """
        if self.queue is None or anchors is None or own is None:
            return None, None
        known = [self._judged_documents[key] for key in query_keys.tolist()]
        forbidden = torch.full((len(known), max(map(len, known))), -1, dtype=torch.int64)
        for row, keys in enumerate(known):
            forbidden[row, : len(keys)] = torch.from_numpy(keys)
        mined = self.queue.hardest(
            anchors,
            paired_cosine(anchors, own),
            forbidden.to(anchors.device),
            k=self.config.hard_negatives,
            max_ratio=self.config.max_ratio,
        )
        vectors = self.queue.embeddings[mined.rows].clone()  # (B, K, D)
        self.queue.add(own, document_keys)
        return vectors, mined.valid


def _pair_keys(
    query_of: NDArray[np.int64], document_of: NDArray[np.int64], pairs: PairArrays
) -> NDArray[np.int64]:
    """Give each combination of a query and a document a number of its own."""
    return np.asarray(query_of * len(pairs.documents) + document_of, dtype=np.int64)


def _documents_of_queries(pairs: PairArrays) -> list[NDArray[np.int64]]:
    """Return for each query the documents that were judged for it: they are never mined for it."""
    order = np.argsort(pairs.query_of, kind="stable")
    counts = np.bincount(pairs.query_of, minlength=len(pairs.queries))
    return np.split(pairs.document_of[order], np.cumsum(counts)[:-1])
