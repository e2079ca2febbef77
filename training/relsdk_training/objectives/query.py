"""The objective of `relsdk train query`.

Shape letters: N examples, B examples of one batch, L tokens of a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relsdk.levels import NUM_LEVELS
from relsdk_training.config.settings import RunConfig
from relsdk_training.data.lessons import Lesson
from relsdk_training.data.pairs import PairArrays
from relsdk_training.data.samplers import balanced_rows, length_batches
from relsdk_training.engine.objective import Statistics
from relsdk_training.query_models.base import REPEAT, QueryExample
from relsdk_training.query_models.writer import QueryWriter

__all__ = ["QueryObjective", "examples_of"]

# Dev examples that are measured; the measures are means, and a decoder is slow.
_DEV = 512


def examples_of(pairs: PairArrays) -> list[QueryExample]:
    """Return labelled pairs as examples of writing."""
    return [
        QueryExample(document, int(level), query)
        for (query, document), level in zip(pairs.texts(), pairs.labels, strict=True)
    ]


class QueryObjective:
    """Log-likelihood of queries given document and level.

    With a contrast, also -log sigmoid(log p(q | d, level) - log p(q | d, another level)), another one drawn
    for each example: what a level changes is learned, and not only what a document suggests.

    Args:
        writer: What is trained.
        lesson: Pairs to learn from at their most probable level, and how much each counts.
        dev: Pairs to measure on.
        run: Batch size, seed, `repeat` for rare levels.
        texts: What a warm start also learns to repeat, each once an epoch, in batches of their own.
    """

    def __init__(
        self,
        writer: QueryWriter,
        lesson: Lesson,
        dev: PairArrays,
        run: RunConfig,
        texts: Sequence[str] = (),
    ) -> None:
        self.module: nn.Module = writer
        self.writer = writer
        self.run = run
        self.lesson = lesson
        repeated = [QueryExample(text, REPEAT, text) for text in texts]
        self.train = writer.tokenise([*examples_of(lesson.pairs), *repeated])
        self._labelled = len(self.train.levels) - len(repeated)
        few = np.random.default_rng(run.seed).permutation(len(dev))[:_DEV]
        dev_examples = examples_of(dev)
        self.dev = writer.tokenise([dev_examples[row] for row in np.sort(few)])

    def batches(self, epoch: int, *, human: bool = False) -> Sequence[NDArray[np.int64]]:
        """Return rows of the training examples, (B,) each, of similar length, labelled or repeated."""
        run, lengths = self.run, np.array(self.train.lengths)
        labelled = self.lesson.rows(human=human)
        levels = self.train.levels[labelled]
        labelled = labelled[balanced_rows(levels, run.repeat, seed=run.seed, epoch=epoch)]
        repeated = np.arange(self._labelled, self._labelled if human else len(lengths))
        batches = []
        for rows in (labelled, repeated):
            if len(rows):
                places = length_batches(lengths[rows], run.batch_size, seed=run.seed, epoch=epoch)
                batches += [rows[batch] for batch in places]
        if len(repeated):
            order = np.random.default_rng((run.seed, epoch, 4)).permutation(len(batches))
            batches = [batches[place] for place in order]
        return batches

    def loss(self, batch: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Statistics]:
        """Return the mean loss of a token, and of the contrast."""
        writer, settings = self.writer, self.writer.settings
        levels = self.train.levels[batch]
        if levels[0] == REPEAT:
            (own,) = writer.log_likelihoods(self.train, batch, [[writer.end] * len(batch)], device)
            loss = -own.sum() / sum(len(self.train.queries[row]) for row in batch)
            return loss, {"repeat_loss": loss.item()}
        true = [writer.starts[level] for level in levels]
        hidden = torch.rand(len(batch)) < settings.unconditioned  # (B,)
        shown = [writer.neutral if hide else start for hide, start in zip(hidden.tolist(), true, strict=True)]
        starts = [shown]
        if settings.contrast:
            moved = (levels + torch.randint(1, NUM_LEVELS, (len(batch),)).numpy()) % NUM_LEVELS
            starts.append([writer.starts[level] for level in moved])
        likelihoods = writer.log_likelihoods(self.train, batch, starts, device)
        tokens = sum(len(self.train.queries[row]) for row in batch)
        weights = torch.from_numpy(self.lesson.weights[batch]).to(likelihoods[0])  # (B,)
        loss = -(weights[:, None] * likelihoods[0]).sum() / tokens
        statistics = {"token_loss": loss.item()}
        if settings.contrast:
            margin = (likelihoods[0] - likelihoods[1]).sum(dim=1)  # (B,)
            visible = (~hidden).to(margin)
            penalties = weights * nn.functional.softplus(-margin) * visible
            contrast = penalties.sum() / visible.sum().clamp(min=1)
            statistics["accuracy"] = float(((margin > 0) * visible).sum() / visible.sum().clamp(min=1))
            loss = loss + settings.contrast * contrast
        return loss, statistics

    def after_step(self) -> None:
        """Nothing follows the writer."""

    def evaluate(self, device: torch.device) -> Statistics:
        """Return the mean log-likelihood of a token on dev, and how often the true level explains a query.

        The second is the level control that was learned: argmax over levels of log p(q | d, level). It is 1/4
        for a writer that ignores the level; only warm starts report it.
        """
        writer, rows = self.writer, np.arange(len(self.dev.levels))
        controlled = writer.settings.kind == "warm_start"
        total, right = 0.0, 0
        for start in range(0, len(rows), self.run.batch_size):
            some = rows[start : start + self.run.batch_size]
            levels = self.dev.levels[some]
            levels_to_try = range(NUM_LEVELS) if controlled else (0,)
            starts = [[writer.starts[level]] * len(some) for level in levels_to_try]
            by_level = torch.stack(
                [x.sum(dim=1) for x in writer.log_likelihoods(self.dev, some, starts, device)]
            ).cpu()  # (levels, B)
            own = torch.from_numpy(levels) if controlled else torch.zeros(len(some), dtype=torch.int64)
            total += float(by_level.gather(0, own[None]).sum())
            right += int((by_level.argmax(dim=0) == own).sum())
        mean = total / sum(len(query) for query in self.dev.queries)
        statistics = {"log_likelihood": mean, "perplexity": float(np.exp(-mean))}
        return statistics | ({"level_accuracy": right / len(rows)} if controlled else {})

    def save(self, folder: Path) -> None:
        """Write the writer."""
        self.writer.save(folder)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return nothing: the writer is all there is."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over nothing."""
