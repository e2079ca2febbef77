import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from relsdk.bundle import open_for_calibration, read_bundle, read_encoder_settings, save_calibration
from relsdk.calibration import Temperature
from relsdk.calibration._models import CumulativeLink
from relsdk.errors import BundleError, InputError, RelsdkError
from relsdk.models.embedder import Embedder
from relsdk.runtime.variants import best_int8, choose_variant, runs_exactly
from tests.bundle_changes import make_foreign, read_description, write_description

A, B, C = (CumulativeLink(slope, (1.0, 2.0, 3.0)).to_dict() for slope in (1.0, 2.0, 3.0))


def edit(folder, **changes):
    content = {**read_description(folder), **changes}
    write_description(folder, content)
    return content


def test_what_a_bundle_says(toy_bundle):
    bundle = read_bundle(toy_bundle)
    assert bundle.kind == "encoder"
    assert bundle.settings.prompts == {"query": "query: ", "document": "passage: "}
    assert (bundle.settings.dimension, bundle.settings.max_tokens, bundle.settings.pooling) == (
        32,
        256,
        "mean",
    )
    assert [variant.name for variant in bundle.variants] == [
        "fp32",
        "int8_avx512_vnni",
        "int8_avx2",
        "int8_any",
    ]
    assert len(bundle.fingerprint) == 16
    on_disk = {p.relative_to(toy_bundle).as_posix() for p in toy_bundle.rglob("*") if p.is_file()}
    assert set(bundle.files) == on_disk - {"relsdk.json"}
    bundle.check_hashes()


def test_a_changed_byte_is_found(toy_bundle_copy):
    path = toy_bundle_copy / "onnx" / "model_qint8_avx2.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model_qint8_avx2\.onnx is not the file"):
        read_bundle(toy_bundle_copy).check_hashes()
    with pytest.raises(BundleError, match="not the file that was exported"):
        Embedder(toy_bundle_copy, variant="int8_avx2")
    Embedder(toy_bundle_copy, variant="fp32")  # other files are whole


def test_a_changed_tokenizer_is_found(toy_bundle_copy):
    with (toy_bundle_copy / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(BundleError, match=r"tokenizer\.json is not the file"):
        Embedder(toy_bundle_copy)


@pytest.mark.parametrize("name", ["../../secret.onnx", "/etc/passwd", "onnx/../../x.onnx", "a\\b.onnx"])
def test_paths_may_not_leave_the_folder(toy_bundle_copy, name):
    content = edit(toy_bundle_copy)
    content["variants"][0]["file"] = name
    edit(toy_bundle_copy, variants=content["variants"])
    with pytest.raises(BundleError, match="outside the folder"):
        read_bundle(toy_bundle_copy)


def test_a_link_out_of_the_folder_is_refused(toy_bundle_copy, tmp_path):
    path = toy_bundle_copy / "onnx" / "model.onnx"
    (tmp_path / "elsewhere.onnx").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="outside the folder"):
        read_bundle(toy_bundle_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "has format 2"),
        ({"format_version": True}, "has format True"),
        ({"format_version": 1.0}, r"has format 1\.0"),
        ({"settings": {}}, "settings: Object missing required field `dimension`"),
        ({"settings": None}, "settings = None: Expected `object`"),
        ({"variants": []}, "variants: Expected `array` of length >= 1"),
        ({"variants": [{"name": "x", "surprise": 1}]}, r"variants\[0\]: unknown key 'surprise'"),
        ({"files": {}}, "files: Expected `object` of length >= 1"),
        ({"files": ["onnx/model.onnx"]}, "files: Expected `object`, got `array`"),
        ({"files": {"onnx/model.onnx": "0" * 63}}, r"files\[\.\.\.\]"),
        ({"files": {"onnx/model.onnx": "G" * 64}}, r"files\[\.\.\.\]"),
        ({"name": ""}, "name = ''"),
        ({"kind": "reranker"}, "kind = 'reranker'"),
        ({"fingerprint": "?"}, "fingerprint"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"provenance": {"left_out": {"int8_any": "slow"}}}, r"provenance\.left_out"),
    ],
)
def test_damaged_descriptions_are_refused(toy_bundle_copy, change, message):
    edit(toy_bundle_copy, **change)
    with pytest.raises(BundleError, match=message):
        read_bundle(toy_bundle_copy)


def test_truncated_description_and_missing_file(toy_bundle_copy):
    (toy_bundle_copy / "onnx" / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        read_bundle(toy_bundle_copy)
    path = toy_bundle_copy / "relsdk.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(BundleError, match="not readable JSON"):
        read_bundle(toy_bundle_copy)


def test_a_calibration_is_saved_atomically(toy_bundle_copy, monkeypatch):
    bundle = read_bundle(toy_bundle_copy)
    before = (toy_bundle_copy / "relsdk.json").read_text()

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("relsdk.files.folders.os.replace", refuse)
    with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
        open_for_calibration(toy_bundle_copy)
    with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
        save_calibration(bundle, bundle.variants[0], "32", A, {})
    assert (toy_bundle_copy / "relsdk.json").read_text() == before
    assert not list(toy_bundle_copy.glob(".relsdk.json*"))
    monkeypatch.undo()
    monkeypatch.setattr("relsdk.files.atomic.fcntl.flock", refuse)
    with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
        open_for_calibration(toy_bundle_copy)
    monkeypatch.undo()
    assert open_for_calibration(toy_bundle_copy) == bundle


def test_the_lock_and_what_was_left_beside_it(toy_bundle_copy, tmp_path):
    (tmp_path / "victim").write_text("mine")
    (toy_bundle_copy / ".relsdk.json.abc_1234").write_text("of a killed version before")
    (toy_bundle_copy / ".relsdk.json.0a1b2c3d.tmp").write_text("of a killed one")
    open_for_calibration(toy_bundle_copy)
    assert [path.name for path in toy_bundle_copy.glob(".*")] == [".relsdk.lock"]
    (toy_bundle_copy / ".relsdk.lock").unlink()
    (toy_bundle_copy / ".relsdk.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(RelsdkError, match="is a link or no regular file"):
        open_for_calibration(toy_bundle_copy)
    (toy_bundle_copy / ".relsdk.lock").unlink()
    text = (toy_bundle_copy / "relsdk.json").read_text()
    (tmp_path / "blob").write_text(text)  # as the hub's cache keeps it
    (toy_bundle_copy / "relsdk.json").unlink()
    (toy_bundle_copy / "relsdk.json").symlink_to(tmp_path / "blob")
    bundle = read_bundle(toy_bundle_copy)
    save_calibration(bundle, bundle.variants[0], "32", A, {})
    assert (tmp_path / "blob").read_text() == text
    assert not (toy_bundle_copy / "relsdk.json").is_symlink()
    assert (tmp_path / "victim").read_text() == "mine"


def test_calibrations_of_two_processes_are_both_kept(toy_bundle_copy):
    bundle = read_bundle(toy_bundle_copy)  # both have read it before either writes
    fp32, int8 = bundle.variant("fp32"), bundle.variant("int8_avx2")
    save_calibration(bundle, fp32, "32", A, {"n": 1})
    save_calibration(bundle, int8, "32", B, {"n": 2})
    saved = save_calibration(bundle, fp32, "16", C, {"n": 3})
    now = read_bundle(toy_bundle_copy)
    assert now == saved
    assert now.variant("fp32").calibrations == {"32": A, "16": C}
    assert now.variant("fp32").quality["calibration"] == {"32": {"n": 1}, "16": {"n": 3}}
    assert now.variant("int8_avx2").calibrations == {"32": B}


def test_a_calibration_of_another_model_is_not_stored(toy_bundle_copy):
    bundle = read_bundle(toy_bundle_copy)
    files = {**bundle.files, bundle.variant("fp32").file: "0" * 64}
    edit(toy_bundle_copy, files=files)
    with pytest.raises(BundleError, match="written again while it was calibrated"):
        save_calibration(bundle, bundle.variant("fp32"), "32", A, {})


def test_a_foreign_folder_has_no_place_for_a_calibration(toy_bundle_copy):
    bundle = read_bundle(make_foreign(toy_bundle_copy))
    assert {variant.name for variant in bundle.variants} == {"fp32", "int8_avx2", "int8_avx512_vnni", "int8"}
    with pytest.raises(BundleError, match="was not made by relsdk"):
        open_for_calibration(toy_bundle_copy)
    assert not list(toy_bundle_copy.glob(".relsdk*"))


def test_the_file_for_this_cpu(toy_bundle):
    bundle = read_bundle(toy_bundle)
    vnni, plain = frozenset({"x86_64", "avx2", "avx512_vnni"}), frozenset({"x86_64", "avx2"})
    assert (best_int8(vnni), best_int8(plain)) == ("int8_avx512_vnni", "int8_avx2")
    assert choose_variant(bundle, features=vnni).name == "int8_avx512_vnni"
    assert choose_variant(bundle, features=plain).name == "int8_avx2"
    assert choose_variant(bundle, features=frozenset({"arm64"})).name == "int8_avx512_vnni"
    assert choose_variant(bundle, "fp32", features=vnni).name == "fp32"
    assert not runs_exactly(bundle.variant("int8_avx512_vnni"), features=plain)
    with pytest.raises(InputError, match="it has"):
        choose_variant(bundle, "int4")


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["cls"], "pooling_mode_mean_tokens": True}, "cls"),
        ({}, "mean"),
    ],
)
def test_both_pooling_forms_are_read(tmp_path, config, pooling):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 8, **config}))
    assert read_encoder_settings(tmp_path).pooling == pooling


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode": "attention"},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_attention": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": "mean", "include_prompt": False},
    ],
)
def test_unknown_pooling_is_refused(tmp_path, config):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 8, **config}))
    with pytest.raises(BundleError, match="pool"):
        read_encoder_settings(tmp_path)


FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture
def fixture_copy(tmp_path):
    """Return a function that copies a committed bundle, with a checksum, for a test to damage."""

    def copy(kind="encoder"):
        folder = Path(shutil.copytree(FIXTURES / f"{kind}-bundle-v1", tmp_path / kind))
        write_description(folder, read_description(folder))
        return folder

    return copy


def test_a_changed_description_is_refused(fixture_copy):
    """The issue's own case: cuts that grade 1 instead of 3, one digit changed."""
    folder = fixture_copy()
    assert len(read_bundle(folder).checksum) == 64
    content = read_description(folder)
    content["variants"][0]["calibrations"]["32"]["cuts"] = [-9.0, -8.0, 9.0]
    (folder / "relsdk.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"relsdk\.json was changed after it was written .*copy the bundle"):
        read_bundle(folder)
    for wrong in ("", "0" * 64, 5, [], {}):
        (folder / "relsdk.json").write_text(json.dumps({**content, "checksum": wrong}))
        with pytest.raises(BundleError, match=r"relsdk\.json was changed"):
            read_bundle(folder)


def test_what_earlier_versions_wrote_opens_and_is_told_once(tmp_path):
    folder = Path(shutil.copytree(FIXTURES / "encoder-bundle-v1", tmp_path / "old"))
    message = r"relsdk\.json has no checksum.*relsdk calibrate adds one"
    with pytest.warns(UserWarning, match=message) as told:
        first, second = read_bundle(folder), read_bundle(folder)
    assert len(told) == 1
    assert first == second
    assert first.checksum == ""
    now = open_for_calibration(folder)
    assert len(now.checksum) == 64
    assert read_bundle(folder) == now
    assert replace(now, checksum="") == first


def test_a_bundle_without_its_description_is_not_somebody_elses(fixture_copy):
    folder = fixture_copy("tower")
    (folder / "relsdk.json").unlink()
    for trace in ("golden.json", "onnx/query_model.onnx"):
        with pytest.raises(BundleError, match=rf"it has {trace}\) whose relsdk\.json is missing"):
            read_bundle(folder)
        (folder / trace).unlink()
    assert not read_bundle(folder).files


@pytest.mark.parametrize("kind", ["folder", "pipe", "nowhere", "device"])
def test_a_description_that_is_no_file_is_told(fixture_copy, kind):
    folder = fixture_copy()
    path = folder / "relsdk.json"
    path.unlink()
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "nowhere": lambda: path.symlink_to("gone"),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises(BundleError, match=r"relsdk\.json is (missing|not a regular file)"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("encoder", "dimension", -1, "dimension = -1: Expected `int` >= 1"),
        ("encoder", "dimension", 0, "dimension = 0"),
        ("encoder", "dimension", "32", "dimension = '32': Expected `int`, got `str`"),
        ("encoder", "dimension", None, "dimension = None"),
        ("encoder", "dimension", 10**12, "dimension = 1000000000000: Expected `int` <= 65536"),
        ("encoder", "dimension", 32.0, r"dimension = 32\.0"),
        ("encoder", "dimension", True, "dimension = True"),
        ("encoder", "max_tokens", 2**70, "max_tokens = 1180591620717411303424: Expected `int` <= 1000000"),
        ("encoder", "max_tokens", 0, "max_tokens = 0"),
        ("encoder", "prompts", None, "prompts = None: Expected `object`"),
        ("encoder", "prompts", {"query": 1}, r"prompts\[\.\.\.\]: Expected `str`"),
        ("encoder", "prompts", ["query"], "prompts: Expected `object`, got `array`"),
        ("encoder", "pooling", "magic", "pooling = 'magic'"),
        ("encoder", "normalize", 1, "normalize = 1: Expected `bool`"),
        ("encoder", "pad_token", None, "pad_token = None"),
        ("encoder", "matryoshka_dims", [16, 64], "matryoshka_dims has 64, and the vectors have 32"),
        ("encoder", "matryoshka_dims", [0], r"matryoshka_dims\[0\] = 0"),
        ("encoder", "surprise", 1, "settings: unknown key 'surprise'; known are dimension, max_tokens"),
        ("scorer", "head", "magic", "head = 'magic'"),
        ("scorer", "max_tokens", -5, "max_tokens = -5"),
        ("scorer", "dimension", 32, "settings: unknown key 'dimension'"),
        ("scorer", "head", "ordinal", "is for another kind of model"),
    ],
)
def test_wrong_settings_are_named(fixture_copy, kind, name, value, message):
    folder = fixture_copy(kind)
    edit(folder, settings={**read_description(folder)["settings"], name: value})
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{0}",
        "{}",
        "{title.__class__}",
        "{title[0]}",
        "{title:>2000000000}",
        "{title!r}",
        "{text:{title}}",
        "{body}",
        "{title",
        "title}",
        "no place",
        "{{title}}",
        "",
        "{text}" * 200,
        None,
        5,
    ],
)
@pytest.mark.parametrize("kind", ["encoder", "scorer"])
def test_a_template_holds_title_and_text_only(fixture_copy, kind, template):
    folder = fixture_copy(kind)
    edit(folder, settings={**read_description(folder)["settings"], "document_template": template})
    with pytest.raises(BundleError, match="document_template"):
        read_bundle(folder)


@pytest.mark.parametrize("template", ["{text}", "{title}: {text} {{x}}", "标题{title}"])
def test_other_templates_are_filled(fixture_copy, template):
    folder = fixture_copy()
    edit(folder, settings={**read_description(folder)["settings"], "document_template": template})
    assert read_bundle(folder).settings.document_template == template


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isa": None}, r"variants\[0\]\.isa = None"),
        ({"isa": "../x"}, r"variants\[0\]\.isa = '\.\./x'"),
        ({"name": "int8_avx2"}, r"variants\[2\]\.name = 'int8_avx2' is there twice"),
        ({"name": 5}, r"variants\[0\]\.name = 5"),
        ({"quantisation": "int4"}, r"variants\[0\]\.quantisation = 'int4'"),
        ({"file": []}, r"variants\[0\]\.file"),
        ({"query_file": None}, r"variants\[0\]\.query_file = None"),
        ({"query_file": "onnx/none.onnx"}, r"none\.onnx is missing"),
        ({"quality": {"parity": {"mean_cosine": "1"}}}, r"variants\[0\]\.quality\.parity"),
        ({"quality": {"gate": {}}}, r"variants\[0\]\.quality\.gate: .*missing"),
        ({"calibrations": {"32": None}}, r"variants\[0\]\.calibrations"),
        ({"calibrations": {"64": A}}, "calibrations.64 is no number of dimensions from 1 to 32"),
        ({"calibrations": {"pair": A}}, "calibrations.pair is no number of dimensions"),
        ({"calibrations": {"32": {**A, "method": "magic"}}}, "calibrations.32.method = 'magic'; known are"),
        ({"calibrations": {"32": {**A, "slope": -1.0}}}, r"calibrations\.32\.slope = -1\.0"),
        ({"calibrations": {"32": {**A, "slope": "1"}}}, r"calibrations\.32\.slope = '1'"),
        ({"calibrations": {"32": {**A, "cuts": [3.0, 2.0, 1.0]}}}, "must not fall"),
        ({"calibrations": {"32": {**A, "cuts": [1.0, 2.0]}}}, r"calibrations\.32\.cuts"),
        ({"calibrations": {"32": {**A, "surprise": 1}}}, "unknown key 'surprise'"),
        ({"calibrations": {"32": Temperature().to_dict()}}, "is for another kind of model"),
    ],
)
def test_wrong_variants_are_named(fixture_copy, change, message):
    folder = fixture_copy()
    variants = read_description(folder)["variants"]
    edit(folder, variants=[{**variants[0], **change}, *variants[1:]])
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_what_would_not_open_is_not_saved(fixture_copy):
    folder = fixture_copy()
    bundle = read_bundle(folder)
    before = (folder / "relsdk.json").read_bytes()
    for content in ({"method": "a"}, {**A, "slope": float("nan")}, Temperature().to_dict()):
        with pytest.raises(BundleError, match=r"variants\[0\]\.calibrations\.32"):
            save_calibration(bundle, bundle.variants[0], "32", content, {})
    assert (folder / "relsdk.json").read_bytes() == before


def test_what_could_not_be_measured_is_null(fixture_copy):
    folder = fixture_copy()
    bundle = read_bundle(folder)
    save_calibration(bundle, bundle.variants[0], "16", B, {"qwk": float("nan")})
    assert read_bundle(folder).variants[0].quality["calibration"]["16"] == {"qwk": None}
