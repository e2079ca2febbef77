"""Record what searches find, with which `relsdk serve` compares those of each day."""

from __future__ import annotations

from collections.abc import Sequence

from relsdk.calibration import SearchProfile
from relsdk.errors import InputError
from relsdk.index import Index, Mode
from relsdk.models.embedder import Embedder
from relsdk.search.searcher import Searcher

__all__ = ["check_queries", "profile_searches"]

# With fewer no change can be told from chance, however many searches there are later; see `SearchProfile`.
_LEAST_QUERIES = 300
_BATCH = 64


def profile_searches(index: Index, embedder: Embedder, queries: Sequence[str]) -> dict[str, SearchProfile]:
    """Search for queries in each mode that the index has, and count what comes first.

    Args:
        index: The documents.
        embedder: The encoder that built it.
        queries: What people search for, as often as they do: at least 300, better some thousands.

    Returns:
        By `SearchResult.order`; `Index.store_profiles` takes it for the variant of the embedder.

    Raises:
        InputError: There are too few queries, or one is empty or too long.
    """
    check_queries(queries)
    searcher = Searcher(embedder, index)
    prompt = embedder.known_prompt("query")
    profiles: dict[str, SearchProfile] = {}
    for start in range(0, len(queries), _BATCH):
        batch = queries[start : start + _BATCH]
        tokens = embedder.tokenize(batch, prompt_name=prompt).ids
        for mode in _modes(index, embedder):
            for ids, result in zip(tokens, searcher.search_batch(batch, mode=mode), strict=True):
                profile = profiles.setdefault(result.order, SearchProfile())
                profile.note_query(ids, embedder.unknown_id)
                profile.note_search(result)
    return profiles


def check_queries(queries: Sequence[str]) -> None:
    """Refuse too few queries.

    Raises:
        InputError: See `profile_searches`.
    """
    if len(queries) < _LEAST_QUERIES:
        raise InputError(
            f"there are {len(queries):,} queries; at least {_LEAST_QUERIES} are needed, or no change could "
            "be told from chance; take some thousands from the log of a day"
        )


def _modes(index: Index, embedder: Embedder) -> list[Mode]:
    """Return the modes whose results differ: without a model of both, hybrid has the order of dense."""
    modes: list[Mode] = ["dense"]
    if index.info().analyser is not None:
        modes.append("lexical")
    if embedder.variant.name in index.hybrid_models:
        modes.append("hybrid")
    return modes
