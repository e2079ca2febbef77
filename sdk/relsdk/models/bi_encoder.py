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
        embedder, pairs = self.embedder, check_pairs(pairs)
        queries = {query: row for row, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        texts = [embedder.document_text(document) for _, document in pairs]
        documents = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        q = yield Encode(embedder, "query", list(queries), options)
        d = yield Encode(embedder, "document", list(documents), options)
        left = q[[queries[query] for query, _ in pairs]]  # (N, D)
        right = d[[documents[text] for text in texts]]  # (N, D)
        cosines = np.asarray(np.einsum("nd,nd->n", left, right), dtype=np.float32)
        return PairOutputs(cosines, cosines)
