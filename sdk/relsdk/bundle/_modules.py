"""The modules behind the transformer, as `modules.json` of sentence-transformers lists them.

Both pooling forms are read (`pooling_mode` of sentence-transformers 6, the flags before it) and written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from relsdk.bundle._json_files import ModuleEntry, PoolingConfig, read_json, write_json
from relsdk.bundle.inside import check_inside
from relsdk.errors import BundleError

__all__ = ["POOLING", "POOLINGS", "Pooling", "read_modules", "states_pooling", "write_modules"]

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
Pooling = Literal["mean", "cls", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean"]
_LEGACY_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
POOLINGS = tuple(_LEGACY_POOLING.values())
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
# Of its own modules; a class of somebody else's may have any name, and computes what only its code says.
_OWNER = "sentence_transformers."


@dataclass(frozen=True, slots=True)
class _Modules:
    """The modules that follow the transformer.

    Attributes:
        pooling: How token vectors become one; None where nothing says it.
        normalize: Whether vectors have unit length.
        dimension: Width of the token vectors; None where nothing says it.
        dense: Folders, inside the model folder, of the linear layers behind the pooling, in their order.
    """

    pooling: Pooling | None
    normalize: bool
    dimension: int | None
    dense: tuple[str, ...] = ()


def states_pooling(folder: Path) -> bool:
    """Whether a folder is in sentence-transformers' layout, or has its pooling; else defaults are taken."""
    return (folder / MODULES).is_file() or (folder / POOLING).is_file()


def read_modules(folder: Path) -> _Modules:
    """Read what a folder computes.

    Raises:
        BundleError: sentence-transformers would compute what this package does not, such as a Router, or a
            path leads out of the folder.
    """
    entries = read_json(check_inside(folder, MODULES), list[ModuleEntry | str], required=False)
    modules = [_module(folder, entry) for entry in entries]
    kinds = [kind for kind, _ in modules]
    once = [kind for kind in dict.fromkeys(kinds)]
    if once != sorted(once, key=_MODULES.index) or any(
        kinds.count(kind) > 1 for kind in once if kind != "Dense"
    ):
        raise BundleError(
            f"{folder / MODULES} names {kinds}; the order is {list(_MODULES)}, each once (Dense any number)"
        )
    name = POOLING
    for kind, path in modules:
        if kind == "Pooling":
            name = f"{path}/config.json" if path else "config.json"
            if not os.path.isfile(folder / name):  # a name may be too long for any file
                raise BundleError(
                    f"{folder / name} is missing, and {MODULES} names it; copy the checkpoint again"
                )
    pooling = check_inside(folder, name)
    config = read_json(pooling, PoolingConfig, required=False)
    width = config.get("embedding_dimension") or config.get("word_embedding_dimension")
    return _Modules(
        _pooling_mode(pooling, config),
        "Normalize" in kinds,
        width or None,
        tuple(path for kind, path in modules if kind == "Dense"),
    )


def _module(folder: Path, item: ModuleEntry | str) -> tuple[str, str]:
    """Return the kind and the folder of one entry."""
    entry: ModuleEntry = {"type": item} if isinstance(item, str) else item
    full, path = entry.get("type", ""), entry.get("path", "").rstrip("/")
    kind = full.rpartition(".")[2]
    if kind not in _MODULES:
        raise BundleError(f"{folder / MODULES} names the module {kind!r}; supported are {list(_MODULES)}")
    if not full.startswith(_OWNER):
        raise BundleError(
            f"{folder / MODULES} names the class {full!r}, not one of sentence-transformers; a folder with "
            f"code of its own is not supported"
        )
    check_inside(folder, path, stated_in=MODULES)
    if kind == "Transformer" and path:
        raise BundleError(
            f"{folder / MODULES} has the transformer in {path!r}; it must be in the folder itself"
        )
    return kind, path


def write_modules(
    folder: Path, dimension: int, pooling: Pooling, *, normalize: bool, dense: Sequence[str] = ()
) -> None:
    """Write `modules.json` and the pooling's configuration, in the forms of all versions.

    Args:
        folder: The model folder.
        dimension: Width of the token vectors.
        pooling: How they become one.
        normalize: Whether vectors have unit length.
        dense: Folders of the linear layers, which are in place.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *((path, "Dense") for path in dense)]
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    write_json(
        folder / MODULES,
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    flags = {key: mode == pooling for key, mode in _LEGACY_POOLING.items()}
    (folder / POOLING).parent.mkdir(exist_ok=True)
    write_json(folder / POOLING, {"word_embedding_dimension": dimension, "pooling_mode": pooling, **flags})


def _pooling_mode(path: Path, config: PoolingConfig) -> Pooling | None:
    """Read both forms: `pooling_mode` (sentence-transformers 6) and `pooling_mode_*` flags (before)."""
    if not config:
        return None
    stated = config.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else list(stated or [])
    if not modes:
        flags = read_json(path, dict[str, Any])
        modes = [key for key in flags if key.startswith("pooling_mode_") and flags[key]]
        modes = [_LEGACY_POOLING.get(key, key) for key in modes] or ["mean"]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise BundleError(f"{path} asks for pooling {modes}; one of {list(POOLINGS)} is supported")
    if config.get("include_prompt") is False:
        raise BundleError(
            f"{path} leaves the prompt out of the pooling; include_prompt=false is not supported"
        )
    return cast("Pooling", modes[0])
