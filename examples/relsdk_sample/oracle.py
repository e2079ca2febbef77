"""The exact relevance level of any query text and any document of the sample world.

A query asks for a subject (the entities it names, else its whole topic), for aspects (the intent) and for
constraints; `parse.py` says how they are read. A document states its facts in `metadata["facts"]`: a topic,
an entity, one or more aspects, any number of constraints. Levels:

| level        | subject          | intent (aspects)               | the rest                              |
|--------------|------------------|--------------------------------|---------------------------------------|
| 0 IRRELEVANT | another, or none | any                            | any                                   |
| 1 PARTIAL    | the document's   | asked, none of them is covered | any                                   |
| 2 MOSTLY     | the document's   | not asked, or one is covered   | a constraint, a further aspect or a   |
|              |                  |                                | further entity is missing             |
| 3 FULL       | the document's   | not asked, or all are covered  | every constraint is met, no further   |
|              |                  |                                | entity is asked for                   |

So a query with an entity only is answered fully by every document about it, and a document that only mentions
the entity is irrelevant. A query that names nothing known is answered by no document. A query with readings
in several topics counts in the best of them. What a document offers beyond the query never lowers the level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relsdk.errors import InputError
from relsdk.levels import RelevanceLevel
from relsdk.records import Document
from relsdk_sample.parse import QueryFacts, parse

__all__ = ["DocumentFacts", "facts_of", "level_from_facts", "level_of"]


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """The facts of a document.

    Attributes:
        topic: Name of the topic.
        entity: Canonical name of the entity.
        aspects: Keys of the aspects it covers.
        constraints: Keys of the constraints it meets.
    """

    topic: str
    entity: str
    aspects: frozenset[str]
    constraints: frozenset[str]

    def to_metadata(self) -> dict[str, Any]:
        """Return the JSON form that `facts_of` reads back."""
        return {
            "topic": self.topic,
            "entity": self.entity,
            "aspects": sorted(self.aspects),
            "constraints": sorted(self.constraints),
        }


def facts_of(document: Document) -> DocumentFacts:
    """Read the facts that a document of the sample world carries.

    Args:
        document: A document whose metadata has the key "facts".

    Returns:
        The facts.

    Raises:
        InputError: The document carries no facts, or damaged ones.
    """
    facts = document.metadata.get("facts")
    try:
        if not isinstance(facts, Mapping):
            raise TypeError
        topic, entity = facts["topic"], facts["entity"]
        aspects, constraints = facts["aspects"], facts["constraints"]
        if not (isinstance(topic, str) and isinstance(entity, str)):
            raise TypeError
        if isinstance(aspects, str) or isinstance(constraints, str):
            raise TypeError
        return DocumentFacts(topic, entity, frozenset(aspects), frozenset(constraints))
    except (KeyError, TypeError):
        raise InputError(
            f"document {document.id!r} has no valid facts: metadata['facts'] must hold topic, entity, "
            "aspects and constraints; use documents made by relsdk_sample"
        ) from None


def level_from_facts(query: QueryFacts, document: DocumentFacts) -> RelevanceLevel:
    """Apply the table at the top of the module to one reading of a query."""
    if query.topic != document.topic or (query.entities and document.entity not in query.entities):
        return RelevanceLevel.IRRELEVANT
    if query.aspects and not query.aspects & document.aspects:
        return RelevanceLevel.PARTIAL
    missing = (
        (query.entities - {document.entity})
        | (query.aspects - document.aspects)
        | (query.constraints - document.constraints)
    )
    return RelevanceLevel.MOSTLY if missing else RelevanceLevel.FULL


def level_of(query: str, document: Document) -> RelevanceLevel:
    """Return how well a document answers a query, exactly.

    Args:
        query: Any text.
        document: A document of the sample world, also after a round trip through JSONL.

    Returns:
        The level; IRRELEVANT for every document when the query names nothing known.

    Raises:
        InputError: The document carries no facts.
    """
    facts = facts_of(document)
    levels = (level_from_facts(reading, facts) for reading in parse(query))
    return max(levels, default=RelevanceLevel.IRRELEVANT)
