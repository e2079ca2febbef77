"""Texts split into passages: every character that is not a space is in one, and none is of spaces alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.index._passages import split
from relsdk.records import Document

PIECES = [*"ab长 \n\t。！？!?.;”」", "\r\n", "\r", ". ", "😀", "👨‍👩‍👧", "\u3000", "\u2028", "\0", " " * 9]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.sampled_from([1, 2, 3, 5, 8, 20, 100]))
def test_passages_are_parts_of_the_text(text, characters):
    passages, spans = split([Document("d", "标题", text)], characters)
    covered = set()
    for passage, (number, start, end) in zip(passages, spans.tolist(), strict=True):
        assert (number, passage.title, passage.text) == (0, "标题", text[start:end])
        if text.strip():
            assert passage.text.strip()
            assert len(passage.text) <= characters
        covered.update(range(start, end))
    assert all(place in covered for place, one in enumerate(text) if one.strip())
    starts = spans[:, 1].tolist()
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "a。" * 50_000, "a\r\n" * 33_000, "x" + " " * 100_000, " " * 100_000]
)
def test_long_texts(text):
    passages, spans = split([Document("d", "", text)], 200)
    assert spans[-1, 2] <= len(text)
    if text.strip():
        assert len(passages) <= len(text.strip()) / 198 * 1.5 + 1
