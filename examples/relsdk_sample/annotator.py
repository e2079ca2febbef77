"""A simulated annotator: opinions on pairs and written queries that err as a language model's do.

What it says of a pair depends on the seed and the pair alone: the same question has the same answer in any
order. Its default mistakes are about those of a language model on real pairs: half of the documents that do
not match seem a little relevant to it, and with equally many pairs of each level it is right in 60 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS, RelevanceLevel
from relsdk.records import Document, LabelledPair
from relsdk_sample.catalogue import Topic, load_catalogue
from relsdk_sample.draws import Draws
from relsdk_sample.oracle import DocumentFacts, facts_of, level_from_facts
from relsdk_sample.parse import QueryFacts, parse
from relsdk_sample.queries import word_query

__all__ = ["GRADING", "WRITING", "annotate", "write_queries"]

Confusion = Sequence[Sequence[float]]

# P(opinion | exact level): a row for each exact level.
GRADING: Confusion = (
    (0.44, 0.50, 0.06, 0.00),
    (0.02, 0.50, 0.37, 0.11),
    (0.01, 0.11, 0.70, 0.18),
    (0.01, 0.05, 0.18, 0.76),
)
# P(exact level | wanted level) of a query that it writes.
WRITING: Confusion = (
    (0.90, 0.10, 0.00, 0.00),
    (0.10, 0.65, 0.20, 0.05),
    (0.02, 0.13, 0.70, 0.15),
    (0.00, 0.05, 0.15, 0.80),
)
_ATTEMPTS = 40


def annotate(
    pairs: Iterable[LabelledPair], seed: int = 0, confusion: Confusion = GRADING
) -> tuple[LabelledPair, ...]:
    """Give pairs the annotator's opinion in place of their exact level.

    Args:
        pairs: Pairs with exact levels.
        seed: Of the mistakes.
        confusion: (4, 4), P(opinion | exact level); a row for each exact level.

    Raises:
        InputError: The confusion is not four rows of four probabilities that sum to 1.
    """
    _check(confusion)
    return tuple(replace(pair, level=_opinion(pair, seed, confusion)) for pair in pairs)


def write_queries(
    documents: Iterable[Document],
    seed: int = 0,
    levels: Sequence[int] = (3, 2, 1),
    confusion: Confusion = WRITING,
) -> tuple[LabelledPair, ...]:
    """Write a query of each wanted level for each document.

    Args:
        documents: Of the sample world.
        seed: Of the wording and the mistakes.
        levels: Wanted levels.
        confusion: (4, 4), P(exact level | wanted level); a row for each wanted level.

    Returns:
        Pairs whose level is the wanted one. A query that cannot be worded for a document is left out.

    Raises:
        InputError: A document carries no facts, or the confusion is as in `annotate`.
    """
    _check(confusion)
    topics = {topic.name: topic for topic in load_catalogue()}
    written = []
    for document in documents:
        facts = facts_of(document)
        for wanted in map(RelevanceLevel, levels):
            draws = Draws(seed, f"written/{document.id}/{wanted:d}")
            exact = _draw(draws, confusion[wanted])
            if text := _write(draws, topics[facts.topic], facts, exact):
                written.append(LabelledPair(text, document, wanted))
    return tuple(written)


def _opinion(pair: LabelledPair, seed: int, confusion: Confusion) -> RelevanceLevel:
    return _draw(Draws(seed, f"opinion/{pair.document.id}/{pair.query}"), confusion[pair.level])


def _draw(draws: Draws, chances: Sequence[float]) -> RelevanceLevel:
    """Draw a level by its probability."""
    levels = [level for level in RelevanceLevel if chances[level] > 0]
    ticket = draws.below(1_000_000) / 1_000_000
    for level in levels:
        ticket -= chances[level]
        if ticket < 0:
            return level
    return levels[-1]


def _write(draws: Draws, topic: Topic, facts: DocumentFacts, level: RelevanceLevel) -> str:
    """Word a query that has exactly this level for a document; "" where none was found."""
    for _ in range(_ATTEMPTS):
        wanted = _wish(draws, topic, facts, level)
        if level_from_facts(wanted, facts) != level:
            continue
        text = word_query(draws, topic, wanted)
        if parse(text) == (wanted,):
            return text
    return ""


def _wish(draws: Draws, topic: Topic, facts: DocumentFacts, level: RelevanceLevel) -> QueryFacts:
    """Draw what a user might want whom the document answers at this level, most of the time."""
    entity = facts.entity
    if level == RelevanceLevel.IRRELEVANT:
        entity = draws.pick([other.name for other in topic.entities if other.name != entity])
    met, others = sorted(facts.aspects), [a.key for a in topic.aspects if a.key not in facts.aspects]
    aspects = draws.sample(others if level == RelevanceLevel.PARTIAL else met, 1)
    constraints = draws.sample(sorted(facts.constraints), draws.below(2))
    if level == RelevanceLevel.MOSTLY:
        constraints = [draws.pick([c.key for c in topic.constraints if c.key not in facts.constraints])]
    return QueryFacts(topic.name, frozenset({entity}), frozenset(aspects), frozenset(constraints))


def _check(confusion: Confusion) -> None:
    rows = [list(row) for row in confusion]
    square = len(rows) == NUM_LEVELS and all(len(row) == NUM_LEVELS for row in rows)
    if not square or any(min(row) < 0 or abs(sum(row) - 1) > 1e-9 for row in rows):
        raise InputError(f"confusion {rows}; four rows of four probabilities that sum to 1 are needed")
