"""Labelled pairs: for each query a handful of documents of every level, easy and misleading ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from relsdk.levels import RelevanceLevel
from relsdk.records import Document, LabelledPair
from relsdk_sample.draws import Draws
from relsdk_sample.oracle import DocumentFacts, facts_of, level_from_facts
from relsdk_sample.parse import QueryFacts, parse
from relsdk_sample.queries import SampleQuery

__all__ = ["make_pairs"]


def make_pairs(
    seed: int, queries: Sequence[SampleQuery], documents: Sequence[Document], pairs_per_query: int
) -> tuple[LabelledPair, ...]:
    """Pair each query with documents, going round the levels so that each gets about the same share.

    Args:
        seed: Equal seeds and inputs make equal pairs.
        queries: What to pair.
        documents: What to pair it with.
        pairs_per_query: At most this many; fewer only when there are fewer documents.

    Returns:
        Pairs in the order of the queries, a document at most once for a query.
    """
    draws = Draws(seed, "pairs")
    shelf = _Shelf(documents)
    pairs: list[LabelledPair] = []
    for query in queries:
        (wanted,) = parse(query.text)
        pools = [shelf.pool(draws, wanted, level, pairs_per_query) for level in RelevanceLevel]
        chosen = _go_round(pools, pairs_per_query)
        pairs += [LabelledPair(query.text, document, level) for level, document in chosen]
    return tuple(pairs)


def _go_round(pools: list[list[Document]], count: int) -> list[tuple[RelevanceLevel, Document]]:
    """Take one document of each level in turn until there are `count` or none is left."""
    rounds = max(len(pool) for pool in pools)
    turns = [
        (level, pools[level][turn])
        for turn in range(rounds)
        for level in reversed(RelevanceLevel)
        if turn < len(pools[level])
    ]
    return turns[:count]


class _Shelf:
    """Documents by what they are about, for finding those of one level without looking at all of them."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self.by_topic: defaultdict[str, list[tuple[DocumentFacts, Document]]] = defaultdict(list)
        for document in documents:
            facts = facts_of(document)
            self.by_topic[facts.topic].append((facts, document))

    def pool(self, draws: Draws, wanted: QueryFacts, level: RelevanceLevel, count: int) -> list[Document]:
        """Return up to `count` documents of a level, in random order."""
        here = self.by_topic[wanted.topic]
        matching = [(facts, doc) for facts, doc in here if level_from_facts(wanted, facts) == level]
        if level != RelevanceLevel.IRRELEVANT:
            return draws.sample([doc for _, doc in matching], count)
        named = [doc for _, doc in matching if wanted.entities & set(doc.metadata["tags"])]  # in passing
        # Of the same intent, about another entity.
        rivals = [doc for facts, doc in matching if wanted.aspects & facts.aspects]
        easy = self._elsewhere(draws, wanted.topic, count)
        third = count // 3 + 1
        front = draws.sample(named, third) + draws.sample(rivals, third) + easy[:third]
        unique = list({doc.id: doc for doc in front}.values())
        return (draws.sample(unique, len(unique)) + easy[third:])[:count]

    def _elsewhere(self, draws: Draws, topic: str, count: int) -> list[Document]:
        """Return up to `count` documents of other topics."""
        drawn = [draws.pick(self.documents) for _ in range(2 * count)]
        return list({doc.id: doc for doc in drawn if doc.metadata["topic"] != topic}.values())[:count]
