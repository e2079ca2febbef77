"""Fit relevance levels on your own graded pairs, and measure them on pairs of other queries.

Run: python examples/levels.py BUNDLE pairs.jsonl test.jsonl
"""

from __future__ import annotations

import sys

from relsdk import Embedder, RelevanceScorer
from relsdk.formats import read_pairs
from relsdk.tools.evaluation import calibrate_bundle, evaluate


def main(bundle: str, pairs: str, test: str) -> None:
    """Calibrate BUNDLE, print what its levels are worth, and grade three pairs."""
    calibrate_bundle(bundle, list(read_pairs(pairs)))
    scorer = RelevanceScorer(Embedder(bundle))
    held_out = list(read_pairs(test))
    quality = evaluate(scorer.model, held_out)
    print(f"nDCG@10 {quality.ranking.ndcg_at_10:.3f}")
    if quality.grading:
        print(f"levels right {quality.grading.accuracy:.0%}, calibration error {quality.grading.ece:.3f}")
    graded = scorer.predict([(pair.query, pair.document) for pair in held_out[:3]])
    for pair, relevance in zip(held_out, graded, strict=False):
        print(pair.query, pair.document.title, relevance.level.name, f"{max(relevance.probabilities):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
