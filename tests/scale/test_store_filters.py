"""Filters: every store finds what a plain Python reading of the rules does."""

import numpy as np
import pytest
from hypothesis import given

from relsdk.errors import InputError
from relsdk.index.filter_parser import parse_filter
from tests.scale.engines import NEEDS, NOISE, Engine, HashEncoder
from tests.scale.filters import allows, at_random, every_comparison, random_documents, wheres

pytestmark = [pytest.mark.filterwarnings(noise) for noise in NOISE]
DOCUMENTS = random_documents(120, seed=3)
REFUSALS = ("never", "is text; compare it", "shorten it")
QUERY = np.eye(1, HashEncoder.dimension, dtype=np.float32)[0]


@pytest.fixture(scope="module")
def make(_fast_folder):
    """Return a function that loads the documents into an engine, once."""
    engines = {}

    def store(name):
        if name not in engines:
            engine = Engine(name, _fast_folder)
            engines[name] = engine, engine.build(DOCUMENTS, HashEncoder())
        return engines[name][1]

    yield store
    for engine, _ in engines.values():
        engine.close()


def check(store, where):
    wanted = {document.id for document in DOCUMENTS if allows(parse_filter(where), document)}
    try:
        hits = store.search(QUERY, len(DOCUMENTS), where=where, exact=True)
    except InputError as error:
        # An index knows that a field never holds what it is compared with. A store says what it cannot do.
        if not any(said in str(error) for said in REFUSALS):
            raise
        return
    assert {hit.document.id for hit in hits} == wanted
    assert store.count(where) == len(wanted)


@at_random(20)
@given(where=wheres)
def test_an_index_finds_the_same(make, where):
    check(make("index"), where)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
@at_random(200)
@given(where=wheres)
def test_every_store_finds_the_same(make, name, where):
    check(make(name), where)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_every_comparison_of_every_value(make, name):
    for where in every_comparison():
        check(make(name), where)


@pytest.mark.slow
def test_what_qdrant_cannot_order_is_refused():
    pytest.importorskip("qdrant_client")
    from relsdk_scale._qdrant_filter import qdrant_filter

    for bound in ("a" * 35, "长" * 11):
        qdrant_filter(parse_filter({"date": {"lt": bound}}))
    for bound in ("a" * 36, "长" * 12):
        with pytest.raises(InputError, match="orders texts by at most 35 bytes of UTF-8"):
            qdrant_filter(parse_filter({"date": {"lt": bound}}))
