"""Write a bundle as a folder that sentence-transformers opens in torch, query tower included.

Shape letters: N texts, D dimension, W width of the token vectors.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Router, Transformer
from transformers import AutoConfig, AutoModel

from relsdk.bundle import (
    GOLDEN_TEXTS,
    Bundle,
    EncoderSettings,
    Variant,
    copy_tokenizer,
    read_bundle,
    read_dense,
    write_model_card,
)
from relsdk.errors import BundleError, InputError, QualityError
from relsdk.files.folders import staged_folder, write_file_atomically
from relsdk.models.embedder import Embedder
from relsdk_checkpoint.loading import first_reason, quiet
from relsdk_export.onnx.convert import SentenceEncoder
from relsdk_export.onnx.recover import recover_weights
from relsdk_export.onnx.weight_files import writing_weights

__all__ = ["TorchFolder", "to_sentence_transformers"]

# Says whose vectors a folder gives; without it a folder is somebody's, and is never replaced.
_SOURCE = "relsdk_source.json"
_MIN_COSINE = 0.9999
_SILENT = ("sentence_transformers",)


@dataclass(frozen=True, slots=True)
class TorchFolder:
    """What was written.

    Attributes:
        path: The folder.
        has_query_tower: Whether it is a Router, whose queries have an encoder of their own.
        min_cosine: The smallest cosine between its vectors and the bundle's, over the golden texts.
    """

    path: Path
    has_query_tower: bool
    min_cosine: float


def to_sentence_transformers(folder: Path, target: Path, *, overwrite: bool = False) -> TorchFolder:
    """Write the encoder of a bundle, and its query tower, as torch weights for sentence-transformers.

    `SentenceTransformer(target)` opens it; `encode_query` and `encode_document` then give the vectors of the
    bundle's fp32 variant. With a query tower the folder is a `Router`, without one Transformer, Pooling and
    what is behind them.

    Args:
        folder: A bundle that relsdk has written, with its fp32 variant.
        target: Where the folder shall be.
        overwrite: Replace a folder that this function has written.

    Returns:
        What was written, when it is in place.

    Raises:
        InputError: The bundle is a scorer, relsdk did not write it, or `target` is in the way.
        BundleError: The bundle is damaged or has no fp32 file, or its weights cannot be told apart.
        QualityError: The vectors differ from the bundle's; nothing is written.
    """
    bundle = read_bundle(folder)
    settings, variant = bundle.encoder_settings, _exact_variant(bundle)
    bundle.check_hashes()
    with staged_folder(target, marker=_SOURCE, overwrite=overwrite, sources=[bundle.path]) as staging:
        _write(bundle, settings, variant, staging)
        min_cosine = _compare(bundle, variant, staging)
        if not min_cosine > _MIN_COSINE:
            raise QualityError(
                f"the torch weights of {bundle.path} give other vectors than its fp32 file (cosine "
                f"{min_cosine:.4f}); export the bundle again from its checkpoint, then try again"
            )
    return TorchFolder(target, bool(variant.query_file), min_cosine)


def _exact_variant(bundle: Bundle) -> Variant:
    if not bundle.files:
        raise InputError(
            f"{bundle.path} was not made by relsdk; open it with sentence-transformers as it is, or make a "
            "bundle of it first: relsdk export encoder"
        )
    for variant in bundle.variants:
        if variant.quantisation == "fp32":
            return variant
    raise BundleError(
        f"{bundle.path} has {[variant.name for variant in bundle.variants]} and no fp32 file, which alone "
        "holds the weights as they were; export it again with --variant fp32"
    )


def _write(bundle: Bundle, settings: EncoderSettings, variant: Variant, staging: Path) -> None:
    """Fill the folder."""
    with tempfile.TemporaryDirectory(dir=staging) as scratch, quiet(*_SILENT), writing_weights():
        modules = [
            _modules(bundle, settings, bundle.path / file, Path(scratch, str(number)))
            for number, file in enumerate(variant.graphs)
        ]
        if variant.query_file:
            document, query = modules
            top = [Router.for_query_document(query, document, default_route="document")]
        else:
            (top,) = modules
        model = SentenceTransformer(
            modules=top,
            device="cpu",
            prompts=dict(settings.prompts),
            default_prompt_name=settings.default_prompt or None,
            similarity_fn_name=settings.similarity,
        )
        model.save(str(staging), create_model_card=False)
    for weights in staging.rglob("*.safetensors"):  # written for their owner alone; others read models, too
        weights.chmod((staging / "modules.json").stat().st_mode)
    source = {"bundle": bundle.name, "fingerprint": bundle.fingerprint}
    write_file_atomically(staging / _SOURCE, json.dumps(source, ensure_ascii=False) + "\n", durable=False)
    write_model_card(staging, _card(bundle, settings))


def _modules(bundle: Bundle, settings: EncoderSettings, file: Path, scratch: Path) -> list[Any]:
    """Return what makes a text's vector, one module after the other."""
    model = _torch_module(bundle, settings)
    recover_weights(model, file)
    pooling = settings.pooling if model.transformer.config.num_hidden_layers else "mean"
    scratch.mkdir()
    copy_tokenizer(bundle.path, scratch)
    model.transformer.save_pretrained(scratch)  # its config.json takes the place of the encoder's
    width: int = model.transformer.config.hidden_size
    modules: list[Any] = [
        Transformer(str(scratch), max_seq_length=settings.max_tokens),
        Pooling(width, pooling),
    ]
    for layer in model.dense:
        linear: Any
        linear, activation = layer.children()
        modules.append(_dense(linear.weight.detach(), linear.bias.detach(), activation))
    if model.cut is not None:  # before the vectors are normalised, as in the graph
        modules.append(_dense(torch.eye(model.cut, width), None, torch.nn.Identity()))
    return [*modules, Normalize()] if settings.normalize else modules


def _torch_module(bundle: Bundle, settings: EncoderSettings) -> SentenceEncoder:
    """Return the module of a bundle's architecture, with random weights."""
    try:
        config = AutoConfig.from_pretrained(bundle.path, local_files_only=True)
        with quiet():
            transformer = AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager")
    except Exception as error:  # whatever a library meets in a configuration
        raise BundleError(
            f"{bundle.path} has a config.json of no architecture that transformers has: {first_reason(error)}"
        ) from error
    dense = [read_dense(bundle.path, layer) for layer in settings.dense]
    model = SentenceEncoder(transformer, settings, dense).eval()
    if not dense and config.hidden_size != settings.dimension:
        model.cut = settings.dimension
    return model


def _dense(weight: torch.Tensor, bias: torch.Tensor | None, activation: torch.nn.Module) -> Dense:
    """Return the layer of a weight (E, D) and a bias (E,)."""
    behind, before = weight.shape
    return Dense(
        before,
        behind,
        bias=bias is not None,
        activation_function=activation,
        init_weight=weight,
        init_bias=bias,
    )


def _compare(bundle: Bundle, variant: Variant, staging: Path) -> float:
    """Return the smallest cosine between the folder's vectors and the bundle's, as a user gets both."""
    texts = [text for _, text in GOLDEN_TEXTS]
    embedder = Embedder(bundle.path, variant=variant.name)
    with quiet(*_SILENT):
        model = SentenceTransformer(str(staging), device="cpu", local_files_only=True)
        theirs = [model.encode_query(texts), model.encode_document(texts)]  # (N, D) each
    ours = [
        encode(texts, normalize_embeddings=True, truncation="silent")
        for encode in (embedder.encode_query, embedder.encode_document)
    ]
    cosines = [
        (one * (other / np.linalg.norm(other, axis=1, keepdims=True))).sum(axis=1)
        for one, other in zip(ours, theirs, strict=True)
    ]
    return float(np.min(cosines))


def _card(bundle: Bundle, settings: EncoderSettings) -> str:
    tower = "\nQueries have an encoder of their own." if bundle.variants[0].query_file else ""
    return f"""# {bundle.name}

{settings.dimension} dimensions, {settings.pooling} pooling, at most {settings.max_tokens} tokens.{tower}
Made by relsdk of the bundle with the fingerprint `{bundle.fingerprint}`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this/folder")
model.encode_query("query")
model.encode_document("title text")
```
"""
