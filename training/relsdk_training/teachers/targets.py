"""Targets of a score model: labels and, where other models teach it, their probabilities.

Labels say little about how near a border a pair is, and some are wrong. Several models, pooled, know better
than each of them, and grade pairs that nobody labelled; one model that learns from them (Hinton et al. 2015,
Distilling the Knowledge in a Neural Network) comes near the pool at a fraction of its cost.

Shape letters: N pairs, T teachers, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import is_scorer_folder, read_scorer_settings
from relsdk.calibration import fit_calibration
from relsdk.errors import InputError
from relsdk.formats import read_unlabelled_pairs
from relsdk.levels import expected_level
from relsdk.metrics import grade_report, ranking_report
from relsdk_checkpoint.device import default_device
from relsdk_checkpoint.pair_scores import PairClassifier, TextEmbedder
from relsdk_training.config.settings import RunConfig, TeacherConfig
from relsdk_training.data.lessons import Lesson
from relsdk_training.data.node_files import read_rows
from relsdk_training.data.pairs import PairArrays
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.engine.identity import checkpoint_hash
from relsdk_training.engine.precision import autocast_for
from relsdk_training.engine.processes import value_of
from relsdk_training.teachers.cache import TEACHER_FOLDER, teacher_outputs

__all__ = ["check_teachers", "soft_targets", "unlabelled_pairs"]

Outputs = NDArray[np.float32]


def check_teachers(config: TeacherConfig) -> None:
    """Check that each teacher is a checkpoint with levels or vectors, before the first one reads a pair.

    Raises:
        InputError: A folder is no checkpoint, or a score model gives one number instead of levels.
        BundleError: A configuration is damaged.
    """
    for name in config.checkpoints:
        if not (Path(name) / "config.json").is_file():
            raise InputError(
                f"teacher.checkpoints: {name!r} is no checkpoint; name folders of trained encoders or score "
                "models, such as RUN/best"
            )
        if is_scorer_folder(Path(name)) and read_scorer_settings(Path(name)).head == "regression":
            raise InputError(
                f"teacher.checkpoints: {name!r} gives one number for a pair; a categorical or ordinal head "
                "is needed, or an encoder"
            )


def unlabelled_pairs(
    paths: Iterable[str], train: PairArrays, held_out: Iterable[str]
) -> tuple[list[tuple[str, str]], int]:
    """Read pairs that teachers shall grade, each once.

    Args:
        paths: Files; labels are not read.
        train: Labelled pairs, which are left out.
        held_out: Queries of dev and test: pairs with one of them are left out.

    Returns:
        (query, document text) of each, and how many a held-out query cost.

    Raises:
        InputError: A file is missing or bad.
    """
    unseen = {normal_form(query) for query in held_out}
    known = set(train.texts())
    pairs: dict[tuple[str, str], None] = {}
    dropped = 0
    for path in paths:
        for query, document in read_rows(path, partial(read_unlabelled_pairs, skip_empty=True)):
            pair = (query, document_text(document))
            if normal_form(query) in unseen:
                dropped += 1
            elif pair not in known:
                pairs[pair] = None
    return list(pairs), dropped


def soft_targets(
    config: TeacherConfig,
    train: Lesson,
    unlabelled: Sequence[tuple[str, str]],
    dev: PairArrays,
    run: RunConfig,
    on_note: Callable[[str], None] = lambda note: None,
) -> Lesson:
    """Let teachers grade the pairs of a lesson, and unlabelled ones.

    The target of a pair is a mean of its target in the lesson (a label, or a corrected opinion), weighing
    1 - weight, and what the teachers say, weighing weight; that of an unlabelled one is what they say. It is
    kept in the run's folder for a resume.

    Args:
        config: Teachers, and their weight.
        train: The lesson.
        unlabelled: Query and document text of further pairs.
        dev: Labelled pairs on which each teacher is calibrated.
        run: Folder, precision.
        on_note: Called with lines for people.

    Raises:
        InputError: A folder is no checkpoint.
        CalibrationError: dev is too small to calibrate on.
        TrainingError: What a teacher said cannot be kept.
    """
    pairs, more = _append(train.pairs, unlabelled), len(unlabelled)
    # On another CPU the last digit is another one, and batches are drawn by the most probable level.
    pooled = value_of(0, _pool(config.checkpoints, pairs, dev, run, on_note))  # (N, L)
    targets = np.concatenate([train.targets, pooled[len(train) :]])
    targets[: len(train)] += config.weight * (pooled[: len(train)] - targets[: len(train)])
    pairs.labels[len(train) :] = pooled[len(train) :].argmax(axis=1)
    weights = np.concatenate([train.weights, np.ones(more, dtype=np.float32)])
    human = np.concatenate([train.human, np.zeros(more, dtype=np.bool_)])
    return Lesson(pairs, targets, weights, human)


def _append(train: PairArrays, more: Sequence[tuple[str, str]]) -> PairArrays:
    """Append pairs of level 0."""
    queries = {text: row for row, text in enumerate(train.queries)}
    documents = {text: row for row, text in enumerate(train.documents)}
    query_of = [queries.setdefault(query, len(queries)) for query, _ in more]
    document_of = [documents.setdefault(document, len(documents)) for _, document in more]
    return PairArrays(
        list(queries),
        list(documents),
        np.array([*train.query_of, *query_of], dtype=np.int64),
        np.array([*train.document_of, *document_of], dtype=np.int64),
        np.array([*train.labels, *np.zeros(len(more))], dtype=np.int64),
    )


def _pool(
    checkpoints: Sequence[str],
    pairs: PairArrays,
    dev: PairArrays,
    run: RunConfig,
    on_note: Callable[[str], None],
) -> NDArray[np.float32]:
    """Return the pool of all teachers' probabilities (N, L): p_l ~ (prod_t p_tl)^(1/T)."""
    queries = [str(query) for query in dev.query_of]
    logs: dict[str, Any] = {"pairs": 0.0, "dev": 0.0}
    for checkpoint in checkpoints:
        of_dev = _outputs(Path(checkpoint), dev, run, on_note)
        calibration, _ = fit_calibration(of_dev, dev.labels, queries)  # fails before the long part
        of_pairs = _outputs(Path(checkpoint), pairs, run, on_note)
        for name, values in (("pairs", of_pairs), ("dev", of_dev)):
            logs[name] = logs[name] + np.log(calibration.probabilities(values))
    means = {name: np.exp(total / len(checkpoints)) for name, total in logs.items()}
    pools = {name: values / values.sum(axis=1, keepdims=True) for name, values in means.items()}
    order = ranking_report(queries, dev.labels, expected_level(pools["dev"]))
    grades = grade_report(dev.labels, pools["dev"])
    on_note(
        f"{len(checkpoints)} teachers, calibrated on dev and pooled: mean_ap {order.mean_ap:.4f}, accuracy "
        f"{grades.accuracy:.4f}, log_loss {grades.log_loss:.4f} there"
    )
    return np.asarray(pools["pairs"], dtype=np.float32)


def _outputs(checkpoint: Path, pairs: PairArrays, run: RunConfig, on_note: Callable[[str], None]) -> Outputs:
    """Return what a teacher says of pairs: (N, C) logits of a score model, or (N,) cosines of an encoder."""
    device = default_device()
    with autocast_for(device, run.precision)():
        if not is_scorer_folder(checkpoint):  # each distinct text once: not worth keeping
            return TextEmbedder(checkpoint).scores(pairs.texts()).astype(np.float32)
        model = PairClassifier(checkpoint, read_scorer_settings(checkpoint).head)
        return teacher_outputs(
            model.logits,
            model.outputs,
            model.tokenizer.tokenize(pairs.texts()),
            Path(run.output) / TEACHER_FOLDER,
            f"{checkpoint_hash(checkpoint)} {run.precision} {device.type}",
            on_note=on_note,
        )
