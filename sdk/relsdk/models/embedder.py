"""The bi-encoder: texts to vectors.

Shape letters: N texts, D dimension.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import Bundle, CalibrationKey, open_bundle
from relsdk.bundle.hub import local_model
from relsdk.errors import CalibrationError, InputError, TruncationWarning
from relsdk.models._encode_options import NamedPrompt, Options, check_option, ordered_list, text_list
from relsdk.models._query_cache import CacheInfo, open_query_cache
from relsdk.models._vector_runner import VectorRunner
from relsdk.models.pooling import Precision, to_precision
from relsdk.records import Document, Matrix, Vector, document_text
from relsdk.runtime.batch_runner import BatchRunner, Truncation
from relsdk.runtime.session import ModelSession
from relsdk.runtime.tokenizer import Piece, TokenizedTexts
from relsdk.runtime.verification import Verification, check_runtime, verify_variant

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from relsdk.calibration import Calibration, QueryRange

__all__ = ["Embedder", "TruncationWarning"]


class Embedder:
    """A bi-encoder served by onnxruntime.

    Safe to use from many threads, and after a fork. A pickle holds the folder and the arguments: the other
    process opens the same model again, or raises `BundleError` when the folder holds another one by then.

    Args:
        model: A bundle, or a sentence-transformers folder with an ONNX file.
        variant: Which ONNX file: "auto" (best for this CPU), a name such as "fp32", or a file of the folder,
            such as "onnx/model_fp16.onnx".
        threads: Threads per operator; None chooses from affinity and container quota.
        truncate_dim: Keep the first so many coordinates, then normalise again; None does what the
            folder says.
        providers: onnxruntime execution providers; None means the CPU.
        query_cache: How many vectors of the latest queries `encode_query` keeps; 0 keeps none.

    Raises:
        BundleError: The folder is missing, damaged or foreign, or onnxruntime cannot load its file.
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        variant: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        providers: Sequence[str] | None = None,
        query_cache: int = 0,
    ) -> None:
        self._cache = open_query_cache(query_cache)
        self._arguments = {
            "variant": variant,
            "threads": threads,
            "truncate_dim": truncate_dim,
            "providers": providers,
            "query_cache": query_cache,
        }

        self._said_unit = False
        self._calibration: Calibration | None = None  # read on first use
        self._query_range: QueryRange | None = None
        open_bundle(
            local_model(model), lambda bundle: self._load(bundle, variant, threads, truncate_dim, providers)
        )

    def _load(
        self,
        bundle: Bundle,
        variant: str,
        threads: int | None,
        truncate_dim: int | None,
        providers: Sequence[str] | None,
    ) -> None:
        """Load what belongs to one bundle; called again when the folder is overwritten meanwhile."""
        self.bundle, self._settings = bundle, bundle.encoder_settings
        dimension = self._settings.dimension
        whole = isinstance(truncate_dim, int | np.integer) and not isinstance(truncate_dim, bool)
        if truncate_dim is not None and not (whole and 1 <= truncate_dim <= dimension):
            raise InputError(f"truncate_dim={truncate_dim!r}; allowed are 1 to {dimension}")
        self.dimension = truncate_dim or self._settings.truncate_dim or dimension
        self._runner = BatchRunner(bundle, variant, threads, providers)
        self.variant = self._runner.variant
        self._vectors = VectorRunner(self._runner, self.dimension)
        self._checked: set[ModelSession] = set()
        self._check_runtime(self._runner.query_session)  # another tower's file is checked on first use

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (type(self), self.bundle.path, self.fingerprint, self._arguments)

    @property
    def name(self) -> str:
        """The model's name, for people."""
        return self.bundle.name

    @property
    def path(self) -> Path:
        """The model's folder."""
        return self.bundle.path

    @property
    def fingerprint(self) -> str:
        """Identifies the vectors: equal for all variants of a model, different for different models."""
        return self.bundle.fingerprint

    @property
    def max_tokens(self) -> int:
        """Longest input, in tokens, special tokens included."""
        return self._settings.max_tokens

    @property
    def unknown_id(self) -> int | None:
        """The token of what is not in the vocabulary; None where there is no such token."""
        return self._runner.tokenizer.unknown_id

    @property
    def threads(self) -> int:
        """Threads per operator."""
        return self._runner.session.threads.threads

    @property
    def truncated_count(self) -> int:
        """The number of inputs that were cut so far."""
        return self._runner.truncated_count

    @property
    def query_cache_info(self) -> CacheInfo:
        """Hits, misses, entries and limit of the query cache; all 0 without one."""
        return CacheInfo(0, 0, 0, 0) if self._cache is None else self._cache.info()

    @property
    def calibration_key(self) -> CalibrationKey:
        """The name of the calibration for this dimension."""
        return CalibrationKey(self.dimension)

    @property
    def calibration(self) -> Calibration:
        """The map from cosine to level probabilities for this variant and dimension.

        Raises:
            CalibrationError: There is none; the message says how to make one.
        """
        if self._calibration is not None:
            return self._calibration
        content = self.variant.calibration(self.calibration_key)
        if content is None:
            others = [v.name for v in self.bundle.variants if v.calibration(self.calibration_key) is not None]
            have = f"; with it are {', '.join(others)}: choose one as the variant, or" if others else ";"
            raise CalibrationError(
                f"{self.name} ({self.variant.name}, {self.dimension} dimensions) has no calibration, so no "
                f"levels{have} fit one on labelled pairs with: "
                f"{self.bundle.calibrate_command(self.dimension)}"
            )
        from relsdk.calibration import calibration_from_dict  # not needed to encode

        self._calibration = calibration_from_dict(content)
        return self._calibration

    @property
    def query_range(self) -> QueryRange | None:
        """The range of the queries that the calibration was fitted on; None where it is not known."""
        if self._query_range is None and self.is_calibrated:
            report = self.variant.quality.get("calibration", {}).get(str(self.calibration_key), {})
            if report.get("query_range") is not None:
                from relsdk.calibration import QueryRange  # not needed to encode

                self._query_range = QueryRange(**report["query_range"])
        return self._query_range

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibration` exists for this variant and dimension."""
        return self.variant.calibration(self.calibration_key) is not None

    @overload
    def encode(self, inputs: str, **options: Unpack[NamedPrompt]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    def encode(self, inputs: Sequence[str], **options: Unpack[NamedPrompt]) -> Matrix: ...
    def encode(
        self,
        inputs: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        normalize_embeddings: bool | None = None,
        precision: Precision = "float32",
        truncation: Truncation = "warn",
    ) -> NDArray[Any]:
        """Turn texts into vectors.

        Texts are sorted by length and run in batches of bounded token count; the order is restored. With a
        file that relsdk exported, a text's vector does not depend on the other texts.

        Args:
            inputs: One text, or N of them.
            prompt_name: Which of the model's prompts to put before each text: "query" or "document"; "" puts
                none. By default the one that the model's folder calls its default, mostly none. A bundle with
                a query tower encodes with it what has the prompt "query".
            prompt: A prompt of your own instead.
            batch_size: Upper bound on the texts of a batch; by default only the token count is bounded.
            show_progress_bar: Show how far it has come on stderr.
            normalize_embeddings: Give vectors unit length; None does what the model was trained with.
            precision: "float32"; "int8" (each vector scaled so that its largest magnitude is 127, which keeps
                its direction); or "ubinary" (the signs, eight to a byte).
            truncation: What to do when texts exceed `max_tokens`: "warn", "error" or "silent". Always
                counted in `truncated_count`.

        Returns:
            (D,) for one text, (N, D) for a list; float32, int8, or uint8 with D/8 columns for "ubinary".

        Raises:
            InputError: An argument or an input is wrong.
            TruncationError: A text is too long and `truncation` is "error".
        """
        check_option("precision", precision, ("float32", "int8", "ubinary"))
        if not isinstance(prompt, str | None):
            raise InputError(f"prompt is {type(prompt).__name__}; a string is needed")
        if prompt is None:
            prompt_name = self._settings.default_prompt if prompt_name is None else prompt_name
            prompt = self._prompt(prompt_name) if prompt_name else ""
        session = self._session(prompt_name)
        self._check_runtime(session)
        single = isinstance(inputs, str)
        vectors = self._vectors.run(
            session,
            _with_prompt(prompt, text_list(inputs)),
            normalize=normalize_embeddings,
            batch_size=batch_size,
            truncation=truncation,
            progress="encode" if show_progress_bar else None,
            count=True,
        )  # (N, D)
        result = to_precision(vectors, precision)
        return result[0] if single else result

    @overload
    def encode_query(self, inputs: str, **options: Unpack[Options]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    def encode_query(self, inputs: Sequence[str], **options: Unpack[Options]) -> Matrix: ...
    def encode_query(
        self,
        inputs: str | Sequence[str],
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        normalize_embeddings: bool | None = None,
        precision: Precision = "float32",
        truncation: Truncation = "warn",
    ) -> NDArray[Any]:
        """Encode with the model's query prompt, to unit length.

        With a query cache, a query that was encoded lately (without options) costs a look-up. A query that
        was cut to the model's limit is not kept: it is counted, and warned of, each time.

        Args:
            inputs: One query, or N of them.
            prompt: A prompt of your own instead.
            batch_size: See `encode`.
            show_progress_bar: See `encode`.
            normalize_embeddings: False gives the vectors as the model does; None and True give unit length.
            precision: See `encode`.
            truncation: See `encode`.

        Returns:
            See `encode`.

        Raises:
            InputError: See `encode`.
            TruncationError: See `encode`.
        """
        unit_length = self._unit_length(normalize_embeddings)
        options = (prompt, batch_size, normalize_embeddings, precision, truncation)
        if self._cache is None or not inputs or options != (None, None, None, "float32", "warn"):
            return self.encode(
                inputs,
                prompt_name=self.known_prompt("query"),
                prompt=prompt,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                normalize_embeddings=unit_length,
                precision=precision,
                truncation=truncation,
            )
        texts = text_list(inputs)
        vectors = self._cache.look_up(texts, partial(self._encode_for_cache, unit_length))
        return vectors[texts[0]] if isinstance(inputs, str) else np.stack([vectors[text] for text in texts])

    def cached_query(self, text: str) -> Vector | None:
        """Return what the query cache holds of a query, (D,); None where it holds nothing, or is none."""
        return None if self._cache is None else self._cache.get(text)

    def cache_query(self, text: str, vector: NDArray[np.float32]) -> None:
        """Keep what `encode_tokens` gave for a query that was not cut, (D,), in the query cache if any."""
        if self._cache is not None:
            self._cache.put(text, vector)

    def _encode_for_cache(
        self, unit_length: bool | None, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], bool]:
        """Return vectors (n, D), and whether none of the texts was cut."""
        before = self.truncated_count
        vectors = self.encode(texts, prompt_name=self.known_prompt("query"), normalize_embeddings=unit_length)
        return vectors, self.truncated_count == before

    @overload
    def encode_document(self, inputs: str | Document, **options: Unpack[Options]) -> Vector: ...  # type: ignore[overload-overlap]
    @overload
    def encode_document(
        self, inputs: Sequence[str] | Sequence[Document], **options: Unpack[Options]
    ) -> Matrix: ...
    def encode_document(
        self,
        inputs: str | Document | Sequence[str] | Sequence[Document],
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        normalize_embeddings: bool | None = None,
        precision: Precision = "float32",
        truncation: Truncation = "warn",
    ) -> NDArray[Any]:
        """Encode with the model's document prompt, to unit length; see `encode_query` for the options.

        A `Document` becomes text by the model's document template.
        """
        items = [inputs] if isinstance(inputs, str | Document) else ordered_list(inputs)
        vectors = self.encode(
            [self.document_text(item) for item in items],
            prompt_name=self.known_prompt("document"),
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            normalize_embeddings=self._unit_length(normalize_embeddings),
            precision=precision,
            truncation=truncation,
        )
        return vectors[0] if isinstance(inputs, str | Document) else vectors

    def document_text(self, document: str | Document) -> str:
        """Return the text that is encoded for a document (before the prompt)."""
        return document_text(self._settings.document_template, document)

    def tokenize(self, inputs: Sequence[str], *, prompt_name: str | None = None) -> TokenizedTexts:
        """Turn N texts into what `encode_tokens` takes; for a server that makes its own batches.

        Args:
            inputs: The texts.
            prompt_name: See `encode`.

        Raises:
            InputError: See `encode`.
        """
        name = self._settings.default_prompt if prompt_name is None else prompt_name
        return self._runner.tokenizer.tokenize(
            _with_prompt(self._prompt(name) if name else "", text_list(inputs))
        )

    def pieces(
        self, inputs: Sequence[str], *, prompt_name: str | None = None, special_tokens: bool = True
    ) -> list[list[Piece]]:
        """Return the tokens of N texts with their places, prompts included; see `TextTokenizer.pieces`."""
        name = self._settings.default_prompt if prompt_name is None else prompt_name
        texts = _with_prompt(self._prompt(name) if name else "", text_list(inputs))
        return self._runner.tokenizer.pieces(texts, special_tokens=special_tokens)

    def encode_tokens(
        self,
        tokens: TokenizedTexts,
        *,
        prompt_name: str | None = None,
        normalize_embeddings: bool | None = None,
    ) -> NDArray[np.float32]:
        """Turn tokenised texts into the vectors that `encode` gives, (N, D) float32; nothing is counted.

        Args:
            tokens: Of N texts, from one call of `tokenize` or from several.
            prompt_name: What they were tokenised with: a query tower takes those of the prompt "query".
            normalize_embeddings: See `encode`.

        Raises:
            BundleError: The file cannot run them.
            InputError: See `encode`.
        """
        session = self._session(self._settings.default_prompt if prompt_name is None else prompt_name)
        self._check_runtime(session)
        return self._vectors.run_tokens(session, tokens, normalize_embeddings)

    def warmup(self) -> None:
        """Run the model once, so that the first request does not pay for it."""
        self.encode_query("预热", truncation="silent")

    def verify(self) -> Verification:
        """Check every hash, and that this variant still gives the vectors that the bundle was made with.

        Raises:
            BundleError: The bundle has no golden vectors, or none of this variant.
        """
        return verify_variant(self.bundle, self.variant, self.golden)

    def golden(self, inputs: Sequence[tuple[str, str]], *, together: bool = False) -> NDArray[np.float32]:
        """Encode (prompt name or "", text) pairs, each alone or in one call: (N, D) float32."""
        names = [self.known_prompt(prompt) for prompt, _ in inputs]
        texts = [
            (self._prompt(name) if name else "") + text for name, (_, text) in zip(names, inputs, strict=True)
        ]
        sessions = [self._session(name) for name in names]
        calls = [[row] for row in range(len(inputs))]
        if together:
            calls = [[row for row, own in enumerate(sessions) if own is session] for session in {*sessions}]
        result = np.empty((len(inputs), self.dimension), dtype=np.float32)
        for rows in calls:
            result[rows] = self._vectors.run(sessions[rows[0]], [texts[row] for row in rows])
        return result

    def _prompt(self, name: str) -> str:
        prompts: Mapping[str, str] = self._settings.prompts
        if not isinstance(name, str) or name not in prompts:
            raise InputError(f"{self.name} has no prompt {name!r}; it has {sorted(prompts)}")
        return prompts[name]

    def known_prompt(self, name: str) -> str:
        """Return the name of a prompt if the model has it, else "": `encode` then puts nothing before."""
        return name if name in self._settings.prompts else ""

    def _unit_length(self, wanted: bool | None) -> bool | None:
        """Return `normalize_embeddings` for vectors that are compared by cosine; say once if that is news."""
        settings = self._settings
        if wanted is not None or settings.normalize:
            return wanted
        if not self._said_unit:
            self._said_unit = True
            trained = (
                "" if settings.similarity == "cosine" else f" (it was trained for {settings.similarity!r})"
            )
            warnings.warn(
                f"{self.name} does not normalise its vectors{trained}; encode_query and encode_document give "
                "them unit length, because relsdk compares by cosine; encode gives them as they are",
                stacklevel=3,
            )
        return True

    def _session(self, prompt_name: str | None) -> ModelSession:
        """Return what encodes texts with this prompt."""
        return self._runner.query_session if prompt_name == "query" else self._runner.session

    def _check_runtime(self, session: ModelSession) -> None:
        """See `relsdk.runtime.verification.check_runtime`; once for each session."""
        if session not in self._checked:
            mine = {name for name in ("", *self._settings.prompts) if self._session(name or None) is session}
            check_runtime(self.bundle, self.variant, session, mine, self.golden)
            self._checked.add(session)


def _with_prompt(prompt: str, texts: list[str]) -> list[str]:
    return [prompt + text for text in texts] if prompt else texts


def _open_again(kind: type[Embedder], path: Path, fingerprint: str, arguments: Mapping[str, Any]) -> Embedder:
    """Open what was pickled."""
    embedder = kind(path, **arguments)
    embedder.bundle.check_fingerprint(fingerprint)
    return embedder
