"""The models whose promises `make trust` checks: they learn from few labelled pairs, and are exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.experiments.data import query_texts
from bench.experiments.few_sample import without_metadata
from bench.experiments.llm_labels import made_row, study
from bench.experiments.llm_labels_report import ALONE
from bench.experiments.rows import check_ended
from relsdk.files.atomic import replaced_file
from relsdk.formats import read_pairs, write_pairs
from relsdk.models.open import open_pair_model
from relsdk_export.encoder import export_encoder
from relsdk_export.scorer import export_scorer
from relsdk_sample import SampleWorld
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.config.settings import DistillConfig, ScoreConfig
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.pairs import read_splits
from relsdk_training.runs.distill import train_distill
from relsdk_training.runs.score import train_score

# Texts that the query tower learns from; what it loses by so few is not what is measured here.
TOWER_TEXTS = 5000
OTHERS = 8000
BACKBONE = "models/me5-small-zh"


class Models:
    """Bundles, each made when it is first asked for, and labelled pairs that none of them learned from.

    The encoder is that of `make llm-real` if it ran in the same folder.

    Args:
        shared: Folder of the data and of the backbone.
        work: For runs, bundles, and what they say of the pairs, so that nothing is made twice.
        labels: Pairs to learn from.
        seed: Of the trainings and of which pairs these are.
        steps: Of an encoder's training.
        overrides: Settings, KEY=VALUE.
        on_step: Called with what is done next.

    Attributes:
        unseen: Pairs of train whose queries are none of those that were learned from.
        dev: The pairs by which checkpoints were chosen.
        test: The pairs of test.
        others: Pairs of another search engine, with levels 0-2.
    """

    def __init__(
        self,
        shared: Path,
        work: Path,
        *,
        labels: int,
        seed: int,
        steps: int,
        overrides: Sequence[str],
        on_step: Callable[[str], None],
    ) -> None:
        self._shared = shared
        self._work = work
        self._labels = labels
        self._seed = seed
        self._on_step = on_step
        self._run = work / f"llm_{labels}_{steps}_{seed}" / ALONE.replace(" ", "_")
        self._settings = [*study(shared, shared / BACKBONE, labels, steps, seed), *overrides]
        data = load_config(SsraConfig, RECIPES / "ssra.toml", self._settings).data
        learned = {pair.query for pair in read_splits(data, seed)["train"]}
        train, self.dev, self.test = (list(read_pairs(file)) for file in (data.train, data.dev, data.test))
        self.unseen = [pair for pair in train if pair.query not in learned]
        self.others = list(islice(read_pairs(shared / "data/qbqtc/train.jsonl"), OTHERS))

    @cached_property
    def encoder(self) -> Path:
        """The bundle of an encoder of few labelled pairs."""
        return self._exported("encoder", lambda bundle: export_encoder(self._checkpoint, bundle))

    @cached_property
    def tower(self) -> Path:
        """The same encoder, with a tower without layers for queries."""

        def export(bundle: Path) -> None:
            texts = query_texts(self._shared, self._work / "query_texts.txt")
            own = [f"distill.queries=['{texts}']", f"distill.limit={TOWER_TEXTS}"]
            config = load_config(
                DistillConfig, RECIPES / "static.toml", self._common("tower", "data.dev=", own)
            )
            check_ended(train_distill(config, resume=Path(config.run.output).exists()))
            export_encoder(self._checkpoint, bundle, query_tower=Path(config.run.output) / "best")

        return self._exported("tower", export)

    @cached_property
    def scorer(self) -> Path:
        """The bundle of a score model of the same labels."""

        def export(bundle: Path) -> None:
            config = load_config(ScoreConfig, RECIPES / "score.toml", self._common("scorer", "data.", []))
            check_ended(train_score(config, resume=Path(config.run.output).exists()))
            export_scorer(Path(config.run.output) / "best", bundle)

        return self._exported("scorer", export)

    def of_sample(self, world: SampleWorld) -> dict[str, Path]:
        """Return bundles by what their encoders learned from: the encoder's, and one of the sample corpus.

        That one takes the first labelled pairs of train, as many as the others, and its checkpoint is
        chosen on dev.
        """

        def export(bundle: Path) -> None:
            files = {split: self._work / f"sample_{split}.jsonl" for split in ("train", "dev")}
            for split, most in (("train", self._labels), ("dev", None)):
                write_pairs(files[split], map(without_metadata, world.split(split)[:most]))
            own = [*(f"data.{split}={file}" for split, file in files.items()), "data.rare_share=0"]
            run = self._work / f"trust_sample_{self._seed}"
            export_encoder(self._trained([*self._settings, *own], run), bundle)

        return {"real queries": self.encoder, "this corpus": self._exported("sample", export)}

    @cached_property
    def _checkpoint(self) -> Path:
        return self._trained(self._settings, self._run)

    def _trained(self, settings: list[str], run: Path) -> Path:
        """Train an encoder of labels alone, or go on with it."""
        self._on_step(f"an encoder in {run.name}")
        row = made_row(ALONE, settings, self._shared / "data/llm", run, self._shared / BACKBONE)
        return Path(row["encoder"])

    def _common(self, kind: str, data: str, own: list[str]) -> list[str]:
        """Return the settings of a run that begins from the encoder."""
        kept = [one for one in self._settings if one.startswith((data, "run."))]
        run = self._work / f"trust_{kind}_{self._seed}"
        return [f"model.checkpoint={self._checkpoint}", *kept, *own, f"run.output={run}"]

    def _exported(self, kind: str, export: Callable[[Path], object]) -> Path:
        bundle = self._work / f"trust_{kind}_{self._seed}.bundle"
        if not bundle.exists():
            self._on_step(f"the bundle of the {kind}")
            export(bundle)
        return bundle

    def outputs(self, kind: str, split: str, variant: str = "auto") -> NDArray[np.float32]:
        """Return what a calibration takes of the pairs of a split, (N,) or (N, C).

        Args:
            kind: "encoder", "tower", "scorer", or "pool" of scorer and encoder.
            split: "unseen", "dev", "test" or "others".
            variant: The ONNX file.
        """
        if kind == "pool":
            parts = [self.outputs(one, split, variant) for one in ("scorer", "encoder")]
            return np.column_stack(parts)
        model = open_pair_model(getattr(self, kind), variant=variant, threads=1)
        name = f"trust_{kind}_{split}_{model.variant.name}_{model.bundle.fingerprint}.npy"
        if not (self._work / name).is_file():
            pairs = [(pair.query, pair.document) for pair in getattr(self, split)]
            with replaced_file(self._work / name) as stream:
                np.save(stream, model.outputs(pairs).calibrated)
        known: NDArray[np.float32] = np.load(self._work / name)
        return known

    def labels(self, split: str) -> NDArray[np.int64]:
        """Return the labels of a split, (N,)."""
        return np.array([int(pair.level) for pair in getattr(self, split)], dtype=np.int64)

    def queries(self, split: str) -> list[str]:
        """Return the query of each pair of a split."""
        return [pair.query for pair in getattr(self, split)]
