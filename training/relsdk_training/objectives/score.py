"""The objective of `relsdk train score`.

Shape letters: N pairs, B pairs of one batch, C outputs of the head, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relsdk.calibration import Temperature as CalibratedTemperature
from relsdk.calibration import cross_validated_probabilities
from relsdk.calibration.fitting import fit_temperature
from relsdk.errors import CalibrationError
from relsdk.levels import expected_level
from relsdk.metrics import grade_report, ranking_report
from relsdk.runtime.tokenizer import TokenizedTexts, open_tokenizer
from relsdk_checkpoint.pair_scores import pair_logits, token_tensors
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_training.config.settings import RunConfig
from relsdk_training.data.lessons import Lesson
from relsdk_training.data.pairs import PairArrays
from relsdk_training.data.samplers import balanced_rows, length_batches
from relsdk_training.engine.objective import Statistics
from relsdk_training.losses.ordinal import cumulative_bce
from relsdk_training.objectives.measures import order_statistics

__all__ = ["ScoreObjective"]


class ScoreObjective:
    """Cross-entropy of a 4-way head, or the three binary ones of an ordinal head.

    Args:
        model: What is trained.
        lesson: Pairs to train on, the probabilities of their levels, and how much each counts.
        dev: Pairs to measure on.
        run: Batch size, seed.
    """

    def __init__(self, model: ScoreModel, lesson: Lesson, dev: PairArrays, run: RunConfig) -> None:
        self.module = model
        self.run = run
        settings = model.settings
        self.tokenizer = open_tokenizer(model.source, settings)
        self.lesson, self.dev = lesson, dev
        self._is_weighted = bool((lesson.weights != 1).any())
        self.train_tokens, self.dev_tokens = (
            self.tokenizer.tokenize(pairs.texts()) for pairs in (lesson.pairs, dev)
        )

    def batches(self, epoch: int, *, human: bool = False) -> Sequence[NDArray[np.int64]]:
        """Return rows of the training pairs, (B,) each, of similar length."""
        run, rows = self.run, self.lesson.rows(human=human)
        rows = rows[balanced_rows(self.lesson.pairs.labels[rows], run.repeat, seed=run.seed, epoch=epoch)]
        lengths = np.array(self.train_tokens.lengths)[rows]
        batches = length_batches(lengths, run.batch_size, seed=run.seed, epoch=epoch)
        return [rows[batch] for batch in batches]

    def loss(self, batch: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Statistics]:
        """Return the head's loss."""
        targets = torch.from_numpy(self.lesson.targets[batch]).to(device)  # (B, L)
        weights = None
        if self._is_weighted:
            weights = torch.from_numpy(self.lesson.weights[batch]).to(device)  # (B,)
        logits = self.module(token_tensors(self.tokenizer, self.train_tokens, batch, device))  # (B, C)
        if self.module.settings.head == "ordinal":
            loss = cumulative_bce(logits, targets, weights=weights)
            predicted = (logits > 0).cumprod(dim=1).sum(dim=1)  # (B,)
        else:
            loss = _cross_entropy(logits, targets, weights)
            predicted = logits.argmax(dim=1)  # (B,)
        return loss, {"accuracy": float((predicted == targets.argmax(dim=1)).float().mean())}

    def after_step(self) -> None:
        """Nothing follows the module."""

    def evaluate(self, device: torch.device) -> Statistics:
        """Return order, accuracy, QWK, log loss and ECE on dev.

        Where dev supports a fit, also the temperature that suits it (above 1: the head is too sure), and log
        loss and ECE with temperatures that were fitted on the other queries.
        """
        logits = self.logits(self.dev_tokens, device)
        head = CalibratedTemperature(1.0, ordinal=self.module.settings.head == "ordinal")
        probabilities = head.probabilities(logits)  # (N, L)
        pairs = self.dev
        queries = [str(key) for key in pairs.query_of]
        order = ranking_report(queries, pairs.labels, expected_level(probabilities))
        grades = grade_report(pairs.labels, probabilities)
        return {
            **order_statistics(order),
            "accuracy": grades.accuracy,
            "qwk": grades.qwk,
            "log_loss": grades.log_loss,
            "ece": grades.ece,
            **_temperature_statistics(logits, pairs.labels, queries),
        }

    def logits(self, tokens: TokenizedTexts, device: torch.device) -> NDArray[np.float32]:
        """Judge tokenised pairs: (N, C) float32."""
        return pair_logits(self.module, self.tokenizer, tokens, device=device)

    def save(self, folder: Path) -> None:
        """Write the score model."""
        self.module.save(folder)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return nothing: the module is all there is."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over nothing."""


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Return 1/B sum_i w_i H(targets_i, softmax(logits_i)); without weights w is 1."""
    if weights is None:
        return nn.functional.cross_entropy(logits, targets)
    return (weights * nn.functional.cross_entropy(logits, targets, reduction="none")).mean()


def _temperature_statistics(
    logits: NDArray[np.float32], labels: NDArray[np.int64], queries: list[str]
) -> Statistics:
    """Fit a temperature and measure it on held-out queries; nothing where there are too few pairs for one."""
    fitted = fit_temperature(logits.astype(np.float64), labels)
    try:
        held_out = cross_validated_probabilities(fitted, logits, labels, queries)
    except CalibrationError:
        return {}
    grades = grade_report(labels, held_out)
    return {
        "temperature": fitted.temperature,
        "calibrated_log_loss": grades.log_loss,
        "calibrated_ece": grades.ece,
    }
