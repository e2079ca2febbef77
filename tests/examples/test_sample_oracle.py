"""Every rule of the level table, on documents made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.levels import RelevanceLevel
from relsdk.records import Document
from relsdk_sample import level_of
from relsdk_sample.catalogue import load_catalogue
from relsdk_sample.oracle import facts_of


def document(topic="cooking", entity="红烧肉", aspects=("recipe",), constraints=(), **words):
    facts = {"topic": topic, "entity": entity, "aspects": list(aspects), "constraints": list(constraints)}
    return Document("d1", metadata={"facts": facts}, **words)


RECIPE = document()
QUICK_RECIPE = document(constraints=["pressure_cooker"])
RECIPE_AND_CALORIES = document(aspects=["recipe", "calories"])


@pytest.mark.parametrize(
    ("query", "candidate", "level"),
    [
        # entity + aspect + every constraint
        ("红烧肉的做法", RECIPE, 3),
        ("高压锅红烧肉怎么做", QUICK_RECIPE, 3),
        ("怎么做红烧五花肉 压力锅", QUICK_RECIPE, 3),
        ("红烧肉做法 热量", RECIPE_AND_CALORIES, 3),
        ("红烧肉做法", QUICK_RECIPE, 3),  # more than asked is no fault
        # a constraint is missing or another one is met
        ("高压锅红烧肉怎么做", RECIPE, 2),
        ("空气炸锅红烧肉做法", QUICK_RECIPE, 2),
        ("高压锅红烧肉做法 新手", QUICK_RECIPE, 2),
        # one of two aspects is missing; a further entity is missing; a wish that the topic does not know
        ("红烧肉做法 热量", RECIPE, 2),
        ("红烧肉和糖醋排骨做法", RECIPE, 2),
        ("红烧肉做法 三天两夜", RECIPE, 2),
        ("红烧肉做法 大理", RECIPE, 2),
        # another intent
        ("红烧肉热量", RECIPE, 1),
        ("高压锅红烧肉热量", QUICK_RECIPE, 1),
        ("红烧肉定点上厕所", RECIPE, 1),  # an intent of another topic
        # another entity, another topic
        ("糖醋排骨做法", RECIPE, 0),
        ("糖醋排骨", RECIPE, 0),
        ("大理美食", RECIPE, 0),
        # entity only
        ("红烧肉", RECIPE, 3),
        ("东坡肉视频", RECIPE, 3),
        ("红烧肉 高压锅", RECIPE, 2),
        # topic instead of an entity
        ("家常菜", RECIPE, 3),
        ("家常菜的做法", RECIPE, 3),
        ("下饭菜做法，电饭煲", RECIPE, 2),
        ("家常菜热量", RECIPE, 1),
        ("旅游攻略", RECIPE, 0),
        ("家常菜 红烧肉 做法", RECIPE, 3),  # the entity is the subject
        ("手机 红烧肉 做法", RECIPE, 3),  # words for a topic do not count next to an entity
        # an aspect only: the topics that know most of the query
        ("烹饪步骤", RECIPE, 3),
        ("高压锅怎么做", RECIPE, 2),
        ("攻略 三天两夜", document("travel", "大理", ["route"], ["three_days"]), 3),
        ("攻略 三天两夜", document("games", "泡泡大陆", ["walkthrough"]), 0),
        ("攻略", document("games", "泡泡大陆", ["walkthrough"]), 3),
        ("攻略", document("travel", "大理", ["route"]), 3),
        # nothing known
        ("今天天气真好", RECIPE, 0),
        ("高压锅", QUICK_RECIPE, 0),  # a constraint alone has no subject
        ("", RECIPE, 0),
    ],
)
def test_level_table(query, candidate, level):
    assert level_of(query, candidate) is RelevanceLevel(level)


def test_mentioning_the_entity_in_passing_is_irrelevant():
    passing = document(
        entity="糖醋排骨", title="糖醋排骨 #红烧肉", text="不像红烧肉那么麻烦，红烧肉做法下期讲"
    )
    assert level_of("红烧肉做法", passing) == 0


def test_width_and_case_do_not_matter():
    phone = document("phones", "云雀X9 Pro", ["camera"], ["g256"])
    assert level_of("云雀Ｘ９ｐｒｏ拍照效果 256g", phone) == 3
    assert level_of("云雀x9拍照效果", phone) == 0  # another model: the longest name wins


def test_alias_equals_name():
    for topic in load_catalogue():
        aspect = topic.aspects[0]
        for entity in topic.entities:
            about = document(topic.name, entity.name, [aspect.key])
            assert {level_of(name + aspect.phrases[0], about) for name in entity.names} == {3}


@st.composite
def paraphrased(draw):
    """Draw two wordings of one wish and a document."""
    topic = draw(st.sampled_from(load_catalogue()))
    entity = draw(st.sampled_from(topic.entities))
    aspect = draw(st.sampled_from(topic.aspects))
    constraint = draw(st.sampled_from(topic.constraints))
    wordings = [
        f"{draw(st.sampled_from(constraint.phrases))} {draw(st.sampled_from(entity.names))}"
        f"{draw(st.sampled_from(['', '的', ' ']))}{draw(st.sampled_from(aspect.phrases))}"
        for _ in range(2)
    ]
    candidate = document(
        topic.name,
        draw(st.sampled_from(topic.entities)).name if draw(st.booleans()) else entity.name,
        [draw(st.sampled_from(topic.aspects)).key],
        draw(st.lists(st.sampled_from(topic.constraints).map(lambda one: one.key), max_size=2)),
    )
    return wordings, candidate


@given(paraphrased())
def test_another_paraphrase_keeps_the_level(case):
    (one, other), candidate = case
    assert level_of(one, candidate) == level_of(other, candidate)


@given(st.text(max_size=40))
def test_any_text_has_a_level(query):
    assert level_of(query, RECIPE) in RelevanceLevel


@given(st.text(alphabet="abcdefgh ,.!?", max_size=30))
def test_unknown_query_is_irrelevant_to_everything(query):
    assert level_of(query, RECIPE) == 0


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"facts": "红烧肉"},
        {"facts": {"topic": "cooking"}},
        {"facts": {"topic": "cooking", "entity": None, "aspects": [], "constraints": []}},
        {"facts": {"topic": "cooking", "entity": "红烧肉", "aspects": None, "constraints": []}},
        {"facts": {"topic": "cooking", "entity": "红烧肉", "aspects": "recipe", "constraints": []}},
    ],
)
def test_a_document_without_facts_is_an_error(metadata):
    with pytest.raises(InputError, match="'stranger' has no valid facts"):
        level_of("红烧肉", Document("stranger", "红烧肉", metadata=metadata))


def test_facts_survive_metadata():
    facts = facts_of(QUICK_RECIPE)
    assert facts_of(Document("x", metadata={"facts": facts.to_metadata()})) == facts
