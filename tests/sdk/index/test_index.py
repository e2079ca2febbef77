"""Build, open, search and get."""

import gc
import json
import os
import subprocess
import sys
import weakref
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest

from relsdk.errors import EncoderMismatchError, InputError
from relsdk.index import Index, IndexConfig, verify_index
from relsdk.records import Document, Hit
from tests.threads import at_once

UNIT = np.full(16, 0.25)


def ids(hits):
    return [hit.document.id for hit in hits]


@pytest.mark.parametrize("kind", ["hnsw", "flat"])
def test_round_trip(tmp_path, documents, encoder, graph_rows, kind):
    seen = []
    path = tmp_path / "new" / "索引 100%?#.idx"
    built = Index.build(
        path,
        iter(documents),
        encoder,
        config=IndexConfig(kind=kind),
        chunk_size=64,
        on_progress=lambda stage, done: seen.append((stage, done)),
    )
    assert encoder.chunks == [64, 64, 64, 8]
    assert [done for stage, done in seen if stage == "encode"] == [64, 128, 192, 200]
    assert (("graph", 200) in seen) == (kind == "hnsw")
    opened = Index.open(str(path))
    for index in (built, opened):
        assert len(index) == 200
        assert index.vectors.shape == (200, 16)
        assert not index.vectors.flags.writeable
        query = encoder.encode_document([documents[17]])[0]
        hits = index.search(query, 5)
        assert hits[0] == Hit(documents[17], pytest.approx(1.0, abs=1e-5))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert index.search(query[None], 5) == [hits]
        assert ids(index.search(query.tolist(), 5, exact=True)) == ids(hits)
        assert index.search(np.empty((0, 16)), 5) == []
        assert index.get(["d3", "d150", "d3"]) == [documents[3], documents[150], documents[3]]
        assert index.get([]) == []
        assert index.verify().ok, index.verify()
    built.close()
    opened.close()


def test_more_hits_wanted_than_there_are(built, encoder):
    hits = built.search(encoder.vector("?"), 10_000)
    assert len(set(ids(hits))) == 200


def test_info(tmp_path, documents, encoder):
    encoder.path = tmp_path / "bundle"
    with Index.build(tmp_path / "x", documents, encoder, config=IndexConfig(M=8)) as index:
        info = index.info()
    assert (info.generation, info.kind, info.count, info.dimension) == ("gen-000001", "hnsw", 200, 16)
    assert (info.encoder_name, info.encoder_fingerprint) == (encoder.name, encoder.fingerprint)
    assert info.encoder_path == str(tmp_path / "bundle")
    assert info.config.M == 8
    assert {f"segments/seg-000001/{name}" for name in ("vectors.npy", "documents.sqlite")} < set(info.files)
    assert info.files == {name: (tmp_path / "x" / name).stat().st_size for name in info.files}
    assert json.dumps({**asdict(info), "path": str(info.path)})


def test_mappings(tmp_path, encoder):
    rows = [
        {"_id": 5, "title": "t", "year": 2020},
        {"id": "b", "text": "x", "tags": ["p", {"q": None}]},
        Document("c", text="y"),
    ]
    with Index.build(tmp_path / "x", rows, encoder) as index:
        assert index.get(["5", "b", "c"]) == [
            Document("5", "t", "", {"year": 2020}),
            Document("b", "", "x", {"tags": ["p", {"q": None}]}),
            Document("c", "", "y"),
        ]


def test_build_never_holds_all_documents(tmp_path, encoder):
    class Text(str):  # a plain str cannot be referred to weakly
        pass

    alive = weakref.WeakSet()
    most = 0

    def stream():
        nonlocal most
        for i in range(500):
            text = Text(f"text {i}")
            alive.add(text)
            yield Document(f"d{i}", text=text)
            most = max(most, len(alive))

    Index.build(tmp_path / "x", stream(), encoder, chunk_size=20).close()
    gc.collect()
    assert most <= 60


def test_duplicate_is_an_error(tmp_path, documents, encoder):
    documents[150] = replace(documents[150], id="d2")
    for chunk_size in (10, 1000):
        with pytest.raises(
            InputError, match=r"document 151 .* id 'd2' occurs again; first seen as document 3;.*last"
        ):
            Index.build(tmp_path / "x", documents, encoder, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 100])
def test_last_duplicate_wins(tmp_path, encoder, chunk_size):
    order = ["a", "b", "a", "c", "b", "d", "a", "a", "e"]
    rows = [Document(name, text=f"version {i}") for i, name in enumerate(order)]
    with Index.build(tmp_path / "x", rows, encoder, on_duplicate="last", chunk_size=chunk_size) as index:
        assert len(index) == 5
        assert index.verify().ok, index.verify()
        last = {one.id: one for one in rows}
        assert index.get(list("abcde")) == [last[name] for name in "abcde"]
        for one in last.values():
            hits = index.search(encoder.encode_document([one])[0], 5)
            assert hits[0].document == one
            assert hits[0].score == pytest.approx(1.0, abs=1e-5)
        assert index.search(encoder.encode_document([rows[0]])[0], 1)[0].score < 0.999


class Odd:
    """Not JSON."""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"title": "no id"}, "document 18 of the input"),
        ({"_id": 1.5, "title": "x"}, "document 18 of the input"),
        ({"_id": "", "title": "x"}, "document 18 of the input"),
        ({"_id": "x", "title": " ", "text": ""}, "document 18 of the input.*empty"),
        ({"_id": "x", "title": 3}, "document 18 of the input"),
        ({"_id": "x", "title": "t", "odd": Odd()}, "document 18 of the input.*JSON"),
        ({"_id": "x", "title": "t", "odd": float("nan")}, "document 18 of the input.*JSON"),
        (Document("", "t"), "document 18 of the input: its id is ''"),
        (Document(7, "t"), "document 18 of the input: its id is 7"),
        (Document("x", None, "t"), "document 18 of the input: its title is None"),
        (Document("x"), "document 18 of the input: .*both empty"),
        (Document("x", "half \ud800"), "document 18 of the input: .*surrogate"),
        (Document("x", "t", "", {"a": {1, 2}}), "document 18 of the input.*JSON"),
        (Document("x", "t", "", {1: 2}), "document 18 of the input.*JSON"),
        (Document("x", "t", "", {"a": "\ud800"}), "document 18 of the input.*JSON"),
        (Document("x", "t", "", [1]), "document 18 of the input.*mapping"),
        ("text", "document 18 of the input: it is a str"),
        (None, "document 18 of the input: it is a NoneType"),
    ],
)
def test_bad_document(tmp_path, documents, encoder, bad, message):
    documents.insert(17, bad)
    with pytest.raises(InputError, match=message):
        Index.build(tmp_path / "x", documents, encoder)
    assert not (tmp_path / "x").exists()
    Index.build(tmp_path / "x", [Document("a", "t")], encoder).close()


def test_metadata_nested_too_deeply(tmp_path, encoder):
    deep = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(InputError, match="nested too deeply"):
        Index.build(tmp_path / "x", [Document("x", "t", "", {"a": deep})], encoder)


@pytest.mark.parametrize("documents", [[], iter(())])
def test_no_documents(tmp_path, encoder, documents):
    with pytest.raises(InputError, match="no documents"):
        Index.build(tmp_path / "x", documents, encoder)


@pytest.mark.parametrize("documents", ["text", Document("a", "t"), {"_id": "a"}])
def test_documents_of_the_wrong_type(tmp_path, encoder, documents):
    with pytest.raises(InputError, match="iterable of documents"):
        Index.build(tmp_path / "x", documents, encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v * np.nan, "NaN"),
        (lambda v: np.where(np.arange(v.shape[1]) == 1, np.inf, v), "NaN or infinity"),
        (lambda v: v * 1.05, "length 1.05"),
        (lambda v: v * 0, "length 0"),
        (lambda v: v[:, :-1], r"shape \(200, 15\)"),
        (lambda v: v[:-1], r"shape \(199, 16\)"),
        (lambda v: v[0], r"shape \(16,\)"),
        (lambda v: (v * 100).astype(np.int8), "int8"),
    ],
)
def test_bad_vectors(tmp_path, documents, encoder, change, message):
    class Bad(type(encoder)):
        def encode_document(self, inputs):
            return change(super().encode_document(inputs))

    with pytest.raises(InputError, match=message):
        Index.build(tmp_path / "x", documents, Bad())


def test_float64_vectors_are_taken(tmp_path, documents, encoder):
    class Wide(type(encoder)):
        def encode_document(self, inputs):
            return super().encode_document(inputs).astype(np.float64)

    with Index.build(tmp_path / "x", documents, Wide()) as index:
        assert index.vectors.dtype == np.float32


@pytest.mark.parametrize(
    "options",
    [{"on_duplicate": "first"}, {"chunk_size": 0}, {"num_threads": 0}, {"chunk_size": 2.5}],
)
def test_bad_build_arguments(tmp_path, documents, encoder, options):
    with pytest.raises(InputError, match=next(iter(options))):
        Index.build(tmp_path / "x", documents, encoder, **options)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros(15),), {}, r"\(15,\).*16"),
        ((np.zeros((2, 17)),), {}, r"\(2, 17\).*16"),
        ((np.zeros((1, 1, 16)),), {}, "shape"),
        ((np.full(16, np.nan),), {}, "NaN"),
        ((np.stack([UNIT, np.full(16, np.inf)]),), {}, "vector 1 holds NaN or infinity"),
        ((np.full(16, 1e30),), {}, "length inf"),
        (([1e300] * 16,), {}, "NaN or infinity"),
        ((np.zeros(16),), {}, "length 0"),
        ((4.6 * UNIT,), {}, "vector 0 has length 4.6, length 1 is needed"),
        ((np.stack([UNIT, 0.98 * UNIT]),), {}, "vector 1 has length 0.98"),
        (("text",), {}, "encode the text"),
        (([],), {}, "shape"),
        ((UNIT, 0), {}, "k=0"),
        ((UNIT, -3), {}, "k=-3"),
        ((UNIT, 2.0), {}, "k=2.0"),
        ((UNIT, True), {}, "k=True"),
        ((UNIT, "5"), {}, "k='5'"),
        ((UNIT, 5), {"ef_search": 0}, "ef_search=0"),
        ((UNIT, 5), {"where": {"a": {"like": 1}}}, "like"),
        ((UNIT, 5), {"where": "a=1"}, "where"),
    ],
)
def test_bad_search_arguments(built, arguments, options, message):
    with pytest.raises(InputError, match=message):
        built.search(*arguments, **options)


def test_bad_ids(built):
    with pytest.raises(InputError, match=r"2 of 3 ids are not in .*'nope'"):
        built.get(["d1", "nope", "neither"])
    with pytest.raises(InputError, match="list of ids"):
        built.get("d1")
    with pytest.raises(InputError, match="is a int"):
        built.get([1])


def test_check_encoder(built, encoder, encoder_class):
    built.check_encoder(encoder)
    for other in (encoder_class("other"), encoder_class(dimension=8)):
        with pytest.raises(EncoderMismatchError) as caught:
            built.check_encoder(other)
        message = str(caught.value)
        for part in (
            encoder.name,
            encoder.fingerprint,
            "16",
            other.name,
            other.fingerprint,
            str(other.dimension),
        ):
            assert part in message


def test_closed(built):
    assert "200 documents" in repr(built)
    built.close()
    built.close()
    assert "closed" in repr(built)
    with pytest.raises(InputError, match="closed"):
        built.search(UNIT)


def test_overwrite(tmp_path, documents, document_factory, encoder):
    path = tmp_path / "x"
    Index.build(path, documents, encoder).close()
    with pytest.raises(InputError, match="--overwrite"):
        Index.build(path, documents, encoder)
    (path / ".tmp-gen-000009-1").mkdir()
    (path / "notes.txt").write_text("mine")
    old = Index.open(path)
    with Index.build(path, document_factory(50, "e"), encoder, overwrite=True) as new:
        assert len(new) == 50
        assert new.info().generation == "gen-000002"
    both = ["gen-000001", "gen-000002"]
    assert sorted(os.listdir(path)) == [".lock", ".writer", "CURRENT", *both, "notes.txt", "segments"]
    Index.build(path, document_factory(5, "f"), encoder, overwrite=True).close()
    assert sorted(os.listdir(path / "segments")) == ["seg-000002", "seg-000003"]
    # The old one answers from the files it has open, from new threads too.
    results = []
    with at_once(*[lambda: results.append(ids(old.search(encoder.vector("q"), 3)))] * 8):
        pass
    assert len(results) == 8
    assert all(found == results[0] and found[0].startswith("d") for found in results)
    old.close()


def test_many_threads(built, encoder):
    queries = np.stack([encoder.vector(f"q{i}") for i in range(30)])
    wanted = built.search(queries, 5)
    wrong = []

    def work(seed):
        for i in np.random.default_rng(seed).permutation(30):
            if built.search(queries[i], 5) != wanted[i] or not built.search(
                queries[i], 3, where={"flag": True}
            ):
                wrong.append(i)

    with at_once(*(partial(work, seed) for seed in range(12))):
        pass
    assert not wrong


FORK = """
import os, sys
import numpy as np
from relsdk.index import Index
index = Index.open(sys.argv[1])
query = np.array(index.vectors[5])
wanted = index.search(query, 5, where={"flag": False})
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        same = all(index.search(query, 5, where={"flag": False}) == wanted for _ in range(20))
        same = same and [one.id for one in index.get(["d9"])] == ["d9"] and index.verify().ok
        os._exit(0 if same else 1)
    children.append(pid)
assert index.search(query, 5, where={"flag": False}) == wanted
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


def test_fork(built):
    subprocess.run([sys.executable, "-c", FORK, str(built.path)], check=True, timeout=60)


def test_report_is_plain(built):
    report = verify_index(built.path)
    assert report.ok
    assert [check.name for check in report.checks][-1] == "ids"
    assert json.dumps({**asdict(report), "path": str(report.path)})
