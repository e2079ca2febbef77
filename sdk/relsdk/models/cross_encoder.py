"""What gives a pair of query and document a number: an encoder's cosine, or a cross-encoder's logits.

Shape letters: N pairs, C outputs of a head.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import Bundle, ScorerSettings, Variant, open_bundle
from relsdk.bundle.hub import local_model
from relsdk.calibration import Calibration, Temperature, calibration_from_dict
from relsdk.errors import BundleError, CalibrationError, InputError
from relsdk.levels import expected_level
from relsdk.models.embedder import Embedder
from relsdk.records import Document, document_text
from relsdk.runtime.batch_runner import BatchRunner, Feed, Truncation
from relsdk.runtime.verification import Verification, check_runtime, verify_variant

__all__ = ["BiEncoder", "CrossEncoder", "Pair", "PairModel", "PairOutputs", "open_pair_model"]

Pair = tuple[str, str | Document]
# Under which key a scorer's calibrations are stored; an encoder's are stored by dimension.
_PAIR = "pair"


@dataclass(frozen=True, slots=True, eq=False)
class PairOutputs:
    """What a model gives for N pairs.

    Attributes:
        scores: (N,) float32, higher is better: what documents are ordered by.
        calibrated: What a calibration turns into level probabilities: the scores, or logits (N, C).
    """

    scores: NDArray[np.float32]
    calibrated: NDArray[np.float32]


class PairModel(Protocol):
    """An open bundle that can judge pairs."""

    @property
    def bundle(self) -> Bundle:
        """The model folder."""

    @property
    def variant(self) -> Variant:
        """The ONNX file that runs."""

    @property
    def calibration_key(self) -> str:
        """Under which key this model's calibration is stored in the variant."""

    @property
    def dimension(self) -> int | None:
        """Of an encoder's vectors; a cross-encoder has none."""

    @property
    def calibration(self) -> Calibration:
        """The map to level probabilities; raises `CalibrationError` when there is none."""

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibration` exists."""

    def outputs(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> PairOutputs:
        """Judge N pairs, in their order."""

    def verify(self) -> Verification:
        """Check hashes and golden outputs."""

    def golden(self, inputs: Sequence[tuple[str, str]], *, together: bool = False) -> NDArray[np.float32]:
        """Run golden inputs, each alone or in one call."""


class BiEncoder:
    """The cosine of an encoder's vectors."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.bundle = embedder.bundle
        self.variant = embedder.variant
        self.dimension: int | None = embedder.dimension
        self.calibration_key = str(embedder.dimension)

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
        embedder, pairs = self.embedder, _checked(pairs)
        queries = {query: row for row, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        texts = [embedder.document_text(document) for _, document in pairs]
        documents = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        q = embedder.encode_query(list(queries), batch_size=batch_size, show_progress_bar=show_progress_bar)
        d = embedder.encode_document(
            list(documents), batch_size=batch_size, show_progress_bar=show_progress_bar
        )
        left = q[[queries[query] for query, _ in pairs]]  # (N, D)
        right = d[[documents[text] for text in texts]]  # (N, D)
        cosines = np.asarray(np.einsum("nd,nd->n", left, right), dtype=np.float32)
        return PairOutputs(cosines, cosines)


class CrossEncoder:
    """A scorer bundle, served by onnxruntime.

    Args:
        bundle: A bundle of kind "scorer".
        variant: See `Embedder`.
        threads: See `Embedder`.
        providers: See `Embedder`.

    Raises:
        InputError: The bundle is an encoder, or an argument is out of range.
        BundleError: A file is damaged.
    """

    dimension: int | None = None
    calibration_key = _PAIR

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str = "auto",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(bundle.settings, ScorerSettings):
            raise InputError(f"{bundle.path} is an encoder bundle; a scorer is needed (use Embedder)")
        self.settings = bundle.settings
        self.bundle = bundle
        self._arguments = {"variant": variant, "threads": threads, "providers": providers}
        self._runner = BatchRunner(bundle, variant, threads, providers)
        self.variant = self._runner.variant
        check_runtime(bundle, self.variant, self._runner.session, None, self.golden)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (type(self), self.bundle.path, self.bundle.fingerprint, self._arguments)

    @property
    def calibration(self) -> Calibration:
        """What was fitted; else the head's own probabilities. A regression head has none of its own.

        Raises:
            CalibrationError: A regression head without a fit.
        """
        content = self.variant.calibrations.get(_PAIR)
        if content is not None:
            return calibration_from_dict(content)
        if self.settings.head == "regression":
            raise CalibrationError(
                f"{self.bundle.name} ({self.variant.name}) gives one number and has no calibration, so no "
                f"levels; fit one on labelled pairs with: relsdk calibrate {self.bundle.path} PAIRS"
            )
        return _own_probabilities(self.settings)

    @property
    def is_calibrated(self) -> bool:
        """Whether there are levels."""
        return self.settings.head != "regression" or _PAIR in self.variant.calibrations

    @property
    def truncated_count(self) -> int:
        """How many pairs were cut so far."""
        return self._runner.truncated_count

    def logits(
        self,
        pairs: Sequence[Pair],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        truncation: Truncation = "warn",
    ) -> NDArray[np.float32]:
        """Run N pairs: (N, C) float32, in their order; see `Embedder.encode` for the options and errors."""
        return self._runner.run(
            [(query, self.document_text(document)) for query, document in _checked(pairs)],
            self.settings.outputs,
            self._logits,
            batch_size=batch_size,
            truncation=truncation,
            progress="score" if show_progress_bar else None,
        )

    def outputs(
        self, pairs: Sequence[Pair], *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> PairOutputs:
        """Return logits and the expected level under the head's own probabilities (or its one number)."""
        logits = self.logits(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar)
        if self.settings.head == "regression":
            return PairOutputs(logits[:, 0], logits[:, 0])
        scores = expected_level(_own_probabilities(self.settings).probabilities(logits))
        return PairOutputs(scores.astype(np.float32), logits)

    def verify(self) -> Verification:
        """Check every hash, and that this variant still gives the logits that the bundle was made with.

        Raises:
            BundleError: The bundle has no golden outputs, or none of this variant.
        """
        return verify_variant(self.bundle, self.variant, self.golden)

    def golden(self, inputs: Sequence[tuple[str, str]], *, together: bool = False) -> NDArray[np.float32]:
        """Run (query, document) pairs, each alone or in one call: (N, C) float32."""
        calls = [inputs] if together else [[pair] for pair in inputs]
        width = self.settings.outputs
        return np.concatenate(
            [
                self._runner.run(
                    call,
                    width,
                    self._logits,
                    batch_size=None,
                    truncation="silent",
                    progress=None,
                    count=False,
                )
                for call in calls
            ]
        )

    def document_text(self, document: str | Document) -> str:
        """Return the text that a document becomes."""
        return document_text(self.settings.document_template, document)

    def _logits(self, feed: Feed) -> NDArray[np.float32]:
        session = self._runner.session
        names = session.output_names
        values = session.run("logits" if "logits" in names else names[0], feed)
        if values.ndim != 2 or values.shape[1] != self.settings.outputs:
            raise BundleError(
                f"{session.path} gives an output of shape {values.shape}; (pairs, {self.settings.outputs}) "
                f"is what its {self.settings.head} head has"
            )
        return values


def _open_again(
    kind: type[CrossEncoder], path: Path, fingerprint: str, arguments: Mapping[str, Any]
) -> CrossEncoder:
    """Open what was pickled."""

    def load(bundle: Bundle) -> CrossEncoder:
        bundle.check_fingerprint(fingerprint)
        return kind(bundle, **arguments)

    return open_bundle(path, load)


def _checked(pairs: Sequence[Pair]) -> list[Pair]:
    """Return N pairs; text of two characters is none.

    Raises:
        InputError: One is no pair, or its query no text.
    """
    found = list(pairs)
    for position, pair in enumerate(found):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError(f"pair {position} is {reprlib.repr(pair)}; (query, document) is needed")
    return found


def _own_probabilities(settings: ScorerSettings) -> Temperature:
    return Temperature(1.0, ordinal=settings.head == "ordinal")


def open_pair_model(
    model: str | os.PathLike[str],
    *,
    variant: str = "auto",
    threads: int | None = None,
    truncate_dim: int | None = None,
) -> PairModel:
    """Open an encoder or a scorer bundle; `truncate_dim` is for encoders only.

    Raises:
        BundleError: The folder is missing or damaged.
        InputError: An argument is out of range.
    """

    def load(bundle: Bundle) -> PairModel:
        if bundle.kind == "encoder":
            return BiEncoder(Embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim))
        if truncate_dim is not None:
            raise InputError(
                f"{model} is a scorer bundle; it has no vectors to cut to {truncate_dim} dimensions"
            )
        return CrossEncoder(bundle, variant=variant, threads=threads)

    return open_bundle(local_model(model), load)
