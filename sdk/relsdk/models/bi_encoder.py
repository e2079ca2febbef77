"""The cosine of an encoder's vectors as the score of a pair.

Shape letters: N pairs, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import Calibration
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import Pair, PairOutputs, check_pairs
from relsdk.models.steps import Encode, Flow, run_flow
from relsdk.runtime.verification import Verification

__all__ = ["BiEncoder"]


class BiEncoder:
    """The cosine of an encoder's vectors."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.bundle = embedder.bundle
        self.variant = embedder.variant
        self.dimension: int | None = embedder.dimension
        self.calibration_key = embedder.calibration_key

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.embedder,)

    @property
    def calibration(self) -> Calibration:
        """See `Embedder.calibration`."""
        return self.embedder.calibration

    @property
    def is_calibrated(self) -> bool:
        """See `Embedder.is_calibrated`."""
        return self.embedder.is_calibrated

    def verify(self) -> Verification:
        """See `Embedder.verify`."""
        return self.embedder.verify()

    def golden(self, inputs: Sequence[tuple[str, str]], *, together: bool = False) -> NDArray[np.float32]:
        """See `Embedder.golden`."""
        return self.embedder.golden(inputs, together=together)

    def outputs(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> PairOutputs:
        """Return the cosine of each pair; a text that occurs twice is encoded once."""
        return run_flow(self.flow(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar))

    def flow(self, pairs: Sequence[Pair], **options: Any) -> Flow[PairOutputs]:
        """Yield the steps of `outputs`; see `relsdk.models.steps`."""
        q, d, left, right = yield from self._encode(pairs, **options)
        return _cosines(q, d, left, right)

    def outputs_at(
        self, pairs: Sequence[Pair], dimensions: Sequence[int], *, show_progress_bar: bool = False
    ) -> list[PairOutputs]:
        """Return the cosines at several dimensions from one run of the model.

        They are those of a model that was opened at each.

        Args:
            pairs: N pairs.
            dimensions: At most that of the embedder, which must be the model's own.
            show_progress_bar: See `Embedder.encode`.
        """
        options: dict[str, Any] = {"show_progress_bar": show_progress_bar}
        unit = self.bundle.encoder_settings.normalize  # else they are cut first, and then made so
        if not unit:
            options["normalize_embeddings"] = False
        q, d, left, right = run_flow(self._encode(pairs, **options))
        results = []
        for dimension in dimensions:
            if unit and dimension == self.dimension:
                results.append(_cosines(q, d, left, right))
            else:
                results.append(_cosines(_cut(q, dimension), _cut(d, dimension), left, right))
        return results

    def _encode(self, pairs: Sequence[Pair], **options: Any) -> Flow[tuple[Any, Any, list[int], list[int]]]:
        """Encode each text once.

        Returns:
            Vectors of the queries and of the documents, and of each pair the row of both.
        """
        embedder, pairs = self.embedder, check_pairs(pairs)
        queries = {query: row for row, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        texts = [embedder.document_text(document) for _, document in pairs]
        documents = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        q = yield Encode(embedder, "query", list(queries), options)
        d = yield Encode(embedder, "document", list(documents), options)
        return q, d, [queries[query] for query, _ in pairs], [documents[text] for text in texts]


def _cosines(
    q: NDArray[np.float32], d: NDArray[np.float32], left: list[int], right: list[int]
) -> PairOutputs:
    cosines = np.asarray(np.einsum("nd,nd->n", q[left], d[right]), dtype=np.float32)
    return PairOutputs(cosines, cosines)


def _cut(vectors: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Keep the first coordinates and give unit length, as `Embedder` does; (N, dimension)."""
    short = np.ascontiguousarray(vectors[:, :dimension])
    unit: NDArray[np.float32] = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
    return unit
