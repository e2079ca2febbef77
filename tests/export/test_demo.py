"""The demo on a toy encoder: what a second run reuses, and what it makes again."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from relsdk import Embedder, Index
from relsdk.bundle import read_bundle
from relsdk.models.bi_encoder import BiEncoder
from relsdk.runtime.variants import best_int8
from relsdk_export.cli.demo import _IndexedPairs
from relsdk_sample import generate


@pytest.fixture
def demo(toy_checkpoint, relsdk, tmp_path, monkeypatch):
    """Run the demo on the toy in one folder; return what it prints."""

    def pull(name, *, installed_first):
        assert installed_first  # a newcomer waits for no download
        return SimpleNamespace(path=toy_checkpoint, source="toy")

    monkeypatch.setattr("relsdk_export.backbones.pull.pull", pull)

    def run(documents=200):
        code, out, err = relsdk(
            "demo", "--folder", tmp_path / "demo", "--documents", documents, "--threads", 1
        )
        assert code == 0, err
        return out

    return run


def reused(out):
    return re.findall(r" s  ([a-z ]+): .*\(reused\)", out)


ALL = ["sample corpus", "bundle", "index", "calibration"]


def test_a_second_run_reuses_and_another_size_does_not(demo, tmp_path):
    first = demo()
    assert reused(first) == []
    assert re.search(r"calibration: .* on 448 train pairs", first)
    assert re.search(r"held-out pairs: 128 pairs", first)
    # The answers come before the measures.
    assert first.index("P(") < first.index("held-out pairs")
    assert [variant.name for variant in read_bundle(tmp_path / "demo/bundle").variants] == [best_int8()]

    second = demo()
    assert reused(second) == ALL

    def hits(text):
        return [line for line in text.splitlines() if re.match(r"\d+  -?\d\.", line)]

    assert hits(first) == hits(second)
    assert len(hits(first)) == 25

    larger = demo(220)
    assert reused(larger) == []
    with Index.open(tmp_path / "demo/index") as index:
        assert len(index) == 220
    assert reused(demo(220)) == ALL


def test_what_is_damaged_is_made_again(demo, tmp_path):
    demo()
    world = tmp_path / "demo/world/documents.jsonl"
    world.write_text(world.read_text(encoding="utf-8")[:1000], encoding="utf-8")
    assert reused(demo()) == ["index"]  # its documents are those of the corpus
    model = next((tmp_path / "demo/bundle/onnx").iterdir())
    model.write_bytes(model.read_bytes()[:-100])
    assert reused(demo()) == ["sample corpus", "index"]  # the new bundle gives the same vectors
    (tmp_path / "demo/index/CURRENT").unlink()
    assert reused(demo()) == ["sample corpus", "bundle", "calibration"]


def test_pairs_are_judged_by_the_indexs_vectors_as_by_new_ones(toy_bundle, tmp_path):
    world = generate(n_documents=200, n_queries=40)
    embedder = Embedder(toy_bundle, threads=1)
    pairs = [(pair.query, pair.document) for pair in world.pairs]
    with Index.build(tmp_path / "index", world.documents, embedder) as index:
        got = _IndexedPairs(embedder, index).outputs(pairs)
    np.testing.assert_allclose(got.scores, BiEncoder(embedder).outputs(pairs).scores, atol=1e-6)
