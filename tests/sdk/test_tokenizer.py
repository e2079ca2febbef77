"""What is kept is what the library's own truncation keeps, in memory that long texts do not blow up."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from relsdk.bundle import read_bundle
from relsdk.errors import BundleError, InputError
from relsdk.runtime import tokenizer as tokenizer_module
from relsdk.runtime.tokenizer import TextTokenizer, open_tokenizer
from tests.memory import PEAK

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ALPHABET = "大宅门演员表红烧肉怎么做 abcdefgh　ｈｉ\t\n①é🚄ßx"


def wordpiece():
    words = [*ALPHABET.strip(), *(f"##{c}" for c in ALPHABET.strip()), "abc", "##cd", "[UNK]"]
    vocabulary = {word: row for row, word in enumerate(dict.fromkeys(["[PAD]", "[CLS]", "[SEP]", *words]))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return made, "[PAD]"


def byte_bpe():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("ab", "c"), ("b", "a"), ("Ġ", "a"), ("å", "¤"), ("d", "e"), ("e", "d")]
    words = ["<s>", "<pad>", "</s>", *letters, *(left + right for left, right in merges)]
    made = Tokenizer(models.BPE({word: row for row, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<s>", "<pad>", "</s>"])
    return made, "<pad>"


def unigram():
    path = FIXTURES / "encoder-bundle-v1/tokenizer.json"
    return Tokenizer.from_file(str(path)), "<pad>"


def without_special_tokens():
    made, pad = unigram()
    made.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return made, pad


TOYS = {
    "unigram": unigram,
    "wordpiece": wordpiece,
    "byte_bpe": byte_bpe,
    "without_special_tokens": without_special_tokens,
}


@pytest.fixture(scope="module", params=sorted(TOYS))
def toy(request, tmp_path_factory):
    """(path, pad token, the library's tokenizer)."""
    made, pad = TOYS[request.param]()
    path = tmp_path_factory.mktemp("tokenizers") / f"{request.param}.json"
    made.save(str(path))
    return path, pad, Tokenizer.from_file(str(path))


def assert_same(path, pad, oracle, items, limit, side="right"):
    oracle.enable_truncation(limit, direction=side)
    expected = [oracle.encode(*item) if isinstance(item, tuple) else oracle.encode(item) for item in items]
    found = TextTokenizer(path, max_tokens=limit, pad_token=pad, truncation_side=side).tokenize(items)
    assert found.ids == [encoding.ids for encoding in expected]
    assert found.type_ids == [encoding.type_ids for encoding in expected]
    assert found.truncated == [row for row, encoding in enumerate(expected) if encoding.overflowing]


texts = st.text(alphabet=ALPHABET, max_size=60)


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(st.one_of(texts, st.tuples(texts, texts)), max_size=4),
    limit=st.integers(5, 40),
    side=st.sampled_from(["right", "left"]),
)
def test_what_is_kept_is_what_the_library_keeps(toy, items, limit, side):
    assert_same(*toy, items, limit, side)


@settings(max_examples=60, deadline=None)
@given(
    repeated=texts,
    tail=texts,
    other=st.text(alphabet=ALPHABET, max_size=400),
    limit=st.integers(5, 12),
    side=st.sampled_from(["right", "left"]),
)
def test_a_part_of_a_long_text_decides_what_is_kept(toy, repeated, tail, other, limit, side):
    """With a small bound, so that texts of a few hundred characters are long."""
    long = repeated * 20 + tail
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "_LONG_TEXT", 128)
        patch.setattr(tokenizer_module, "_CALL_CHARACTERS", 300)
        assert_same(*toy, [long, (other, long), (long, other), tail], limit, side)


def assert_part_decides(path, pad, items, limit, monkeypatch):
    """Compare with the same tokenizer when no text is long; its rule is what the first test proves."""
    made = TextTokenizer(path, max_tokens=limit, pad_token=pad)
    found = made.tokenize(items)
    monkeypatch.setattr(tokenizer_module, "_LONG_TEXT", 10**9)
    assert found == made.tokenize(items)
    assert len(found.truncated) == len(items)


@pytest.mark.parametrize("character", [" ", "龘", "a", "x", "🚄", "\t"])
def test_runs_that_become_few_tokens(toy, character, monkeypatch):
    """One unknown word, fused unknown characters and blanks: a long part of a text may be one token."""
    path, pad, _ = toy
    monkeypatch.setattr(tokenizer_module, "_LONG_TEXT", 1000)
    text = f"{character * 3500} abc 红烧肉 abc"
    assert_part_decides(path, pad, [text, ("红烧肉", text), (text, text)], 6, monkeypatch)


@pytest.mark.shared
def test_long_texts_of_a_real_tokenizer(shared, monkeypatch):
    lines = (shared / "data/queries/video_search.txt").read_text(encoding="utf-8").splitlines()
    text = "".join(lines[:60_000])
    assert len(text) > 2 * tokenizer_module._LONG_TEXT
    path = shared / "models/me5-small-zh/tokenizer.json"
    assert_part_decides(path, "<pad>", [text, text[::-1], (lines[0], text)], 512, monkeypatch)


def test_many_texts_in_one_call_keep_their_order(toy, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "_CALL_CHARACTERS", 50)
    items = ["abc 红烧肉" * (row % 7) for row in range(40)]
    assert_same(*toy, items, 12)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_pair_has_two_segments_without_a_post_processor(tmp_path, side):
    """Alone and among others: the library's fast call says that all of a pair is its first text."""
    made, pad = wordpiece()
    made.post_processor = None
    made.save(str(tmp_path / "tokenizer.json"))
    pairs = [("大宅门", "演员"), ("abc", "红烧肉怎么做"), ("红烧肉怎么做", "红烧肉怎么做")]
    found = TextTokenizer(tmp_path / "tokenizer.json", max_tokens=8, pad_token=pad, truncation_side=side)
    assert found.tokenize(pairs).type_ids == [[0, 0, 0, 1, 1], [0] + [1] * 6, [0] * 4 + [1] * 4]
    assert_same(tmp_path / "tokenizer.json", pad, made, pairs, 8, side)


def test_a_wrong_input_is_named_by_its_place(toy, monkeypatch):
    path, pad, _ = toy
    monkeypatch.setattr(tokenizer_module, "_CALL_CHARACTERS", 10)
    made = TextTokenizer(path, max_tokens=8, pad_token=pad)
    with pytest.raises(InputError, match="input 7 is int"):
        made.tokenize([*["红烧肉怎么做"] * 7, 3])
    with pytest.raises(InputError, match="input 6 holds a lone surrogate"):
        made.tokenize([*[("红烧肉", "怎么做")] * 6, ("a", "\ud800")])
    with pytest.raises(InputError, match="input 1 is NoneType"):
        made.tokenize([("红烧肉", "怎么做"), ("红烧肉", None)])


@pytest.mark.parametrize(("kind", "needed"), [("encoder", 3), ("scorer", 6)])
def test_a_limit_that_leaves_no_room_for_a_text_is_refused(kind, needed):
    """Special tokens alone: every text would have the same vector."""
    bundle = read_bundle(FIXTURES / f"{kind}-bundle-v1")
    tokenizer = open_tokenizer(bundle.path, replace(bundle.settings, max_tokens=needed))
    pair = kind == "scorer"
    found = tokenizer.tokenize([("红", "烧") if pair else "红", ("做", "烧") if pair else "做"])
    assert found.lengths == [needed, needed]
    with pytest.raises(BundleError, match=f"limit of {needed - 1} tokens, and its tokenizer needs {needed}"):
        open_tokenizer(bundle.path, replace(bundle.settings, max_tokens=needed - 1))


@pytest.mark.parametrize(
    ("what", "megabytes"),
    [
        ("[(text[:90_000], text[:90_000])]", 150),
        ("[(text[:2_000], text[:20_000])] * 20", 150),
        ("[text]", 400),
        pytest.param("[text[:200_000]] * 40", 600, marks=pytest.mark.slow),
    ],
)
def test_memory_of_long_texts_is_bounded(what, megabytes):
    length = 4_000_000 if what == "[text]" else 200_000
    path = FIXTURES / "encoder-bundle-v1/tokenizer.json"
    program = f"""{PEAK}
from pathlib import Path
from relsdk.runtime.tokenizer import TextTokenizer
made = TextTokenizer(Path({str(path)!r}), max_tokens=256, pad_token="<pad>")
text = "".join(chr(0x4E00 + i * 7919 % 20_000) + "红烧肉怎么做 "[i % 7] for i in range({length}))
made.tokenize(["红烧肉", "怎么做"])
before = peak()
inputs = {what}
tokens = made.tokenize(inputs)
assert set(tokens.lengths) == {{256}} and len(tokens.truncated) == len(inputs)
print((peak() - before) // 2**20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < megabytes
