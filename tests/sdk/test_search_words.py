"""Searches by words and by both, over changed indexes, through the searcher."""

from dataclasses import replace

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.calibration import HybridLink, hybrid_features
from relsdk.errors import CalibrationError, IndexFolderError, InputError
from relsdk.index import IndexConfig
from relsdk.index.analysis import CjkAnalyser

TITLES = [
    "手机 X200 Pro 开箱",
    "手机 X200 开箱",
    "长相思 第12集",
    "长相思 第21集",
    "红烧肉的做法",
    "糖醋排骨的做法",
    "篮球 集锦",
]


@pytest.fixture(scope="module")
def embedder(toy_bundle):
    return Embedder(toy_bundle, variant="fp32", threads=1)


def documents():
    return [Document(f"d{i}", TITLES[i % 7], f"视频 {i}", {"n": i}) for i in range(70)]


@pytest.fixture(scope="module")
def searcher(embedder, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("w") / "i", documents()[:30], embedder) as index:
        index.add(documents()[30:], embedder)
        index.delete(["d14", "d15"])
        yield Searcher(embedder, index)


def ids(hits):
    return [hit.document.id for hit in hits]


def test_words_find_what_holds_them(searcher):
    hits = searcher.search("X200 Pro", 8, mode="lexical")
    assert all("Pro" in hit.document.title for hit in hits)
    assert hits.order == "bm25"
    assert "d14" not in ids(searcher.search("X200 Pro", 70, mode="lexical"))
    assert [hit.score for hit in hits] == [hit.signals.bm25 for hit in hits]
    assert [hit.signals.lexical_rank for hit in hits] == list(range(1, 9))
    assert searcher.search("qqqq", 5, mode="lexical") == []
    (one,) = searcher.search("第12集", 70, where={"n": 2}, mode="lexical")
    assert one.document.id == "d2"


def test_hybrid_holds_both_sides(searcher, embedder):
    query = "长相思 第21集"
    hits = searcher.search(query, 70, mode="hybrid")
    dense = searcher.search(query, 70)
    lexical = searcher.search(query, 70, mode="lexical")
    assert set(ids(hits)) == set(ids(dense)) | set(ids(lexical))
    for hit in hits:
        signals = hit.signals
        places = [(ids(dense), signals.dense_rank), (ids(lexical), signals.lexical_rank)]
        for found, rank in places:
            if rank is not None:
                assert found[rank - 1] == hit.document.id
        assert (signals.bm25 == 0) == (signals.lexical_rank is None)
        assert 0 <= signals.bm25 <= signals.best_possible
    # Without a calibrated model the order is that of the cosine, and the result says so.
    assert hits.order == "cosine"
    assert ids(hits) == ids(dense)
    np.testing.assert_allclose([h.score for h in hits], [h.score for h in dense], atol=1e-6)


def test_scores_do_not_depend_on_segments(searcher, embedder, tmp_path):
    left = [one for one in documents() if one.id not in ("d14", "d15")]
    with Index.build(tmp_path / "i", left, embedder) as clean:
        other = Searcher(embedder, clean, mode="hybrid")
        for query in ("X200 开箱", "排骨 做法 12"):
            for mode in ("lexical", "hybrid"):
                one, two = searcher.search(query, 30, mode=mode), other.search(query, 30, mode=mode)
                assert ids(one) == ids(two)
                for hit, same in zip(one, two, strict=True):
                    # a product of more rows may differ in its last digit
                    assert hit.signals.cosine == pytest.approx(same.signals.cosine, abs=1e-6)
                    assert replace(hit.signals, cosine=0.0) == replace(same.signals, cosine=0.0)


def test_passages_are_found_by_their_words(embedder, tmp_path):
    text = "".join(f"第{i}句话，说的是{'篮球' if i == 17 else '天气'}。" for i in range(40))
    long = [Document("long", "日记", text), *documents()]
    with Index.build(tmp_path / "i", long, embedder, config=IndexConfig(passage_characters=40)) as index:
        for mode in ("lexical", "hybrid"):
            hits = Searcher(embedder, index).search("说的是篮球 第17句", 100, mode=mode)
            assert len(set(ids(hits))) == len(hits)
            hit = next(hit for hit in hits if hit.document.id == "long")
            if mode == "lexical":
                assert "第17句话" in hit.passage.text
            assert text[hit.passage.start : hit.passage.end] == hit.passage.text


class Letters:
    name, version = "letters", 3

    def tokens(self, text):
        return list(text)


def test_an_analyser_of_ones_own(embedder, tmp_path):
    path = tmp_path / "i"
    with Index.build(path, documents(), embedder, lexical=Letters()) as index:
        assert len(Searcher(embedder, index).search("P", 70, mode="lexical")) == 10
    with Index.open(path) as index:
        with pytest.raises(InputError, match="built with the analyser letters 3, not cjk 1"):
            Searcher(embedder, index).search("P", mode="lexical")
        with pytest.raises(InputError, match="letters 3"):
            index.add([Document("new", "t")], embedder)
        assert index.delete(["d1"]) == 1
    with Index.open(path, analyser=Letters()) as index:
        index.add([Document("new", "t")], embedder)
        assert index.verify().ok


def test_an_index_without_words(embedder, tmp_path):
    with Index.build(tmp_path / "i", documents(), embedder, lexical=False) as index:
        searcher = Searcher(embedder, index, mode="hybrid")
        with pytest.raises(InputError, match="lexical=False"):
            searcher.search("P")
        assert len(searcher.search("P", 5, mode="dense")) == 5
        assert index.add([Document("new", "t")], embedder) == 1
        with pytest.raises(InputError, match="allowed are 'dense', 'lexical', 'hybrid'"):
            searcher.search("P", mode="words")
    assert CjkAnalyser().tokens("第12集") == ["第", "12", "集"]


LINK = HybridLink(20.0, 12.0, (18.0, 20.0, 24.0))


@pytest.fixture
def calibrated(embedder, tmp_path):
    with Index.build(tmp_path / "i", documents(), embedder) as index:
        index.store_hybrid({"fp32": LINK})
        yield index


def test_a_hybrid_model_orders_and_grades(calibrated, embedder):
    searcher = Searcher(embedder, calibrated, mode="hybrid")
    hits = searcher.search("X200 Pro", 70)
    assert hits.order == "hybrid"
    signals = [hit.signals for hit in hits]
    features = hybrid_features(
        [one.cosine for one in signals], [one.bm25 for one in signals], signals[0].best_possible
    )
    np.testing.assert_allclose([hit.score for hit in hits], LINK.scores(features), atol=1e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    np.testing.assert_allclose([h.probabilities for h in hits], LINK.probabilities(features), atol=1e-5)
    best = searcher.search("X200 Pro", 70, min_level=2)
    assert list(best) == [hit for hit in hits if hit.level >= 2]
    # A lexical search has levels, too, and the order of the words.
    lexical = searcher.search("X200 Pro", 70, mode="lexical")
    levels = {hit.document.id: hit.level for hit in hits}
    assert all(levels[hit.document.id] == hit.level for hit in lexical)
    # Dense search is as it was.
    assert searcher.search("X200 Pro", 5, mode="dense")[0].relevance is None


def test_a_hybrid_model_lives_through_changes(calibrated, embedder):
    before = Searcher(embedder, calibrated, mode="hybrid").search("第21集", 5)
    calibrated.add([Document("new", "天气")], embedder)
    calibrated.delete(["new"])
    calibrated.compact(full=True)
    assert calibrated.verify().ok
    with Index.open(calibrated.path) as again:
        assert again.hybrid_models == {"fp32": LINK}
        assert ids(Searcher(embedder, again, mode="hybrid").search("第21集", 5)) == ids(before)
    other = HybridLink(1.0, 0.0, (0.0, 0.0, 1.0))
    calibrated.store_hybrid({"int8_any": other})
    assert calibrated.hybrid_models == {"fp32": LINK, "int8_any": other}


def test_a_model_of_another_variant_is_not_used(embedder, tmp_path):
    with Index.build(tmp_path / "i", documents(), embedder) as index:
        index.store_hybrid({"int8_any": LINK})
        searcher = Searcher(embedder, index, mode="hybrid")
        assert searcher.search("X200 Pro").order == "cosine"
        with pytest.raises(CalibrationError):
            searcher.search("X200 Pro", min_level=2)


@pytest.mark.parametrize("change", [('"version": 1', '"version": 2'), ("20.0", "-1.0"), ("cjk", "abc")])
def test_a_damaged_model_is_told(calibrated, change):
    calibrated.close()
    path = calibrated.path / "gen-000002" / "hybrid.json"
    path.write_text(path.read_text().replace(*change, 1))
    for check in ("hashes", "sizes"):
        with pytest.raises(IndexFolderError, match="hybrid"):
            Index.open(calibrated.path, check=check)
