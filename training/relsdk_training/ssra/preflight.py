"""Check a configuration before the first hour of training, not after it."""

from __future__ import annotations

from relsdk.errors import InputError
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.stages import balance, embed, filter, judge, query, score, unlabelled, write

__all__ = ["check"]


def check(config: SsraConfig) -> None:
    """Check all that needs no data, stage by stage.

    Raises:
        InputError: A setting is wrong.
    """
    if not config.run.output:
        raise InputError(
            "run.output names no folder; set it in the configuration or with --set run.output=FOLDER"
        )
    for stage in (unlabelled, score, judge, query, write, filter, balance, embed):
        stage.check(config)
