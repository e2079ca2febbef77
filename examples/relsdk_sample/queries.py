"""Queries of the sample world, each seeded by a document so that most have a full answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relsdk.errors import InputError
from relsdk_sample.catalogue import Topic, load_catalogue
from relsdk_sample.draws import Draws
from relsdk_sample.oracle import DocumentFacts
from relsdk_sample.parse import QueryFacts, parse

__all__ = ["SampleQuery", "make_queries", "word_query"]

# Shapes by weight in percent: (subject, asks for an aspect, number of constraints).
SHAPES = (
    (5, ("entity", False, 0)),
    (12, ("entity", False, 1)),
    (20, ("entity", True, 0)),
    (38, ("entity", True, 1)),
    (15, ("entity", True, 2)),
    (2, ("topic", True, 0)),
    (8, ("topic", True, 1)),
)
FRAMES = (
    "{q}", "{q}", "{q}", "{q}", "{q}", "{q}视频", "{q}？", "求{q}", "求助 {q}",
    "有没有{q}的视频", "有没有人知道{q}", "{q} 大神", "{q} 求大佬指点", "想看{q}", "请问{q}",
    "谁能讲讲{q}", "{q} 在线等",
)  # fmt: skip
ATTEMPTS_PER_QUERY = 60


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """One query: an id, unique in its world, and a text, unique too."""

    id: str
    text: str


def make_queries(seed: int, count: int, documents: Sequence[DocumentFacts]) -> tuple[SampleQuery, ...]:
    """Make queries with different texts.

    Args:
        seed: Equal seeds and documents make equal queries.
        count: How many.
        documents: Facts of the documents that the queries are about.

    Returns:
        The queries, in random order of topic and shape.

    Raises:
        InputError: The documents do not support that many different queries.
    """
    draws = Draws(seed, "queries")
    topics = {topic.name: topic for topic in load_catalogue()}
    # Documents that meet at least 0, 1 and 2 constraints: a query asks for what its document offers.
    offering = [[facts for facts in documents if len(facts.constraints) >= least] for least in range(3)]
    texts: dict[str, None] = {}
    for _ in range(count * ATTEMPTS_PER_QUERY):
        subject, asks, constraints = _draw_shape(draws)
        document = draws.pick(offering[constraints] or documents)
        wanted = QueryFacts(
            document.topic,
            frozenset({document.entity} if subject == "entity" else ()),
            frozenset(draws.sample(sorted(document.aspects), 1) if asks else ()),
            frozenset(draws.sample(sorted(document.constraints), constraints)),
        )
        text = word_query(draws, topics[document.topic], wanted)
        # A wording that reads as something else, by chance of its neighbours, is thrown away.
        if parse(text) == (wanted,):
            texts.setdefault(text)
        if len(texts) == count:
            return tuple(SampleQuery(f"q{number:05d}", text) for number, text in enumerate(texts))
    raise InputError(
        f"{len(documents)} documents support only {len(texts)} different queries, {count} were asked for; "
        f"ask for fewer queries or more documents"
    )


def word_query(draws: Draws, topic: Topic, wanted: QueryFacts) -> str:
    """Word what a user wants as the user might type it: aliases, fillers, any order of the parts."""
    subject = draws.pick(topic.words)
    for name in sorted(wanted.entities):
        names = topic.entity(name).names
        subject = draws.pick(names) if draws.chance(0.5) else names[0]
    for key in sorted(wanted.aspects):
        aspect = topic.aspect(key)
        order = draws.below(10)
        if order < 3:
            subject = draws.pick(aspect.before) + subject
        elif order < 4:
            subject = f"{draws.pick(aspect.phrases)} {subject}"
        else:
            subject += draws.pick(("", "", "的", " ")) + draws.pick(aspect.phrases)
    for key in draws.sample(sorted(wanted.constraints), len(wanted.constraints)):
        phrase = draws.pick(topic.constraint(key).phrases)
        subject = draws.pick(("{c}{s}", "{c} {s}", "{s} {c}", "{s}，{c}")).format(c=phrase, s=subject)
    return draws.pick(FRAMES).format(q=subject)


def _draw_shape(draws: Draws) -> tuple[str, bool, int]:
    """Draw one of `SHAPES` by weight."""
    ticket = draws.below(sum(weight for weight, _ in SHAPES))
    for weight, shape in SHAPES:
        if ticket < weight:
            return shape
        ticket -= weight
    raise AssertionError("a ticket is below the sum of the weights")
