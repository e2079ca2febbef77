"""What the analyser takes as words."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk.index.analysis import Analyser, CjkAnalyser

ANALYSER: Analyser = CjkAnalyser()
tokens = ANALYSER.tokens


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("雾城", "雾 城 雾城"),
        ("第12集", "第 12 集"),
        ("《雾》城", "雾 城"),
        ("iPhone 15 Pro", "iphone 15 pro"),
        ("X200", "x 200 x200 =x200"),
        ("X200Pro", "x 200 pro x200 200pro =x200pro"),
        ("ＡＢＣ１２", "abc 12 abc12 =abc12"),
        ("ｶﾞﾝ", "ガ ン ガン"),
        ("한국 말", "한 국 한국 말"),
        ("don't_stop", "don t stop"),
        ("हिन्दी", "हिन्दी"),
        ("😭 #短剧！", "短 剧 短剧"),
        ("𠮷野", "𠮷 野 𠮷野"),
        ("a" * 70, "a" * 64),
        ("", ""),
        ("。 ?", ""),
    ],
)
def test_tokens(text, wanted):
    assert tokens(text) == wanted.split()


@pytest.mark.parametrize(
    ("query", "text", "match"),
    [
        ("x200", "X200Pro 真机", True),
        ("x200 pro", "X200Pro", True),
        ("X200Pro", "x200 pro", True),
        ("x20", "X200", False),
        ("12", "第21集", False),
        ("12", "第121集", False),
        ("12", "第１２集", True),
    ],
)
def test_whole_words_match(query, text, match):
    """Whether the text holds the longest token of each word of the query, or all its parts."""
    held = set(tokens(text))
    assert all(set(tokens(word)) & held > {"x"} or {word} <= held for word in query.split()) is match


@given(st.text())
def test_any_text_has_tokens_that_are_not_empty(text):
    found = tokens(text)
    assert all(found)
    assert found == tokens(text) == tokens(unicodedata.normalize("NFKC", text))
    assert all(len(token) <= 65 for token in found)
