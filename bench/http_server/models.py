"""What the servers serve: the same weights in several forms, an index of real titles, distinct texts.

The query tower is cut from the encoder and not trained: what a query costs depends on the shape of a model
and not on its weights. The cross-encoder's head is random for the same reason.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from bench.experiments.export_real import write_titles
from bench.serving.score import scorer_bundle
from bench.serving.settings import make_settings
from bench.serving.weights import unfused_folder

# Layers of the tower, as of `relsdk_training/recipes/distill.toml`.
_LAYERS = (0, -1)
# Of train: what the levels of the search are fitted on.
_PAIRS = 2000
_REAL_QUERIES = "data/queries/video_search.txt"


@dataclass(frozen=True)
class Folders:
    """Where everything is.

    Attributes:
        checkpoint: For torch.
        checkpoint32: The same in fp32: half precision is slow on a CPU.
        encoder: Bundle of twelve layers, with levels.
        tower: The same with a query tower of two layers.
        scorer: Bundle of a cross-encoder.
        unfused: The checkpoint in dynamic int8, as fastembed's users have it.
        titles: Documents, one a line.
        index: Of these, made with `encoder`.
    """

    checkpoint: Path
    checkpoint32: Path
    encoder: Path
    tower: Path
    scorer: Path
    unfused: Path
    titles: Path
    index: Path

    def to_dict(self) -> dict[str, str]:
        """Return absolute paths."""
        return {name: str(Path(path).resolve()) for name, path in asdict(self).items()}


@dataclass(frozen=True)
class Texts:
    """Distinct queries: a number is a text, and no two numbers have the same.

    Attributes:
        shared: Has the real queries; where it is absent, those of the sample corpus stand for them.
        seed: Of the order.
    """

    shared: Path
    seed: int = 0

    @cached_property
    def _queries(self) -> list[str]:
        found = list(dict.fromkeys(_queries_of(self.shared)))
        random.Random(self.seed).shuffle(found)
        return found

    @property
    def real(self) -> bool:
        """Whether they are real queries."""
        return (self.shared / _REAL_QUERIES).is_file()

    def one(self, number: int) -> str:
        """Return a text; after the last one they come again, each with the number of the round behind it."""
        turn, at = divmod(number, len(self._queries))
        return f"{self._queries[at]} {turn}" if turn else self._queries[at]

    def some(self, number: int, count: int) -> list[str]:
        """Return the texts of a request of several."""
        return [self.one(number * count + at) for at in range(count)]


def prepare_tower(work: Path, shared: Path) -> Path:
    """Return the bundle with a query tower; it is made if it is not there yet, in minutes."""
    work.mkdir(parents=True, exist_ok=True)
    tower = work / "tower"
    _once(tower, lambda target: _export_tower(_checkpoint(shared), target, work))
    return tower


def prepare(work: Path, shared: Path) -> Folders:
    """Make what is not there yet; minutes at first."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint(shared)
    settings = make_settings(work, cache=work, checkpoint=checkpoint)
    folders = Folders(
        checkpoint,
        work / "checkpoint32",
        settings.bundle,
        *(work / name for name in ("tower", "scorer", "unfused", "titles.jsonl", "titles.idx")),
    )
    _once(folders.checkpoint32, lambda target: _write_fp32(checkpoint, target))
    _once(folders.encoder, lambda target: _calibrate(target, shared), replaced=False)
    prepare_tower(work, shared)
    _once(folders.unfused, lambda _: unfused_folder(folders.encoder, checkpoint, work))
    _once(folders.scorer, lambda _: scorer_bundle(settings))
    _once(folders.titles, lambda target: _write_titles(target, shared), replaced=False)
    _once(folders.index, lambda target: _build_index(folders.encoder, folders.titles, target))
    return folders


def read_titles(path: Path, count: int) -> list[str]:
    """Return the first titles of a file of documents."""
    from relsdk.formats import read_documents

    return [document.title for document in islice(read_documents(path), count)]


def _once(target: Path, make: Callable[[Path], object], *, replaced: bool = True) -> None:
    """Make a folder; one that was left half made is made again."""
    finished = target.with_name(f"{target.name}.made")
    if not finished.is_file():
        if replaced:
            shutil.rmtree(target, ignore_errors=True)
        make(target)
        finished.touch()


def _checkpoint(shared: Path) -> Path:
    path = shared / "models/me5-small-zh"
    if path.is_dir():
        return path
    from relsdk_export.backbones.pull import pull

    return pull("multilingual-e5-small").path


def _write_fp32(checkpoint: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, target, copy_function=shutil.copyfile)
    for path in target.glob("*.safetensors"):
        weights = {name: weight.float() for name, weight in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
    settings = json.loads((target / "config.json").read_text(encoding="utf-8"))
    for name in {"torch_dtype", "dtype"} & settings.keys():
        settings[name] = "float32"
    (target / "config.json").write_text(json.dumps(settings), encoding="utf-8")


def _variants() -> list[str]:
    from relsdk_export.pipeline import DEFAULT_VARIANTS

    return [name for name in DEFAULT_VARIANTS if name.startswith("int8")]


def _calibrate(bundle: Path, shared: Path) -> None:
    """Give the encoder levels, where there are pairs to fit them on."""
    from relsdk import Embedder
    from relsdk.formats import read_pairs
    from relsdk.tools.evaluation import calibrate_bundle

    pairs = shared / "data/kuake_qtr/train.jsonl"
    if pairs.is_file():
        served = Embedder(bundle).variant.name
        calibrate_bundle(bundle, list(islice(read_pairs(pairs), _PAIRS)), variants=[served])


def _export_tower(checkpoint: Path, target: Path, work: Path) -> None:
    from transformers import AutoConfig

    from relsdk_checkpoint.encoder import TextEncoder
    from relsdk_export.encoder import export_encoder

    layers = AutoConfig.from_pretrained(checkpoint).num_hidden_layers
    student = work / "tower-checkpoint"
    shutil.rmtree(student, ignore_errors=True)
    student.mkdir()
    TextEncoder.load(checkpoint, layers=[at % layers for at in _LAYERS]).save(student)
    export_encoder(checkpoint, target, query_tower=student, variants=_variants())


def _write_titles(target: Path, shared: Path) -> None:
    kuake = shared / "data/kuake_qtr"
    if kuake.is_dir():
        write_titles(kuake, target)
        return
    from relsdk.formats import write_documents
    from relsdk_sample import generate

    write_documents(target, generate().documents)


def _build_index(bundle: Path, titles: Path, target: Path) -> None:
    from relsdk import Embedder, Index
    from relsdk.formats import read_documents

    Index.build(target, read_documents(titles), Embedder(bundle)).close()


def _queries_of(shared: Path) -> Sequence[str]:
    path = shared / _REAL_QUERIES
    if path.is_file():
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    from relsdk_sample import generate

    return [query.text for query in generate().queries]
