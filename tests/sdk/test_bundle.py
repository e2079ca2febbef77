import json

import pytest

from relsdk.bundle import open_for_calibration, read_bundle, save_calibration
from relsdk.bundle.layout import read_encoder_settings
from relsdk.embedder import Embedder
from relsdk.errors import BundleError, InputError, RelsdkError
from relsdk.session import best_int8, choose_variant, runs_exactly


def edit(folder, **changes):
    path = folder / "relsdk.json"
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))
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
    with pytest.raises(BundleError, match="outside the bundle"):
        read_bundle(toy_bundle_copy)


def test_a_link_out_of_the_folder_is_refused(toy_bundle_copy, tmp_path):
    path = toy_bundle_copy / "onnx" / "model.onnx"
    (tmp_path / "elsewhere.onnx").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="outside the bundle"):
        read_bundle(toy_bundle_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "has format 2"),
        ({"settings": {}}, "damaged"),
        ({"settings": None}, "damaged"),
        ({"variants": []}, "damaged"),
        ({"variants": [{"name": "x", "surprise": 1}]}, "damaged"),
        ({"files": {}}, "damaged"),
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

    monkeypatch.setattr("relsdk.folders.os.replace", refuse)
    with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
        open_for_calibration(toy_bundle_copy)
    with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
        save_calibration(bundle, bundle.variants[0], "32", {"method": "a"}, {})
    assert (toy_bundle_copy / "relsdk.json").read_text() == before
    assert not list(toy_bundle_copy.glob(".relsdk.json*"))
    monkeypatch.undo()
    monkeypatch.setattr("relsdk.files.fcntl.flock", refuse)
    with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
        open_for_calibration(toy_bundle_copy)
    monkeypatch.undo()
    assert open_for_calibration(toy_bundle_copy) == bundle


def test_calibrations_of_two_processes_are_both_kept(toy_bundle_copy):
    bundle = read_bundle(toy_bundle_copy)  # both have read it before either writes
    fp32, int8 = bundle.variant("fp32"), bundle.variant("int8_avx2")
    save_calibration(bundle, fp32, "32", {"method": "a"}, {"n": 1})
    save_calibration(bundle, int8, "32", {"method": "b"}, {"n": 2})
    save_calibration(bundle, fp32, "16", {"method": "c"}, {"n": 3})
    now = read_bundle(toy_bundle_copy)
    assert now.variant("fp32").calibrations == {"32": {"method": "a"}, "16": {"method": "c"}}
    assert now.variant("fp32").quality["calibration"] == {"32": {"n": 1}, "16": {"n": 3}}
    assert now.variant("int8_avx2").calibrations == {"32": {"method": "b"}}


def test_a_calibration_of_another_model_is_not_stored(toy_bundle_copy):
    bundle = read_bundle(toy_bundle_copy)
    content = json.loads((toy_bundle_copy / "relsdk.json").read_text())
    content["files"][bundle.variant("fp32").file] = "0" * 64
    (toy_bundle_copy / "relsdk.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="written again while it was calibrated"):
        save_calibration(bundle, bundle.variant("fp32"), "32", {"method": "a"}, {})


def test_a_foreign_folder_has_no_place_for_a_calibration(toy_bundle_copy):
    (toy_bundle_copy / "relsdk.json").unlink()
    bundle = read_bundle(toy_bundle_copy)
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
        {"pooling_mode": "max"},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode_max_tokens": True},
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
