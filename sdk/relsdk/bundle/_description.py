"""Read, check and write `relsdk.json`, the description of a bundle."""

from __future__ import annotations

import json
import os
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import msgspec
import numpy as np

from relsdk.bundle._json_files import read_json
from relsdk.bundle.inside import check_inside
from relsdk.bundle.layout import EncoderSettings, ScorerSettings, settings_content
from relsdk.bundle.model import FORMAT_VERSION, RELSDK_JSON, Bundle, Variant
from relsdk.errors import BundleError, InputError
from relsdk.files.folders import json_sha256
from relsdk.records import Promise
from relsdk.typed_json import convert_json

__all__ = ["LOCK", "REMEDY", "check_variants", "description", "read_description"]

LOCK = ".relsdk.lock"  # held for the moment of a change
REMEDY = "copy the bundle again or export it again"
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
_Number = float | None
_Kind = TypeVar("_Kind")
_without_checksum: set[Path] = set()  # bundles that were told of


class _Gate(TypedDict):
    """The part of a gate's record that `relsdk model info` and the model card print."""

    pairs: int
    ap_1: _Number
    ap_2: _Number
    ap_3: _Number
    mean_ap: _Number
    ndcg_at_10: _Number
    qwk: float
    level_changes: float


class _Quality(TypedDict, total=False):
    parity: dict[str, float]
    bytes: int
    operators: dict[str, Any]
    gate: _Gate
    calibration: dict[str, dict[str, Any]]


class _Provenance(TypedDict, total=False):
    left_out: dict[str, list[str]]


class _Content(msgspec.Struct, frozen=True):
    format_version: Literal[1]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    kind: Literal["encoder", "scorer"]
    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    settings: dict[str, Any]
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1)]
    provenance: dict[str, Any]
    files: Annotated[dict[str, _Sha256], msgspec.Meta(min_length=1)]


def description(bundle: Bundle) -> dict[str, Any]:
    """Return the content of a bundle's `relsdk.json`; `checksum` is over all the rest."""
    content = {"format_version": FORMAT_VERSION, **asdict(bundle)}
    content["settings"] = settings_content(bundle.settings)
    del content["path"], content["checksum"]
    for variant in content["variants"]:
        if not variant["promises"]:  # versions that know of none read such a bundle
            del variant["promises"]
    # As JSON has it: lists, text as keys, and null where something could not be measured.
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return {**plain, "checksum": json_sha256(plain)}


def read_description(folder: Path) -> Bundle:
    """Read a bundle's `relsdk.json`.

    Raises:
        BundleError: It is missing, damaged, of an unknown version, was changed after it was written, or names
            a file that is missing or outside the folder.
    """
    path = folder / RELSDK_JSON
    content = read_json(path, dict[str, Any], remedy=REMEDY)
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        got = reprlib.repr(version)
        raise BundleError(f"{path} has format {got}; only {FORMAT_VERSION} is known; {REMEDY}")
    checksum = content.pop("checksum", None)
    if checksum is None:
        _tell_once(folder)
    elif checksum != json_sha256(content):
        raise BundleError(
            f"{path} was changed after it was written (its checksum differs); {REMEDY}, and change a "
            f"calibration with: relsdk calibrate"
        )
    known = _convert(path, content, _Content)
    kind: type[EncoderSettings | ScorerSettings] = EncoderSettings
    if known.kind == "scorer":
        kind = ScorerSettings
    bundle = Bundle(
        path=folder,
        name=known.name,
        kind=known.kind,
        fingerprint=known.fingerprint,
        settings=_convert(path, known.settings, kind, "settings"),
        variants=known.variants,
        provenance=known.provenance,
        files=known.files,
        checksum=checksum or "",
    )
    _check_settings(path, bundle.settings)
    check_variants(bundle)
    _convert(path, known.provenance, _Provenance, "provenance")
    for name in [*bundle.files, *(graph for variant in bundle.variants for graph in variant.graphs)]:
        check_inside(folder, name, stated_in=RELSDK_JSON)
    for graph in (graph for variant in bundle.variants for graph in variant.graphs):
        if not os.path.isfile(folder / graph):  # unlike Path.is_file false for a name that is too long
            raise BundleError(f"{folder / graph} is missing; {REMEDY}")
    return bundle


def _convert(path: Path, value: Any, kind: type[_Kind], at: str = "") -> _Kind:
    return convert_json(value, kind, where=str(path), error=BundleError, remedy=REMEDY, at=at)


def _tell_once(folder: Path) -> None:
    resolved = folder.resolve()
    if resolved not in _without_checksum:
        _without_checksum.add(resolved)
        warnings.warn(
            f"{folder / RELSDK_JSON} has no checksum, as earlier versions wrote it: a change of it cannot be "
            f"found; relsdk calibrate adds one, and so does exporting again",
            stacklevel=4,
        )


def _check_settings(path: Path, settings: EncoderSettings | ScorerSettings) -> None:
    """Check what types do not say: a template is filled by `str.format`, which could reach anything."""
    template = settings.document_template
    try:
        fields = [part for part in Formatter().parse(template) if part[1] is not None]
        names = {name for _, name, _, _ in fields}
        plain = names <= {"title", "text"} and not any(spec or how for _, _, spec, how in fields)
    except ValueError:
        names, plain = set(), False
    if not plain or not names or len(template) > 1000:
        raise BundleError(
            f"{path} is damaged: settings.document_template = {reprlib.repr(template)}; it may hold "
            f"{{title}} and {{text}}, and at most 1000 characters; {REMEDY}"
        )
    if isinstance(settings, EncoderSettings):
        if settings.default_prompt and settings.default_prompt not in settings.prompts:
            raise BundleError(
                f"{path} is damaged: settings.default_prompt = {settings.default_prompt!r} is none of its "
                f"prompts {sorted(settings.prompts)}; {REMEDY}"
            )
        if settings.truncate_dim > settings.dimension:
            raise BundleError(
                f"{path} is damaged: settings.truncate_dim = {settings.truncate_dim}, and the vectors have "
                f"{settings.dimension} dimensions; {REMEDY}"
            )
        wider = [width for width in settings.matryoshka_dims if width > settings.dimension]
        if wider:
            raise BundleError(
                f"{path} is damaged: settings.matryoshka_dims has {wider[0]}, and the vectors have "
                f"{settings.dimension} dimensions; {REMEDY}"
            )


def check_variants(bundle: Bundle) -> None:
    """Check what types do not say: names, what was measured, calibrations; raises `BundleError`."""
    path = bundle.path / RELSDK_JSON
    names = [variant.name for variant in bundle.variants]
    for position, variant in enumerate(bundle.variants):
        at = f"variants[{position}]"
        if variant.name in names[:position]:
            raise BundleError(f"{path} is damaged: {at}.name = {variant.name!r} is there twice; {REMEDY}")
        _convert(path, variant.quality, _Quality, f"{at}.quality")
        for key, report in variant.quality.get("calibration", {}).items():
            if report.get("query_range") is not None:
                from relsdk.calibration import QueryRange  # not needed to encode

                place = f"{at}.quality.calibration.{key}.query_range"
                _convert(path, report["query_range"], QueryRange, place)
        for key, content in variant.calibrations.items():
            _check_calibration(path, bundle.settings, key, content, f"{at}.calibrations.{key}")
        for key, promises in variant.promises.items():
            if key not in variant.calibrations:
                raise BundleError(f"{path} is damaged: {at}.promises.{key} has no calibration; {REMEDY}")
            _check_promises(path, promises, f"{at}.promises.{key}")


def _check_promises(path: Path, promises: Sequence[Mapping[str, Any]], at: str) -> None:
    for position, content in enumerate(promises):
        _convert(path, content, Promise, f"{at}[{position}]")


def _check_calibration(
    path: Path, settings: EncoderSettings | ScorerSettings, key: str, content: Mapping[str, Any], at: str
) -> None:
    """Check that a calibration can be read, and takes what this model gives."""
    from relsdk.calibration import LogLinearPool, PriorShift, calibration_from_dict  # not needed to encode

    calibration = calibration_from_dict(content, where=str(path), error=BundleError, remedy=REMEDY, at=at)
    if isinstance(settings, EncoderSettings):
        shape: tuple[int, ...] = (1,)
        if not key.isdecimal() or not 1 <= int(key) <= settings.dimension:
            raise BundleError(
                f"{path} is damaged: {at} is no number of dimensions from 1 to {settings.dimension}; {REMEDY}"
            )
    else:
        fitted = calibration.calibration if isinstance(calibration, PriorShift) else calibration
        columns = settings.outputs + isinstance(fitted, LogLinearPool)
        shape = (1,) if columns == 1 else (1, columns)
    try:
        calibration.probabilities(np.zeros(shape))
    except InputError as error:
        raise BundleError(
            f"{path} is damaged: {at} is for another kind of model ({error}); {REMEDY}"
        ) from error
