"""Texts to measure an export on: a sample of a user's corpus, drawn while it streams past, or our own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.formats import read_documents, read_queries
from relsdk.records import LabelledPair
from relsdk.runtime.batching import token_budget_batches
from relsdk.runtime.tokenizer import TextTokenizer
from relsdk_sample import generate

__all__ = [
    "PARITY_TEXTS",
    "SAMPLE_SIZE",
    "Sample",
    "head",
    "input_batches",
    "read_texts",
    "sample_of_pairs",
    "typical_pairs",
    "typical_texts",
]

# How many texts of a corpus are kept.
SAMPLE_SIZE = 256
# How many tokens activations are measured on. With four times as many, of texts that are not chosen for their
# words, int8 vectors are as close to fp32's (mean cosine on real queries and titles within 0.00002).
_MEASURED_TOKENS = 8192
_SENTENCES = (
    "大宅门演员表",
    "红烧肉怎么做才不腻？家常做法，一看就会",
    "iPhone 手机黑屏打不开怎么办",
    "How to make sourdough bread at home, step by step",
    "臺灣夜市必吃的十種小吃，第三種最多人排隊",
    "12306 火车票 🚄 抢票攻略！！！",
    "三个月宝宝一天睡多少个小时正常；夜里总醒是不是缺钙",
    "Ça coûte combien, un café à Paris ? Très cher…",
    "大家好，今天给大家分享一个特别简单的健身动作，每天十分钟，坚持一个月就能看到变化。",
    "①②③ ＡＢＣ　全角　空格 ½ ﷺ",
)
# One text of each length from empty to far beyond the usual limit of 512 tokens.
PARITY_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "的",
    "😀",
    *_SENTENCES,
    *(
        "，".join((_SENTENCES * 12)[start : start + count])
        for start, count in enumerate((2, 3, 5, 8, 13, 21, 34, 60))
    ),
)


class Sample:
    """Passes texts through and keeps an even sample of them."""

    def __init__(self, texts: Iterable[str], size: int = SAMPLE_SIZE) -> None:
        self._texts = texts
        self._size = size
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        rng = np.random.default_rng(0)
        for number, text in enumerate(self._texts):
            if len(self.kept) < self._size:
                self.kept.append(text)
            elif (slot := int(rng.integers(number + 1))) < self._size:  # reservoir sampling
                self.kept[slot] = text
            yield text

    @property
    def shortage(self) -> str:
        """A note on a corpus too small to stand for what will be searched; empty where it is large enough."""
        if len(self.kept) >= self._size:
            return ""
        return (
            f"note: the vocabulary is cut to, and compared on, {len(self.kept)} texts; what you will search "
            f"has other words: give {self._size} texts or more"
        )


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file of queries (.txt, one a line) or of documents (any other name).

    Raises:
        InputError: The file is missing or has a bad row.
    """
    if path.suffix == ".txt":
        yield from (query.text for query in read_queries(path))
    else:
        yield from (f"{document.title} {document.text}".strip() for document in read_documents(path))


def sample_of_pairs(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Return an even sample of labelled pairs to measure activations on."""
    step = max(1, len(pairs) // SAMPLE_SIZE)
    return list(pairs[::step][:SAMPLE_SIZE])


@cache
def typical_texts() -> tuple[str, ...]:
    """Return texts to choose from when there is nothing of the user's to measure activations on."""
    world = generate(n_documents=1000, n_queries=300)
    documents = [f"{document.title} {document.text}" for document in world.documents]
    titles = [document.title for document in world.documents]
    return (*PARITY_TEXTS, *(query.text for query in world.queries), *documents, *titles)


def typical_pairs(texts: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return pairs to measure activations on: neighbours in a corpus, or labelled pairs of our own."""
    if texts:
        return [(head(text), texts[(row + 1) % len(texts)]) for row, text in enumerate(texts)]
    world = generate(n_documents=300, n_queries=60)
    pairs = [
        (pair.query, f"{pair.document.title} {pair.document.text}") for pair in world.pairs[:SAMPLE_SIZE]
    ]
    return [*pairs, *((head(text), text) for text in PARITY_TEXTS)]


def head(text: str) -> str:
    """Return the beginning of a text, as long as a query may be."""
    return text[:32]


def input_batches(
    tokenizer: TextTokenizer, inputs: Sequence[str] | Sequence[tuple[str, str]]
) -> Iterator[Mapping[str, NDArray[np.int64]]]:
    """Tokenise texts or pairs and yield a graph's (B, T) inputs of those that are worth measuring."""
    tokens = tokenizer.tokenize(inputs)
    chosen = _choose_texts(tokens.ids, _MEASURED_TOKENS)
    for rows in token_budget_batches([len(tokens.ids[row]) for row in chosen]):
        yield tokenizer.pad(tokens, chosen[rows])


def _choose_texts(ids: Sequence[Sequence[int]], budget: int) -> NDArray[np.int64]:
    """Choose texts that bring many different pieces with few tokens: ranges are wide enough for rare pieces.

    One after the other is taken: of those that still fit, the one with the most new pieces a token.

    Args:
        ids: N texts' token ids.
        budget: How many tokens they may have together; the shortest text is always among them.

    Returns:
        Rows of `ids`, in the order in which they were chosen.
    """
    lengths = np.array([max(len(row), 1) for row in ids])  # (N,)
    pieces, column_of = np.unique(np.concatenate([*map(np.asarray, ids)]), return_inverse=True)
    holds = np.zeros((len(ids), len(pieces)), dtype=bool)
    holds[np.repeat(np.arange(len(ids)), [len(row) for row in ids]), column_of] = True
    new = holds.sum(axis=1)  # (N,) pieces that no chosen text has
    free = np.ones(len(ids), dtype=bool)
    budget = max(budget, int(lengths.min()))
    chosen = []
    while (free := free & (lengths <= budget)).any():
        row = int(np.where(free, new / lengths, -1.0).argmax())
        chosen.append(row)
        free[row] = False
        budget -= int(lengths[row])
        fresh = holds[row].copy()
        new -= holds[:, fresh].sum(axis=1)
        holds[:, fresh] = False
    return np.array(chosen)
