"""Run an encoder's ONNX file: texts to vectors of the wanted width and length.

Shape letters: N texts, B texts of one batch, T tokens, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import DenseLayer, read_dense
from relsdk.errors import BundleError, InputError
from relsdk.models.pooling import pool
from relsdk.runtime.batch_runner import BatchRunner, Feed, Truncation
from relsdk.runtime.session import ModelSession
from relsdk.runtime.tokenizer import TokenizedTexts

__all__ = ["VectorRunner"]

# What exporters call the outputs that can be used, best first; otherwise a graph's first output is used.
_WHOLE = "sentence_embedding"  # what all modules make of a text
_OUTPUTS = (_WHOLE, "last_hidden_state", "token_embeddings")


class VectorRunner:
    """Computes what follows the transformer where the graph does not: pooling, Dense layers, unit length.

    Args:
        runner: The open bundle of an encoder.
        dimension: D; fewer than the model has cuts its vectors.

    Raises:
        BundleError: A Dense layer's file is damaged.
    """

    def __init__(self, runner: BatchRunner, dimension: int) -> None:
        self._runner = runner
        self._settings = runner.bundle.encoder_settings
        self._dimension = dimension
        self._outputs: dict[Path, str] = {}
        self._dense: list[DenseLayer] = []
        if self._settings.dense and self._output_of(runner.session) != _WHOLE:
            self._dense = [read_dense(runner.bundle.path, layer) for layer in self._settings.dense]

    def run(
        self,
        session: ModelSession,
        texts: Sequence[str],
        *,
        normalize: bool | None = None,
        batch_size: int | None = None,
        truncation: Truncation = "silent",
        progress: str | None = None,
        count: bool = False,
    ) -> NDArray[np.float32]:
        """Return the vectors of N texts, (N, D); see `BatchRunner.run` for options and errors.

        Args:
            session: What encodes them.
            texts: The texts, with their prompts.
            normalize: Give vectors unit length; None does what the model was trained with.
            batch_size: See `BatchRunner.run`.
            truncation: See `BatchRunner.run`.
            progress: See `BatchRunner.run`.
            count: See `BatchRunner.run`.

        Raises:
            InputError: `normalize` is false, and the model normalises inside.
        """
        self.check(normalize)
        vectors = self._runner.run(
            texts,
            self._dimension,
            partial(self._batch, session),
            batch_size=batch_size,
            truncation=truncation,
            progress=progress,
            count=count,
        )
        return self._normalized(vectors, session, normalize)

    def run_tokens(
        self, session: ModelSession, tokens: TokenizedTexts, normalize: bool | None = None
    ) -> NDArray[np.float32]:
        """Return the vectors of N tokenised texts, (N, D); see `run`."""
        self.check(normalize)
        vectors = self._runner.run_tokens(tokens, self._dimension, partial(self._batch, session))
        return self._normalized(vectors, session, normalize)

    def check(self, normalize: bool | None) -> None:
        """Refuse vectors that the model cannot give.

        Raises:
            InputError: `normalize` is false, and the model normalises inside.
        """
        if normalize is False and self._settings.normalize:
            raise InputError(
                f"{self._runner.bundle.name} normalises inside the model; normalize_embeddings=False is not "
                "possible"
            )

    def _normalized(
        self, vectors: NDArray[np.float32], session: ModelSession, normalize: bool | None
    ) -> NDArray[np.float32]:
        """Give vectors unit length where they should have it and have not."""
        if self._has_to_normalize(session, normalize):
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _batch(self, session: ModelSession, feed: Feed) -> NDArray[np.float32]:
        """Run one batch: (B, D)."""
        output, settings = self._output_of(session), self._settings
        values = session.run(output, feed)  # (B, D) or (B, T, D)
        texts, tokens = feed["input_ids"].shape
        if values.shape[:-1] not in ((texts,), (texts, tokens)):
            raise BundleError(
                f"{session.path} gives {output} of shape {list(values.shape)} for {texts} texts of {tokens} "
                "tokens; one vector a text or a token is needed"
            )
        if self._dense and values.ndim == 2:
            raise BundleError(
                f"{session.path} gives one vector a text as {output!r}, and the folder has Dense layers; "
                f"that they are in it is known of an output {_WHOLE!r} only"
            )
        width = self._dense[0].weight.shape[1] if self._dense else settings.dimension
        if values.shape[-1] != width:
            raise BundleError(
                f"{session.path} gives {output} of width {values.shape[-1]}; {width} is stated in its folder"
            )
        if values.ndim == 3:
            values = pool(values, feed["attention_mask"], settings.pooling)
            for layer in self._dense:
                values = layer(values)
        return values[:, : self._dimension]  # (B, D)

    def _output_of(self, session: ModelSession) -> str:
        """Return the output to compute, looked up once."""
        if session.path not in self._outputs:
            names = session.output_names
            self._outputs[session.path] = next((name for name in _OUTPUTS if name in names), names[0])
        return self._outputs[session.path]

    def _has_to_normalize(self, session: ModelSession, normalize: bool | None) -> bool:
        if not self._settings.normalize:
            return bool(normalize)
        # relsdk's own graphs do it themselves; somebody else's may not, and once more changes nothing.
        done = self._runner.bundle.files and self._outputs.get(session.path) == _WHOLE
        return not done or self._dimension != self._settings.dimension
