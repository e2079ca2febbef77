"""The sample world as one record: documents, queries and labelled pairs from a seed."""

from __future__ import annotations

from dataclasses import dataclass

from relsdk.errors import InputError
from relsdk.records import Document, LabelledPair
from relsdk_sample.documents import make_documents
from relsdk_sample.oracle import facts_of
from relsdk_sample.pairs import make_pairs
from relsdk_sample.queries import SampleQuery, make_queries

__all__ = ["SPLITS", "SampleWorld", "generate"]

SPLITS = ("train", "dev", "test")
# The split of a query by the last digit of its position: 70 % train, 10 % dev, 20 % test.
SPLIT_OF_DIGIT = ("train",) * 7 + ("dev",) + ("test",) * 2


@dataclass(frozen=True, slots=True)
class SampleWorld:
    """A search corpus whose relevance levels are exact.

    Attributes:
        documents: The corpus; ids are unique.
        queries: The queries; ids and texts are unique.
        pairs: Labelled pairs in the order of the queries; a label is `level_of(query, document)`.
    """

    documents: tuple[Document, ...]
    queries: tuple[SampleQuery, ...]
    pairs: tuple[LabelledPair, ...]

    def split_queries(self, name: str) -> tuple[SampleQuery, ...]:
        """Return the queries of "train" (70 %), "dev" (10 %) or "test" (20 %); no query is in two of them.

        Raises:
            InputError: There is no split of this name.
        """
        if name not in SPLITS:
            raise InputError(f"no split is called {name!r}; allowed are {', '.join(SPLITS)}")
        numbered = enumerate(self.queries)
        return tuple(query for number, query in numbered if SPLIT_OF_DIGIT[number % 10] == name)

    def split(self, name: str) -> tuple[LabelledPair, ...]:
        """Return the pairs of "train", "dev" or "test", divided by query.

        Raises:
            InputError: There is no split of this name.
        """
        texts = {query.text for query in self.split_queries(name)}
        return tuple(pair for pair in self.pairs if pair.query in texts)


def generate(
    seed: int = 0, n_documents: int = 5000, n_queries: int = 500, pairs_per_query: int = 16
) -> SampleWorld:
    """Make a sample world: the same one for the same arguments, on every platform and Python version.

    Args:
        seed: Any integer.
        n_documents: How many documents, at least 100 so that queries find rivals.
        n_queries: How many queries, at least 10 so that every split has one.
        pairs_per_query: Labelled pairs a query, at least 4.

    Returns:
        The world.

    Raises:
        InputError: A number is too small, or the documents do not support so many different queries.
    """
    for name, value, least in (
        ("n_documents", n_documents, 100),
        ("n_queries", n_queries, 10),
        ("pairs_per_query", pairs_per_query, 4),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
    documents = make_documents(seed, n_documents)
    queries = make_queries(seed, n_queries, [facts_of(document) for document in documents])
    return SampleWorld(documents, queries, make_pairs(seed, queries, documents, pairs_per_query))
