"""What is wrong with a configuration, said before the first hour of training and not after it."""

from __future__ import annotations

from pathlib import Path

from relsdk.bundle import is_scorer_folder, read_scorer_settings
from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk_training.chat_endpoint import ChatEndpoint
from relsdk_training.config.ssra import SsraConfig, SynthesisConfig
from relsdk_training.query_models.checks import check_checkpoint, check_settings
from relsdk_training.runs.run import check_used
from relsdk_training.ssra.balance import checked_shares

__all__ = ["check", "judging_endpoint", "writing_endpoint"]

# Beyond this, probabilities of a level that is rare on dev leave the range of numbers.
_MOST_ADJUSTED = 10
_MOST_ROUNDS = 20


def check(config: SsraConfig) -> None:
    """Check all that needs no data.

    Raises:
        InputError: A setting is wrong.
    """
    if not config.run.output:
        raise InputError(
            "run.output names no folder; set it in the configuration or with --set run.output=FOLDER"
        )
    if config.score.teacher.checkpoints:
        raise InputError(
            "score.teacher is for relsdk train score; filter.checkpoint lets a model that is there judge"
        )
    if config.run.shard < 1:
        raise InputError(f"run.shard={config.run.shard}; at least 1 document is needed")
    asked = config.filter
    if len(asked.thresholds) != NUM_LEVELS or not all(0 <= least <= 1 for least in asked.thresholds):
        raise InputError(
            f"filter.thresholds {list(asked.thresholds)}; four probabilities from 0 to 1 are needed"
        )
    if not asked.adjust <= _MOST_ADJUSTED:
        raise InputError(f"filter.adjust={asked.adjust}; 0 to {_MOST_ADJUSTED} is needed, 1 is in full")
    if not 0 < asked.judge_share <= 1:
        raise InputError(f"filter.judge_share={asked.judge_share}; above 0 and at most 1 is needed")
    _check_synthesis(config.synthesis)
    checked_shares(config.balance.shares)
    _check_models(config)
    if asked.judge == "endpoint":
        judging_endpoint(config)
    if config.synthesis.endpoint_url:
        writing_endpoint(config)


def _check_synthesis(asked: SynthesisConfig) -> None:
    levels = asked.levels
    wrong = not levels or len(set(levels)) < len(levels) or not set(levels) <= set(range(NUM_LEVELS))
    if wrong or asked.samples < 1:
        raise InputError(
            f"synthesis.levels {list(levels)}, samples {asked.samples}; needed are different "
            "levels out of 0 to 3, at least one, and at least 1 sample"
        )
    if not asked.rounds <= _MOST_ROUNDS:
        raise InputError(f"synthesis.rounds={asked.rounds}; 0 to {_MOST_ROUNDS} is needed")


def judging_endpoint(config: SsraConfig) -> ChatEndpoint:
    """Return the endpoint that judges the order of queries; see `ChatEndpoint`."""
    asked = config.filter
    return ChatEndpoint(
        asked.judge_url, asked.judge_name, api_key_env=asked.judge_key_env, timeout=asked.judge_timeout
    )


def writing_endpoint(config: SsraConfig) -> ChatEndpoint:
    """Return the endpoint that writes queries; see `ChatEndpoint`."""
    asked = config.synthesis
    return ChatEndpoint(
        asked.endpoint_url,
        asked.endpoint_name,
        api_key_env=asked.endpoint_key_env,
        timeout=asked.endpoint_timeout,
    )


def _check_models(config: SsraConfig) -> None:
    used, given = {"embed"}, config.filter.checkpoint
    if given:
        _check_given(Path(given), config)
    judge = config.filter.judge == "model" and config.synthesis.rounds > 0
    if config.filter.scorer == "cross_encoder" and (judge or not given):
        used.add("score")
    if config.synthesis.rounds and not config.synthesis.endpoint_url:
        used.add("query")
        check_settings(config.query.model)
    for name in ("score", "query", "embed"):
        section = getattr(config, name)
        if section.data != type(section.data)() or section.run.output:
            raise InputError(f"{name}.data and {name}.run.output are set by the run; leave them out")
        if name in used:
            check_used(section)
        checkpoint = section.model.checkpoint
        if name in used and not (checkpoint and Path(checkpoint).is_dir()):
            raise InputError(
                f"{name}.model.checkpoint {checkpoint!r} is not a folder; get one with: relsdk model pull"
            )
    if "query" in used:
        check_checkpoint(config.query.model)


def _check_given(checkpoint: Path, config: SsraConfig) -> None:
    """Raise `InputError` unless a checkpoint is of the kind that shall judge."""
    kind = config.filter.scorer
    if not (checkpoint / "config.json").is_file():
        raise InputError(
            f"filter.checkpoint {str(checkpoint)!r} is no checkpoint; name RUN/best of a training"
        )
    heads = (
        read_scorer_settings(checkpoint).head if is_scorer_folder(checkpoint) else None,
        config.score.model.head if kind == "cross_encoder" else None,
    )
    if heads[0] != heads[1]:
        found, wanted = (
            f"a score model with a head that is {head}" if head else "an encoder" for head in heads
        )
        raise InputError(
            f"filter.checkpoint {str(checkpoint)!r} is {found}; filter.scorer={kind} needs {wanted}"
        )
