"""Vectors out of parts: by id, in any order, and an index of them that equals the one built directly."""

import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest

from relsdk import Document, Embedder, Index
from relsdk.errors import InputError
from relsdk.formats import read_documents
from relsdk.shards import PartsEncoder, encode_shards, parts_encoder, plan
from relsdk.shards.parts import part_paths, read_part_info
from tests.sdk.shards.conftest import FIXTURES

pytest.importorskip("pyarrow")
pytestmark = [pytest.mark.filterwarnings("ignore:.*has no checksum")]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(FIXTURES / "encoder-bundle-v1")


@pytest.fixture(scope="module")
def made(tmp_path_factory, embedder):
    """(input, folder of parts of 16 rows, documents, vectors of the encoder itself)."""
    folder = tmp_path_factory.mktemp("parts")
    source = folder / "docs.jsonl"
    rows = [{"id": f"v{row}", "title": f"红烧肉怎么做 {row}", "year": row} for row in range(100)]
    rows[60]["id"] = "v30"  # twice
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_LEAST_ROWS", 16)
        encode_shards(embedder.path, source, folder / "parts")
    documents = list(read_documents(source))
    vectors = np.concatenate([embedder.encode_document(documents[at : at + 16]) for at in range(0, 100, 16)])
    return source, folder / "parts", documents, vectors


@pytest.mark.parametrize("chunk", [1, 7, 16, 30])
def test_documents_in_order_need_no_table(made, embedder, chunk):
    _, folder, documents, vectors = made
    encoder = PartsEncoder(folder, embedder)
    given = [encoder.encode_document(documents[at : at + chunk]) for at in range(0, 100, chunk)]
    expected = vectors.copy()
    expected[30] = vectors[60]  # of an id that is there twice the last row counts
    assert np.array_equal(np.concatenate(given), expected)
    assert encoder._ids is None
    assert (encoder.name, encoder.fingerprint, encoder.dimension, encoder.path) == (
        *(embedder.name, embedder.fingerprint, embedder.dimension),
        embedder.path,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kept", [0, 1 << 28])
def test_documents_in_any_order_and_some_left_out(made, embedder, monkeypatch, seed, kept):
    _, folder, documents, vectors = made
    monkeypatch.setattr(parts_encoder, "_KEPT_BYTES", kept)
    rows = [row for row in range(100) if row not in (30, 60)]
    wanted = random.Random(seed).sample(rows, 70)
    if not seed:
        wanted.sort()
    encoder = PartsEncoder(folder, embedder)
    given = [
        encoder.encode_document([documents[row] for row in wanted[at : at + 9]]) for at in range(0, 70, 9)
    ]
    assert np.array_equal(np.concatenate(given), vectors[wanted])
    assert len(encoder._open) <= (2 if not kept else 7)


def test_the_last_row_of_an_id_counts(made, embedder, tmp_path):
    _, folder, documents, vectors = made
    encoder = PartsEncoder(folder, embedder)
    assert np.array_equal(encoder.encode_document(documents[29:32]), vectors[[29, 60, 31]])
    assert np.array_equal(encoder.encode_document([documents[60], documents[7]]), vectors[[60, 7]])
    source, parts, options = tmp_path / "d.jsonl", tmp_path / "parts", {"on_duplicate": "last"}
    rows = [{"id": name, "title": title} for name, title in (("b", "三天"), ("a", "大理"), ("a", "红烧肉"))]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    encode_shards(embedder.path, source, parts)
    # The index leaves out "大理" before it asks for vectors, so that "红烧肉" comes where that was.
    with Index.build(
        tmp_path / "i", read_documents(source), PartsEncoder(parts, embedder), **options
    ) as built:
        (hit,) = built.search(embedder.encode_document([documents[0], Document("a", "红烧肉")])[1], k=1)
        assert (hit.document.title, hit.score) == ("红烧肉", pytest.approx(1.0, abs=1e-6))


def test_passages_of_a_document_have_no_vectors(made, embedder):
    _, folder, documents, _ = made
    passages = [replace(documents[4], text=text) for text in ("大理", "三天")]
    with pytest.raises(InputError, match=r"one vector of 'v4'.*split into passages"):
        PartsEncoder(folder, embedder).encode_document([documents[3], *passages])


def test_a_document_without_a_vector(made, embedder):
    _, folder, _, _ = made
    with pytest.raises(InputError, match="no vector of the document 'new'"):
        PartsEncoder(folder, embedder).encode_document([Document("new", "红烧肉")])


def link_parts(folder, target, chosen=slice(None)):
    target.mkdir()
    for path in part_paths(folder)[chosen]:
        (target / path.name).symlink_to(path)
    return target


def test_parts_that_are_not_usable(made, embedder, tmp_path):
    _, folder, _, _ = made
    with pytest.raises(InputError, match=r"is not complete: row .* is missing"):
        PartsEncoder(link_parts(folder, tmp_path / "some", slice(1, None)), embedder)
    copied = link_parts(folder, tmp_path / "copied")
    last = max(part_paths(folder), key=lambda path: read_part_info(path).rows)
    (copied / f"part-{'0' * 32}.parquet").symlink_to(last)
    with pytest.raises(InputError, match="there twice"):
        PartsEncoder(copied, embedder)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no parts"):
        PartsEncoder(tmp_path / "none", embedder)
    with pytest.raises(InputError, match="cannot be read"):
        PartsEncoder(tmp_path / "absent", embedder)
    tower = Embedder(FIXTURES / "tower-bundle-v1")
    with pytest.raises(InputError, match="encode again with it"):
        PartsEncoder(folder, tower)
    with pytest.raises(InputError, match="encode again with it"):
        PartsEncoder(folder, Embedder(embedder.path, truncate_dim=8))


def test_queries_are_no_documents(embedder, tmp_path):
    (tmp_path / "q.txt").write_text("红烧肉\n", encoding="utf-8")
    encode_shards(embedder.path, tmp_path / "q.txt", tmp_path / "parts", "query")
    with pytest.raises(InputError, match="parts of kind 'query'"):
        PartsEncoder(tmp_path / "parts", embedder)


def test_parts_of_several_inputs(made, embedder, tmp_path):
    _, folder, _, _ = made
    mixed = link_parts(folder, tmp_path / "mixed")
    (tmp_path / "d.jsonl").write_text('{"id": "1", "title": "大理"}\n', encoding="utf-8")
    encode_shards(embedder.path, tmp_path / "d.jsonl", tmp_path / "other")
    (path,) = part_paths(tmp_path / "other")
    (mixed / path.name).symlink_to(path)
    with pytest.raises(InputError, match="parts of several inputs"):
        PartsEncoder(mixed, embedder)


@pytest.mark.parametrize("damage", ["content", "name", "none of ours", "fifo"])
def test_damaged_parts_are_told(made, embedder, tmp_path, damage):
    _, folder, documents, _ = made
    parts = link_parts(folder, tmp_path / "parts")
    path = part_paths(parts)[0]
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "content":
        content[len(content) // 3] ^= 1
    elif damage == "name":
        content[-1] ^= 1
    elif damage == "fifo":
        os.mkfifo(path)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"id": ["a"]}), path)
    if damage in ("content", "name"):
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged|not readable|no part of relsdk|no regular file"):
        PartsEncoder(parts, embedder).encode_document(documents)


def test_an_index_of_parts_equals_the_one_built_directly(made, relsdk, tmp_path):
    source, _, _, _ = made
    folder, bundle = tmp_path / "vectors", FIXTURES / "encoder-bundle-v1"
    code, out, _ = relsdk("encode", bundle, source, folder, "--as", "document", "--variant", "fp32")
    assert (code, "1 part" in out) == (0, True)
    options = ("-m", bundle, "-i", source, "--on-duplicate", "last", "--variant", "fp32")
    assert relsdk("index", "build", tmp_path / "direct", *options)[0] == 0
    code, _, error = relsdk("index", "build", tmp_path / "parts", *options, "--vectors", folder)
    assert (code, "another file" in error) == (0, False)
    with Index.open(tmp_path / "direct") as direct, Index.open(tmp_path / "parts") as by_parts:
        assert (direct.count(), by_parts.info().encoder_path) == (99, direct.info().encoder_path)
        assert np.array_equal(direct.vectors, by_parts.vectors)
        queries, v3 = direct.vectors[::9], direct.vectors[3]
        assert direct.search(queries, k=5) == by_parts.search(queries, k=5)
    (tmp_path / "more.jsonl").write_text(
        '{"id": "v3", "title": "大理"}\n{"id": "v1", "title": "大理"}\n', encoding="utf-8"
    )
    code, _, error = relsdk(
        *("index", "add", tmp_path / "parts", "-i", tmp_path / "more.jsonl", "--replace", "--vectors", folder)
    )
    assert code == 0
    assert "was made of another file" in error
    with Index.open(tmp_path / "parts") as changed:
        (hit,) = changed.search(v3, k=1, where={"title": "大理"})
        assert (hit.document.id, hit.score) == ("v3", pytest.approx(1.0, abs=1e-6))


def test_passages_and_parts_exclude_each_other(made, fails, tmp_path):
    source, folder, _, _ = made
    options = ("-m", FIXTURES / "encoder-bundle-v1", "-i", source, "--vectors", folder)
    assert "leave out --chunk" in fails("index", "build", tmp_path / "index", *options, "--chunk", "20")
