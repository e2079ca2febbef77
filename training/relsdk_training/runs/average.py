"""Averages of checkpoints, weight by weight.

Runs that differ in seed average to a model that is often better than each, at the cost of one (Wortsman et
al. 2022, Model soups); a trained model averaged with the one it started from keeps more of what that one
could (Wortsman et al. 2022, Robust fine-tuning of zero-shot models).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from relsdk.bundle import (
    is_scorer_folder,
    read_encoder_settings,
    read_scorer_settings,
    read_training,
    tokenizer_path,
    write_training,
)
from relsdk.errors import InputError, TrainingError
from relsdk.files.folders import staged_folder
from relsdk_training.engine.identity import weights_hash

__all__ = ["average_checkpoints"]

_WEIGHTS = "model.safetensors"
_SETTINGS = (".json", ".model", ".txt")
_SHARDS = ".safetensors.index.json"
_CONFIG = "config.json"
# Of an encoder: nothing uses it, and training drops it.
_UNUSED = "pooler."


def average_checkpoints(
    checkpoints: Sequence[Path],
    output: Path,
    *,
    shares: Sequence[float] = (),
    overwrite: bool = False,
) -> None:
    """Write the weighted mean of checkpoints: theta = sum_i share_i * theta_i, computed in fp32.

    All else, such as prompts and limits, is that of the first.

    Args:
        checkpoints: Folders of encoders, or of score models with the same head; at least two.
        output: Folder to write.
        shares: Of each checkpoint, above 0; they are divided by their sum. Empty: all alike.
        overwrite: Replace a checkpoint that is there.

    Raises:
        InputError: There are too few checkpoints, the shares are wrong, the checkpoints differ in kind,
            architecture or vocabulary, a file is missing or damaged, or `output` is in the way (see
            `staged_folder`).
        BundleError: A configuration, or what a checkpoint says of its training, is damaged.
        TrainingError: The disk is full.
    """
    if len(checkpoints) < 2:
        raise InputError(
            f"{len(checkpoints)} checkpoint to average; name at least two, and the new folder last"
        )
    parts = _normalise(shares or [1.0] * len(checkpoints), len(checkpoints))
    first = checkpoints[0]
    for other in checkpoints[1:]:
        _check_alike(first, other)
    with staged_folder(output, marker=_WEIGHTS, overwrite=overwrite, sources=checkpoints) as folder:
        _copy_settings(first, folder)
        _write_origin(folder, checkpoints, parts)
        mean = _mean(checkpoints, parts)
        try:
            save_file(mean, folder / _WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:  # of a full disk, too
            raise TrainingError(f"{output} cannot be written ({error}); free some space") from error


def _copy_settings(source: Path, folder: Path) -> None:
    """Copy configuration and tokenizer; weights of any format would be those of the first alone."""
    for path in source.rglob("*"):
        if path.is_file() and path.suffix in _SETTINGS and not path.name.endswith(_SHARDS):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _write_origin(folder: Path, checkpoints: Sequence[Path], shares: Sequence[float]) -> None:
    """Say what was averaged, and what each of them says of its training."""
    mixed = [
        {"share": share, "weights": weights_hash(checkpoint), "training": read_training(checkpoint)}
        for checkpoint, share in zip(checkpoints, shares, strict=True)
    ]
    write_training(folder, {"task": "mix", "mixed": mixed})


def _normalise(shares: Sequence[float], count: int) -> list[float]:
    if len(shares) != count or not all(share > 0 for share in shares) or not math.isfinite(sum(shares)):
        raise InputError(f"shares {list(shares)} for {count} checkpoints; one number above 0 each is needed")
    return [share / sum(shares) for share in shares]


def _check_alike(first: Path, other: Path) -> None:
    """Raise `InputError` unless two checkpoints are of one kind and read the same tokens."""
    kinds = [_kind(folder) for folder in (first, other)]
    if kinds[0] != kinds[1]:
        raise InputError(f"{first} is {kinds[0]}, {other} is {kinds[1]}; only models of one kind average")
    vocabularies = [_vocabulary(folder) for folder in (first, other)]
    if vocabularies[0] != vocabularies[1]:
        raise InputError(f"{first} and {other} have different vocabularies; only runs of one start average")


def _kind(folder: Path) -> str:
    """Say what a checkpoint is."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} {'is a file' if folder.exists() else 'does not exist'}; name a checkpoint folder"
        )
    if not (folder / _CONFIG).is_file():
        raise InputError(f"{folder} is no checkpoint: it has no {_CONFIG}")
    if is_scorer_folder(folder):
        return f"a score model with a head that is {read_scorer_settings(folder).head}"
    settings = read_encoder_settings(folder)
    if settings.dense:
        raise InputError(f"{folder} has Dense layers, which are not averaged; name encoders without")
    return f"an encoder of {settings.dimension} dimensions that pools by {settings.pooling}"


def _vocabulary(folder: Path) -> Mapping[str, int]:
    path = tokenizer_path(folder)
    if not path.is_file():
        raise InputError(f"{folder} has no {path.name}")
    try:
        vocabulary: Mapping[str, int] = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path} is not a readable tokenizer: {error}") from error
    return vocabulary


def _mean(checkpoints: Sequence[Path], shares: Sequence[float]) -> dict[str, Tensor]:
    """Average all tensors, one checkpoint in memory beside the sum."""
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for number, (folder, share) in enumerate(zip(checkpoints, shares, strict=True)):
        tensors = _tensors(folder)
        if not number:
            dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
            total = {name: torch.zeros(tensor.shape) for name, tensor in tensors.items()}
        _check_shapes(total, tensors, checkpoints[0], folder)
        for name, tensor in tensors.items():
            total[name] += share * tensor.float()
    return {name: tensor.to(dtypes[name]) for name, tensor in total.items()}


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint that are used."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder} has no safetensors weights; name a checkpoint folder")
    try:
        tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"the weights in {folder} cannot be read: {error}") from error
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not name.startswith(_UNUSED)
    }


def _check_shapes(
    total: Mapping[str, Tensor], tensors: Mapping[str, Tensor], first: Path, other: Path
) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in of.items()} for of in (total, tensors)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        left, right = (of.get(name, "none") for of in shapes)
        if left != right:
            raise InputError(
                f"{first} and {other} differ in architecture: "
                f"{name} is {left} in the one, {right} in the other"
            )
