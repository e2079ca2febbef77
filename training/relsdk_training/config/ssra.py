"""Settings of `relsdk train ssra`; read by `relsdk_training.config.files.load_config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from relsdk_training.config.settings import DataConfig, EmbedConfig, QueryConfig, ScoreConfig

__all__ = [
    "BalanceConfig",
    "CandidateConfig",
    "FilterConfig",
    "PoolConfig",
    "SsraConfig",
    "SsraRunConfig",
    "SynthesisConfig",
]


@dataclass(frozen=True)
class PoolConfig:
    """What is known beside the labelled pairs.

    Attributes:
        unlabelled: Files of pairs; their labels, if any, are not read.
        documents: Files of documents.
        queries: Files of queries.
        limit: Use at most so many documents; 0 uses all.
    """

    unlabelled: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    limit: int = 0


@dataclass(frozen=True)
class CandidateConfig:
    """Stage 1: which existing queries are judged for a document.

    Attributes:
        lexical: The nearest so many by BM25.
        semantic: The nearest so many by the encoder that training starts from.
        most: At most so many of both together.
    """

    lexical: int = 4
    semantic: int = 4
    most: int = 6


@dataclass(frozen=True)
class FilterConfig:
    """When a pair is believed.

    Attributes:
        scorer: What is trained on the labelled pairs to judge others: a "cross_encoder" (settings [score]),
            or an "encoder" by its cosine (settings [embed]).
        checkpoint: Take this model of that kind (`RUN/best`), trained on whatever labels, instead; its levels
            are read on dev all the same. Empty trains one.
        thresholds: Least probability of the level, for levels 0-3.
        adjust: How much probabilities are corrected for how rare a level is on dev: p / prior ** adjust
            (Menon et al. 2021); 0 does not.
        by_score: Keep a written query only if the score model gives it the wanted level.
        judge: Ask a second model whether queries of one document are in the order of their levels: "model"
            trains one on a part of the labelled queries and another seed, "endpoint" asks a language model,
            "none" asks nobody.
        judge_share: Share of the labelled queries that the second model learns from.
        judge_url: Of an OpenAI-compatible endpoint.
        judge_name: Its model.
        judge_key_env: Environment variable that holds its key.
        judge_timeout: Seconds to wait for it.
    """

    scorer: Literal["cross_encoder", "encoder"] = "cross_encoder"
    checkpoint: str = ""
    thresholds: tuple[float, ...] = (0.5, 0.3, 0.3, 0.5)
    adjust: float = 1.0
    by_score: bool = True
    judge: Literal["model", "endpoint", "none"] = "model"
    judge_share: float = 0.7
    judge_url: str = ""
    judge_name: str = ""
    judge_key_env: str = ""
    judge_timeout: float = 60.0


@dataclass(frozen=True)
class SynthesisConfig:
    """Stage 2: what is written.

    Attributes:
        reannotate: Stage 1: the first query model learns from re-annotated candidates, too.
        levels: Wanted levels.
        samples: Queries for each document and level.
        most_pairs: Made pairs that a query model learns from besides the labelled ones, at most; of more, so
            many are drawn.
        rounds: How often the query model is trained and writes; 0 writes nothing. An endpoint writes once.
        min_gain: Stop when the agreement on dev documents rises by less; below 0, go on in spite of a loss.
        endpoint_url: Let an OpenAI-compatible language model write instead of a trained one.
        endpoint_name: Its model.
        endpoint_key_env: Environment variable that holds its key.
        endpoint_timeout: Seconds to wait for it.
    """

    reannotate: bool = True
    levels: tuple[int, ...] = (0, 1, 2, 3)
    samples: int = 2
    most_pairs: int = 200_000
    rounds: int = 2
    min_gain: float = 0.0
    endpoint_url: str = ""
    endpoint_name: str = ""
    endpoint_key_env: str = ""
    endpoint_timeout: float = 60.0


@dataclass(frozen=True)
class BalanceConfig:
    """What the encoder learns from.

    Attributes:
        shares: Of levels 0-3 in the result.
        size: Pairs to fill up to, of each level its share; labelled pairs stay even beyond it. 0 takes the
            most that keeps the shares, which the scarcest level decides.
        annotated: Take re-annotated pairs, too.
    """

    shares: tuple[float, ...] = (0.16, 0.23, 0.23, 0.38)
    size: int = 0
    annotated: bool = True


@dataclass(frozen=True)
class SsraRunConfig:
    """Where and how an SSRA run goes.

    Attributes:
        output: Folder of the run.
        seed: Of everything random.
        shard: Documents of a shard: what is kept when a run is stopped within a stage.
        threads: CPU threads of torch; 0 leaves its choice.
    """

    output: str = ""
    seed: int = 0
    shard: int = 500
    threads: int = 0


@dataclass(frozen=True)
class SsraConfig:
    """`relsdk train ssra`. The data, output and seed of the models are set by the run."""

    data: DataConfig = field(default_factory=DataConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    run: SsraRunConfig = field(default_factory=SsraRunConfig)
