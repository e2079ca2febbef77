"""Models for other programs' parts: a folder is opened, and what is open is taken as it is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

from relsdk.errors import InputError
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.records import Document, RankedDocument
from relsdk.search.opening import open_searcher
from relsdk.search.searcher import Searcher

__all__ = [
    "check_limits",
    "check_search_kwargs",
    "close_index",
    "open_embedder",
    "open_index",
    "open_scorer",
    "plain_path",
    "rank",
    "single_text",
]

# The others have a place of their own in each program.
_SEARCH_KWARGS = set(inspect.signature(Searcher.search).parameters) - {
    "self",
    "query",
    "k",
    "min_level",
    "where",
}


def plain_path(name: str, value: object) -> str:
    """Return a path as a string, which every program can save.

    Raises:
        InputError: It is no path.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is {type(value).__name__}; the path of a folder is needed")
    return os.fspath(value) if isinstance(value, str) else str(value)


def open_embedder(model: Any, **options: Any) -> Embedder:
    """Open an encoder bundle; options are those of `Embedder`.

    Raises:
        InputError: Neither an `Embedder` nor a path, or options for one that is open.
    """
    if isinstance(model, Embedder):
        _check_no_options(options)
        return model
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"model is {type(model).__name__}; a model folder or an Embedder is needed")
    return Embedder(model, **options)


def open_scorer(model: Any, **options: Any) -> RelevanceScorer:
    """Open a scorer bundle, or a calibrated encoder; options are those of `RelevanceScorer`.

    Raises:
        InputError: No model and no path, or options for one that is open.
        CalibrationError: The model gives no levels.
    """
    if isinstance(model, RelevanceScorer | Embedder):
        _check_no_options(options)
        return model if isinstance(model, RelevanceScorer) else RelevanceScorer(model)
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"model is {type(model).__name__}; a model folder or a RelevanceScorer is needed")
    return RelevanceScorer(model, **options)


def open_index(index: str | os.PathLike[str], **options: Any) -> Searcher:
    """Open an index or a store with its encoder; options are those of `open_searcher`."""
    return open_searcher(plain_path("index", index), **{"model": None, **options})


def close_index(index: object) -> None:
    """Close an index or a store; a store of somebody else's may have nothing to close."""
    close = getattr(index, "close", None)
    if close is not None:
        close()


def check_limits(min_level: int | None, **limits: int | None) -> None:
    """Raise `InputError` unless what is kept of a ranking is None or in range."""
    for name, value, low, high in (
        ("min_level", min_level, 0, 3),
        *((name, value, 1, None) for name, value in limits.items()),
    ):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= low and (high is None or value <= high)):
            allowed = f"whole numbers from {low} on" if high is None else "0, 1, 2 and 3"
            raise InputError(f"{name}={value!r}; allowed are {allowed}, or None")


def check_search_kwargs(options: Mapping[str, Any] | None) -> None:
    """Raise `InputError` unless these are further arguments of `Searcher.search`."""
    others = set(options or ()) - _SEARCH_KWARGS
    if others:
        raise InputError(f"search_kwargs has {sorted(others)}; allowed are {sorted(_SEARCH_KWARGS)}")


def rank(
    scorer: RelevanceScorer,
    query: str,
    documents: Sequence[Document],
    *,
    top_n: int | None,
    min_level: int | None,
) -> list[RankedDocument]:
    """Grade documents, the most relevant first; keep the first `top_n` of those of `min_level` or above."""
    ranked = scorer.rank(single_text("query", query), documents)
    least = 0 if min_level is None else min_level
    return [one for one in ranked if one.relevance.level >= least][:top_n]


def single_text(name: str, value: object) -> str:
    """Return a text; raises `InputError` for anything else, such as a list, which has many vectors."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {type(value).__name__}; a string is needed")
    return value


def _check_no_options(options: dict[str, Any]) -> None:
    defaults = {"variant": "auto"}
    given = [name for name, value in options.items() if value != defaults.get(name)]
    if given:
        raise InputError(f"{', '.join(given)}: the model is already open; give its folder, or leave them out")
