"""What can go wrong in training that a user can act on."""

from __future__ import annotations

from relsdk.errors import RelsdkError

__all__ = ["TrainingError"]


class TrainingError(RelsdkError):
    """Training cannot go on: numbers that are not finite, or a disk that is full."""
