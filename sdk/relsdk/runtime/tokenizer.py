"""Texts or pairs of texts to token ids, with truncation counted.

The library's own truncation keeps all that it cuts off, of a pair every piece of one text with every piece
of the other: memory grows with the product of their lengths. Here the library tokenises without a limit, and
what is kept is chosen by the same rule ("longest first").

Shape letters: N texts, B texts of one batch, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from relsdk.bundle import EncoderSettings, ScorerSettings, tokenizer_path
from relsdk.errors import BundleError, InputError

__all__ = ["Piece", "TextTokenizer", "TokenizedTexts", "TruncationSide", "open_tokenizer"]

TruncationSide = Literal["right", "left"]
# Of a longer text so many characters are tokenised, twice as many when they give too few tokens, and so on.
# Far more than any model reads: what ends there changes tokens near that end only.
_LONG_TEXT = 1 << 17
# Texts of one call of the library, in characters, unless one text has more: about 200 MB of tokens.
_CALL_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids of N texts, not padded.

    Attributes:
        ids: N lists of token ids, special tokens included.
        type_ids: N lists of segment ids (0 first text, 1 second text of a pair).
        truncated: Indices of the texts that were cut.
    """

    ids: list[list[int]]
    type_ids: list[list[int]]
    truncated: list[int]

    @property
    def lengths(self) -> list[int]:
        """Token count of each text."""
        return [len(row) for row in self.ids]


class Piece(NamedTuple):
    """A token and its place in a text.

    Attributes:
        id: In the vocabulary.
        text: As the vocabulary has it.
        special: Whether it is put around texts.
        start: Its first character.
        end: The character after its last.
    """

    id: int
    text: str
    special: bool
    start: int
    end: int


class TextTokenizer:
    """A `tokenizer.json` cut to a model's limit.

    Args:
        path: The `tokenizer.json`.
        max_tokens: Limit per text (or pair), special tokens included.
        pad_token: What fills the shorter rows of a batch.
        truncation_side: Where a text that is too long is cut.

    Raises:
        BundleError: The file is not a tokenizer, or has no such pad token.
    """

    def __init__(
        self, path: Path, *, max_tokens: int, pad_token: str, truncation_side: TruncationSide = "right"
    ) -> None:
        with _library_errors(f"{path} is not a readable tokenizer"):
            self._tokenizer = Tokenizer.from_file(str(path))
        pad_id = self._tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise BundleError(f"{path} has no pad token {pad_token!r}")
        self.path = path
        self.max_tokens = max_tokens
        self.pad_id: int = pad_id
        # A unigram model keeps the name of its token to itself: it is that of SentencePiece.
        name = getattr(self._tokenizer.model, "unk_token", None) or "<unk>"
        self.unknown_id: int | None = self._tokenizer.token_to_id(name)
        self._side = truncation_side
        self._process = os.getpid()
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Without a post-processor the fast call (tokenizers 0.23) gives the second text of a pair the first's
        # segment.
        fast = self._tokenizer.post_processor is not None
        self._encode_batch = self._tokenizer.encode_batch_fast if fast else self._tokenizer.encode_batch

    def tokenize(self, inputs: Sequence[str] | Sequence[tuple[str, str]]) -> TokenizedTexts:
        """Turn texts, or pairs of texts, into ids.

        Raises:
            InputError: An input is not a string (or a pair of strings), or holds a lone surrogate.
            BundleError: The tokenizer itself fails, such as at a regular expression that takes too long.
        """
        tokens = TokenizedTexts([], [], [])
        try:
            for part in _parts(inputs):
                with _library_errors(f"{self.path} fails at an input"):
                    encodings = self._encode([self._shorten(item) for item in part])
                for encoding in encodings:
                    self._keep(encoding, tokens)
        except (TypeError, UnicodeEncodeError) as error:
            raise _explain(inputs, error) from error
        return tokens

    def pieces(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[list[Piece]]:
        """Return the tokens of N texts with their places, not cut to the limit.

        Args:
            texts: The texts.
            special_tokens: Whether those that are put around a text are among them.

        Raises:
            InputError: See `tokenize`.
            BundleError: See `tokenize`.
        """
        try:
            with _library_errors(f"{self.path} fails at an input"):
                encodings = [
                    self._tokenizer.encode(text, add_special_tokens=special_tokens) for text in texts
                ]
        except (TypeError, UnicodeEncodeError) as error:
            raise _explain(texts, error) from error
        return [
            [
                Piece(number, name, bool(special), start, end)
                for number, name, special, (start, end) in zip(
                    encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
                )
            ]
            for encoding in encodings
        ]

    def _encode(self, inputs: Sequence[Any]) -> list[Encoding]:
        """Run the library on texts or pairs, without a limit."""
        # The batch call pays for a thread pool, and the pool of a parent process does not survive a fork.
        if len(inputs) == 1 or os.getpid() != self._process:
            pairs = [item if isinstance(item, tuple) else (item,) for item in inputs]
            return [self._tokenizer.encode(*pair) for pair in pairs]
        return self._encode_batch(list(inputs))

    def _shorten(self, item: Any) -> Any:
        """Return a text, or the texts of a pair, without characters that decide nothing."""
        if isinstance(item, tuple):
            return tuple(self._shorten(text) for text in item)
        if not isinstance(item, str):  # of a pair the library takes None: as no second text
            raise TypeError
        size = _LONG_TEXT
        while len(item) > size:
            part = item[:size] if self._side == "right" else item[-size:]
            # With a margin: where the part was cut out, its last tokens are not those of the text.
            if len(self._tokenizer.encode(part, add_special_tokens=False)) >= 2 * self.max_tokens:
                return part
            size *= 2
        return item

    def _keep(self, encoding: Encoding, tokens: TokenizedTexts) -> None:
        """Add what the limit leaves of a text or pair."""
        ids, type_ids = encoding.ids, encoding.type_ids
        if len(ids) > self.max_tokens:
            tokens.truncated.append(len(tokens.ids))
            rows = self._rows_to_keep(encoding.sequence_ids)
            ids, type_ids = [ids[row] for row in rows], [type_ids[row] for row in rows]
        tokens.ids.append(ids)
        tokens.type_ids.append(type_ids)

    def _rows_to_keep(self, sequences: Sequence[int | None]) -> list[int]:
        """Choose tokens: all special ones, and of each text those next to the side that is not cut.

        Args:
            sequences: Of each token 0 (first text), 1 (second), or None (special).
        """
        lengths = (sequences.count(0), sequences.count(1))
        wanted = _longest_first(*lengths, max(self.max_tokens - sequences.count(None), 0))
        first = (0, 0)
        if self._side == "left":
            first = (lengths[0] - wanted[0], lengths[1] - wanted[1])
        seen = [0, 0]
        rows = []
        for row, sequence in enumerate(sequences):
            if sequence is None:
                rows.append(row)
                continue
            if 0 <= seen[sequence] - first[sequence] < wanted[sequence]:
                rows.append(row)
            seen[sequence] += 1
        return rows

    def special_tokens(self, texts: int) -> int:
        """Return how many special tokens are put around one text, or around the two of a pair."""
        return self._tokenizer.num_special_tokens_to_add(texts == 2)

    def pad(
        self, tokens: TokenizedTexts, rows: Sequence[int] | NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Build the model's inputs for some of the texts.

        Args:
            tokens: The tokenised texts.
            rows: (B,) indices of the texts of this batch.

        Returns:
            `input_ids`, `attention_mask`, `token_type_ids`, `position_ids`: (B, T) int64. A text without any
            token (a tokenizer may add none) is one pad token, so that its vector is finite and its own.
        """
        if len(rows) == 1 and tokens.ids[rows[0]]:
            return _inputs_of_one(tokens.ids[rows[0]], tokens.type_ids[rows[0]])
        longest = max((len(tokens.ids[row]) for row in rows), default=0) or 1
        ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        for position, row in enumerate(rows):
            length = len(tokens.ids[row])
            ids[position, :length] = tokens.ids[row]
            mask[position, : length or 1] = 1
            types[position, :length] = tokens.type_ids[row]
        positions = np.broadcast_to(np.arange(longest), ids.shape)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "position_ids": positions}


def open_tokenizer(folder: Path, settings: EncoderSettings | ScorerSettings) -> TextTokenizer:
    """Open a model folder's tokenizer as its settings say.

    Raises:
        BundleError: See `TextTokenizer`; or the limit leaves no room for a text beside the special tokens.
    """
    tokenizer = TextTokenizer(
        tokenizer_path(folder),
        max_tokens=settings.max_tokens,
        pad_token=settings.pad_token,
        truncation_side=settings.truncation_side,
    )
    texts = 2 if isinstance(settings, ScorerSettings) else 1
    needed = tokenizer.special_tokens(texts) + texts
    if settings.max_tokens < needed:  # every text would be the same
        raise BundleError(
            f"{folder} has a limit of {settings.max_tokens} tokens, and its tokenizer needs {needed}: the "
            f"special ones and one a text; correct the limit"
        )
    return tokenizer


def _inputs_of_one(ids: list[int], type_ids: list[int]) -> dict[str, NDArray[np.int64]]:
    """Build the inputs of one text: what `pad` gives, without the arrays that padding needs."""
    return {
        "input_ids": np.array([ids], dtype=np.int64),
        "attention_mask": np.ones((1, len(ids)), dtype=np.int64),
        "token_type_ids": np.array([type_ids], dtype=np.int64),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
    }


def _parts(inputs: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the inputs in slices of bounded size."""
    start = characters = 0
    for position, item in enumerate(inputs):
        texts = item if isinstance(item, tuple) else (item,)
        size = sum(min(len(text), _LONG_TEXT) for text in texts if isinstance(text, str))
        if characters + size > _CALL_CHARACTERS and position > start:
            yield inputs[start:position]
            start, characters = position, 0
        characters += size
    if start < len(inputs):
        yield inputs[start:]


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens two texts keep together: the longer one gives first, as in the library."""
    short, long = sorted((first, second))
    if short + long > room:
        long = max(short, room - short)
    if short + long > room:
        short = room // 2
        long = room - short
    return (short, long) if first <= second else (long, short)


@contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Raise `BundleError` for what the library raises: bare `Exception`, and Rust's panic, which is none."""
    try:
        yield
    except (TypeError, UnicodeEncodeError, MemoryError):  # of the input, or the machine
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())
            raise BundleError(f"{what}: {reason}; copy the model again or make it again") from error
        raise


def _explain(inputs: Sequence[object], error: Exception) -> InputError:
    for position, item in enumerate(inputs):
        texts = item if isinstance(item, tuple) else (item,)
        for text in texts:
            if not isinstance(text, str):
                return InputError(f"input {position} is {type(text).__name__}; a string is needed")
            try:
                text.encode()
            except UnicodeEncodeError:
                return InputError(f"input {position} holds a lone surrogate; it is not valid Unicode text")
    return InputError(f"the inputs cannot be tokenised: {error}")
