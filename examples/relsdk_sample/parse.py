"""Parse a query's text into facts.

The phrases of the catalogue are matched longest first (the leftmost of equal length), without overlap; all
other words are ignored. One phrase may belong to several topics: the subject decides. Candidate topics are

1. the topics of the entities that the query names; else
2. the topics that it names ("做菜", "手机"); else
3. if it has an aspect phrase: of the topics that know one, those that know the most of its phrases.

With none of these the query is unknown and has no facts. A phrase of the catalogue that the candidate topic
does not know is still something the user wants: it is kept as a foreign wish, which no document fulfils.
Words for a topic count in rule 2 only.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from relsdk_sample.catalogue import load_catalogue

__all__ = ["QueryFacts", "normalize", "parse"]

ENTITY, ASPECT, CONSTRAINT, TOPIC = "entity", "aspect", "constraint", "topic"
FOREIGN = "?"  # Starts the key of a wish that the topic does not know: equals no key of a document.


@dataclass(frozen=True, slots=True)
class _Sense:
    """One meaning of a phrase: what kind of thing it is, in which topic, under which key."""

    kind: str
    topic: str
    key: str


@dataclass(frozen=True, slots=True)
class QueryFacts:
    """The facts that a query asks for, read within one topic.

    Attributes:
        topic: The topic.
        entities: Names of the entities asked for; empty when the query is about the topic as a whole.
        aspects: Keys of the aspects asked for.
        constraints: Keys of the constraints asked for.
    """

    topic: str
    entities: frozenset[str] = frozenset()
    aspects: frozenset[str] = frozenset()
    constraints: frozenset[str] = frozenset()


def normalize(text: str) -> str:
    """Fold width and case, so that "Ｘ9" and "x9" are one."""
    return unicodedata.normalize("NFKC", text).casefold()


def parse(query: str) -> tuple[QueryFacts, ...]:
    """Read a query.

    Args:
        query: Any text.

    Returns:
        One reading for each candidate topic, in the order of their names; none for an unknown query.
    """
    phrases = _match(normalize(query))
    return tuple(_read(topic, phrases) for topic in _candidate_topics(phrases))


@cache
def _lexicon() -> dict[str, tuple[_Sense, ...]]:
    """Map each normalised phrase to its senses."""
    senses: defaultdict[str, list[_Sense]] = defaultdict(list)
    for topic in load_catalogue():
        for word in topic.words:
            senses[normalize(word)].append(_Sense(TOPIC, topic.name, topic.name))
        for entity in topic.entities:
            for name in entity.names:
                senses[normalize(name)].append(_Sense(ENTITY, topic.name, entity.name))
        for aspect in topic.aspects:
            for phrase in aspect.surfaces:
                senses[normalize(phrase)].append(_Sense(ASPECT, topic.name, aspect.key))
        for constraint in topic.constraints:
            for phrase in constraint.phrases:
                senses[normalize(phrase)].append(_Sense(CONSTRAINT, topic.name, constraint.key))
    return {phrase: tuple(meanings) for phrase, meanings in senses.items()}


@cache
def _phrase_lengths() -> tuple[int, ...]:
    """Return the lengths of phrases that occur, longest first."""
    return tuple(sorted({len(phrase) for phrase in _lexicon()}, reverse=True))


def _match(text: str) -> list[tuple[_Sense, ...]]:
    """Return the senses of the phrases in a normalised text: longest first, then leftmost, no overlap."""
    lexicon = _lexicon()
    taken = [False] * len(text)
    phrases: list[tuple[_Sense, ...]] = []
    for length in _phrase_lengths():
        for start in range(len(text) - length + 1):
            stop = start + length
            senses = lexicon.get(text[start:stop])
            if senses is not None and not any(taken[start:stop]):
                taken[start:stop] = [True] * length
                phrases.append(senses)
    return phrases


def _candidate_topics(phrases: list[tuple[_Sense, ...]]) -> list[str]:
    """Return the topics that the query may be about (rules 1 to 3 at the top of the module)."""
    every = [sense for senses in phrases for sense in senses]
    for kind in (ENTITY, TOPIC):
        named = {sense.topic for sense in every if sense.kind == kind}
        if named:
            return sorted(named)
    known: defaultdict[str, int] = defaultdict(int)
    for senses in phrases:
        for topic in {sense.topic for sense in senses}:
            known[topic] += 1
    intended = {sense.topic for sense in every if sense.kind == ASPECT}
    most = max((known[topic] for topic in intended), default=0)
    return sorted(topic for topic in intended if known[topic] == most)


def _read(topic: str, phrases: list[tuple[_Sense, ...]]) -> QueryFacts:
    """Read matched phrases within one topic."""
    wishes: defaultdict[str, set[str]] = defaultdict(set)
    for senses in phrases:
        here = [sense for sense in senses if sense.topic == topic]
        for sense in here:
            wishes[sense.kind].add(sense.key)
        if not here and senses[0].kind != TOPIC:
            wishes[senses[0].kind].add(f"{FOREIGN}{senses[0].topic}.{senses[0].key}")
    return QueryFacts(
        topic, frozenset(wishes[ENTITY]), frozenset(wishes[ASPECT]), frozenset(wishes[CONSTRAINT])
    )
