"""A trained score model as a judge of pairs.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from relsdk.batching import token_budget_batches
from relsdk.bundle import Head, tokenizer_path
from relsdk.calibration import Temperature
from relsdk.tokenizer import TextTokenizer
from relsdk_training.data import token_tensors
from relsdk_training.score_model import ScoreModel

__all__ = ["PairScorer", "adjusted"]


class PairScorer:
    """Gives pairs of texts probabilities of the four levels.

    Args:
        run: Folder of a `relsdk train score` run: `best/`, and `result.json` with the temperature on dev.
        head: Of the model.
        max_tokens: Limit of a pair.
        prior: (L,) shares of the levels among the labels it learned from.
        adjust: See `adjusted`.
    """

    def __init__(
        self, run: Path, head: Head, *, max_tokens: int, prior: NDArray[np.float64], adjust: float
    ) -> None:
        self.model = ScoreModel.load(run / "best", head, max_tokens=max_tokens).eval()
        settings = self.model.settings
        self.tokenizer = TextTokenizer(
            tokenizer_path(run / "best"), max_tokens=settings.max_tokens, pad_token=settings.pad_token
        )
        best = json.loads((run / "result.json").read_text(encoding="utf-8"))["best"]
        self.calibration = Temperature(best.get("temperature", 1.0), ordinal=head == "ordinal")
        self.prior, self.adjust = prior, adjust
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)

    @torch.inference_mode()
    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Judge pairs of query and document text: (N, L) float64; rows sum to 1."""
        if not pairs:
            return np.zeros((0, 4))
        tokens = self.tokenizer.tokenize(list(pairs))
        logits = np.empty((len(pairs), self.model.settings.outputs), dtype=np.float32)
        for rows in token_budget_batches(tokens.lengths):
            inputs = token_tensors(self.tokenizer, tokens, rows)
            logits[rows] = self.model({k: x.to(self.device) for k, x in inputs.items()}).cpu().numpy()
        return adjusted(self.calibration.probabilities(logits), self.prior, self.adjust)


def adjusted(
    probabilities: NDArray[np.floating], prior: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """Correct probabilities for how rare a level was among the labels: p_s / prior_s ** strength, normalised.

    At strength 1 these are the probabilities for levels that are equally frequent (Menon et al. 2021,
    Long-tail learning via logit adjustment).

    Args:
        probabilities: (N, L), rows sum to 1.
        prior: (L,) shares, each above 0.
        strength: 0 changes nothing.
    """
    moved = np.asarray(probabilities, dtype=np.float64) / prior**strength
    return np.asarray(moved / moved.sum(axis=1, keepdims=True))
