"""Change logits before a token is drawn.

Shape letters: B queries, L tokens so far, T tokens of a document, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["Guidance", "Nucleus"]

# The nucleus is looked for among so many tokens: sorting a whole vocabulary costs more than the model itself.
_MOST = 64


class Nucleus(LogitsProcessor):  # type: ignore[misc]
    """Leaves the most probable tokens that hold a share of the probability (Holtzman et al. 2020).

    Args:
        temperature: Divides the logits.
        top_p: The share; the most probable token always stays.
    """

    def __init__(self, temperature: float, top_p: float) -> None:
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return logits (B, V), -inf where a token is out."""
        best, tokens = torch.topk(scores / self.temperature, min(_MOST, scores.shape[1]), dim=1)  # (B, K)
        shares = torch.softmax(best, dim=1)
        best = best.masked_fill(shares.cumsum(dim=1) - shares >= self.top_p, -torch.inf)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, best)


class Guidance(LogitsProcessor):  # type: ignore[misc]
    """Moves the logits away from those without a level: u + strength * (c - u) (Ho & Salimans 2022).

    Args:
        model: The encoder-decoder model that is generating.
        hidden: Encoded documents, (B, T, D).
        mask: Of their tokens, (B, T).
        start: Token id that starts a query without a level.
        strength: 1 changes nothing.
    """

    def __init__(self, model: Any, hidden: Tensor, mask: Tensor, start: int, strength: float) -> None:
        self.model = model
        self.hidden, self.mask = hidden, mask
        self.start = start
        self.strength = strength
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the moved logits (B, V) of the next token after `input_ids` (B, L)."""
        first = input_ids.new_full((len(input_ids), 1), self.start)
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.hidden),
            attention_mask=self.mask,
            decoder_input_ids=first if self.cache is None else input_ids[:, -1:],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        without = torch.log_softmax(output.logits[:, -1].float(), dim=1)  # (B, V)
        return without + self.strength * (torch.log_softmax(scores, dim=1) - without)
