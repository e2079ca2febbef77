"""Texts or pairs of texts to token ids, with truncation counted.

Shape letters: N texts, B texts of one batch, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from relsdk.errors import BundleError, InputError

__all__ = ["TextTokenizer", "TokenizedTexts"]


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


class TextTokenizer:
    """A `tokenizer.json` cut to a model's limit.

    Args:
        path: The `tokenizer.json`.
        max_tokens: Limit per text (or pair), special tokens included.
        pad_token: What fills the shorter rows of a batch.

    Raises:
        BundleError: The file is not a tokenizer, or has no such pad token.
    """

    def __init__(self, path: Path, *, max_tokens: int, pad_token: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} is not a readable tokenizer: {error}") from error
        pad_id = self._tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise BundleError(f"{path} has no pad token {pad_token!r}")
        self.max_tokens = max_tokens
        self.pad_id: int = pad_id
        self._process = os.getpid()
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def tokenize(self, inputs: Sequence[str] | Sequence[tuple[str, str]]) -> TokenizedTexts:
        """Turn texts, or pairs of texts, into ids.

        Raises:
            InputError: An input is not a string (or a pair of strings), or holds a lone surrogate.
        """
        try:
            # The batch call pays for a thread pool, and the pool of a parent process does not survive a fork.
            if len(inputs) == 1 or os.getpid() != self._process:
                pairs = [item if isinstance(item, tuple) else (item,) for item in inputs]
                encodings = [self._tokenizer.encode(*pair) for pair in pairs]
            else:
                encodings = self._tokenizer.encode_batch_fast(list(inputs))
        except (TypeError, UnicodeEncodeError) as error:
            raise _explain(inputs, error) from error
        return _collect(encodings)

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
            return _unpadded(tokens.ids[rows[0]], tokens.type_ids[rows[0]])
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


def _unpadded(ids: list[int], type_ids: list[int]) -> dict[str, NDArray[np.int64]]:
    """Build the inputs of one text: what `pad` gives, without the arrays that padding needs."""
    return {
        "input_ids": np.array([ids], dtype=np.int64),
        "attention_mask": np.ones((1, len(ids)), dtype=np.int64),
        "token_type_ids": np.array([type_ids], dtype=np.int64),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
    }


def _collect(encodings: Sequence[Encoding]) -> TokenizedTexts:
    return TokenizedTexts(
        ids=[encoding.ids for encoding in encodings],
        type_ids=[encoding.type_ids for encoding in encodings],
        truncated=[i for i, encoding in enumerate(encodings) if encoding.overflowing],
    )


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
