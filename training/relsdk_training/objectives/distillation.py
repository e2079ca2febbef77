"""The objective of `relsdk train distill`: a student whose vectors are its teacher's.

Shape letters: N texts, B texts of one batch, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relsdk.errors import InputError
from relsdk.formats import read_queries, read_unlabelled_pairs
from relsdk.runtime.tokenizer import open_tokenizer
from relsdk_checkpoint.device import default_device
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.pair_scores import embed_tokens, token_tensors
from relsdk_training.config.settings import DistillLossConfig, RunConfig
from relsdk_training.data.node_files import read_rows
from relsdk_training.data.pairs import PairArrays
from relsdk_training.data.samplers import length_batches
from relsdk_training.data.text import document_text
from relsdk_training.engine.identity import weights_hash
from relsdk_training.engine.objective import Statistics
from relsdk_training.engine.precision import autocast_for
from relsdk_training.engine.processes import world_size
from relsdk_training.losses.distillation import cosine_distance, similarity_matrix_loss
from relsdk_training.objectives.measures import ranking_statistics, tokenise_pairs
from relsdk_training.teachers.cache import TEACHER_FOLDER, teacher_outputs

__all__ = ["DistillationObjective", "distillation_texts"]

# Characters, least and most: of a piece, and of each half of one that is joined.
_PIECE = (4, 16)
_HALF = (2, 8)


def distillation_texts(config: DistillLossConfig, prompts: Mapping[str, str], seed: int = 0) -> list[str]:
    """Read the texts to learn on, each once, with the prompt that it is served with.

    Args:
        config: Files, and how many pieces of their texts to add.
        prompts: Of the model, by name.
        seed: Of the pieces.

    Raises:
        InputError: No file is named, or one is missing or bad.
    """
    if not config.queries and not config.pairs:
        raise InputError("distill.queries and distill.pairs name no file; at least one is needed")
    texts: dict[tuple[str, str], None] = {}  # (name of the prompt, text), in the order of the files
    for path in config.queries:
        texts.update((("query", query.text), None) for query in read_rows(path, read_queries))
    for path in config.pairs:
        for query, document in read_rows(path, partial(read_unlabelled_pairs, skip_empty=True)):
            texts["query", query] = None
            if config.student == "encoder":
                texts["document", document_text(document)] = None
    chosen = list(texts)[: config.limit or None]
    prompted = [prompts.get(name, "") + text for name, text in chosen]
    for name in ("query", "document"):
        own = [text for of, text in chosen if of == name]
        prompted += [prompts.get(name, "") + piece for piece in _pieces(own, config.pieces, seed)]
    return list(dict.fromkeys(prompted))


def _pieces(texts: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Yield `count` random pieces of each text, every second one joined to a piece of another text."""
    rng = np.random.default_rng(seed)

    def piece(text: str, shortest: int, longest: int) -> str:
        size = min(len(text), int(rng.integers(shortest, longest + 1)))
        start = int(rng.integers(len(text) - size + 1))
        return text[start : start + size]

    for number in range(count):
        for text in texts:
            if number % 2 == 0:
                characters = piece(text, *_PIECE)
            else:
                half = piece(text, *_HALF)
                characters = half + piece(texts[int(rng.integers(len(texts)))], *_HALF)
            if characters.strip():
                yield characters.strip()


class DistillationObjective:
    """Distance to the teacher's vectors, and between the similarities within a batch.

    The teacher's vectors are computed once, and kept in `TEACHER_FOLDER` of the run's folder for a resume.

    Args:
        student: What is trained; as wide as the teacher.
        teacher: Stays as it is.
        texts: N texts, prompts included.
        dev: Labelled pairs to measure on.
        loss: Weights of the terms, and what the student is for.
        run: Batch size, seed, folder.
        on_note: Called with lines for people while the teacher's vectors are computed.

    Raises:
        InputError: Student and teacher differ in width.
    """

    def __init__(
        self,
        student: TextEncoder,
        teacher: TextEncoder,
        texts: Sequence[str],
        dev: PairArrays,
        loss: DistillLossConfig,
        run: RunConfig,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        settings = student.settings
        if settings.dimension != teacher.settings.dimension:
            raise InputError(
                f"the student's vectors have {settings.dimension} dimensions and the teacher's "
                f"{teacher.settings.dimension}; a student is cut out of its teacher"
            )
        self.module: nn.Module = student
        self.student = student
        self.config = loss
        self.run = run
        self.tokenizer = open_tokenizer(student.source, settings)
        self.tokens = self.tokenizer.tokenize(list(texts))
        self.dev = tokenise_pairs(self.tokenizer, dev, settings.prompts)
        device = default_device()
        teacher.to(device).eval()
        outputs = partial(
            teacher_outputs,
            lambda tokens: embed_tokens(teacher, self.tokenizer, tokens, device=device),
            settings.dimension,
            folder=Path(run.output) / TEACHER_FOLDER,
            identity=f"{weights_hash(teacher.source)} {run.precision} {device.type}",
        )
        with torch.inference_mode(), autocast_for(device, run.precision)():
            self.targets = outputs(self.tokens, on_note=on_note)  # (N, D)
            self.dev_documents = outputs(self.dev.documents)

    def batches(self, epoch: int, *, human: bool = False) -> Sequence[NDArray[np.int64]]:
        """Return rows of the texts, (B,) each, of similar length, that give every process two to compare."""
        run = self.run
        batches = length_batches(self.tokens.lengths, run.batch_size, seed=run.seed, epoch=epoch)
        return [batch for batch in batches if len(batch) >= 2 * world_size()]

    def loss(self, batch: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Statistics]:
        """Return the weighted sum of both terms."""
        vectors = self.student(token_tensors(self.tokenizer, self.tokens, batch, device))  # (B, D)
        targets = torch.from_numpy(self.targets[batch]).to(device)  # (B, D)
        distance = cosine_distance(vectors, targets)
        similarity = similarity_matrix_loss(vectors, targets)
        total = self.config.cosine * distance + self.config.similarity * similarity
        return total, {"cosine_distance": distance.item(), "similarity_loss": similarity.item()}

    def after_step(self) -> None:
        """Nothing follows the student."""

    def evaluate(self, device: torch.device) -> Statistics:
        """Measure dev as it would be served: a query tower beside the teacher's document vectors."""
        pairs = self.dev.pairs
        embed = partial(embed_tokens, self.student, self.tokenizer, device=device)
        queries = embed(self.dev.queries)[pairs.query_of]  # (N, D)
        documents = embed(self.dev.documents) if self.config.student == "encoder" else self.dev_documents
        return ranking_statistics(pairs, queries, documents[pairs.document_of], ())

    def save(self, folder: Path) -> None:
        """Write the student."""
        self.student.save(folder, matryoshka_dims=self.student.settings.matryoshka_dims)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return nothing: the student is all there is."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over nothing."""
