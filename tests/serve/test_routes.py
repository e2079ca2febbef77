"""Every route gives what the library gives, and every mistake an answer that says what to do."""

import base64
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.cli.output import hit_to_dict
from relsdk.models.relevance_scorer import open_scorer
from relsdk_serve import _search
from tests.serve.servers import documents, post

QUERY = "红烧肉怎么做"
TEXTS = ["红烧肉怎么做才不腻", "大宅门演员表", "How to make bread at home"]


@pytest.fixture(scope="module")
def embedder(encoder):
    return Embedder(encoder, threads=1)


@pytest.fixture(scope="module")
def searcher(embedder, index_folder):
    return Searcher(embedder, Index.open(index_folder))


@pytest.fixture(scope="module")
def scoring(embedder, index_folder, scorer):
    return Searcher(embedder, Index.open(index_folder), open_scorer(embedder, scorer, threads=1))


def test_embeddings_are_the_librarys(http, embedder):
    answer = post(http, "/v1/embeddings", {"input": TEXTS, "input_type": "document", "model": "encoder"})
    vectors = np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)
    np.testing.assert_array_equal(vectors, embedder.encode_document(TEXTS))
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    lengths = embedder.tokenize(TEXTS, prompt_name="document").lengths
    assert answer["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    assert (answer["model"], answer["truncated"]) == ("encoder", 0)


def test_embeddings_in_base64_cut_and_by_prompt(http, embedder):
    body = {"input": QUERY, "encoding_format": "base64", "prompt_name": "query", "dimensions": 8}
    answer = post(http, "/v1/embeddings", body)
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    short = embedder.encode_query(QUERY)[:8]
    np.testing.assert_allclose(vector, short / np.linalg.norm(short), rtol=1e-6)
    plain = post(http, "/v1/embeddings", {"input": QUERY})["data"][0]["embedding"]
    np.testing.assert_array_equal(np.float32(plain), embedder.encode(QUERY))


def test_a_cached_query_costs_no_tokens(http, embedder):
    body = {"input": "只此一次的查询", "input_type": "query"}
    first, second = (post(http, "/v1/embeddings", body) for _ in range(2))
    assert first["data"] == second["data"]
    assert first["usage"]["total_tokens"] > second["usage"]["total_tokens"] == 0


def test_truncation_is_counted_or_refused(http, embedder):
    long = "红烧肉" * 400
    assert post(http, "/v1/embeddings", {"input": [long, "短"]})["truncated"] == 1
    for truncate in (False, "error"):
        answer = post(http, "/v1/embeddings", {"input": [long], "truncate": truncate}, 400)
        assert (answer["error"]["code"], answer["error"]["type"]) == ("too_long", "TruncationError")
    assert post(http, "/embed", {"inputs": long, "truncate": False}, 400)["code"] == "too_long"


def test_token_lists_are_refused_with_the_hint(http):
    for tokens in ([1, 2, 3], [[1, 2], [3]]):
        answer = post(http, "/v1/embeddings", {"input": tokens}, 400)
        assert "check_embedding_ctx_length=False" in answer["error"]["message"]


def test_models(http, embedder):
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert set(cards) == {"encoder", "scorer"}
    assert cards["encoder"]["kind"] == "encoder"
    assert cards["encoder"]["dimension"] == embedder.dimension
    assert cards["encoder"]["fingerprint"] == embedder.fingerprint
    assert cards["encoder"]["levels"] is True
    assert http.get("/v1/models/scorer").json() == cards["scorer"]
    assert http.get("/v1/models/nobody").status_code == 404


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_rerank_is_the_librarys(http, scorer, path):
    body = {"query": QUERY, "documents": [TEXTS[1], {"text": TEXTS[0]}, TEXTS[2]], "top_n": 2}
    answer = post(http, path, {**body, "return_documents": True, "model": "scorer"})
    texts = [TEXTS[1], TEXTS[0], TEXTS[2]]
    ranked = RelevanceScorer(scorer, threads=1).rank(QUERY, texts, top_k=2)
    assert [result["index"] for result in answer["results"]] == [one.index for one in ranked]
    for result, one in zip(answer["results"], ranked, strict=True):
        assert result["level"] == int(one.relevance.level)
        assert result["relevance_score"] == pytest.approx(one.relevance.expected_level / 3)
        assert result["probabilities"] == pytest.approx(one.relevance.probabilities, abs=1e-6)
        assert result["document"] == {"text": texts[one.index]}
    assert answer["meta"]["api_version"]["version"] == path[2]


def test_grades_are_the_librarys(http, embedder):
    pairs = [(QUERY, text) for text in TEXTS]
    body = {"model": "encoder", "pairs": [{"query": q, "document": {"text": d}} for q, d in pairs]}
    found = post(http, "/v1/grade", body)["grades"]
    expected = RelevanceScorer(embedder).predict(pairs)
    assert [grade["level"] for grade in found] == expected.levels.tolist()
    np.testing.assert_allclose([grade["score"] for grade in found], expected.scores, atol=1e-6)
    np.testing.assert_allclose([grade["probabilities"] for grade in found], expected.probabilities, atol=1e-6)


def test_teis_routes(http, embedder, scorer):
    vectors = post(http, "/embed", {"inputs": TEXTS, "prompt_name": "document"})
    np.testing.assert_array_equal(np.float32(vectors), embedder.encode_document(TEXTS))
    assert post(http, "/", {"inputs": TEXTS, "prompt_name": "document"}) == vectors
    predictions = RelevanceScorer(scorer, threads=1).predict([(QUERY, text) for text in TEXTS])
    ranks = post(http, "/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    assert post(http, "/", {"query": QUERY, "texts": TEXTS, "return_text": True}) == ranks
    for rank in ranks:
        assert rank["text"] == TEXTS[rank["index"]]
        assert rank["score"] == pytest.approx(predictions.expected_levels[rank["index"]] / 3)
        assert rank["level"] == predictions.levels[rank["index"]]
    raw = post(http, "/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True})
    assert [one["score"] for one in raw] == pytest.approx(sorted(predictions.scores, reverse=True), abs=1e-6)
    (classes,) = post(http, "/predict", {"inputs": [[QUERY, TEXTS[0]]]})
    assert classes == post(http, "/predict", {"inputs": [QUERY, TEXTS[0]]})
    assert sum(one["score"] for one in classes) == pytest.approx(1)
    assert classes[0]["label"] == predictions[0].level.name
    answer = http.post("/predict", json={"inputs": "alone"})
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "validation"


def test_tokenize(http, embedder):
    (tokens,) = post(http, "/tokenize", {"inputs": "红烧肉"})
    assert [token["id"] for token in tokens] == embedder.tokenize(["红烧肉"]).ids[0]
    assert [token["special"] for token in tokens] == [True, *[False] * (len(tokens) - 2), True]
    plain = post(http, "/tokenize", {"inputs": ["红烧肉"], "add_special_tokens": False})[0]
    assert plain == [token for token in tokens if not token["special"]]
    assert all("红烧肉"[t["start"] : t["stop"]] in (t["text"], "红") for t in plain)


OPTIONS = [
    {},
    {"k": 3, "offset": 2},
    {"mode": "hybrid", "k": 5},
    {"mode": "lexical", "k": 5},
    {"where": {"duration": {"lt": 30}}, "k": 4},
    {"sort": "-duration", "k": 5},
    {"group_by": "author", "k": 10},
    {"min_level": 1},
    {"min_score": 0.5},
    {"min_confidence": 0.3, "min_level": 1},
    {"min_precision": 0.2, "min_level": 1},
    {"facets": ["author"]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=json.dumps)
@pytest.mark.parametrize("with_scorer", [False, True])
def test_search_is_the_librarys(http, searcher, scoring, options, with_scorer):
    body = {"query": QUERY, "scorer": with_scorer, **options}
    if with_scorer and "min_precision" in options:
        told = post(http, "/v1/search", body, 400)["error"]
        assert told["message"].endswith(
            "scorer PAIRS --target-precision 0.2 --level 1; then restart the server"
        )
        assert "/" not in told["message"]  # no folder of the server
        return
    answer = post(http, "/v1/search", body)
    expected = (scoring if with_scorer else searcher).search(QUERY, **options)
    (result,) = answer["results"]
    assert result["hits"] == json.loads(json.dumps([hit_to_dict(hit) for hit in expected]))
    for name in ("order", "matching", "candidates", "scored", "skipped", "scored_hits", "scanned"):
        assert result[name] == getattr(expected, name), name
    assert result["nothing_relevant"] == round(expected.nothing_relevant, 6)
    assert result["outside"] == list(expected.outside)
    assert result["warnings"] == expected.warnings
    assert result["facets"] == {
        field: [{"value": value, "count": count} for value, count in values]
        for field, values in expected.facets.items()
    }
    assert answer["promise"] == (expected.promise and expected.promise.to_dict())
    assert (answer["promise"] is None) == ("min_precision" not in options)
    assert answer["scorer"] == ("scorer" if with_scorer else None)
    assert set(result["steps"]) == {"encode", "count", "retrieve", *(["score"] if with_scorer else [])}
    assert (answer["index"], answer["generation"]) == ("toy", expected.generation)


def test_search_of_several_queries_and_by_text_filters(http, searcher):
    queries = [QUERY, "大理旅游"]
    body = {"queries": queries, "k": 3, "scorer": False, "where": "author=a1 or duration<3"}
    results = post(http, "/v1/search", body)["results"]
    where = {"or": [{"author": "a1"}, {"duration": {"lt": 3}}]}
    expected = searcher.search_batch(queries, 3, where=where)
    assert [result["query"] for result in results] == queries
    for result, hits in zip(results, expected, strict=True):
        assert [hit["id"] for hit in result["hits"]] == [hit.document.id for hit in hits]


def test_like_finds_what_resembles_a_document(http, searcher):
    answer = post(http, "/v1/search", {"like": "d1", "k": 3})
    expected = searcher.index.similar("d1", 3)
    (result,) = answer["results"]
    assert [hit["id"] for hit in result["hits"]] == [hit.document.id for hit in expected]
    assert result["query"] is None
    assert post(http, "/v1/search", {"like": "nobody"}, 404)["error"]["code"] == "not_found"
    assert "like" in post(http, "/v1/search", {"like": "d1", "min_level": 2}, 400)["message"]


@pytest.mark.parametrize("precision", [0, 1])
def test_nobody_can_promise_all_or_none(http, precision):
    body = {"query": "红烧肉", "min_level": 1, "min_precision": precision}
    assert "min_precision" in post(http, "/v1/search", body, 400)["message"]


def test_a_document_is_shown(http):
    first = documents(1)[0]
    shown = http.get("/v1/documents/d0").json()
    assert shown == {"id": "d0", "title": first.title, "text": first.text, "metadata": first.metadata}
    assert http.get("/v1/documents/d0", params={"index": "toy"}).json() == shown
    assert http.get("/v1/documents/d0", params={"index": "other"}).status_code == 404


def test_info_health_metrics_and_the_page(http, embedder):
    info = http.get("/info").json()
    assert info["max_input_length"] == embedder.max_tokens
    assert info["max_client_batch_size"] == info["relsdk"]["limits"]["max_inputs"] == 2048
    (index,) = info["relsdk"]["indexes"]
    assert (index["documents"], index["model"], index["scorer"]) == (66, "encoder", "scorer")
    assert index["modes"] == ["dense", "lexical", "hybrid"]
    assert {"name": "author", "kinds": ["text"]} in index["fields"]
    for path in ("/livez", "/readyz", "/health"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    metrics = http.get("/metrics").text
    assert 'relsdk_requests_total{route="/livez",status="200"}' in metrics
    assert "relsdk_workers_alive 2.0" in metrics
    assert http.get("/").json()["server"] == "relsdk"


def test_every_answer_has_an_id_and_times(http):
    answer = http.post("/v1/embeddings", json={"input": "一"}, headers={"x-request-id": "my-1.2_3"})
    assert answer.headers["x-request-id"] == "my-1.2_3"
    assert set(part.strip().partition(";")[0] for part in answer.headers["server-timing"].split(",")) == {
        *("queue", "run", "total")
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    strange = http.get("/livez", headers={"x-request-id": "a b\tc"})
    assert strange.headers["x-request-id"] != "a b\tc"


MISTAKES = [
    ("/v1/search", {"query": QUERY, "k": 0}, 400, "k = 0"),
    ("/v1/search", {"query": ""}, 400, "not empty"),
    ("/v1/search", {"query": "a" * 2001}, 400, "2,001 characters"),
    ("/v1/search", {}, 400, "give one of query, queries and like"),
    ("/v1/search", {"query": "a", "like": "d1"}, 400, "got query and like"),
    ("/v1/search", {"queries": []}, 400, "queries is empty"),
    ("/v1/search", {"query": "a", "min_levl": 2}, 400, "did you mean 'min_level'"),
    ("/v1/search", {"query": "a", "index": "other"}, 404, "this server has toy"),
    (
        "/v1/search",
        {"query": "a", "model": "scorer"},
        400,
        "built by the model 'scorer'; the indexes are toy",
    ),
    ("/v1/search", {"query": "a", "scorer": "other"}, 400, "this server has scorer"),
    ("/v1/search", {"query": "a", "where": "duration <"}, 400, "duration"),
    ("/v1/search", {"query": "a", "where": {"nobody": 1}}, 400, "nobody"),
    ("/v1/search", {"query": "a", "mode": "magic"}, 400, "dense"),
    ("/v1/search", {"query": "a", "sort": "nobody"}, 400, "nobody"),
    ("/v1/embeddings", {"input": []}, 400, "empty"),
    ("/v1/embeddings", {"input": "a", "model": "gpt"}, 404, "this server has encoder, scorer"),
    ("/v1/embeddings", {"input": "a", "model": "scorer"}, 400, "is a scorer"),
    ("/v1/embeddings", {"input": "a", "dimensions": 4096}, 400, "has 32"),
    ("/v1/embeddings", {"input": "a", "prompt_name": "nobody"}, 400, "has no prompt"),
    ("/v1/embeddings", {"input": ["a"] * 2049}, 413, "--max-inputs"),
    ("/v1/rerank", {"query": "a", "documents": ["b"] * 513}, 413, "--max-documents"),
    ("/v1/grade", {"pairs": [{"query": "a"}]}, 400, "document"),
    ("/v1/documents", {"documents": [{"title": "no id"}]}, 400, "documents[0]"),
    ("/v1/documents", {"documents": []}, 400, "empty"),
    ("/v1/documents/delete", {}, 400, "either ids or where"),
    ("/v1/documents/delete", {"where": {}}, 400, "nothing was deleted"),
    ("/v1/documents/delete", {"where": " "}, 400, "nothing was deleted"),
]


@pytest.mark.parametrize(("path", "body", "status", "said"), MISTAKES)
def test_mistakes(http, path, body, status, said):
    answer = post(http, path, body, status)
    assert said in answer["error"]["message"], answer
    assert answer["message"] == answer["error"]["message"]
    assert answer["error"]["code"] == {400: "invalid_request", 404: "not_found", 413: "too_large"}[status]


def test_a_field_that_is_wrong_is_named(http, monkeypatch):
    answer = post(http, "/v1/search", {"query": "a", "where": "duration < and"}, 400)["error"]
    assert (answer["param"], answer["type"]) == ("where", "InputError")
    assert not answer["message"].startswith("--")
    monkeypatch.setattr(_search, "_MOST_VALUES", 65)
    answer = post(http, "/v1/search", {"query": "a", "facets": ["author", "duration"]}, 400)["error"]
    assert answer["param"] == "facets"
    assert "'duration' has 66 values here; facets show at most 65" in answer["message"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"input": "\xff"}', 400),
        (b'{"input": "\\ud800"}', 400),
        (b'{"input": NaN}', 400),
        (b"[" * 100_000, 400),
    ],
)
def test_bodies_that_are_no_requests(http, content, status):
    answer = http.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == "invalid_request"
    assert content or answer.json()["message"] == "the body is empty; JSON is needed"


def test_other_methods_paths_and_types(http):
    assert http.get("/nowhere").json()["error"]["code"] == "not_found"
    twice = http.post("/v1/v1/search", json={"query": "a"})  # an address with /v1, for a client that adds it
    assert (twice.status_code, "leave /v1 out" in twice.json()["message"]) == (404, True)
    wrong = http.get("/v1/search")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    text = http.post("/v1/search", content=b"query=a", headers={"content-type": "text/plain"})
    assert (text.status_code, text.json()["error"]["code"]) == (415, "unsupported_media_type")
    form = http.post("/v1/search", data={"query": "a"})
    assert form.status_code == 415


def test_readmes_request_is_answered(http):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- serve -->\n```\n(.*?)```", readme, re.DOTALL)[1]
    install, serve, curl = (shlex.split(line) for line in block.splitlines())
    assert install == ["pip", "install", ".[serve]"]
    assert serve[:2] == ["relsdk", "serve"]
    path = curl[1].removeprefix("localhost:8080")
    answer = http.post(path, content=curl[curl.index("-d") + 1], headers={"content-type": "application/json"})
    assert len(answer.json()["results"][0]["hits"]) == 5


def test_a_refused_request_is_answered_whole(toy_server, monkeypatch):
    """Also where it is refused before anything is made of its bytes, and on a connection that goes on."""
    engine = toy_server.service.engine
    before = toy_server.http.get("/metrics").text
    with monkeypatch.context() as patch:
        patch.setattr(engine, "limit", lambda lane: -1.0)
        answers = [
            toy_server.http.post(path, json={"input": "一", "inputs": "一"}, headers={"x-request-id": "mine"})
            for path in ("/v1/embeddings", "/embed", "/v1/embeddings")
        ]
    for answer in answers:
        assert answer.status_code == 429
        assert answer.json()["message"].startswith("the request would wait")
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 50
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["content-type"] == "application/json"
    assert answers[0].json()["error"]["code"] == "overloaded"
    assert answers[1].json()["error_type"] == "overloaded"
    assert post(toy_server.http, "/v1/embeddings", {"input": "一"})["data"]
    counted = 'relsdk_requests_total{route="/v1/embeddings",status="429"} '
    value = float((re.findall(re.escape(counted) + r"(\S+)", before) or ["0"])[0])
    assert f"{counted}{value + 2}" in toy_server.http.get("/metrics").text


def test_probes_that_are_well_are_not_logged(toy_server, monkeypatch):
    lines = []
    log = SimpleNamespace(write=lambda entry: lines.append((entry.route, entry.status)))
    monkeypatch.setattr(toy_server.service, "_request_log", log)
    for path in ("/livez", "/readyz", "/metrics", "/v1/models"):
        assert toy_server.http.get(path).status_code == 200
    monkeypatch.setattr(toy_server.service.engine, "oldest_batch", lambda: 1e6)
    assert toy_server.http.get("/livez").status_code == 503
    toy_server.http.get("/v1/models")  # the line before is written after its answer
    assert lines[:2] == [("/v1/models", 200), ("/livez", 503)]


def test_cut_texts_are_counted_by_model(http):
    long = "红烧肉" * 400
    name = r'relsdk_truncated_texts_total\{model="(\w+)"\} (\S+)'
    before = dict(re.findall(name, http.get("/metrics").text))
    post(http, "/v1/embeddings", {"input": [long, long, "短"]})
    post(http, "/embed", {"inputs": long})
    post(http, "/v1/rerank", {"query": QUERY, "documents": [long]})
    http.get("/v1/models")  # an answer is counted after it is sent
    after = dict(re.findall(name, http.get("/metrics").text))
    more = {model: float(count) - float(before[model]) for model, count in after.items()}
    assert more == {"encoder": 3, "scorer": 1}
