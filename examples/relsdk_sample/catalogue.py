"""Topics of the sample world with their entities, aspects (intents) and constraints.

The wording lives in `catalogue.json`; everything in it is invented for relsdk. A topic's entities and aspects
have several surface forms each, so that equal words are neither necessary nor sufficient for relevance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["Aspect", "Constraint", "Entity", "Topic", "load_catalogue"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A subject of a video.

    Attributes:
        name: The canonical name; also the key in the facts of a document.
        names: Every name, the canonical one first.
    """

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Aspect:
    """An intent: something to know about an entity.

    Attributes:
        key: Unique within the topic.
        phrases: Forms that follow the entity in a query; the first is the canonical one.
        before: Forms that come before the entity.
        titles: Video titles that show the aspect, with `{e}` where the entity goes.
        speech: Sentences that a speaker says on the aspect.
    """

    key: str
    phrases: tuple[str, ...]
    before: tuple[str, ...]
    titles: tuple[str, ...]
    speech: tuple[str, ...]

    @property
    def surfaces(self) -> tuple[str, ...]:
        """Every form that asks for this aspect."""
        return tuple(dict.fromkeys(self.phrases + self.before))


@dataclass(frozen=True, slots=True)
class Constraint:
    """A non-critical condition, such as a tool, a budget or an audience.

    Attributes:
        key: Unique within the topic.
        slot: A document has at most one constraint of a slot.
        phrases: Forms that ask for it.
        speech: Sentences that show that it is met.
    """

    key: str
    slot: str
    phrases: tuple[str, ...]
    speech: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A field of videos with its vocabulary; `words` name the topic as a whole."""

    name: str
    words: tuple[str, ...]
    entities: tuple[Entity, ...]
    aspects: tuple[Aspect, ...]
    constraints: tuple[Constraint, ...]

    def aspect(self, key: str) -> Aspect:
        """Return the aspect of this key."""
        return next(aspect for aspect in self.aspects if aspect.key == key)

    def constraint(self, key: str) -> Constraint:
        """Return the constraint of this key."""
        return next(constraint for constraint in self.constraints if constraint.key == key)

    def entity(self, name: str) -> Entity:
        """Return the entity of this canonical name."""
        return next(entity for entity in self.entities if entity.name == name)


@cache
def load_catalogue() -> tuple[Topic, ...]:
    """Read the packaged catalogue, once."""
    text = resources.files("relsdk_sample").joinpath("catalogue.json").read_text(encoding="utf-8")
    return tuple(_topic(record) for record in json.loads(text)["topics"])


def _topic(record: dict[str, Any]) -> Topic:
    """Build a topic from its JSON record."""
    return Topic(
        name=record["name"],
        words=tuple(record["words"]),
        entities=tuple(Entity(names[0], tuple(names)) for names in record["entities"]),
        aspects=tuple(
            Aspect(
                entry["key"],
                tuple(entry["phrases"]),
                tuple(entry["before"]),
                tuple(entry["titles"]),
                tuple(entry["speech"]),
            )
            for entry in record["aspects"]
        ),
        constraints=tuple(
            Constraint(entry["key"], entry["slot"], tuple(entry["phrases"]), tuple(entry["speech"]))
            for entry in record["constraints"]
        ),
    )
