"""Documents as other programs hold them, and what is said where a program is not installed."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk import Document, Hit, RelevanceLevel
from relsdk.errors import InputError
from relsdk.integrations import _documents, _models
from relsdk.records import Passage, Relevance

NAMES = st.sampled_from(["title", "text", "passage", "score", "level", "probabilities", "author"])
KEYS = st.lists(st.sampled_from(["metadata"]), max_size=2).flatmap(
    lambda before: NAMES.map(lambda name: ".".join([*before, name]))
)
TEXTS = st.sampled_from(["", "红烧肉", "大理", "a b"])
VALUES = st.one_of(st.none(), st.integers(), TEXTS, st.just([0.1, 0.2, 0.3, 0.4]), st.just(0.5))
DOCUMENTS = st.builds(Document, st.just("v1"), TEXTS, TEXTS, st.dictionaries(KEYS, VALUES, max_size=4))
GRADES = st.sampled_from([None, Relevance(RelevanceLevel.MOSTLY, (0.1, 0.2, 0.6, 0.1), 1.7, 0.5)])
PASSAGES = st.sampled_from([None, Passage("红烧", 0, 2)])


@given(DOCUMENTS)
def test_a_document_comes_back(document):
    text, metadata = _documents.show_document(document)
    assert text or not (document.title or document.text)
    assert _documents.read_document("v1", text, metadata) == document


@given(DOCUMENTS, GRADES, PASSAGES)
def test_the_document_of_a_hit_comes_back(document, relevance, passage):
    text, metadata = _documents.show_hit(Hit(document, 0.5, relevance, passage))
    assert metadata["score"] == 0.5
    if relevance is None:
        assert (metadata["level"], metadata["probabilities"]) == (None, None)
    else:
        assert (metadata["level"], metadata["probabilities"]) == (2, [0.1, 0.2, 0.6, 0.1])
    assert metadata.get("passage") == (passage and {"text": "红烧", "start": 0, "end": 2})
    assert _documents.read_document("v1", text, metadata) == document


@given(DOCUMENTS, GRADES, st.booleans())
def test_a_grade_replaces_a_grade_and_nothing_else(document, relevance, elsewhere):
    """Metadata of a foreign program: a title that is ours, and names like ours that are not."""
    foreign = {**document.metadata, "level": "入门"}
    foreign.pop("probabilities", None)
    grade = _documents.grade_fields(relevance, 0.5)
    if elsewhere:
        del grade["score"]
    graded = _documents.add_grade(foreign, grade)
    assert {name: graded[name] for name in grade} == grade
    kept = {name: value for name, value in graded.items() if name not in grade}
    assert sorted(map(repr, kept.values())) == sorted(map(repr, foreign.values()))
    assert all(kept[name] == foreign[name] for name in foreign if name not in grade)
    again = dict.fromkeys(grade)
    assert _documents.add_grade(_documents.add_grade(foreign, again), grade) == graded
    assert "入门" in _documents.read_document("v1", "x", graded).metadata.values()


def test_what_is_no_document_is_refused():
    with pytest.raises(InputError, match="str is no document"):
        _documents.show_document("红烧肉")


@pytest.mark.parametrize("wrong", [-1, 4, 1.5, True, "2"])
def test_levels_are_checked(wrong):
    with pytest.raises(InputError, match=r"min_level=.*; allowed are 0, 1, 2 and 3, or None"):
        _models.check_limits(wrong)
    if wrong != 4:
        with pytest.raises(InputError, match=r"top_n=.*; allowed are whole numbers from 1 on"):
            _models.check_limits(2, top_n=wrong)


def test_what_the_search_does_not_take_is_refused():
    _models.check_search_kwargs({"mode": "lexical", "min_confidence": 0.5})
    for name in ("kk", "k", "where", "self"):
        with pytest.raises(InputError, match=f"search_kwargs has .'{name}'.*; allowed are .*'mode'"):
            _models.check_search_kwargs({name: 3})


def test_what_is_not_installed_is_named_with_the_line_that_installs_it():
    program = """
import importlib, sys
from relsdk.errors import MissingExtraError
for package, module, extra in (
    ("langchain_core", "langchain", "langchain"),
    ("llama_index", "llama_index", "llama-index"),
    ("haystack", "haystack", "haystack"),
):
    sys.modules[package] = None
    try:
        importlib.import_module(f"relsdk.integrations.{module}")
    except MissingExtraError as error:
        assert str(error).endswith(f"run: pip install 'relsdk[{extra}]'"), error
        assert isinstance(error, ImportError)
        assert error.extra == extra
    else:
        raise SystemExit(module)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
