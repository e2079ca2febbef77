"""Lexical search against a dictionary's BM25, an independent library's, and itself spread over segments."""

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.index import _lexical_search, _lexical_segment
from relsdk.index._lexical_search import LexicalSearch
from relsdk.index._postings import POSTINGS_FILE, Postings
from relsdk.index._postings_writer import PostingsWriter, merge_postings
from relsdk.index._row_set import RowSet
from relsdk.index.analysis import CjkAnalyser

WORDS = "短剧 雾城 归人 旧人 第12集 第21集 X200Pro x200 pro 的 的的 宝宝 发烧 怎么办 a b ab 12 21".split()
ROW = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


class Spaces:
    """Cuts at spaces."""

    name, version = "spaces", 1

    def tokens(self, text):
        return text.split()


def write(folder, texts, analyser=None):
    writer = PostingsWriter(analyser or CjkAnalyser())
    folder.mkdir(parents=True)
    for start in range(0, len(texts), 7):
        writer.add(texts[start : start + 7])
    writer.save(folder)
    return Postings.load(folder, len(texts))


def oracle(texts, alive, query, analyser=None):
    """BM25 of each row with dictionaries; None for a dead row."""
    tokens = (analyser or CjkAnalyser()).tokens
    rows = [Counter(tokens(text)) if live else None for text, live in zip(texts, alive, strict=True)]
    live = [row for row in rows if row is not None]
    if not live:
        return [None] * len(rows), 0.0
    average = sum(row.total() for row in live) / len(live) or 1.0
    idf = {}
    asked = set(tokens(query))
    made_up = {one + other for one in asked - {""} for other in asked - {""}}
    for token in asked:
        count = sum(token in row for row in live)
        compound = token in made_up or (token[0] == "=" and (token[1:] in asked or token[1:] in made_up))
        share = _lexical_search._COMPOUND_SHARE if compound else 1
        idf[token] = share * math.log(1 + (len(live) - count + 0.5) / (count + 0.5))
    k1, b = _lexical_segment._K1, _lexical_segment._B
    scores = [
        None
        if row is None
        else sum(
            idf[token] * row[token] / (row[token] + k1 * (1 - b + b * row.total() / average))
            for token in idf
            if token in row
        )
        for row in rows
    ]
    return scores, sum(idf.values())


def spread(texts, alive, cuts, folder):
    """Segments of adjacent rows: postings, alive, first row."""
    edges = sorted({0, len(texts), *(cut % (len(texts) + 1) for cut in cuts)})
    return [
        (
            write(folder / str(start), texts[start:stop]),
            RowSet(np.array(alive[start:stop], dtype=np.bool_)),
            start,
        )
        for start, stop in pairwise(edges)
    ]


def ranking(hits, starts):
    return list(zip([starts[one] for one in hits.segments] + hits.rows, hits.scores, strict=True))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_is_bm25_however_rows_are_spread_and_whatever_is_dead(data, tmp_path_factory):
    texts = data.draw(st.lists(ROW, min_size=1, max_size=25))
    alive = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    cuts = data.draw(st.lists(st.integers(0, 30), max_size=3))
    query, k = data.draw(ROW), data.draw(st.integers(1, 10))
    folder = tmp_path_factory.mktemp("spread")
    parts = spread(texts, alive, cuts, folder)
    starts = [start for *_, start in parts]
    search = LexicalSearch([part[:2] for part in parts])
    looked_up = search.query(CjkAnalyser().tokens(query))
    expected, best = oracle(texts, alive, query)
    if any(alive):
        assert looked_up.best_possible == pytest.approx(best, abs=1e-4)
    found = ranking(search.search(looked_up, k), starts)
    scores = [0.0 if score is None else score for score in expected]
    assert [score for _, score in found] == pytest.approx(
        sorted((score for score in scores if score > 1e-4), reverse=True)[:k], abs=1e-4
    )
    for row, score in found:
        assert alive[row]
        assert score == pytest.approx(expected[row], abs=1e-4)
    assert found == sorted(found, key=lambda one: (-one[1], one[0]))
    for number, (postings, _, start) in enumerate(parts):
        given_rows = np.arange(postings.sizes.rows)[::-1]
        values = search.scores(looked_up, number, given_rows)
        for row, value in zip(given_rows + start, values, strict=True):
            assert not alive[row] or value == pytest.approx(expected[row], abs=1e-4)

    # Compacted: the very same scores, to the last bit.
    kept = [part[1].rows for part in parts]
    merged_folder = folder / "merged"
    merged_folder.mkdir()
    merge_postings([(part[0], rows) for part, rows in zip(parts, kept, strict=True)], merged_folder)
    live = [text for text, keep in zip(texts, alive, strict=True) if keep]
    write(folder / "clean", live)
    assert (merged_folder / POSTINGS_FILE).read_bytes() == (folder / "clean" / POSTINGS_FILE).read_bytes()
    postings = Postings.load(merged_folder, len(live))
    assert postings.problems() == []
    clean = LexicalSearch([(postings, None)])
    hits = clean.search(clean.query(CjkAnalyser().tokens(query)), k)
    place = np.flatnonzero(alive)
    assert [(place[row], score) for row, score in zip(hits.rows, hits.scores, strict=True)] == found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """20,000 rows of words with Zipf's frequencies in two segments, a tenth dead."""
    random = np.random.default_rng(5)
    share = 1 / np.arange(1, 400)
    share /= share.sum()
    texts = [
        " ".join(f"w{w}" for w in random.choice(399, random.integers(1, 30), p=share)) for _ in range(20_000)
    ]
    folder = tmp_path_factory.mktemp("large")
    first = write(folder / "a", texts[:15_000], Spaces()), RowSet(random.random(15_000) > 0.1)
    second = write(folder / "b", texts[15_000:], Spaces()), RowSet(random.random(5_000) > 0.1)
    return texts, [first, second]


@pytest.mark.parametrize("share", [None, 0.5, 0.001])
def test_skipping_finds_what_scoring_every_row_finds(large, share):
    _, parts = large
    search = LexicalSearch(parts)
    random = np.random.default_rng(6)
    allowed = share and [RowSet(random.random(len(alive.mask)) < share) & alive for _, alive in parts]
    for _ in range(40):
        tokens = [f"w{int(w)}" for w in random.geometric(random.choice([0.01, 0.1]), random.integers(1, 12))]
        query, k = search.query(tokens), int(random.integers(1, 200))
        every = []
        for number, (postings, alive) in enumerate(parts):
            mask = (alive if allowed is None else allowed[number]).mask
            scores = search.scores(query, number, np.arange(postings.sizes.rows))
            rows = np.flatnonzero(mask & (scores > 0))
            every += [(-scores[row], number, row) for row in rows]
        hits = search.search(query, k, allowed)
        assert list(zip(-hits.scores, hits.segments, hits.rows, strict=True)) == sorted(every)[:k]


def test_it_agrees_with_an_independent_library(large):
    bm25s = pytest.importorskip("bm25s")
    texts, parts = large
    texts = texts[:15_000]
    k1, b = _lexical_segment._K1, _lexical_segment._B
    library = bm25s.BM25(method="lucene", k1=k1, b=b)
    library.index([text.split() for text in texts], show_progress=False)
    search = LexicalSearch([(parts[0][0], None)])
    for query in (["w1", "w2", "w300"], ["w0"], ["w17", "w398", "w5", "w6", "w7"]):
        scores = search.scores(search.query(query), 0, np.arange(len(texts)))
        np.testing.assert_allclose(scores, library.get_scores(query), atol=1e-4)


def test_ties_are_in_the_order_of_segments_and_rows(tmp_path):
    parts = [(write(tmp_path / name, ["x y", "x z"] * 20), None) for name in "ab"]
    search = LexicalSearch(parts)
    hits = search.search(search.query(["x"]), 50)
    assert hits.segments.tolist() == [0] * 40 + [1] * 10
    assert hits.rows.tolist() == [*range(40), *range(10)]


def test_nothing_is_found_without_a_known_token(tmp_path):
    postings = write(tmp_path / "one", ["雾城", "归人", ""])
    search = LexicalSearch([(postings, None)])
    for tokens in ([], ["x"], [""]):
        query = search.query(tokens)
        assert len(search.search(query, 5).rows) == 0
        assert search.scores(query, 0, np.arange(3)).tolist() == [0, 0, 0]
    assert search.query([]).best_possible == 0
    assert search.query(["x"]).best_possible > 0
    assert len(LexicalSearch([]).search(LexicalSearch([]).query(["x"]), 3).rows) == 0
    dead = LexicalSearch([(postings, RowSet(np.zeros(3, dtype=np.bool_)))])
    assert len(dead.search(dead.query(["雾", "城"]), 5).rows) == 0


def test_a_query_of_very_many_tokens_stays_in_range(tmp_path):
    texts = [" ".join(f"t{i}" for i in range(5000)), *(f"t{i}" for i in range(2000))]
    search = LexicalSearch([(write(tmp_path / "one", texts, Spaces()), None)])
    hits = search.search(search.query([f"t{i}" for i in range(5000)]), 3)
    assert hits.rows[0] == 0
    assert (hits.scores > 0).all()


def test_rows_that_may_not_be_found_are_not_found(tmp_path):
    alive = RowSet(np.arange(5000) % 2 == 0)
    search = LexicalSearch([(write(tmp_path / "one", ["x"] * 5000), alive)])
    query = search.query(["x"])
    for count in (5000, 4001, 11, 0):
        allowed = RowSet(np.arange(5000) < count) & alive
        hits = search.search(query, 5000, [allowed])
        assert hits.rows.tolist() == allowed.rows.tolist()
    for everything in (None, [None], [alive]):
        assert search.search(query, 5000, everything).rows.tolist() == alive.rows.tolist()


@pytest.mark.parametrize(
    ("query", "best", "other"),
    [
        ("雾城", "雾城归人", "城里起雾"),  # side by side
        ("x200", "聊聊云栗X200", "云栗X200S"),  # the word itself
        ("x200 pro", "X200Pro好用", "X200好用"),
        ("第12集", "归人第12集", "归人第21集"),
        ("12", "看第12集", "第121集"),
    ],
)
def test_order(tmp_path, query, best, other):
    search = LexicalSearch([(write(tmp_path / "one", [other, best, "别的视频"] * 5), None)])
    hits = search.search(search.query(CjkAnalyser().tokens(query)), 5)
    assert hits.rows.tolist() == [1, 4, 7, 10, 13]


def test_threads_share_a_search(large):
    _, parts = large
    search = LexicalSearch(parts)
    queries = [search.query([f"w{i}", f"w{i + 1}", "w0"]) for i in range(60)]
    alone = [search.search(query, 20) for query in queries]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda query: search.search(query, 20), queries * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert all(map(np.array_equal, one, other))
