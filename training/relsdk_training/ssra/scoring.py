"""A trained model that gives pairs a level: a cross-encoder, or an encoder by its cosine.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import (
    calibration_from_dict,
    cross_validated_probabilities,
    fit_calibration,
    method_name,
)
from relsdk.errors import InputError
from relsdk.files.folders import write_file_atomically
from relsdk.metrics import grade_report
from relsdk.typed_json import read_json
from relsdk_checkpoint.pair_scores import PairKind, PairScores, open_pair_scores
from relsdk_training.config.settings import ModelConfig
from relsdk_training.data.pairs import PairArrays

__all__ = ["PairScorer", "fit_levels"]

_LEVELS = "levels.json"


class _Levels(TypedDict):
    """What is read of it."""

    calibration: dict[str, Any]
    prior: list[float]


class PairScorer:
    """Gives pairs of texts probabilities of the four levels.

    A model that hardly saw levels 1 and 2 hardly ever names them, and may still order pairs well. So only its
    order is used: levels are read from its scores by a calibration that was fitted on dev (`fit_levels`).

    Args:
        run: Folder of a training, with `best/` and what `fit_levels` wrote.
        kind: What was trained.
        config: How: head and limit of a pair, or the limit of a text.
        adjust: See `_adjust`; the prior is that of dev.

    Raises:
        InputError: The folder has no levels.
    """

    def __init__(self, run: Path, kind: PairKind, config: ModelConfig, *, adjust: float) -> None:
        path, remedy = run / _LEVELS, "fit levels on dev again: delete the file and run the stage again"
        content = read_json(path, _Levels, error=InputError, remedy=remedy)
        self.model = _open_best(run, kind, config)
        self.calibration = calibration_from_dict(
            content["calibration"], where=str(path), error=InputError, remedy=remedy
        )
        self.prior = np.array(content["prior"])
        self.adjust = adjust

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return how probable each level of pairs of query and document text is: (N, L), rows sum to 1."""
        if not pairs:
            return np.zeros((0, 4))
        return _adjust(self.calibration.probabilities(self.model.scores(pairs)), self.prior, self.adjust)


def fit_levels(run: Path, kind: PairKind, config: ModelConfig, dev: PairArrays) -> dict[str, Any]:
    """Fit levels to a trained model's scores of dev pairs, and write them into its folder.

    Args:
        run: Folder of the training.
        kind: What was trained.
        config: How.
        dev: Labelled pairs that the model did not learn from.

    Returns:
        Method, and accuracy and QWK on held-out dev queries.

    Raises:
        CalibrationError: There are too few pairs.
    """
    scores = _open_best(run, kind, config).scores(dev.texts())
    queries = [str(query) for query in dev.query_of]
    calibration, _ = fit_calibration(scores, dev.labels, queries)
    counts = np.maximum(np.bincount(dev.labels, minlength=4), 0.5)
    content = {"calibration": calibration.to_dict(), "prior": (counts / counts.sum()).tolist()}
    write_file_atomically(run / _LEVELS, json.dumps(content, indent=1) + "\n")
    held_out = cross_validated_probabilities(calibration, scores, dev.labels, queries)
    grades = grade_report(dev.labels, held_out)
    return {"method": method_name(calibration), "accuracy": grades.accuracy, "qwk": grades.qwk}


def _open_best(run: Path, kind: PairKind, config: ModelConfig) -> PairScores:
    return open_pair_scores(run / "best", kind, head=config.head, max_tokens=config.max_tokens)


def _adjust(
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
