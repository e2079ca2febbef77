"""Requests made of the OpenAPI document, right and wrong ones: no 5xx, nothing that it does not say."""

from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("schemathesis", reason="needs the extra clients: pip install 'relsdk[clients]'")

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from relsdk import Embedder, Index
from relsdk_serve._openapi import openapi_document
from relsdk_serve._routes import _table
from tests.serve.servers import documents, served

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(openapi_document(_table(bytes), "0"))
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
# What a made request would hardly hit: names that there are, and fields that go together.
NAMES = {
    **{"sort": "-duration", "group_by": "author", "facets": ["author"], "where": "duration<30", "like": "d1"},
    **{"prompt_name": "query", "dimensions": 8, "mode": "hybrid", "truncation_direction": "right"},
    **{"model": None, "index": None, "scorer": None, "min_precision": None},
}
INPUTS = {"/predict": [["红烧肉", "大宅门"]], "/": "红烧肉"}
ASKED = ("query", "queries", "like")  # of which a search has one
APART = {
    "query": ("queries", "like"),
    "queries": ("like",),
    "ids": ("where",),
    "input_type": ("prompt_name",),
    "inputs": ("query", "texts"),
}


@pytest.fixture(scope="module")
def address(settings, encoder, tmp_path_factory):
    """A server whose index may be changed."""
    folder = tmp_path_factory.mktemp("fuzz") / "fuzz.idx"
    Index.build(folder, documents(20), Embedder(encoder)).close()
    with served(replace(settings, indexes={"fuzz": str(folder)})) as server:
        yield server.url


def hit(case):
    """Make a request that the server understands of one that only the document allows."""
    case.path_parameters.update({"id": "d1", "name": "encoder"})
    case.query.pop("index", None)
    if isinstance(case.body, dict):
        understand(case.body, case.operation.path)


def understand(body, path):
    body.update({name: value for name, value in NAMES.items() if body.get(name) is not None})
    # JSON's 2.0 is an integer for the document, and none for the server.
    body.update({name: int(one) for name, one in body.items() if isinstance(one, float) and one.is_integer()})
    if path in INPUTS:
        body["inputs"] = INPUTS[path]
    if path == "/v1/search" and not any(body.get(name) for name in ASKED):
        body["query"] = "红烧肉"
    for name, others in APART.items():
        if body.get(name) is not None:
            for other in others:
                body.pop(other, None)
    documents = body.get("documents")
    for number, document in enumerate(documents if isinstance(documents, list) else []):
        if isinstance(document, dict):
            document.update(id=f"d{number}", title="红烧肉")


def fuzz(address, label, mode, examples):
    """Send requests and check the answers; return how many there were of each status."""
    statuses = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode), known=st.booleans())
    def run(case, known):
        if known:
            hit(case)
        answer = case.call(base_url=address, session=session)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    with requests.Session() as session:
        run()
    return statuses


TAKES_SOMETHING = [label for label, one in OPERATIONS.items() if one.body or one.path_parameters or one.query]


@pytest.mark.parametrize("label", OPERATIONS)
def test_right_requests_are_answered_as_documented(address, label):
    statuses = fuzz(address, label, RIGHT, 20)
    assert statuses[200] + statuses[202] > 0, statuses


@pytest.mark.parametrize("label", TAKES_SOMETHING)
def test_wrong_requests_are_refused_as_documented(address, label):
    fuzz(address, label, WRONG, 12)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [RIGHT, WRONG], ids=str)
@pytest.mark.parametrize("label", TAKES_SOMETHING)
def test_many_requests(address, label, mode):
    fuzz(address, label, mode, 200)
