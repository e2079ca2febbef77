"""Settings of `relsdk train few`; read by `relsdk_training.config.files.load_config`."""

from __future__ import annotations

from dataclasses import dataclass, field

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk_training.config.settings import EmbedConfig
from relsdk_training.config.ssra import EndpointConfig

__all__ = ["AskConfig", "BundleConfig", "FewConfig"]


@dataclass(frozen=True)
class AskConfig:
    """What a language model is asked, where `endpoint.url` names one.

    Attributes:
        unlabelled: Files of pairs, or of documents; labels, if any, are not read.
        pairs: Grade at most so many of those pairs; 0 grades none.
        documents: Write queries for at most so many of the documents; 0 writes none.
        levels: Write a query for each of these levels.
        temperature: Of writing; grades are given at 0.
    """

    unlabelled: tuple[str, ...] = ()
    pairs: int = 4000
    documents: int = 1800
    levels: tuple[int, ...] = (3, 2, 1)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        levels = self.levels
        if not levels or len({*levels}) < len(levels) or not {*levels} <= {*range(NUM_LEVELS)}:
            raise InputError(f"ask.levels {list(levels)}; different levels out of 0 to 3 are needed")


@dataclass(frozen=True)
class BundleConfig:
    """What is exported.

    Attributes:
        variants: ONNX files, as `relsdk export encoder --variant` names them; empty exports all.
    """

    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class FewConfig(EmbedConfig):
    """`relsdk train few`: the settings of `relsdk train embed`, and what is asked of a language model.

    Attributes:
        ask: What a language model is asked.
        endpoint: The language model.
        bundle: What is exported.
    """

    ask: AskConfig = field(default_factory=AskConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    bundle: BundleConfig = field(default_factory=BundleConfig)
