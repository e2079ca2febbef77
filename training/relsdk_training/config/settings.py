"""Typed settings of the trainings: one frozen dataclass a concern, a root dataclass a task.

They are read from files by `relsdk_training.config.files`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from relsdk.errors import InputError

__all__ = [
    "DataConfig",
    "DistillConfig",
    "DistillLossConfig",
    "EmbedConfig",
    "LossConfig",
    "ModelConfig",
    "OptimiserConfig",
    "QueryConfig",
    "QueryDataConfig",
    "QueryModelConfig",
    "RunConfig",
    "ScoreConfig",
    "TeacherConfig",
]


@dataclass(frozen=True)
class ModelConfig:
    """What is trained.

    Attributes:
        checkpoint: Folder of the encoder to start from.
        max_tokens: Limit per text, or per pair of a score model; at least 4.
        query_prompt: Put before queries; None takes the checkpoint's. A score model uses none.
        document_prompt: The same for documents.
        layers: Keep these layers only, counted from 0, or from the end: -1 is the last; empty keeps all.
        lora_rank: Train low-rank updates instead of all weights; 0 trains all.
        dropout: In training; None takes the checkpoint's. On a CPU, 0 is a fifth faster.
        head: Of a score model: "categorical" or "ordinal".
    """

    checkpoint: str = ""
    max_tokens: int = 128
    query_prompt: str | None = None
    document_prompt: str | None = None
    layers: tuple[int, ...] = ()
    lora_rank: int = 0
    dropout: float | None = None
    head: Literal["categorical", "ordinal"] = "categorical"

    def __post_init__(self) -> None:
        _require("model.max_tokens", self.max_tokens, 4)

    @property
    def prompts(self) -> dict[str, str] | None:
        """The prompts by name; None takes the checkpoint's.

        Raises:
            InputError: One of the two is set without the other.
        """
        if self.query_prompt is None and self.document_prompt is None:
            return None
        if self.query_prompt is None or self.document_prompt is None:
            raise InputError("model.query_prompt and model.document_prompt go together; set both or none")
        return {"query": self.query_prompt, "document": self.document_prompt}


# Of a pair beside a labelled one: beyond it labels are lost in rounding, and losses overflow.
_MOST_WEIGHT = 1000


@dataclass(frozen=True)
class DataConfig:
    """Labelled pairs, and what a model said of pairs without labels; see `relsdk_training.data.opinions`.

    Attributes:
        train: File of pairs to train on. `{node}` in its name is the number of a `torchrun` node: each
            reads its own file, and all train on all of them. Empty trains on `weak` and `written` alone.
        dev: File that decides when to stop and which checkpoint is best. Without one, an encoder trains to
            its last step, and that one counts as the best.
        test: File whose queries must not be in the others; it is read for nothing else.
        label_map: The level of each of the files' labels, as [0, 1, 3] for labels 0, 1, 2; empty when the
            labels are levels.
        rare_levels: Levels to thin out in the training data, to imitate an imbalance.
        rare_share: What share of the training pairs the rare levels shall be together; 0 thins nothing.
        limit: Use the first so many training pairs; 0 uses all.
        weak: Files of pairs that a model graded. Those of `train` or `dev` say how far it can be believed:
            they correct the grades of the others, which are learned.
        written: Files of pairs whose query a model wrote for the level.
        weak_weight: Of a weak pair beside a labelled one.
        written_weight: Of a written pair beside a labelled one.
        human_last: Last share of the steps, which learn from `train` alone, below 1; 0 mixes to the end.
    """

    train: str = ""
    dev: str = ""
    test: str = ""
    label_map: tuple[int, ...] = ()
    rare_levels: tuple[int, ...] = (1, 2)
    rare_share: float = 0.0
    limit: int = 0
    weak: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    weak_weight: float = 1.0
    written_weight: float = 1.0
    human_last: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weak", "written"):
            weight = getattr(self, f"{name}_weight")
            if not 0 < weight <= _MOST_WEIGHT:
                raise InputError(
                    f"data.{name}_weight={weight}; above 0 and at most {_MOST_WEIGHT:,} is needed, or "
                    f"no file in data.{name}"
                )
        if not 0 <= self.human_last < 1:
            raise InputError(f"data.human_last={self.human_last}; 0 or more is needed, and less than 1")


@dataclass(frozen=True)
class LossConfig:
    """The embedding objective; see `relsdk_training.losses` for the equations.

    Attributes:
        info_nce: Weight of InfoNCE.
        weighting: Pull pairs by their "label", or all positives alike: "binary".
        temperature: Where the learned temperature starts.
        mask_margin: Drop candidates more similar than the positive by more than this; negative keeps all.
        self_contrast: Add other queries and other documents as candidates.
        matryoshka_dims: Average the loss over these leading dimensions and the full width; those above the
            encoder's width are left out, and a note says so.
        hard_negatives: Mined documents for each query; 0 mines none.
        queue: Documents that the miner remembers.
        max_ratio: A mined negative is at most this times as similar as the positive.
        momentum: Of the copy that embeds the queue; 1 keeps the starting encoder.
        cosent: Weight of CoSENT.
        cosent_temperature: Of CoSENT.
        ordinal: Weight of the ordinal term on the cosine.
        wasserstein: Weight of the list-wise Wasserstein term, at the first temperature.
    """

    info_nce: float = 1.0
    weighting: Literal["label", "binary"] = "label"
    temperature: float = 0.03
    mask_margin: float = 0.1
    self_contrast: bool = True
    matryoshka_dims: tuple[int, ...] = ()
    hard_negatives: int = 0
    queue: int = 65536
    max_ratio: float = 0.95
    momentum: float = 1.0
    cosent: float = 0.0
    cosent_temperature: float = 0.05
    ordinal: float = 0.0
    wasserstein: float = 0.0


@dataclass(frozen=True)
class DistillLossConfig:
    """What a student learns from its teacher, on texts without labels.

    Attributes:
        student: "encoder" stands in for the teacher; a "query" tower encodes queries only, and is used beside
            the teacher's document vectors. "static" is a query tower without layers: the mean of a query's
            token vectors and two small linear layers.
        queries: Files of queries.
        pairs: Files of pairs: their queries and, for an encoder, their documents; labels are not read.
        limit: Use at most so many texts, pieces not counted; 0 uses all.
        pieces: So many random pieces of each text as further texts, every second one joined to a piece of
            another text: a tower of few layers needs more texts than there are queries.
        cosine: Weight of the distance between student and teacher.
        similarity: Weight of the distance between their similarity matrices.
    """

    student: Literal["encoder", "query", "static"] = "encoder"
    queries: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    limit: int = 0
    pieces: int = 0
    cosine: float = 1.0
    similarity: float = 1.0


@dataclass(frozen=True)
class TeacherConfig:
    """Models from which a score model learns beside the labels; see `relsdk_training.teachers.targets`.

    Attributes:
        checkpoints: Folders of trained encoders and score models, of any size, whose probabilities are
            pooled; empty trains on labels alone.
        pairs: Files of pairs for the teachers to grade, as `relsdk mine` writes them; labels are not read.
        weight: Of the teachers in the target of a labelled pair, 0 to 1; the rest is the label's.
    """

    checkpoints: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    weight: float = 0.7

    def __post_init__(self) -> None:
        _require("teacher.weight", self.weight, 0, 1)
        if self.pairs and not self.checkpoints:
            raise InputError("teacher.pairs has no labels to learn from; name models in teacher.checkpoints")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine decay.

    Attributes:
        learning_rate: At its peak, for the transformer.
        head_learning_rate: For everything else: the layer that gives the logits, temperature, thresholds.
        weight_decay: Of matrices; vectors have none.
        warmup: Share of the steps.
        max_grad_norm: Gradients are scaled down to this norm.
    """

    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    warmup: float = 0.1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _require("optimiser.warmup", self.warmup, 0, 1)
        if not self.max_grad_norm > 0:
            raise InputError(f"optimiser.max_grad_norm={self.max_grad_norm}; above 0 is needed")


@dataclass(frozen=True)
class RunConfig:
    """How a run goes.

    Attributes:
        output: Folder of the run.
        seed: Of everything random.
        epochs: Passes over the data.
        max_steps: Train so many optimiser steps, however many epochs they are; 0 goes by `epochs`.
        batch_size: Pairs a batch.
        accumulation: Batches an optimiser step.
        chunk: Rows encoded at once, with the gradient of the whole batch; 0 encodes whole batches.
        group: Keep the pairs of a query in one batch; otherwise no batch holds a query or document twice.
        repeat: How often a pair of a rare level may be in an epoch, to even out the levels; 1 repeats none.
        precision: "bf16" autocast, "fp32", or "auto": bf16 where the hardware has it. A CPU without it
            emulates it some hundred times slower.
        evaluate_every: Steps between evaluations on dev; 0 evaluates after each epoch.
        checkpoint_every: Steps between checkpoints; 0 writes one after each evaluation.
        patience: Stop after so many evaluations without improvement; 0 never stops early.
        threads: CPU threads of torch; 0 leaves its choice.
        timeout: Seconds that a process of `torchrun` waits for the others before it ends with an error.
    """

    output: str = ""
    seed: int = 0
    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 64
    accumulation: int = 1
    chunk: int = 0
    group: bool = True
    repeat: float = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    evaluate_every: int = 0
    checkpoint_every: int = 0
    patience: int = 0
    threads: int = 0
    timeout: int = 600

    def __post_init__(self) -> None:
        _require("run.timeout", self.timeout, 1, 86_400)
        _require("run.seed", self.seed, 0, 2**32 - 1)
        _require("run.batch_size", self.batch_size, 1)
        _require("run.accumulation", self.accumulation, 1)
        _require("run.repeat", self.repeat, 1, 1000)
        _require("run.threads", self.threads, 0, 1024)
        if not (self.epochs or self.max_steps):
            raise InputError("run.epochs=0 and run.max_steps=0 train nothing; set one of them")


@dataclass(frozen=True)
class EmbedConfig:
    """`relsdk train embed`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True)
class ScoreConfig:
    """`relsdk train score`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig(batch_size=32))


@dataclass(frozen=True)
class DistillConfig:
    """`relsdk train distill`: `model.checkpoint` is the teacher, `model.layers` what the student keeps of it.

    Attributes:
        model: Teacher and student.
        data: `dev` is the file of labelled pairs that decides; `train` and `test` are not used.
        distill: Texts and losses.
        optimiser: AdamW's settings.
        run: How the run goes.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distill: DistillLossConfig = field(default_factory=DistillLossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig(batch_size=128))


@dataclass(frozen=True)
class QueryModelConfig:
    """What writes queries.

    Attributes:
        kind: "warm_start" makes a writer out of an encoder, "seq2seq" and "causal" take one that exists.
        checkpoint: Folder of the encoder, or of the language model.
        decoder_layers: Of a warm start: which of the encoder's layers the decoder starts from; the default
            is spread over the layers of an encoder that has fewer than 12.
        encoder_layers: Of a warm start: how many of the encoder's first layers read the document; 0, or
            more than it has, takes all. In the last layers of a sentence encoder all tokens of a text are
            nearly alike.
        freeze_encoder: Train the decoder alone; half the work.
        prompt: Of "seq2seq" and "causal": what they read; {level} and {document} are filled in.
        level_names: What {level} becomes for levels 0-3.
        max_tokens: Limit of a document.
        max_query_tokens: Limit of a query.
        contrast: Weight of the term that makes a query less likely under another level; warm starts only.
        unconditioned: Share of the training examples whose level is hidden, for guidance; warm starts only.
        guidance: How much more a query follows its level than without one: logits become
            u + guidance * (c - u), of u without and c with the level (Ho & Salimans 2022); 1 adds nothing.
            Warm starts only.
        temperature: Of sampling.
        top_p: Sample among the most probable tokens that hold this much probability, 64 of them at most.
        lora_rank: Train low-rank updates (peft) instead of all weights; 0 trains all.
        dropout: In training; None takes the checkpoint's.
    """

    kind: Literal["warm_start", "seq2seq", "causal"] = "warm_start"
    checkpoint: str = ""
    decoder_layers: tuple[int, ...] = (2, 5, 8, 11)
    encoder_layers: int = 0
    freeze_encoder: bool = False
    prompt: str = "{document}\n写一个搜索词，与上文的相关程度为「{level}」：\n"
    level_names: tuple[str, ...] = ("不相关", "弱相关", "基本相关", "完全匹配")
    max_tokens: int = 64
    max_query_tokens: int = 24
    contrast: float = 0.0
    unconditioned: float = 0.1
    guidance: float = 1.0
    temperature: float = 1.0
    top_p: float = 0.95
    lora_rank: int = 0
    dropout: float | None = None


@dataclass(frozen=True)
class QueryDataConfig(DataConfig):
    """What a query model learns from.

    Attributes:
        texts: Files of unlabelled queries and titles, which a warm start also learns to repeat: it learns to
            read, and how queries sound, without labels.
    """

    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueryConfig:
    """`relsdk train query`."""

    model: QueryModelConfig = field(default_factory=QueryModelConfig)
    data: QueryDataConfig = field(default_factory=QueryDataConfig)
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(learning_rate=3e-4))
    run: RunConfig = field(default_factory=lambda: RunConfig(batch_size=32))


def _require(name: str, value: float, least: float, most: float | None = None) -> None:
    """Raise `InputError` unless a setting is in its range."""
    if value < least or (most is not None and value > most):
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise InputError(f"{name}={value}; {wanted} is needed")
