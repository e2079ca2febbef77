"""The files that belong to a model folder: those in it, and those that the Hugging Face cache links to.

The cache keeps a repository as `models--OWNER--NAME/{blobs,refs,snapshots}`: a file of a snapshot is a link
to its blob, and a blob may be a link into the `blobs/` that all repositories of the cache share.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from relsdk.errors import BundleError

__all__ = ["check_inside", "name_of_model"]

_SNAPSHOTS = "snapshots"
_BLOBS = "blobs"
_REPOSITORY = "models--"


def check_inside(folder: Path, name: str, *, stated_in: str = "") -> Path:
    """Return where a file of a model folder is; links are followed to see, the path returned is the link's.

    Args:
        folder: The model folder.
        name: Path inside it, with forward slashes. It need not exist.
        stated_in: The file of the folder that names it, for the message; empty where nothing does.

    Raises:
        BundleError: The name, or a link, leads out of the folder (and of the cache that the folder is in).
    """
    path = folder / name
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
        raise BundleError(f"{folder / stated_in} names {name!r}, outside the folder; do not use it")
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # a ring of links
        raise BundleError(f"{path} cannot be followed: {error}") from error
    if not any(target.is_relative_to(root) for root in _roots(folder)):
        raise BundleError(
            f"{path} is a link to {target}, outside the folder; put a copy of the file in its place "
            f"(cp -rL FOLDER COPY copies a folder so)"
        )
    return path


def name_of_model(folder: Path) -> str:
    """Return a folder's name for people: its own, or of a snapshot in the Hugging Face cache `owner/name`."""
    resolved = folder.resolve()
    repository = _repository(resolved)
    if repository is None or resolved.parent.name != _SNAPSHOTS:
        return resolved.name
    return repository.name.removeprefix(_REPOSITORY).replace("--", "/")


def _roots(folder: Path) -> list[Path]:
    """Return the folders that files may be in, links followed."""
    resolved = folder.resolve()
    repository = _repository(resolved)
    if repository is None:
        return [resolved]
    return [resolved, repository / _BLOBS, repository.parent / _BLOBS]


def _repository(resolved: Path) -> Path | None:
    """Return the `models--OWNER--NAME` that a folder is a snapshot (or a part of one) of."""
    for parent in resolved.parents:
        if parent.name == _SNAPSHOTS and parent.parent.name.startswith(_REPOSITORY):
            return parent.parent
    return None
