"""A bundle: a folder, its settings and its ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from relsdk.bundle._external_data import external_names
from relsdk.bundle._onnx_names import find_onnx_files
from relsdk.bundle.calibration_key import CalibrationKey
from relsdk.bundle.inside import check_inside
from relsdk.bundle.layout import TOKENIZER_JSON, EncoderSettings, ScorerSettings
from relsdk.errors import BundleError, InputError
from relsdk.files.folders import file_sha256
from relsdk.records import Promise

__all__ = ["FORMAT_VERSION", "RELSDK_JSON", "Bundle", "Tower", "Variant", "onnx_file"]

# What encodes everything, or everything but queries; and what encodes queries where they have their own.
Tower = Literal["model", "query_model"]
FORMAT_VERSION = 1
RELSDK_JSON = "relsdk.json"
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=250)]


@dataclass(frozen=True, slots=True)
class Variant:
    """One ONNX file of a bundle.

    Attributes:
        name: "fp32", "int8_avx2", "int8_avx512_vnni", ...
        file: Path inside the bundle, with forward slashes.
        quantisation: "fp32", "int8", or "unknown" for a file that somebody named whose name does not say it.
        isa: Instruction set the file is made for; "any" runs everywhere.
        calibrations: The calibrations as JSON, by the text of their `CalibrationKey`.
        quality: What was measured when the file was made and calibrated.
        promises: The promises of each calibration as JSON, by the same keys; see
            `relsdk.calibration.Promise`.
        query_file: ONNX file of a smaller encoder for queries, in the same space; empty when `file` encodes
            queries, too.
    """

    name: _Name
    file: _Name
    quantisation: Annotated[str, msgspec.Meta(pattern="^(fp32|int8)$")]
    isa: Annotated[str, msgspec.Meta(pattern="^[a-z0-9_]+$")]
    calibrations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    query_file: Annotated[str, msgspec.Meta(max_length=250)] = ""
    promises: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths inside the bundle of its ONNX files."""
        return (self.file, self.query_file) if self.query_file else (self.file,)

    def calibration(self, key: CalibrationKey) -> Mapping[str, Any] | None:
        """Return the calibration of a key as JSON; None when there is none."""
        return self.calibrations.get(str(key))

    def promises_of(self, key: CalibrationKey) -> tuple[Promise, ...]:
        """Return the promises of the calibration of a key; none when there is none, or it makes none."""
        return tuple(Promise(**content) for content in self.promises.get(str(key), ()))


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model folder that has been read and checked.

    Attributes:
        path: The folder.
        name: Its name, for people.
        kind: "encoder" (bi-encoder) or "scorer" (cross-encoder).
        fingerprint: Identifies the vectors it makes: weights, tokenizer and settings, not the quantisation.
        settings: See `EncoderSettings` and `ScorerSettings`.
        variants: The ONNX files; at least one, unless others wrote the folder and no file's name says what it
            computes.
        provenance: Where it comes from.
        files: SHA-256 of every file by path; empty for a folder that relsdk did not write.
        checksum: SHA-256 over the rest of `relsdk.json`; empty where there is none.
    """

    path: Path
    name: str
    kind: str
    fingerprint: str
    settings: EncoderSettings | ScorerSettings
    variants: tuple[Variant, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    checksum: str = ""

    @property
    def encoder_settings(self) -> EncoderSettings:
        """The settings of an encoder; raises `InputError` for a scorer."""
        if not isinstance(self.settings, EncoderSettings):
            raise InputError(f"{self.path} is a scorer bundle; an encoder is needed (use RelevanceScorer)")
        return self.settings

    @property
    def calibrated_dimensions(self) -> list[int]:
        """Those that `relsdk calibrate` fits without --dim, the encoder's own first; none of a scorer.

        The others are those that it was trained to be cut to.
        """
        if not isinstance(self.settings, EncoderSettings):
            return []
        own = self.settings.truncate_dim or self.settings.dimension
        return [own, *sorted({*self.settings.matryoshka_dims} - {own}, reverse=True)]

    def calibrate_command(self, dimension: int | None, encoder: Bundle | None = None) -> str:
        """Return the command that calibrates a model as it was opened, up to where more options may follow.

        Args:
            dimension: Of the vectors; None of a scorer alone.
            encoder: Pooled with this scorer; the dimension is of its vectors.
        """
        usual, beside = self.calibrated_dimensions, ""
        if encoder is not None:
            usual, beside = encoder.calibrated_dimensions[:1], f" --encoder {encoder.path}"
        cut = "" if dimension is None or dimension in usual else f" --dim {dimension}"
        return f"relsdk calibrate {self.path} PAIRS{beside}{cut}"

    @property
    def tokenizer_path(self) -> Path:
        """The `tokenizer.json`."""
        return self.path / TOKENIZER_JSON

    @property
    def other_files(self) -> tuple[str, ...]:
        """ONNX files of somebody's folder whose names do not say what they compute; served when named."""
        return () if self.files else tuple(find_onnx_files(self.path)[1])

    def variant(self, name: str) -> Variant:
        """Return a variant by its name, its file or its file's base name.

        Raises:
            InputError: There is none; the message names those there are.
        """
        for variant in self.variants:
            if name in (variant.name, variant.file, PurePosixPath(variant.file).name):
                return variant
        others = self.other_files
        for file in others:
            if name in (file, PurePosixPath(file).name):
                return Variant(file, file, "unknown", "any")
        known = f"it has {[variant.name for variant in self.variants]} (or 'auto')" if self.variants else ""
        files = f"by their names it has the files {list(others)}" if others else ""
        choice = "; ".join(part for part in (known, files) if part)
        raise InputError(f"{self.path} has no variant {name!r}; {choice}")

    def onnx_path(self, variant: Variant) -> Path:
        """Return the path of a variant's ONNX file."""
        return self.path / variant.file

    def query_onnx_path(self, variant: Variant) -> Path:
        """Return the path of the ONNX file that encodes queries."""
        return self.path / (variant.query_file or variant.file)

    def variant_bytes(self, variant: Variant) -> int:
        """Return the size of a variant's graphs and of their weights on disk; raises as `variant_files`."""
        return sum((self.path / name).stat().st_size for name in self.variant_files(variant))

    def variant_files(self, variant: Variant) -> tuple[str, ...]:
        """Return paths inside the bundle: a variant's graphs, and the files that hold their weights.

        Raises:
            BundleError: A graph cannot be read, or a file that it names is missing or outside the folder.
        """
        names = list(variant.graphs)
        for graph in variant.graphs:
            for location in external_names(self.path / graph):
                name = (PurePosixPath(graph).parent / location).as_posix()
                if not check_inside(self.path, name, stated_in=graph).is_file():
                    raise BundleError(
                        f"{self.path / name} is missing, and {graph} has weights in it; copy the bundle again"
                    )
                names.append(name)
        return tuple(dict.fromkeys(names))

    def check_fingerprint(self, expected: str) -> None:
        """Compare with the fingerprint that the model had when it was pickled.

        Raises:
            BundleError: It is another one.
        """
        if self.fingerprint != expected:
            raise BundleError(
                f"{self.path} holds another model (fingerprint {self.fingerprint}) than the one that was "
                f"pickled ({expected}); open it anew"
            )

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
            try:
                actual = file_sha256(path)
            except OSError as error:
                raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
            if actual != expected:
                raise BundleError(
                    f"{path} is not the file that was exported (its SHA-256 differs); copy the bundle again"
                )


def onnx_file(quantisation: str, isa: str, *, tower: Tower = "model") -> str:
    """Return the path inside a bundle of a variant's ONNX file, or of its query tower's."""
    ending = "" if quantisation == "fp32" else f"_q{quantisation}_{isa}"
    return f"onnx/{tower}{ending}.onnx"
