"""An encoder for MTEB, the Massive Text Embedding Benchmark: on its tasks, or on tasks of your own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from relsdk.errors import InputError, MissingExtraError
from relsdk.integrations import _models
from relsdk.models.embedder import Embedder
from relsdk.records import Document

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise MissingExtraError("relsdk.integrations.mteb", "mteb") from error

__all__ = ["RelsdkEncoder"]

# What `encode_kwargs` of `mteb.evaluate` may hold; cosines of packed signs would be wrong.
_OPTIONS = ("batch_size", "show_progress_bar", "precision")
_PRECISIONS = ("float32", "int8")


class RelsdkEncoder(AbsEncoder):
    """An encoder as `mteb.evaluate` takes it.

    Queries are encoded by `Embedder.encode_query` (with the query tower, where there is one), documents by
    `Embedder.encode_document` with the model's document template, and texts that are neither, as in STS, by
    `Embedder.encode` to unit length. Prompts are the model's own, not those that MTEB has for a task.

    Args:
        model: A bundle, or an open `Embedder`.
        prompt_name: Prompt of texts that are neither query nor document; None is the model's default.
        variant: See `Embedder`.
        threads: See `Embedder`.
        truncate_dim: See `Embedder`.

    Raises:
        InputError: `model` is something else, an argument is out of range, or the model has no such prompt.
        BundleError: The folder is missing or damaged.
    """

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        model: Embedder | str | os.PathLike[str],
        *,
        prompt_name: str | None = None,
        variant: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        self.model = _models.open_embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim)
        if prompt_name:
            self.model.tokenize([""], prompt_name=prompt_name)  # says which prompts there are
        self.prompt_name = prompt_name
        self.mteb_model_meta = _model_meta(self.model)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: PromptType | str | None = None,
        **options: Any,
    ) -> NDArray[Any]:
        """Turn the texts of a data loader into vectors of unit length.

        Args:
            inputs: Batches, with the texts in "text"; of documents also "title" and "body".
            task_metadata: Not used.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: "query" or "document"; None for texts that are neither.
            options: `batch_size`, `show_progress_bar` and `precision` ("float32" or "int8"), as of
                `Embedder.encode`.

        Returns:
            (N, D), float32 or int8.

        Raises:
            InputError: An option is unknown, or an input is no text.
        """
        _check_options(options)
        if prompt_type == PromptType.query:
            return self.model.encode_query(_texts(inputs), **options)
        if prompt_type == PromptType.document:
            return self.model.encode_document(_documents(inputs), **options)
        if prompt_type is not None:
            raise InputError(f"prompt_type={prompt_type!r}; allowed are 'query', 'document' and None")
        return self.model.encode(
            _texts(inputs), prompt_name=self.prompt_name, normalize_embeddings=True, **options
        )


def _check_options(options: Mapping[str, Any]) -> None:
    unknown = sorted(options.keys() - set(_OPTIONS))
    if unknown:
        raise InputError(f"encode_kwargs has {', '.join(unknown)}; allowed are {', '.join(_OPTIONS)}")
    precision = options.get("precision", "float32")
    if precision not in _PRECISIONS:
        raise InputError(f"precision={precision!r}; compared by cosine are {' and '.join(_PRECISIONS)}")


def _texts(inputs: Iterable[Mapping[str, Any]]) -> list[str]:
    return [text for batch in inputs for text in _column(batch, "text")]


def _documents(inputs: Iterable[Mapping[str, Any]]) -> Sequence[str] | Sequence[Document]:
    """Return documents with their titles, or texts where a task has no more than those."""
    batches = list(inputs)
    if not all("body" in batch for batch in batches):
        return _texts(batches)
    return [document for batch in batches for document in _corpus_rows(batch)]


def _corpus_rows(batch: Mapping[str, Any]) -> Iterator[Document]:
    bodies = _column(batch, "body")
    titles = batch.get("title") or [""] * len(bodies)
    for title, body in zip(titles, bodies, strict=True):
        yield Document(id="", title=title or "", text=body)


def _column(batch: Mapping[str, Any], name: str) -> Sequence[str]:
    if name not in batch:
        raise InputError(f"a batch has {sorted(batch)} and no {name!r}; relsdk encodes texts alone")
    column: Sequence[str] = batch[name]
    return column


def _model_meta(embedder: Embedder) -> ModelMeta:
    """Describe the model; the revision tells results of other weights, files and dimensions apart."""
    bundle, variant = embedder.bundle, embedder.variant
    size = bundle.variant_bytes(variant)
    name = embedder.name if "/" in embedder.name else f"relsdk/{embedder.name}"
    return ModelMeta(
        loader=None,
        name=name,
        revision=f"{embedder.fingerprint}-{variant.name}-{embedder.dimension}",
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=size / 2**20,
        max_tokens=embedder.max_tokens,
        embed_dim=embedder.dimension,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["ONNX"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=any(bundle.encoder_settings.prompts.values()),
        training_datasets=None,
    )
