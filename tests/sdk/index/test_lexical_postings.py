"""The file of postings: what it holds, and that damage is told or does no harm."""

import random

import numpy as np
import pytest

from relsdk.errors import IndexFolderError
from relsdk.index import _postings, _postings_writer
from relsdk.index._lexical_search import LexicalSearch
from relsdk.index._postings import POSTINGS_FILE, Postings
from relsdk.index._postings_writer import PostingsWriter, merge_postings
from relsdk.index._row_set import RowSet
from relsdk.index.analysis import CjkAnalyser

TEXTS = [
    "雾城归人 第12集",
    "雾城旧人",
    "",
    "X200Pro 真机 X200",
    "的的的 不在",
    "international internationally",
] * 20


class Whole:
    """One token, the text; none for an empty text."""

    name, version = "whole", 1

    def tokens(self, text):
        return [text] * len(text)


def write(folder, texts, analyser=None):
    folder.mkdir(parents=True, exist_ok=True)
    writer = PostingsWriter(analyser or CjkAnalyser())
    writer.add(texts)
    writer.save(folder)
    return Postings.load(folder, len(texts))


def contents(postings):
    """{term: {row: count}}."""
    found = {}
    for number in range(postings.sizes.terms):
        rows, codes = postings.of_term(number)
        counts = postings.counts(codes).tolist()
        found[postings.term(number)] = dict(zip(rows.tolist(), counts, strict=True))
    return found


def expected(texts, analyser):
    found = {}
    for row, text in enumerate(texts):
        for token in analyser.tokens(text):
            counts = found.setdefault(token.encode(), {})
            counts[row] = counts.get(row, 0) + 1
    return found


def test_it_holds_every_token(tmp_path):
    postings = write(tmp_path, TEXTS)
    found = contents(postings)
    assert found == expected(TEXTS, CjkAnalyser())
    assert list(found) == sorted(found)
    assert postings.lengths.tolist() == [len(CjkAnalyser().tokens(text)) for text in TEXTS]
    assert postings.problems() == []
    terms = list(found)
    assert postings.find(terms) == list(range(len(terms)))
    unknown = [b"", b"\xff", b"internatio", b"internationalist", "雾城归".encode()]
    assert postings.find(unknown) == [-1] * len(unknown)


@pytest.mark.parametrize("cuts", [(1, 2), (13, 20)])
def test_small_runs_and_blocks_write_the_same_bytes(tmp_path, monkeypatch, cuts):
    write(tmp_path / "a", TEXTS)
    monkeypatch.setattr(_postings_writer, "_RUN_ROWS", cuts[0])
    monkeypatch.setattr(_postings_writer, "_RUN_TOKENS", 7 * cuts[0])
    monkeypatch.setattr(_postings, "_BLOCK", cuts[1])
    postings = write(tmp_path / "b", TEXTS)
    (tmp_path / "c").mkdir()
    merge_postings([(postings, np.arange(50)), (postings, np.arange(50, len(TEXTS)))], tmp_path / "c")
    files = {(tmp_path / name / POSTINGS_FILE).read_bytes() for name in "abc"}
    assert len(files) == 1
    assert postings.problems() == []


def test_tokens_of_any_kind(tmp_path):
    texts = ["a" * 300, "\ud800", "a\0", "a", "", "é" * 100]  # 300: counts as 255
    postings = write(tmp_path, texts, Whole())
    assert postings.problems() == []
    assert {term: max(rows.values()) for term, rows in contents(postings).items()} == {
        b"a": 1,
        b"a\0": 2,
        b"a" * 300: 255,
        ("é" * 100).encode(): 100,
        b"\xed\xa0\x80": 1,
    }
    assert postings.find([b"a", b"a\0", b"a\0\0"]) == [0, 1, -1]


@pytest.mark.parametrize("texts", [[], [""], ["", "。", ""]])
def test_texts_without_tokens(tmp_path, texts):
    postings = write(tmp_path / "a", texts)
    assert postings.problems() == []
    assert postings.sizes.postings == 0
    (tmp_path / "b").mkdir()
    merge_postings([(postings, np.arange(len(texts)))], tmp_path / "b")
    assert (tmp_path / "b" / POSTINGS_FILE).read_bytes() == (tmp_path / "a" / POSTINGS_FILE).read_bytes()
    search = LexicalSearch([(postings, None)])
    assert len(search.search(search.query(["x"]), 3).rows) == 0


def test_long_rows_have_wide_codes(tmp_path):
    texts = [" ".join(["x"] * n + [f"w{n}"]) for n in range(1, 300)]
    postings = write(tmp_path / "a", texts)
    assert postings.sizes.code_dtype.itemsize == 4
    assert postings.problems() == []
    (tmp_path / "b").mkdir()
    merge_postings([(postings, np.arange(40))], tmp_path / "b")
    short = write(tmp_path / "c", texts[:40])
    assert short.sizes.code_dtype.itemsize == 2
    assert (tmp_path / "b" / POSTINGS_FILE).read_bytes() == (tmp_path / "c" / POSTINGS_FILE).read_bytes()


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    write(tmp_path, TEXTS)
    with pytest.raises(FileExistsError):
        write(tmp_path, TEXTS)


def test_other_rows_another_file_and_a_newer_version_are_refused(tmp_path):
    write(tmp_path, TEXTS)
    path = tmp_path / POSTINGS_FILE
    content = path.read_bytes()
    with pytest.raises(IndexFolderError, match="is of 120 rows, not of 121"):
        Postings.load(tmp_path, 121)
    for damaged, message in (
        (b"", "no file of postings"),
        (b"x" + content[1:], "no file of postings"),
        (content[:16] + b"\2" + content[17:], "version 2"),
        (content[:-1], "bytes"),
        (content + b"\0", "bytes"),
        (content[:24] + b"\xff" * 48 + content[72:], "rows"),
        (content[:32] + b"\xff" * 40 + content[72:], "damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(IndexFolderError, match=message):
            Postings.load(tmp_path, 120)
    path.unlink()
    with pytest.raises(IndexFolderError, match="cannot read"):
        Postings.load(tmp_path, 120)


def use(folder):
    """Everything that reads a file."""
    postings = Postings.load(folder, len(TEXTS))
    search = LexicalSearch([(postings, RowSet(np.arange(len(TEXTS)) % 3 > 0))])
    for text in ("雾城归人", "x200 internationally", "的"):
        query = search.query(CjkAnalyser().tokens(text))
        hits = search.search(query, 10)
        assert len(hits.rows) <= 10
        assert ((hits.rows >= 0) & (hits.rows < len(TEXTS))).all()
        search.scores(query, 0, np.arange(len(TEXTS)))
    return postings


@pytest.mark.parametrize("seed", range(300))
def test_damage_is_told_or_harmless(tmp_path, seed):
    good = write(tmp_path / "good", TEXTS)
    path = tmp_path / "good" / POSTINGS_FILE
    content = bytearray(path.read_bytes())
    chance = random.Random(seed)
    offsets = {
        name: (offset, max(count * dtype.itemsize, 1)) for name, offset, count, dtype in good.sizes.sections()
    }
    offsets["header"] = (0, 128)
    if seed % 10 == 0:
        del content[chance.randrange(len(content)) :]
    else:
        for _ in range(chance.randint(1, 4)):
            offset, size = offsets[chance.choice(sorted(offsets))]
            place = offset + chance.randrange(size)
            content[place] = chance.choice([0, 1, 255, content[place] ^ (1 << chance.randrange(8))])
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / POSTINGS_FILE).write_bytes(content)
    try:
        postings = use(folder)
        (tmp_path / "merged").mkdir()
        merge_postings([(postings, np.arange(0, len(TEXTS), 2))], tmp_path / "merged")
    except IndexFolderError:
        return
    # No number is wrong that `problems` does not see; a letter may be, and only the hash of the file tells.
    same = list(contents(postings).values()) == list(contents(good).values())
    assert (same and (postings.lengths == good.lengths).all()) or postings.problems()
