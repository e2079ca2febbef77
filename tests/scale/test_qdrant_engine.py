"""Filters in the engine of Qdrant's server, which the package qdrant-edge-py brings without the server.

The client's local mode is a second implementation of it, in Python.
"""

import pytest
from hypothesis import given

edge = pytest.importorskip("qdrant_edge")
models = pytest.importorskip("qdrant_client").models

from relsdk.index.filter_parser import parse_filter  # noqa: E402
from relsdk_scale._qdrant_filter import TOKENS, qdrant_filter  # noqa: E402
from relsdk_scale._qdrant_payload import document_of, payload_of, point_id  # noqa: E402
from tests.scale.filters import allows, at_random, every_comparison, random_documents, wheres  # noqa: E402

pytestmark = pytest.mark.slow
DOCUMENTS = random_documents(200, seed=8)


def _filter(wanted):
    return edge.Filter(
        must=[_condition(one) for one in wanted.must or []] or None,
        should=[_condition(one) for one in wanted.should or []] or None,
        must_not=[_condition(one) for one in wanted.must_not or []] or None,
    )


def _condition(wanted):
    if isinstance(wanted, models.Filter):
        return _filter(wanted)
    if isinstance(wanted, models.NestedCondition):
        return edge.NestedCondition(wanted.nested.key, _filter(wanted.nested.filter))
    if wanted.range is not None:
        limits = wanted.range
        within = edge.RangeFloat(gte=limits.gte, gt=limits.gt, lte=limits.lte, lt=limits.lt)
        return edge.FieldCondition(wanted.key, range=within)
    if isinstance(wanted.match, models.MatchAny):
        return edge.FieldCondition(wanted.key, match=edge.MatchAny(wanted.match.any))
    return edge.FieldCondition(wanted.key, match=edge.MatchValue(wanted.match.value))


@pytest.fixture(scope="module", params=["no payload index", "payload index"])
def shard(request, tmp_path_factory):
    vectors = edge.EdgeVectorParams(size=2, distance=edge.Distance.Dot)
    made = edge.EdgeShard.create(str(tmp_path_factory.mktemp("edge") / "s"), edge.EdgeConfig(vectors=vectors))
    points = [edge.Point(point_id(one.id), [1.0, 0.0], payload_of(one)) for one in DOCUMENTS]
    made.update(edge.UpdateOperation.upsert_points(points))
    if request.param == "payload index":
        made.update(edge.UpdateOperation.create_field_index(TOKENS, edge.PayloadSchemaType.Keyword))
    yield made
    made.close()


def check(shard, where):
    parsed = parse_filter(where)
    wanted = _filter(qdrant_filter(parsed))
    records, _ = shard.scroll(edge.ScrollRequest(limit=1000, filter=wanted, with_payload=True))
    found = {document_of(record.payload).id for record in records}
    assert found == {document.id for document in DOCUMENTS if allows(parsed, document)}, where


@at_random(300)
@given(where=wheres)
def test_the_server_allows_the_same(shard, where):
    check(shard, where)


def test_every_comparison_of_every_value(shard):
    for where in every_comparison():
        check(shard, where)


def test_a_document_comes_back_as_it_was(shard):
    records, _ = shard.scroll(edge.ScrollRequest(limit=1000, with_payload=True))
    found = {record.payload["id"]: document_of(record.payload) for record in records}
    assert found == {document.id: document for document in DOCUMENTS}
