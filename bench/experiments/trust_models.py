"""The models whose promises `make trust` checks: they learn from few labelled pairs, and are exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.experiments.data import query_texts
from bench.experiments.llm_labels import made_row, study
from bench.experiments.llm_labels_report import ALONE
from relsdk.bundle import read_bundle
from relsdk.formats import read_pairs
from relsdk.models.open import open_pair_model
from relsdk.records import LabelledPair
from relsdk_export.encoder import export_encoder
from relsdk_export.scorer import export_scorer
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DataConfig, DistillConfig, ScoreConfig
from relsdk_training.data.pairs import read_splits
from relsdk_training.engine.loop import TrainResult
from relsdk_training.runs.distill import train_distill
from relsdk_training.runs.score import train_score

# Texts that the query tower learns from; what it loses by so few is not what is measured here.
TOWER_TEXTS = 5000
# The share of levels 1 and 2, as in the study of few labels.
RARE_SHARE = 0.045


@dataclass(frozen=True)
class Models:
    """Bundles, and labelled pairs that nothing learned from.

    Attributes:
        encoder: The bundle of the encoder.
        tower: The same encoder, with a tower for queries.
        scorer: The bundle of the score model.
        work: Where what they say of the pairs is kept, so that no model runs twice.
        unseen: Pairs of train whose queries are none of those that were learned from.
        dev: The pairs by which checkpoints were chosen.
        test: The pairs of test.
    """

    encoder: Path
    tower: Path
    scorer: Path
    work: Path
    unseen: list[LabelledPair]
    dev: list[LabelledPair]
    test: list[LabelledPair]

    def outputs(self, kind: str, split: str, variant: str = "auto") -> NDArray[np.float32]:
        """Return what a calibration takes of the pairs of a split, (N,) or (N, C).

        Args:
            kind: "encoder", "tower", "scorer", or "pool" of scorer and encoder.
            split: "unseen", "dev" or "test".
            variant: The ONNX file.
        """
        if kind == "pool":
            parts = [self.outputs(one, split, variant) for one in ("scorer", "encoder")]
            return np.column_stack(parts)
        model = open_pair_model(getattr(self, kind), variant=variant, threads=1)
        name = f"trust_{kind}_{split}_{model.variant.name}_{model.bundle.fingerprint}.npy"
        if not (self.work / name).is_file():
            pairs = [(pair.query, pair.document) for pair in getattr(self, split)]
            np.save(self.work / name, model.outputs(pairs).calibrated)
        known: NDArray[np.float32] = np.load(self.work / name)
        return known

    def labels(self, split: str) -> NDArray[np.int64]:
        """Return the labels of a split, (N,)."""
        return np.array([int(pair.level) for pair in getattr(self, split)], dtype=np.int64)

    def queries(self, split: str) -> list[str]:
        """Return the query of each pair of a split."""
        return [pair.query for pair in getattr(self, split)]


def made_models(
    shared: Path,
    work: Path,
    labels: int,
    seed: int,
    steps: int,
    overrides: list[str],
    on_step: Callable[[str], None],
) -> Models:
    """Train and export what is not there yet; the encoder is that of `make llm-real` if it ran in WORK."""
    kuake, backbone = shared / "data/kuake_qtr", shared / "models/me5-small-zh"
    folder = work / f"llm_{labels}_{steps}_{seed}" / ALONE.replace(" ", "_")
    on_step("the encoder")
    settings = [*study(shared, backbone, labels, steps, seed), *overrides]
    encoder = Path(made_row(ALONE, settings, shared / "data/llm", folder, backbone)["encoder"])
    files = {split: str(kuake / f"{split}.jsonl") for split in ("train", "dev", "test")}
    learned = read_splits(DataConfig(**files, rare_share=RARE_SHARE, limit=labels), seed)["train"]
    queries = {pair.query for pair in learned}
    pairs = {split: list(read_pairs(file)) for split, file in files.items()}
    own = [one for one in overrides if one.startswith("run.")]
    common = [f"model.checkpoint={encoder}", f"data.dev={files['dev']}", f"run.seed={seed}", *own]

    on_step("the score model of the same labels")
    config = load_config(
        ScoreConfig,
        RECIPES / "score.toml",
        [
            *common,
            *(f"data.{split}={file}" for split, file in files.items()),
            f"data.rare_share={RARE_SHARE}",
            f"data.limit={labels}",
            f"run.output={work / f'trust_scorer_{seed}'}",
        ],
    )
    scorer = _best(config, train_score(config, resume=Path(config.run.output).exists()))

    on_step("the query tower")
    texts = query_texts(shared, work / "query_texts.txt")
    distill = load_config(
        DistillConfig,
        RECIPES / "static.toml",
        [
            *common,
            f"distill.queries=['{texts}']",
            f"distill.limit={TOWER_TEXTS}",
            f"run.output={work / f'trust_tower_{seed}'}",
        ],
    )
    tower = _best(distill, train_distill(distill, resume=Path(distill.run.output).exists()))

    on_step("export")
    bundles = [work / f"trust_{kind}_{seed}.bundle" for kind in ("encoder", "tower", "scorer")]
    exports = (
        partial(export_encoder, encoder, bundles[0]),
        partial(export_encoder, encoder, bundles[1], query_tower=tower),
        partial(export_scorer, scorer, bundles[2]),
    )
    for bundle, export in zip(bundles, exports, strict=True):
        if not (bundle / "relsdk.json").is_file():
            export(overwrite=True, on_step=on_step)
        read_bundle(bundle)
    unseen = [pair for pair in pairs["train"] if pair.query not in queries]
    return Models(*bundles, work, unseen, pairs["dev"], pairs["test"])


def _best(config: ScoreConfig | DistillConfig, result: TrainResult) -> Path:
    """Return the best checkpoint of a run that went to its end.

    Raises:
        KeyboardInterrupt: It was interrupted; the same command goes on.
    """
    if result.stopped in ("interrupted", "terminated"):
        raise KeyboardInterrupt(f"interrupted at step {result.steps}; the same command goes on")
    return Path(config.run.output) / "best"
