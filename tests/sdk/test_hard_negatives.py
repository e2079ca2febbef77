"""Hard negatives: near, not judged, not as near as what is relevant, and irrelevant in the guard's eyes."""

from dataclasses import replace

import numpy as np
import pytest

from relsdk import Embedder, Index, RelevanceLevel, RelevanceScorer
from relsdk.errors import EncoderMismatchError, InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk.models.bi_encoder import BiEncoder
from relsdk.tools.evaluation import calibrate_bundle
from relsdk.tools.hard_negatives import Miner
from relsdk_sample import generate


@pytest.fixture(scope="module")
def world():
    return generate(seed=4, n_documents=300, n_queries=30)


@pytest.fixture(scope="module")
def embedder(toy_bundle):
    return Embedder(toy_bundle, threads=1)


@pytest.fixture(scope="module")
def index(world, embedder, tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("mine") / "index", world.documents, embedder)


@pytest.fixture
def guard(toy_bundle_copy, world):
    """A judge whose levels are the quartiles of the cosines it gives: what is near is relevant to it."""
    plain = [(pair.query, pair.document) for pair in world.pairs]
    cosines = BiEncoder(Embedder(toy_bundle_copy)).outputs(plain).scores
    levels = np.searchsorted(np.quantile(cosines, [0.25, 0.5, 0.75]), cosines)
    pairs = [replace(pair, level=RelevanceLevel(int(k))) for pair, k in zip(world.pairs, levels, strict=True)]
    calibrate_bundle(toy_bundle_copy, pairs)
    return RelevanceScorer(toy_bundle_copy)


def test_negatives_are_the_nearest_that_may_be_taken(world, embedder, index):
    mined = list(Miner(embedder, index).mine(world.pairs, negatives=2, candidates=40, max_ratio=0.999))
    assert mined
    assert {int(pair.level) for pair in mined} == {0}
    for query in list(dict.fromkeys(pair.query for pair in mined))[:10]:
        judged = [pair for pair in world.pairs if pair.query == query]
        best = max(judged, key=lambda pair: pair.level).document
        vector = embedder.encode_query(query)
        limit = 0.999 * float(vector @ embedder.encode_document(best))
        known = {pair.document.id for pair in judged}
        texts = {f"{pair.document.title} {pair.document.text}".strip() for pair in judged}
        expected = [
            hit.document.id
            for hit in index.search(vector, 40)
            if hit.score <= limit
            and hit.document.id not in known
            and f"{hit.document.title} {hit.document.text}".strip() not in texts
        ][:2]
        assert [pair.document.id for pair in mined if pair.query == query] == expected


def test_the_guard_keeps_what_may_be_relevant_out(world, embedder, index, guard):
    options = {"negatives": 3, "candidates": 300, "max_ratio": 1.0}
    free = list(Miner(embedder, index).mine(world.pairs, **options))
    guarded = list(Miner(embedder, index, guard).mine(world.pairs, **options))
    assert guarded
    assert (guard.predict([(p.query, p.document) for p in guarded]).levels == 0).all()
    assert (guard.predict([(p.query, p.document) for p in free]).levels > 0).any()


def test_queries_without_a_relevant_document_get_none(world, embedder, index):
    irrelevant = [pair for pair in world.pairs if pair.level == 0]
    with pytest.raises(InputError, match="nothing to compare"):
        list(Miner(embedder, index).mine(irrelevant))


@pytest.mark.parametrize("options", [{"negatives": 0}, {"candidates": 1}, {"max_ratio": 0.0}])
def test_numbers_out_of_range(world, embedder, index, options):
    with pytest.raises(InputError, match="needed are"):
        list(Miner(embedder, index).mine(world.pairs, **options))


def test_another_encoders_index_is_refused(toy_bundle, index):
    with pytest.raises(EncoderMismatchError):
        Miner(Embedder(toy_bundle, truncate_dim=8), index)


def test_the_command(relsdk, world, embedder, index, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", world.pairs)
    arguments = ["mine", index.path, tmp_path / "pairs.jsonl", tmp_path / "mined.jsonl"]
    code, out, err = relsdk(*arguments, "--negatives", "2", "--max-ratio", "0.999")
    assert code == 0
    mined = list(read_pairs(tmp_path / "mined.jsonl"))
    assert f"{len(mined)} negatives" in out
    assert "may be relevant" in err
    assert np.unique([int(pair.level) for pair in mined]).tolist() == [0]
    code, _, err = relsdk(*arguments)
    assert (code, "--overwrite" in err) == (2, True)
