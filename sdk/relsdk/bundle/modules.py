"""What sentence-transformers' `modules.json` says is computed behind the transformer.

Both pooling forms are read (`pooling_mode` of sentence-transformers 6, the flags before it) and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from relsdk.bundle.json_files import read_json, write_json
from relsdk.errors import BundleError

__all__ = ["POOLING", "POOLINGS", "Modules", "Pooling", "read_modules", "says_how_to_pool", "write_modules"]

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
Pooling = Literal["mean", "cls", "lasttoken"]
_LEGACY_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
POOLINGS = ("mean", "cls", "lasttoken")
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Modules:
    """What follows the transformer.

    Attributes:
        pooling: How token vectors become one.
        normalize: Whether vectors have unit length.
        dimension: Width of the vectors; None where nothing says it.
    """

    pooling: Pooling
    normalize: bool
    dimension: int | None


def says_how_to_pool(folder: Path) -> bool:
    """Whether a folder is in sentence-transformers' layout, or has its pooling; else defaults are taken."""
    return (folder / MODULES).is_file() or (folder / POOLING).is_file()


def read_modules(folder: Path) -> Modules:
    """Read what a folder computes; without any file that says it, mean pooling.

    Raises:
        BundleError: sentence-transformers would compute what this package does not, such as a Dense layer.
    """
    found = []
    for module in read_json(folder / MODULES, list[Any], required=False):
        entry = module if isinstance(module, dict) else {"type": module}
        kind, path = str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", ""))
        if kind not in _MODULES:
            raise BundleError(f"{folder / MODULES} names the module {kind!r}; supported are {list(_MODULES)}")
        if kind == "Transformer" and path:
            raise BundleError(
                f"{folder / MODULES} has the transformer in {path!r}; it must be in the folder itself"
            )
        found.append((kind, path))
    kinds = [kind for kind, _ in found]
    if kinds != sorted(set(kinds), key=_MODULES.index):
        raise BundleError(f"{folder / MODULES} names {kinds}; the order is {list(_MODULES)}, each once")
    pooling = folder / POOLING
    for kind, path in found:
        if kind == "Pooling":
            pooling = folder / path / "config.json"
            if not pooling.is_file():
                raise BundleError(f"{pooling} is missing, and {MODULES} names it; copy the checkpoint again")
    config = read_json(pooling, dict[str, Any], required=False)
    width = config.get("embedding_dimension") or config.get("word_embedding_dimension")
    return Modules(_pooling_mode(pooling, config), "Normalize" in kinds, int(width) if width else None)


def write_modules(folder: Path, dimension: int, pooling: Pooling, *, normalize: bool) -> None:
    """Write `modules.json` and the pooling's configuration, in the forms of all versions."""
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    if normalize:
        modules.append(("2", "2_Normalize", "Normalize"))
    write_json(
        folder / MODULES,
        [
            {"idx": i, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (name, path, kind) in enumerate(modules)
        ],
    )
    flags = {key: mode == pooling for key, mode in _LEGACY_POOLING.items()}
    (folder / POOLING).parent.mkdir(exist_ok=True)
    write_json(folder / POOLING, {"word_embedding_dimension": dimension, "pooling_mode": pooling, **flags})


def _pooling_mode(path: Path, config: Mapping[str, Any]) -> Pooling:
    """Read both forms: `pooling_mode` (sentence-transformers 6) and `pooling_mode_*` flags (before)."""
    if not config:
        return "mean"
    stated = config.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else list(stated or [])
    if not modes:
        modes = [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)] or ["mean"]
    unknown = [key for key in config if key.startswith("pooling_mode_") and key not in _LEGACY_POOLING]
    if unknown or len(modes) != 1 or modes[0] not in POOLINGS:
        raise BundleError(f"{path} asks for pooling {unknown or modes}; one of {list(POOLINGS)} is supported")
    if config.get("include_prompt") is False:
        raise BundleError(
            f"{path} leaves the prompt out of the pooling; include_prompt=false is not supported"
        )
    return cast("Pooling", modes[0])
