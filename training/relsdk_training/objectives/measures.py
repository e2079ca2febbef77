"""Tokens of an encoder's pairs, and measures of the order that its vectors give them.

Shape letters: N texts or pairs, D dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.metrics import ranking_report
from relsdk.runtime.tokenizer import TextTokenizer, TokenizedTexts
from relsdk_training.data.pairs import PairArrays
from relsdk_training.engine.objective import Statistics

__all__ = [
    "order_statistics",
    "ranking_statistics",
    "tokenise_pairs",
]


@dataclass(frozen=True, eq=False)
class _PairTokens:
    """The texts of one file of pairs, tokenised once with their prompts."""

    pairs: PairArrays
    queries: TokenizedTexts
    documents: TokenizedTexts


def tokenise_pairs(tokenizer: TextTokenizer, pairs: PairArrays, prompts: Mapping[str, str]) -> _PairTokens:
    """Tokenise the distinct texts of pairs with an encoder's prompts."""
    query, document = prompts.get("query", ""), prompts.get("document", "")
    return _PairTokens(
        pairs,
        tokenizer.tokenize([query + text for text in pairs.queries]),
        tokenizer.tokenize([document + text for text in pairs.documents]),
    )


def ranking_statistics(
    pairs: PairArrays, queries: NDArray[np.float32], documents: NDArray[np.float32], dims: Sequence[int]
) -> Statistics:
    """Measure the cosines of N pairs of vectors (N, D), at the full width and at each of `dims`."""
    names = [str(key) for key in pairs.query_of]
    full = queries.shape[1]
    statistics: Statistics = {}
    for dim in dict.fromkeys((full, *dims)):
        left, right = queries[:, :dim], documents[:, :dim]
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines = np.einsum("nd,nd->n", left, right) / np.maximum(norms, 1e-12)  # (N,)
        measures = order_statistics(ranking_report(names, pairs.labels, cosines))
        statistics |= {name if dim == full else f"{name}@{dim}": value for name, value in measures.items()}
    return statistics


def order_statistics(report: Any) -> Statistics:
    """Return the measures of a ranking report that runs are compared by."""
    return {name: getattr(report, name) for name in ("mean_ap", "ap_1", "ap_2", "ap_3", "ndcg_at_10")}
