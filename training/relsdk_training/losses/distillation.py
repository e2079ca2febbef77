"""Losses between a student's embeddings and its teacher's; both have the same dimension.

Shape letters: B rows, D dimension.
"""

from __future__ import annotations

from torch import Tensor

from relsdk.errors import InputError
from relsdk_training.losses.similarity import cosine_matrix, paired_cosine, require_same_shape

__all__ = ["cosine_distance", "similarity_matrix_loss"]


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1/B sum_i (1 - cos(student_i, teacher_i)), a scalar; inputs (B, D)."""
    return 1 - paired_cosine(student, teacher.detach()).mean()


def similarity_matrix_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the cosines among the rows of a batch.

        loss = 1/(B (B-1)) sum_{i != j} (cos(student_i, student_j) - cos(teacher_i, teacher_j))^2

    Squared differences rather than a KL divergence of softmaxes: they need no temperature and keep the
    cosines themselves, on which calibrated levels rest, not only their order.

    Args:
        student: (B, D) float, B at least 2.
        teacher: (B, D) float; gets no gradient.

    Returns:
        The scalar loss.

    Raises:
        InputError: The shapes differ or there is only one row.
    """
    require_same_shape("student", student, "teacher", teacher)
    rows = len(student)
    if rows < 2:
        raise InputError(f"a similarity matrix of {rows} row has no pairs; use batches of at least 2")
    target = teacher.detach()
    # The diagonal is 1 on both sides and adds nothing to the sum.
    return (cosine_matrix(student, student) - cosine_matrix(target, target)).square().sum() / (
        rows * (rows - 1)
    )
