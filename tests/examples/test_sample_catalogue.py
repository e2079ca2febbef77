"""The catalogue is big enough and its phrases read as what they are."""

from collections import Counter

import pytest

from relsdk_sample.catalogue import load_catalogue
from relsdk_sample.parse import QueryFacts, normalize, parse

TOPICS = load_catalogue()
topics = pytest.mark.parametrize("topic", TOPICS, ids=[topic.name for topic in TOPICS])


def test_names_of_topics_and_entities_are_unique():
    words = [normalize(word) for topic in TOPICS for word in (topic.name, *topic.words)]
    names = [normalize(name) for topic in TOPICS for entity in topic.entities for name in entity.names]
    assert not [word for word, count in Counter(words + names).items() if count > 1]


def test_a_phrase_has_one_kind_across_topics():
    kinds = {}
    for topic in TOPICS:
        for kind, groups in (
            ("word", [topic.words]),
            ("entity", [entity.names for entity in topic.entities]),
            ("aspect", [aspect.surfaces for aspect in topic.aspects]),
            ("constraint", [constraint.phrases for constraint in topic.constraints]),
        ):
            for phrase in (normalize(phrase) for group in groups for phrase in group):
                assert kinds.setdefault(phrase, kind) == kind, phrase


@topics
def test_size(topic):
    assert len(topic.entities) >= 12
    assert len(topic.aspects) >= 6
    assert len({constraint.slot for constraint in topic.constraints}) >= 3
    assert all(len(entity.names) >= 2 for entity in topic.entities)
    for aspect in topic.aspects:
        assert len(aspect.surfaces) >= 4
        assert len(aspect.titles) >= 2
        assert len(aspect.speech) >= 3
    assert all(len(constraint.phrases) >= 3 for constraint in topic.constraints)


@topics
def test_phrases_are_clean(topic):
    surfaces = [phrase for aspect in topic.aspects for phrase in aspect.surfaces]
    surfaces += [phrase for constraint in topic.constraints for phrase in constraint.phrases]
    assert len(set(surfaces)) == len(surfaces)
    assert all(len(phrase) >= 2 and phrase == phrase.strip() for phrase in surfaces)
    assert all("{e}" in title for aspect in topic.aspects for title in aspect.titles)
    assert len({aspect.key for aspect in topic.aspects}) == len(topic.aspects)
    assert len({constraint.key for constraint in topic.constraints}) == len(topic.constraints)


@topics
def test_every_name_with_every_phrase_reads_back(topic):
    for entity in topic.entities:
        about = frozenset({entity.name})
        for name in entity.names:
            for aspect in topic.aspects:
                wanted = (QueryFacts(topic.name, about, frozenset({aspect.key})),)
                for phrase in aspect.surfaces:
                    assert parse(name + phrase) == parse(phrase + name) == wanted, (name, phrase)
            for constraint in topic.constraints:
                wanted = (QueryFacts(topic.name, about, frozenset(), frozenset({constraint.key})),)
                for phrase in constraint.phrases:
                    assert parse(phrase + name) == parse(f"{name} {phrase}") == wanted, (name, phrase)


@topics
def test_titles_do_not_hide_another_entity(topic):
    for aspect in topic.aspects:
        for title in aspect.titles:
            for reading in parse(title.format(e=topic.entities[0].name)):
                assert reading.entities == {topic.entities[0].name}, title
