"""Search relevance that runs anywhere: encode, retrieve and grade on a CPU.

What is named here is imported when it is first used: a process that only encodes loads neither index nor
database.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relsdk.index import Index
    from relsdk.levels import RelevanceLevel
    from relsdk.models.embedder import Embedder
    from relsdk.models.relevance_scorer import RelevanceScorer
    from relsdk.records import Document, Hit, LabelledPair, Relevance, SearchResult
    from relsdk.search.searcher import Searcher

__all__ = [
    "Document",
    "Embedder",
    "Hit",
    "Index",
    "LabelledPair",
    "Relevance",
    "RelevanceLevel",
    "RelevanceScorer",
    "SearchResult",
    "Searcher",
]

_MODULES = {
    "Embedder": "models.embedder",
    "Index": "index",
    "RelevanceLevel": "levels",
    "RelevanceScorer": "models.relevance_scorer",
    "Searcher": "search.searcher",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for from its module, once (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"relsdk.{_MODULES.get(name, 'records')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
