"""Settings of `relsdk train ssra`; read by `relsdk_training.config.files.load_config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from relsdk.errors import InputError
from relsdk_training.config.settings import DataConfig, EmbedConfig, QueryConfig, ScoreConfig

__all__ = [
    "BalanceConfig",
    "CandidateConfig",
    "EmbedTrainingConfig",
    "EndpointConfig",
    "FilterConfig",
    "QueryTrainingConfig",
    "ScoreTrainingConfig",
    "SsraConfig",
    "SsraRunConfig",
    "SynthesisConfig",
    "TrainingConfig",
    "UnlabelledConfig",
    "embed_training",
    "query_training",
    "score_training",
]

_T = TypeVar("_T", ScoreConfig, QueryConfig, EmbedConfig)


@dataclass(frozen=True)
class UnlabelledConfig:
    """The text beside the labelled pairs.

    Attributes:
        pairs: Files of pairs; their labels, if any, are not read.
        documents: Files of documents.
        queries: Files of queries.
        limit: Use at most so many documents; 0 uses all.
    """

    pairs: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    limit: int = 0


@dataclass(frozen=True)
class CandidateConfig:
    """Stage 1: which existing queries get a level for a document.

    Attributes:
        lexical: The nearest so many by BM25.
        semantic: The nearest so many by the encoder that training starts from.
        most: At most so many of both together.
    """

    lexical: int = 4
    semantic: int = 4
    most: int = 6


@dataclass(frozen=True)
class EndpointConfig:
    """A language model behind an OpenAI-compatible endpoint; needs `pip install 'relsdk[llm]'`.

    Attributes:
        url: Of the endpoint, such as http://localhost:8000/v1.
        name: Of its model.
        key_env: Environment variable that holds its key.
        timeout: Seconds to wait for an answer.
        at_once: Questions that wait for an answer at the same time, 1 to 64; changes no result.
        record: File that its answers are kept in, as they come; what is in it is not asked again.
        replay: File of a former `record` that answers in place of the endpoint; needs no `url`, key or
            package.
        rubric: Text file that says what the levels mean for you, in place of relsdk's own words.
    """

    url: str = ""
    name: str = ""
    key_env: str = ""
    timeout: float = 60.0
    at_once: int = 4
    record: str = ""
    replay: str = ""
    rubric: str = ""

    @property
    def is_named(self) -> bool:
        """Whether there is somebody to ask: an endpoint, or a recording of one."""
        return bool(self.url or self.replay)


@dataclass(frozen=True)
class FilterConfig:
    """When a pair is believed.

    Attributes:
        scorer: What learns from the labelled pairs to give others a level: a "cross_encoder" (settings
            [score]), or an "encoder" by its cosine (settings [embed]).
        checkpoint: Take this model of that kind (`RUN/best`), trained on whatever labels, instead; its levels
            are read on dev all the same. Empty trains one.
        thresholds: Least probability of the level, for levels 0-3.
        adjust: How much probabilities are corrected for how rare a level is on dev: p / prior ** adjust
            (Menon et al. 2021); 0 does not.
        by_score: Keep a written query only if the score model gives it the wanted level.
        judge: Who says whether queries of one document are in the order of their levels: "model" trains a
            second score model on 70 % of the labelled queries and another seed, "endpoint" asks a language
            model, "none" asks nobody.
        endpoint: The language model that judges.
    """

    scorer: Literal["cross_encoder", "encoder"] = "cross_encoder"
    checkpoint: str = ""
    thresholds: tuple[float, ...] = (0.5, 0.3, 0.3, 0.5)
    adjust: float = 1.0
    by_score: bool = True
    judge: Literal["model", "endpoint", "none"] = "model"
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)


@dataclass(frozen=True)
class SynthesisConfig:
    """Stage 2: what is written.

    Attributes:
        reannotate: Stage 1: the first query model learns from re-annotated candidates, too.
        levels: Wanted levels.
        samples: Queries for each document and level.
        most_pairs: Pairs that a query model learns from besides the labelled ones, at most; of more, so many
            are drawn.
        rounds: How often the query model is trained and writes; 0 writes nothing. An endpoint writes once.
        min_gain: Stop when the agreement on dev documents rises by less; below 0, go on in spite of a loss.
        endpoint: The language model that writes, with a `url` or `replay`, instead of a trained one.
    """

    reannotate: bool = True
    levels: tuple[int, ...] = (0, 1, 2, 3)
    samples: int = 2
    most_pairs: int = 200_000
    rounds: int = 2
    min_gain: float = 0.0
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)


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
class TrainingConfig:
    """How the models of a run are trained.

    [training] is for all of them; [score], [query] and [embed] take precedence for one of them. What neither
    names is the default of `relsdk train score`, `query` or `embed`.

    Attributes:
        checkpoint: Folder of the encoder to start from.
        max_tokens: Limit per text, or per pair of a score model; at least 4.
        lora_rank: Train low-rank updates instead of all weights; 0 trains all.
        dropout: In training; the checkpoint's where nothing is said. On a CPU, 0 is a fifth faster.
        learning_rate: At its peak, for the transformer.
        warmup: Share of the steps.
        epochs: Passes over the data.
        max_steps: Train so many optimiser steps, however many epochs they are; 0 goes by `epochs`.
        batch_size: Pairs a batch.
        precision: "bf16" autocast, "fp32", or "auto": bf16 where the hardware has it.
        evaluate_every: Steps between evaluations on dev; 0 evaluates after each epoch.
        checkpoint_every: Steps between checkpoints; 0 writes one after each evaluation.
    """

    checkpoint: str | None = None
    max_tokens: int | None = None
    lora_rank: int | None = None
    dropout: float | None = None
    learning_rate: float | None = None
    warmup: float | None = None
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    precision: Literal["auto", "bf16", "fp32"] | None = None
    evaluate_every: int | None = None
    checkpoint_every: int | None = None


@dataclass(frozen=True)
class ScoreTrainingConfig(TrainingConfig):
    """The cross-encoders that give pairs a level.

    Attributes:
        head: "categorical" or "ordinal".
    """

    head: Literal["categorical", "ordinal"] = "categorical"


@dataclass(frozen=True)
class QueryTrainingConfig(TrainingConfig):
    """The query models.

    Attributes:
        kind: "warm_start" makes a writer out of an encoder, "seq2seq" and "causal" take one that exists.
        decoder_layers: Of a warm start: which of the encoder's layers the decoder starts from; the default
            is spread over the layers of an encoder that has fewer than 12.
        encoder_layers: Of a warm start: how many of the encoder's first layers read the document; 0, or
            more than it has, takes all.
        prompt: Of "seq2seq" and "causal": what they read; {level} and {document} are filled in.
        level_names: What {level} becomes for levels 0-3.
        max_query_tokens: Limit of a query.
        contrast: Weight of the term that makes a query less likely under another level; warm starts only.
        guidance: How much more a query follows its level than without one; 1 adds nothing. Warm starts only.
        temperature: Of sampling.
    """

    kind: Literal["warm_start", "seq2seq", "causal"] = "warm_start"
    decoder_layers: tuple[int, ...] = (2, 5, 8, 11)
    encoder_layers: int = 0
    prompt: str = QueryConfig().model.prompt
    level_names: tuple[str, ...] = QueryConfig().model.level_names
    max_query_tokens: int = 24
    contrast: float = 0.0
    guidance: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True)
class EmbedTrainingConfig(TrainingConfig):
    """The encoder, and the one that gives pairs a level with `filter.scorer = "encoder"`.

    Attributes:
        matryoshka_dims: Average the loss over these leading dimensions and the full width.
        hard_negatives: Mined documents for each query; 0 mines none.
        cosent: Weight of CoSENT.
        chunk: Rows encoded at once, with the gradient of the whole batch; 0 encodes whole batches.
    """

    matryoshka_dims: tuple[int, ...] = ()
    hard_negatives: int = 0
    cosent: float = 0.0
    chunk: int = 0


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


def _replaced() -> Iterator[tuple[str, str]]:
    """Yield the settings of former versions, and what each of them is now."""
    yield "pool.unlabelled", "is now unlabelled.pairs"
    for name in ("documents", "queries", "limit"):
        yield f"pool.{name}", f"is now unlabelled.{name}"
    for name in ("url", "name", "key_env", "timeout"):
        yield f"filter.judge_{name}", f"is now filter.endpoint.{name}"
        yield f"synthesis.endpoint_{name}", f"is now synthesis.endpoint.{name}"
    yield "filter.judge_share", "was removed: the judge learns from 70 % of the labelled queries"
    for model, old, new in (
        ("score", ScoreConfig(), ScoreTrainingConfig()),
        ("query", QueryConfig(), QueryTrainingConfig()),
        ("embed", EmbedConfig(), EmbedTrainingConfig()),
    ):
        kept = {setting.name for setting in fields(new)}
        for section in fields(old):
            for setting in fields(getattr(old, section.name)):
                value = getattr(getattr(old, section.name), setting.name)
                path = f"{model}.{section.name}.{setting.name}"
                yield path, _instead(model, section.name, setting.name, value, kept)


def _instead(model: str, section: str, name: str, value: object, kept: set[str]) -> str:
    if section == "data":
        return "was removed: the run gives each model its data; see [data]"
    if section == "teacher":
        return "was removed: it is for relsdk train score, whose model filter.checkpoint takes"
    if section == "run" and name in ("output", "seed", "threads"):
        return f"was removed: it is that of the whole run, run.{name}"
    if name in kept:
        both = f", or training.{name} for all models" if name in TrainingConfig.__dataclass_fields__ else ""
        return f"is now {model}.{name}{both}"
    remedy = "; relsdk train embed has it, for RUN/stages/90-balance/pairs.jsonl" if model == "embed" else ""
    return f"was removed: it is always {'that of the checkpoint' if value is None else repr(value)}{remedy}"


@dataclass(frozen=True)
class SsraConfig:
    """`relsdk train ssra`. The data, output and seed of the models are set by the run.

    Attributes:
        data: Labelled pairs.
        unlabelled: The text beside them.
        candidates: Which existing queries get a level.
        filter: When a pair is believed.
        synthesis: What is written.
        balance: What the encoder learns from.
        training: How all models are trained.
        score: How the score models are trained.
        query: How the query models are trained.
        embed: How the encoder is trained.
        run: Where and how the run goes.
    """

    REPLACED: ClassVar[Mapping[str, str]] = dict(_replaced())

    data: DataConfig = field(default_factory=DataConfig)
    unlabelled: UnlabelledConfig = field(default_factory=UnlabelledConfig)
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    score: ScoreTrainingConfig = field(default_factory=ScoreTrainingConfig)
    query: QueryTrainingConfig = field(default_factory=QueryTrainingConfig)
    embed: EmbedTrainingConfig = field(default_factory=EmbedTrainingConfig)
    run: SsraRunConfig = field(default_factory=SsraRunConfig)


def score_training(config: SsraConfig) -> ScoreConfig:
    """Return all settings of the score models; data, output and seed are the run's to fill in.

    Raises:
        InputError: A setting is out of range.
    """
    return _resolve(ScoreConfig(), "score", config.training, config.score)


def query_training(config: SsraConfig) -> QueryConfig:
    """Return all settings of the query models; see `score_training`."""
    return _resolve(QueryConfig(), "query", config.training, config.query)


def embed_training(config: SsraConfig) -> EmbedConfig:
    """Return all settings of the encoder; see `score_training`."""
    return _resolve(EmbedConfig(), "embed", config.training, config.embed)


def _resolve(base: _T, name: str, shared: TrainingConfig, own: TrainingConfig) -> _T:
    """Put what [training] and then a model's own section say in place of the defaults."""
    values = {
        setting.name: value
        for given in (shared, own)
        for setting in fields(given)
        if (value := getattr(given, setting.name)) is not None
    }
    changes: dict[str, Any] = {}
    try:
        for section in fields(base):
            content = getattr(base, section.name)
            if section.name != "data" and is_dataclass(content):
                named = {one.name: values[one.name] for one in fields(content) if one.name in values}
                changes[section.name] = replace(content, **named)  # type: ignore[type-var]
    except InputError as error:
        raise InputError(f"[{name}]: {error}") from error
    return replace(base, **changes)
