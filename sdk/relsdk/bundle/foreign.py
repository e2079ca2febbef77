"""The settings of a folder that sentence-transformers or transformers wrote: those that change vectors.

Each is honoured or refused. How the libraries read them: sentence_transformers 6.2,
base/modules/transformer.py and base/model.py; transformers 5.23, tokenization_utils_tokenizers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from relsdk.bundle._dense import dense_config
from relsdk.bundle._json_files import (
    Limits,
    ModelConfig,
    PromptConfig,
    SpecialTokens,
    TokenizerConfig,
    TokenizerFile,
    read_json,
)
from relsdk.bundle._modules import POOLING, Pooling, read_modules
from relsdk.bundle.inside import check_inside
from relsdk.bundle.layout import (
    HEAD_KEY,
    HEADS,
    MAX_LENGTH,
    MODEL_CONFIG,
    PROMPTS,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    EncoderSettings,
    Head,
    ScorerSettings,
    Side,
)
from relsdk.errors import BundleError

__all__ = ["is_scorer_folder", "read_encoder_settings", "read_scorer_settings"]

# Architectures that number positions from `pad_token_id + 1`: the table's rows before that are not used.
_OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
}
# sentence-transformers takes the first that is there.
_LENGTHS = (
    MAX_LENGTH,
    *(
        f"sentence_{name}_config.json"
        for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
# How its `Transformer` calls the model for texts, unless `modality_config` says otherwise.
_TASK = "feature-extraction"
_TEXT_METHOD = ("forward", "last_hidden_state")
# Tokenizer classes that take their pipeline from `tokenizer.json` alone; the others build it again from these
# keys of the configuration: key, part of the pipeline, key of the part.
_GENERIC_TOKENIZERS = ("", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
_PIPELINE_KEYS = (
    ("do_lower_case", "BertNormalizer", "lowercase"),
    ("strip_accents", "BertNormalizer", "strip_accents"),
    ("tokenize_chinese_chars", "BertNormalizer", "handle_chinese_chars"),
    ("add_prefix_space", "ByteLevel", "add_prefix_space"),
)
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a folder that say how texts become token ids."""

    folder: Path
    model: ModelConfig
    tokenizer: TokenizerConfig
    limits: Limits
    pipeline: TokenizerFile


def is_scorer_folder(folder: Path) -> bool:
    """Whether a Hugging Face folder holds a cross-encoder, by the architecture that it names."""
    names = _read(folder, MODEL_CONFIG, ModelConfig).get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def read_scorer_settings(folder: Path) -> ScorerSettings:
    """Read the settings of a Hugging Face sequence-classification folder (with or without ONNX files).

    Raises:
        BundleError: A file is damaged, the outputs are not those of a relevance model, or a setting is not
            supported.
    """
    files = _read_files(folder)
    labels, count = files.model.get("id2label"), files.model.get("num_labels")
    outputs = len(labels) if labels else 2 if count is None else count  # transformers' own default
    stated = files.model.get("relsdk_head")
    head = stated or {4: "categorical", 1: "regression"}.get(outputs)
    if head not in HEADS or HEADS[head] != outputs:
        raise BundleError(
            f"{folder / MODEL_CONFIG} has {outputs} outputs ({HEAD_KEY}: {stated!r}); a scorer has 4 "
            f'(one a level), 1 (a score), or 3 with "{HEAD_KEY}": "ordinal"'
        )
    stated_prompts = _read(folder, PROMPTS, PromptConfig)
    default = stated_prompts.get("default_prompt_name") or ""
    if (stated_prompts.get("prompts") or {}).get(default):
        raise BundleError(
            f"{folder / PROMPTS} has default_prompt_name {default!r}; a prompt before pairs is not supported"
        )
    return ScorerSettings(
        head=cast("Head", head),
        max_tokens=_max_tokens(files),
        pad_token=_pad_token(files),
        truncation_side=_truncation_side(files),
    )


def read_encoder_settings(folder: Path, *, dimension: int | None = None) -> EncoderSettings:
    """Read the settings of a sentence-transformers folder (with or without ONNX files).

    Args:
        folder: The folder.
        dimension: Width of the vectors, where only the other settings are asked for (of a scorer, too); by
            default what the modules or the model configuration say.

    Raises:
        BundleError: A file is damaged, or asks for a pooling, a module or a setting that is not supported.
    """
    modules = read_modules(folder)
    files = _read_files(folder)
    task = files.limits.get("transformer_task") or _TASK
    if task != _TASK and dimension is None:
        raise BundleError(f"{folder / MAX_LENGTH} has transformer_task {task!r}; an encoder's is {_TASK!r}")
    stated = _read(folder, PROMPTS, PromptConfig)
    kind = stated.get("model_type") or "SentenceTransformer"
    if kind != "SentenceTransformer" and dimension is None:
        raise BundleError(f"{folder / PROMPTS} says that it is a {kind}; a SentenceTransformer is supported")
    width = modules.dimension or files.model.get("hidden_size") or files.model.get("dim")
    if modules.dense:
        width = _behind_dense(folder, modules.dense, width)
    width = dimension or width
    if not width:
        raise BundleError(f"{folder} does not say how wide its vectors are ({POOLING} or {MODEL_CONFIG})")
    prompts = {name: text or "" for name, text in (stated.get("prompts") or {}).items()}
    other = next((name for name in ("passage", "corpus") if name in prompts), None)
    if "document" not in prompts and other is not None:
        prompts["document"] = prompts[other]
    default = stated.get("default_prompt_name") or ""
    if default and default not in prompts:
        if default not in ("query", "document"):  # sentence-transformers has these, empty unless stated
            raise BundleError(
                f"{folder / PROMPTS} has default_prompt_name {default!r}, and no such prompt; it has "
                f"{sorted(prompts)}"
            )
        default = ""
    kept = stated.get("truncate_dim") or width
    if kept > width and dimension is None:
        raise BundleError(f"{folder / PROMPTS} has truncate_dim {kept}; allowed are 1 to {width}")
    return EncoderSettings(
        dimension=width,
        max_tokens=_max_tokens(files),
        pooling=modules.pooling or _default_pooling(files.model),
        normalize=modules.normalize,
        prompts=prompts,
        pad_token=_pad_token(files),
        matryoshka_dims=tuple(stated.get("matryoshka_dims") or ()),
        default_prompt=default,
        truncation_side=_truncation_side(files),
        truncate_dim=kept if kept < width else 0,
        similarity=stated.get("similarity_fn_name") or "cosine",
        dense=modules.dense,
    )


def _read(folder: Path, name: str, kind: type[Kind]) -> Kind:
    return read_json(check_inside(folder, name), kind, required=False)


def _read_files(folder: Path) -> _Files:
    """Read what says how texts become token ids, and refuse what is not supported."""
    name = next((name for name in _LENGTHS if (folder / name).is_file()), MAX_LENGTH)
    limits = _read(folder, name, Limits)
    tokenizer: TokenizerConfig = {
        **_read(folder, TOKENIZER_CONFIG, TokenizerConfig),
        **(limits.get("tokenizer_args") or {}),
        **(limits.get("processor_kwargs") or {}),
    }
    model, pipeline = _read(folder, MODEL_CONFIG, ModelConfig), _read(folder, TOKENIZER_JSON, TokenizerFile)
    files = _Files(folder, model, tokenizer, limits, pipeline)
    _check_limits(files, folder / name)
    _check_tokenizer(files)
    return files


def _check_limits(files: _Files, path: Path) -> None:
    limits = files.limits
    if limits.get("do_lower_case") and not any(
        part.get("type") == "Lowercase" or (part.get("type") == "BertNormalizer" and part.get("lowercase"))
        for part in _parts(files.pipeline.get("normalizer"))
    ):
        raise BundleError(
            f"{path} has do_lower_case: true, which is not supported; put a Lowercase normalizer into "
            f"{TOKENIZER_JSON} and set it to false"
        )
    for key in ("processing_kwargs", "query_length", "document_length", "query_expansion"):
        if limits.get(key):
            raise BundleError(f"{path} has {key}: {limits.get(key)!r}, which is not supported")
    modalities = limits.get("modality_config")
    if modalities and (limits.get("transformer_task") or _TASK) == _TASK:
        text = modalities.get("text")
        method = (text.get("method"), text.get("method_output_name")) if isinstance(text, dict) else None
        if method != _TEXT_METHOD:
            raise BundleError(
                f"{path} has modality_config {modalities!r}; texts must be encoded by {_TEXT_METHOD[0]!r} to "
                f"{_TEXT_METHOD[1]!r}"
            )


def _check_tokenizer(files: _Files) -> None:
    tokenizer, path = files.tokenizer, files.folder / TOKENIZER_CONFIG
    if tokenizer.get("split_special_tokens"):
        raise BundleError(f"{path} has split_special_tokens: true, which is not supported")
    if (tokenizer.get("tokenizer_class") or "") in _GENERIC_TOKENIZERS:
        return
    parts = [*_parts(files.pipeline.get("normalizer")), *_parts(files.pipeline.get("pre_tokenizer"))]
    for key, kind, name in _PIPELINE_KEYS:
        stated = tokenizer.get(key)
        for part in parts:
            if part.get("type") == kind and stated is not None and part.get(name) != stated:
                raise BundleError(
                    f"{path} has {key}: {stated!r} and {TOKENIZER_JSON} has {name}: {part.get(name)!r} "
                    f"in its {kind}; make them say the same: save the tokenizer again with transformers"
                )


def _parts(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a tokenizer's normalizer or pre-tokenizer, and what it is a sequence of."""
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    return [part, *(item for item in inner if isinstance(item, dict))]


def _default_pooling(model: ModelConfig) -> Pooling:
    """Return what sentence-transformers takes for a folder that does not say how to pool."""
    first = next(iter(model.get("architectures") or ()), "")
    return "lasttoken" if first.endswith("ForCausalLM") and model.get("is_causal") is not False else "mean"


def _behind_dense(folder: Path, layers: tuple[str, ...], width: int | None) -> int:
    """Return the width behind the last layer; each must take what the one before it gives."""
    for layer in layers:
        config = dense_config(folder, layer)
        if width not in (None, config["in_features"]):
            raise BundleError(
                f"{folder / layer} takes vectors of width {config['in_features']}; it gets {width}"
            )
        width = config["out_features"]
    return cast("int", width)


def _truncation_side(files: _Files) -> Side:
    truncation = files.pipeline.get("truncation") or {}
    side = files.tokenizer.get("truncation_side") or (truncation.get("direction") or "right").lower()
    if side not in ("left", "right"):
        raise BundleError(f"{files.folder / TOKENIZER_CONFIG} has truncation_side {side!r}; left or right")
    return cast("Side", side)


def _pad_token(files: _Files) -> str:
    """Return the padding by the first file that names it; `[PAD]` where none does, as in BERT."""
    special = _read(files.folder, SPECIAL_TOKENS, SpecialTokens)
    named = files.tokenizer.get("pad_token") or special.get("pad_token")
    named = named or (files.pipeline.get("padding") or {}).get("pad_token") or "[PAD]"
    name = named if isinstance(named, str) else named["content"]
    known = {token["content"]: token["id"] for token in files.pipeline.get("added_tokens") or ()}
    if known and name not in known:
        name = next((token for token, of in known.items() if of == files.model.get("pad_token_id")), name)
    return name


def _max_tokens(files: _Files) -> int:
    """Return the limit: what sentence-transformers states, else the tokenizer's; at most the positions."""
    positions = files.model.get("max_position_embeddings")
    if positions is not None and files.model.get("model_type") in _OFFSET_POSITIONS:
        pad = files.model.get("pad_token_id")
        positions -= (1 if pad is None else pad) + 1
    stated = files.limits.get("max_seq_length") or files.tokenizer.get("model_max_length")
    candidates = [int(limit) for limit in (stated, positions) if limit is not None and 1 <= limit < 1_000_000]
    return min(candidates, default=512)
