"""Search relevance that runs anywhere: encode, retrieve and grade on a CPU."""

from relsdk.embedder import Embedder
from relsdk.index import Index
from relsdk.levels import RelevanceLevel
from relsdk.records import Document, Hit, LabelledPair, Relevance, SearchResult
from relsdk.scorer import RelevanceScorer
from relsdk.searcher import Searcher

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
