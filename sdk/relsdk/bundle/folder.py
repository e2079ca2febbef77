"""The bundle: a model folder read, checked and written.

A bundle is a sentence-transformers folder with an `onnx/` sub-folder, plus `relsdk.json` which carries what
that layout has no place for: calibration, variants, quality, provenance, hashes. A folder without it opens,
too, as long as it has an ONNX file; it just has no levels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from relsdk.bundle.layout import (
    HEADS,
    POOLINGS,
    TOKENIZER_JSON,
    EncoderSettings,
    ScorerSettings,
    is_scorer_folder,
    read_encoder_settings,
    read_json,
    read_scorer_settings,
    write_layout,
    write_scorer_layout,
)
from relsdk.bundle.onnx_names import find_onnx_files
from relsdk.errors import BundleError, InputError, RelsdkError
from relsdk.folders import file_sha256, json_sha256, write_file_atomically

__all__ = [
    "RELSDK_JSON",
    "Bundle",
    "Tower",
    "Variant",
    "finish_bundle",
    "onnx_file",
    "open_for_calibration",
    "read_bundle",
    "save_calibration",
]

# What encodes everything, or everything but queries; and what encodes queries where they have their own.
Tower = Literal["model", "query_model"]
FORMAT_VERSION = 1
RELSDK_JSON = "relsdk.json"
_LOCK = ".relsdk.lock"  # held for the moment of a change to it
# Weights beside the graph, as exporters name them.
_DATA_ENDINGS = ("_data", ".data")


@dataclass(frozen=True, slots=True)
class Variant:
    """One ONNX file of a bundle.

    Attributes:
        name: "fp32", "int8_avx2", "int8_avx512_vnni", ...
        file: Path inside the bundle, with forward slashes.
        quantisation: "fp32" or "int8".
        isa: Instruction set the file is made for; "any" runs everywhere.
        calibrations: Calibration by dimension (as text), of a scorer by "pair": see `relsdk.calibration`.
        quality: What was measured when the file was made and calibrated.
        query_file: ONNX file of a smaller encoder for queries, in the same space; empty when `file` encodes
            queries, too.
    """

    name: str
    file: str
    quantisation: str
    isa: str
    calibrations: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    query_file: str = ""

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths inside the bundle of its ONNX files."""
        return (self.file, self.query_file) if self.query_file else (self.file,)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model folder that has been read and checked.

    Attributes:
        path: The folder.
        name: Its name, for people.
        kind: "encoder" (bi-encoder) or "scorer" (cross-encoder).
        fingerprint: Identifies the vectors it makes: weights, tokenizer and settings, not the quantisation.
        settings: See `EncoderSettings` and `ScorerSettings`.
        variants: The ONNX files, at least one.
        provenance: Where it comes from.
        files: SHA-256 of every file by path; empty for a folder that relsdk did not write.
    """

    path: Path
    name: str
    kind: str
    fingerprint: str
    settings: EncoderSettings | ScorerSettings
    variants: tuple[Variant, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def encoder_settings(self) -> EncoderSettings:
        """The settings of an encoder; raises `InputError` for a scorer."""
        if not isinstance(self.settings, EncoderSettings):
            raise InputError(f"{self.path} is a scorer bundle; an encoder is needed (use RelevanceScorer)")
        return self.settings

    @property
    def tokenizer_path(self) -> Path:
        """The `tokenizer.json`."""
        return self.path / TOKENIZER_JSON

    def variant(self, name: str) -> Variant:
        """Return a variant by name; raises `InputError` naming those there are."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = [variant.name for variant in self.variants]
        raise InputError(f"{self.path} has no variant {name!r}; it has {names} (or 'auto')")

    def onnx_path(self, variant: Variant) -> Path:
        """Where a variant's ONNX file is."""
        return self.path / variant.file

    def query_onnx_path(self, variant: Variant) -> Path:
        """Where the ONNX file is that encodes queries."""
        return self.path / (variant.query_file or variant.file)

    def variant_files(self, variant: Variant) -> tuple[str, ...]:
        """Return paths inside the bundle: a variant's graphs, and their weights where they are beside it."""
        beside = (self.path / f"{graph}{ending}" for graph in variant.graphs for ending in _DATA_ENDINGS)
        return (*variant.graphs, *(p.relative_to(self.path).as_posix() for p in beside if p.is_file()))

    def check_hashes(self, *names: str) -> None:
        """Compare files with their recorded SHA-256.

        Args:
            names: Paths inside the bundle; none means every file.

        Raises:
            BundleError: A file is missing, differs or is not listed.
        """
        for name in names or tuple(self.files):
            expected = self.files.get(name)
            if expected is None and not self.files:
                continue
            if expected is None:
                raise BundleError(f"{self.path / name} does not belong to the bundle; copy the bundle again")
            path = self.path / name
            if not path.is_file():
                raise BundleError(f"{path} is missing; copy the bundle again or export it again")
            if file_sha256(path) != expected:
                raise BundleError(
                    f"{path} is not the file that was exported (its SHA-256 differs); copy the bundle again"
                )


def onnx_file(quantisation: str, isa: str, *, tower: Tower = "model") -> str:
    """Return the path inside a bundle of a variant's ONNX file, or of its query tower's."""
    ending = "" if quantisation == "fp32" else f"_q{quantisation}_{isa}"
    return f"onnx/{tower}{ending}.onnx"


def read_bundle(path: str | Path) -> Bundle:
    """Read a model folder that relsdk or sentence-transformers wrote.

    Hashes are not read here: `Bundle.check_hashes` does that for the files that are used.

    Raises:
        BundleError: The folder is missing, damaged, of an unknown version, or has no ONNX file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; name a bundle (make one with: relsdk export encoder)")
    if (folder / RELSDK_JSON).is_file():
        return _read_own(folder)
    return _read_foreign(folder)


def open_for_calibration(path: str | Path) -> Bundle:
    """Read a bundle, and find out before the work whether a calibration could be stored.

    Raises:
        BundleError: relsdk did not write this folder.
        RelsdkError: The file system refuses.
    """
    bundle = read_bundle(path)
    if not bundle.files:
        raise BundleError(
            f"{bundle.path} was not made by relsdk, so it has no place for a calibration; "
            "make a bundle of it with: relsdk export encoder"
        )
    with _changing(bundle.path) as now:
        _write(now)
    return now


def save_calibration(
    bundle: Bundle, variant: Variant, key: str, content: Mapping[str, Any], report: Mapping[str, Any]
) -> Bundle:
    """Add one calibration, and what was measured of it, to a bundle's `relsdk.json`, atomically.

    What other processes have stored since the bundle was read stays.

    Args:
        bundle: As it was read.
        variant: Whose calibration.
        key: Dimension as text, or "pair": see `Variant.calibrations`.
        content: The calibration.
        report: What was measured.

    Returns:
        The bundle as it is now.

    Raises:
        BundleError: The folder holds another model now.
        RelsdkError: The file system refuses.
    """
    with _changing(bundle.path) as now:
        if any(now.files.get(graph) != bundle.files.get(graph) for graph in variant.graphs):
            raise BundleError(
                f"{bundle.path} was written again while it was calibrated; calibrate the new bundle"
            )
        old = now.variant(variant.name)
        measured = {**old.quality.get("calibration", {}), key: report}
        fitted = replace(
            old,
            calibrations={**old.calibrations, key: content},
            quality={**old.quality, "calibration": measured},
        )
        return _write(replace(now, variants=tuple(fitted if v.name == old.name else v for v in now.variants)))


@contextmanager
def _changing(folder: Path) -> Iterator[Bundle]:
    """Read a bundle while no other process changes its `relsdk.json`."""
    from filelock import FileLock  # not needed to serve

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire()
    except OSError as error:
        raise RelsdkError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield read_bundle(folder)
    finally:
        lock.release()


def _write(bundle: Bundle) -> Bundle:
    write_file_atomically(bundle.path / RELSDK_JSON, _to_json(bundle))
    return bundle


def finish_bundle(
    folder: Path,
    *,
    name: str,
    settings: EncoderSettings | ScorerSettings,
    variants: tuple[Variant, ...],
    weights_sha256: str,
    provenance: Mapping[str, Any],
) -> Bundle:
    """Write the configuration files of a bundle whose ONNX and tokenizer files are in place.

    Args:
        folder: The (staging) folder; must hold `tokenizer.json`, `config.json` and every variant's file.
        name: The bundle's name.
        settings: What the model's outputs depend on besides the weights; says whether it is a scorer.
        variants: The ONNX files.
        weights_sha256: Hash of the checkpoint's weights.
        provenance: Checkpoint, options, versions.

    Returns:
        The bundle, as `read_bundle` would.
    """
    if isinstance(settings, EncoderSettings):
        kind = "encoder"
        write_layout(folder, settings)
    else:
        kind = "scorer"
        write_scorer_layout(folder, settings)
    identity = {
        "weights": weights_sha256,
        "tokenizer": file_sha256(folder / TOKENIZER_JSON),
        "kind": kind,
        "settings": asdict(settings),
    }
    present = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != RELSDK_JSON)
    bundle = Bundle(
        path=folder,
        name=name,
        kind=kind,
        fingerprint=json_sha256(identity)[:16],
        settings=settings,
        variants=variants,
        provenance=provenance,
        files={p.relative_to(folder).as_posix(): file_sha256(p) for p in present},
    )
    (folder / RELSDK_JSON).write_text(_to_json(bundle), encoding="utf-8")
    return read_bundle(folder)


def _read_own(folder: Path) -> Bundle:
    content = read_json(folder / RELSDK_JSON)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(f"{folder / RELSDK_JSON} has format {version!r}; only {FORMAT_VERSION} is known")
    try:
        settings = _settings(content["kind"], content["settings"])
        variants = tuple(Variant(**item) for item in content["variants"])
        bundle = Bundle(
            path=folder,
            name=content["name"],
            kind=content["kind"],
            fingerprint=content["fingerprint"],
            settings=settings,
            variants=variants,
            provenance=content["provenance"],
            files=content["files"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / RELSDK_JSON} is damaged ({error}); export the bundle again") from error
    if not bundle.variants or not bundle.files:
        raise BundleError(
            f"{folder / RELSDK_JSON} is damaged (no variants or files); export the bundle again"
        )
    graphs = [graph for variant in variants for graph in variant.graphs]
    for name in [*bundle.files, *graphs]:
        _check_inside(folder, name)
    for graph in graphs:
        if not (folder / graph).is_file():
            raise BundleError(f"{folder / graph} is missing; copy the bundle again or export it again")
    return bundle


def _settings(kind: str, content: Mapping[str, Any]) -> EncoderSettings | ScorerSettings:
    if kind == "scorer":
        scorer = ScorerSettings(**content)
        if scorer.head not in HEADS:
            raise ValueError(f"head {scorer.head!r}")
        return scorer
    if kind != "encoder":
        raise ValueError(f"kind {kind!r}")
    dims = tuple(content.get("matryoshka_dims", ()))
    encoder = EncoderSettings(**{**content, "matryoshka_dims": dims})
    if encoder.pooling not in POOLINGS:
        raise ValueError(f"pooling {encoder.pooling!r}")
    return encoder


def _check_inside(folder: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    escapes = name.startswith("/") or "\\" in name or ".." in parts or not parts
    if escapes or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{folder / RELSDK_JSON} names {name!r}, outside the bundle; do not use it")


def _read_foreign(folder: Path) -> Bundle:
    if not (folder / TOKENIZER_JSON).is_file():
        raise BundleError(f"{folder} has no {TOKENIZER_JSON}; it is not a model folder that relsdk can open")
    found, ignored = find_onnx_files(folder)
    if not found:
        others = f" whose name says fp32 or int8 (it has {ignored})" if ignored else ""
        raise BundleError(
            f"{folder} has no ONNX file{others}; make a bundle: relsdk export "
            f"{'scorer' if is_scorer_folder(folder) else 'encoder'} {folder} OUT"
        )
    variants = tuple(Variant(*item) for item in found)
    scorer = is_scorer_folder(folder)
    settings = read_scorer_settings(folder) if scorer else read_encoder_settings(folder)
    kind = "scorer" if scorer else "encoder"
    bundle = Bundle(folder, folder.resolve().name, kind, "", settings, variants)
    hashes = [
        file_sha256(folder / name)
        for name in bundle.variant_files(min(variants, key=lambda v: v.quantisation != "fp32"))
    ]
    identity = {
        "onnx": hashes[0] if len(hashes) == 1 else hashes,
        "tokenizer": file_sha256(folder / TOKENIZER_JSON),
        "settings": asdict(settings),
    }
    return replace(bundle, fingerprint=json_sha256(identity)[:16])


def _to_json(bundle: Bundle) -> str:
    content = {"format_version": FORMAT_VERSION, **asdict(bundle)}
    del content["path"]
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
