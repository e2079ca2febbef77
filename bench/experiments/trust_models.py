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
from bench.experiments.rows import check_ended
from relsdk.files.atomic import replaced_file
from relsdk.formats import read_pairs
from relsdk.models.open import open_pair_model
from relsdk.records import LabelledPair
from relsdk_export.encoder import export_encoder
from relsdk_export.scorer import export_scorer
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DistillConfig, ScoreConfig
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.pairs import read_splits
from relsdk_training.runs.distill import train_distill
from relsdk_training.runs.score import train_score

# Texts that the query tower learns from; what it loses by so few is not what is measured here.
TOWER_TEXTS = 5000


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
            with replaced_file(self.work / name) as stream:
                np.save(stream, model.outputs(pairs).calibrated)
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
    backbone = shared / "models/me5-small-zh"
    folder = work / f"llm_{labels}_{steps}_{seed}" / ALONE.replace(" ", "_")
    settings = [*study(shared, backbone, labels, steps, seed), *overrides]
    on_step("the encoder")
    encoder = Path(made_row(ALONE, settings, shared / "data/llm", folder, backbone)["encoder"])
    data = load_config(SsraConfig, RECIPES / "ssra.toml", settings).data
    common = [f"model.checkpoint={encoder}", *(one for one in settings if one.startswith("run."))]
    on_step("the score model of the same labels")
    own = [one for one in settings if one.startswith("data.")]
    scorer = _trained_scorer([*common, *own, f"run.output={work / f'trust_scorer_{seed}'}"])
    on_step("the query tower")
    own = [f"data.dev={data.dev}", f"distill.queries=['{query_texts(shared, work / 'query_texts.txt')}']"]
    tower = _trained_tower([*common, *own, f"run.output={work / f'trust_tower_{seed}'}"])

    on_step("export")
    bundles = [work / f"trust_{kind}_{seed}.bundle" for kind in ("encoder", "tower", "scorer")]
    exports = (
        partial(export_encoder, encoder, bundles[0]),
        partial(export_encoder, encoder, bundles[1], query_tower=tower),
        partial(export_scorer, scorer, bundles[2]),
    )
    for bundle, export in zip(bundles, exports, strict=True):
        if not bundle.exists():
            export(on_step=on_step)
    learned = {pair.query for pair in read_splits(data, seed)["train"]}
    train, dev, test = (list(read_pairs(file)) for file in (data.train, data.dev, data.test))
    return Models(*bundles, work, [pair for pair in train if pair.query not in learned], dev, test)


def _trained_scorer(settings: list[str]) -> Path:
    """Train a score model, or go on with it; return its best checkpoint."""
    config = load_config(ScoreConfig, RECIPES / "score.toml", settings)
    check_ended(train_score(config, resume=Path(config.run.output).exists()))
    return Path(config.run.output) / "best"


def _trained_tower(settings: list[str]) -> Path:
    """Train a query tower without layers, or go on with it; return its best checkpoint."""
    recipe = RECIPES / "static.toml"
    config = load_config(DistillConfig, recipe, [*settings, f"distill.limit={TOWER_TEXTS}"])
    check_ended(train_distill(config, resume=Path(config.run.output).exists()))
    return Path(config.run.output) / "best"
