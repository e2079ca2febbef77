"""`relsdk encode` and `relsdk score` into folders, as a user runs them."""

import json

import pytest

from relsdk.shards.folder import PartsSummary
from relsdk.shards.parts import part_paths
from tests.sdk.shards.conftest import FIXTURES, contents

pytest.importorskip("pyarrow")
ENCODER, SCORER = FIXTURES / "encoder-bundle-v1", FIXTURES / "scorer-bundle-v1"


def test_encode_into_a_folder(relsdk, fails, documents, tmp_path, small_parts):
    folder = tmp_path / "parts"
    command = ("encode", ENCODER, documents, folder, "--as", "document")
    code, out, _ = relsdk(*command, "--json")
    first = json.loads(out)
    assert (code, first["rows"], first["parts"], first["kept"], first["computed"]) == (0, 100, 7, 0, 100)
    assert first["output"] == str(folder)
    assert first["texts_per_second"] == pytest.approx(100 / first["seconds"], rel=0.05)
    assert first["seconds_per_million"] == pytest.approx(1e4 * first["seconds"], rel=0.05)
    whole = contents(folder)
    part_paths(folder)[2].unlink()
    code, out, _ = relsdk(*command)
    assert code == 0
    assert f"{folder}: 100 rows in 7 parts (6 of them before), {first['tokens']:,} tokens" in out
    assert "a million would take" in out
    assert contents(folder) == whole
    code, out, _ = relsdk(*command)
    assert out.endswith("nothing to do: every part is there and whole\n")
    part_paths(folder)[2].write_bytes(b"")
    _, _, error = relsdk(*command)
    assert "relsdk: warning:" in error
    assert "it is made again now" in error
    assert "another dimension (32, and this is 8)" in fails(*command, "--dim", "8")


def test_score_into_a_folder(relsdk, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,title\n红烧肉,家常做法\n大理,三天攻略\n", encoding="utf-8")
    code, out, _ = relsdk("score", SCORER, "--input", pairs, "--output", tmp_path / "parts", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 2)
    assert len(part_paths(tmp_path / "parts")) == 1


def test_what_does_not_go_together(fails, documents, tmp_path):
    npy = tmp_path / "v.npy"
    assert "name a folder as OUTPUT" in fails("encode", ENCODER, documents, npy, "--workers", "2")
    assert "name a folder as OUTPUT" in fails("encode", ENCODER, documents, npy, "--ray")
    folder = tmp_path / "parts"
    encode = ("encode", ENCODER, documents, folder, "--as", "query")
    assert "a folder gets float32 vectors" in fails(*encode, "--precision", "int8")
    assert "workers=0" in fails(*encode, "--workers", "0")
    assert "save it as one" in fails("encode", ENCODER, "-", folder, "--as", "query")
    assert "--input FILE" in fails("score", SCORER, "红烧肉", "做法", "--output", folder)
    assert "name one with --output" in fails("score", SCORER, "红烧肉", "做法", "--workers", "2")
    assert not folder.exists()


def test_ray_is_found_by_name(relsdk, documents, tmp_path, monkeypatch):
    """The option is passed on; what Ray does with it is tested where Ray is."""
    import relsdk.cli.encode as command

    asked = []
    summary = PartsSummary(tmp_path, 1, 1, 1, 1, 0, 0, 0.0)
    monkeypatch.setattr(command, "open_runner", lambda workers, ray: asked.append((workers, ray)))
    monkeypatch.setattr(command, "encode_shards", lambda *_, **__: summary)
    for words in ([], ["--ray"], ["--ray", "ray://head:10001", "--workers", "3"]):
        assert relsdk("encode", ENCODER, documents, tmp_path / "parts", "--as", "query", *words)[0] == 0
    assert asked == [(None, None), (None, "auto"), (3, "ray://head:10001")]


def test_a_folder_needs_to_be_told_what_the_rows_are(relsdk, documents, tmp_path):
    code, _, err = relsdk("encode", ENCODER, documents, tmp_path / "parts")
    assert (code, "say what the rows are: --as document" in err) == (2, True)
    assert not (tmp_path / "parts").exists()
