"""An open bundle: its tokenizer and its ONNX file, run over any number of inputs in sorted batches.

Shape letters: N inputs, B inputs of one batch, T tokens, W width of a result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import Bundle, Variant, check_inside
from relsdk.errors import BundleError, InputError, TruncationError, TruncationWarning
from relsdk.progress import Progress
from relsdk.runtime.batching import token_budget_batches
from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.session import ModelSession, loading
from relsdk.runtime.tokenizer import TokenizedTexts, open_tokenizer
from relsdk.runtime.variants import choose_variant

__all__ = ["BatchRunner", "Feed", "Truncation"]

Truncation = Literal["warn", "error", "silent"]
Feed = Mapping[str, NDArray[np.int64]]


class BatchRunner:
    """Tokenises, batches and runs; its owner knows what a batch's result means.

    Args:
        bundle: The model; the hashes of the files that are used are checked.
        variant: See `Embedder`.
        threads: See `Embedder`.
        providers: See `Embedder`.

    Raises:
        BundleError: A file is damaged, or onnxruntime cannot load it.
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: str = "auto",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        self.bundle = bundle
        self.variant: Variant = choose_variant(bundle, variant)
        self.truncated_count = 0
        for name in (*self.variant.graphs, bundle.tokenizer_path.name):
            check_inside(bundle.path, name)
        used = bundle.variant_files(self.variant)
        weights = [bundle.path / name for name in used if name not in self.variant.graphs]
        opened = partial(ModelSession, threads=choose_threads(threads), providers=providers, weights=weights)
        self.session = opened(bundle.onnx_path(self.variant))
        self.query_session = self.session
        if self.variant.query_file:
            self.query_session = opened(bundle.query_onnx_path(self.variant))
        with loading(self.query_session):  # what a server waits for; another tower loads on first use
            bundle.check_hashes(*used, bundle.tokenizer_path.name)
            self.tokenizer = open_tokenizer(bundle.path, bundle.settings)

    def run(
        self,
        inputs: Sequence[str] | Sequence[tuple[str, str]],
        width: int,
        compute: Callable[[Feed], NDArray[np.float32]],
        *,
        batch_size: int | None,
        truncation: Truncation,
        progress: str | None,
        count: bool = True,
    ) -> NDArray[np.float32]:
        """Run N texts, or pairs of texts, and return (N, W) float32 in their order.

        Args:
            inputs: The texts or pairs.
            width: W.
            compute: A batch's (B, T) arrays to (B, W).
            batch_size: Upper bound on B; by default only the token count is bounded.
            truncation: What to do when inputs exceed the limit.
            progress: Show how far it has come on stderr, with this label; None shows nothing.
            count: Count inputs that exceed the limit in `truncated_count`; not those of a check of our own.

        Raises:
            BundleError: An output is NaN or infinite.
            InputError: An input or an argument is wrong.
            TruncationError: An input is too long and `truncation` is "error".
        """
        if truncation not in ("warn", "error", "silent"):
            raise InputError(f"truncation={truncation!r}; allowed are ['warn', 'error', 'silent']")
        tokens = self.tokenizer.tokenize(inputs)
        if tokens.truncated and count:
            self._note_truncation(tokens, truncation)
        return self.run_tokens(
            tokens, width, compute, batch_size=batch_size, progress=progress, inputs=inputs
        )

    def run_tokens(
        self,
        tokens: TokenizedTexts,
        width: int,
        compute: Callable[[Feed], NDArray[np.float32]],
        *,
        batch_size: int | None = None,
        progress: str | None = None,
        inputs: Sequence[str] | Sequence[tuple[str, str]] = (),
    ) -> NDArray[np.float32]:
        """Run what is tokenised; see `run`.

        Args:
            tokens: Of N texts or pairs.
            width: W.
            compute: See `run`.
            batch_size: See `run`.
            progress: See `run`.
            inputs: The N texts, for messages.

        Raises:
            BundleError: See `run`.
            InputError: `batch_size` is out of range.
        """
        if len(tokens.ids) == 1 and batch_size is None and progress is None:
            # A query: nothing to sort or restore. Copied: a vector that is kept must not hold on to the
            # runtime's memory.
            alone = np.array(compute(self.tokenizer.pad(tokens, [0])), dtype=np.float32)
            return self._finite(alone, inputs)
        result = np.empty((len(tokens.ids), width), dtype=np.float32)
        batches: Iterable[NDArray[np.int64]] = token_budget_batches(tokens.lengths, batch_size=batch_size)
        with Progress(len(result)) as shown:
            done = 0
            for rows in batches:
                result[rows] = compute(self.tokenizer.pad(tokens, rows))
                done += len(rows)
                if progress is not None:
                    shown(progress, done)
        return self._finite(result, inputs)

    def _finite(
        self, result: NDArray[np.float32], inputs: Sequence[str] | Sequence[tuple[str, str]]
    ) -> NDArray[np.float32]:
        """Return (N, W) outputs if all are numbers.

        Raises:
            BundleError: One is NaN or infinite.
        """
        finite = np.isfinite(result)
        if finite.all():
            return result
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        item = inputs[row] if inputs else ""
        text = " and ".join(repr(part[:20]) for part in (item if isinstance(item, tuple) else (item,)))
        raise BundleError(
            f"{self.bundle.path} ({self.variant.name}) gives NaN or infinity for input {row} ({text}); the "
            f"file is damaged, or this runtime cannot run it: relsdk model verify {self.bundle.path}"
        )

    def _note_truncation(self, tokens: TokenizedTexts, truncation: Truncation) -> None:
        cut, limit = len(tokens.truncated), self.bundle.settings.max_tokens
        self.truncated_count += cut
        first = tokens.truncated[0]
        message = f"{cut} of {len(tokens.ids)} inputs exceed {limit} tokens (first: input {first})"
        if truncation == "error":
            raise TruncationError(f"{message}; shorten them or pass truncation='warn' or 'silent'")
        if truncation == "warn":
            warnings.warn(f"{message} and were cut", TruncationWarning, stacklevel=4)
