"""`relsdk model push`: to a hub that speaks the real one's interface, and from there into an Embedder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*has no checksum"),  # fixtures of the first version of the format
]

from huggingface_hub import ModelCard, constants  # noqa: E402

from relsdk import Embedder  # noqa: E402
from relsdk.bundle import read_bundle  # noqa: E402
from tests.bundle_changes import make_foreign  # noqa: E402
from tests.integrations.hub_server import running_hub  # noqa: E402
from tests.toys import FIXTURES, copy_bundle  # noqa: E402

NAME = "team/videos"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, and a user who may write there."""
    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


@pytest.fixture
def bundle(tmp_path):
    """A tower bundle with calibrations."""
    return shutil.copytree(FIXTURES / "tower-bundle-v1", tmp_path / "bundle")


def test_the_card_holds_what_was_measured(hub, bundle, relsdk):
    code, out, err = relsdk("model", "push", bundle, NAME, "--json")
    assert code == 0, err
    pushed = json.loads(out)
    assert pushed["url"] == f"{hub.url}/{NAME}"
    files = hub.files(NAME)
    assert {name: len(content) for name, content in files.items()} == pushed["files"]
    card = ModelCard(files["README.md"].decode())
    measured = {
        (result.dataset_config, result.metric_type): result.metric_value for result in card.data.eval_results
    }
    variants = read_bundle(bundle).variants
    for variant in variants:
        for key, report in variant.quality.get("calibration", {}).items():
            for name in ("accuracy", "qwk", "ece", "brier"):
                assert measured.pop((f"{variant.name}, {key}", name)) == report["grading"][name]
    assert not measured
    assert card.data.pipeline_tag == "sentence-similarity"
    assert f'Embedder("{NAME}").encode_query' in card.text


def test_weights_beside_the_graphs_go_along_and_come_back(hub, command, tmp_path):
    bundle = copy_bundle("native-bundle-v1", tmp_path / "bundle")
    command("model", "push", bundle, NAME)
    data = {name for name in hub.files(NAME) if name.endswith(".onnx_data")}
    assert len(data) == 3
    hub.add(NAME, {**hub.files(NAME), "onnx/model_qint8_old.onnx_data": b"old"})
    command("model", "push", bundle, NAME)
    assert {name for name in hub.files(NAME) if name.endswith(".onnx_data")} == data
    assert "int8_any" in command("model", "verify", NAME)
    (snapshot,) = (tmp_path / "home").rglob("model_qint8_any.onnx_data")
    assert snapshot.is_symlink()
    again, first = (Embedder(folder, variant="int8_any") for folder in (snapshot.parents[1], bundle))
    np.testing.assert_array_equal(again.encode_query("红烧肉"), first.encode_query("红烧肉"))


def test_a_second_push_replaces_graphs_and_leaves_the_rest(hub, bundle, relsdk, tmp_path):
    hub.add(NAME, {"LICENSE": b"MIT", "onnx/model_qint8_old.onnx": b"old", "config.json": b"{}"})
    code, out, err = relsdk("model", "push", bundle, NAME, "--json")
    assert code == 0, err
    assert json.loads(out)["removed"] == ["onnx/model_qint8_old.onnx"]
    assert hub.files(NAME)["LICENSE"] == b"MIT"
    assert hub.files(NAME)["config.json"] == (bundle / "config.json").read_bytes()
    assert len(hub.repositories[NAME]["commits"]) == 2
    scorer = copy_bundle("scorer-bundle-v1", tmp_path / "scorer")
    assert relsdk("model", "push", scorer, "team/scorer")[0] == 0
    assert ModelCard(hub.files("team/scorer")["README.md"].decode()).data.pipeline_tag == "text-ranking"


def test_private_is_private_or_refused(hub, bundle, relsdk, fails):
    assert relsdk("model", "push", bundle, NAME, "--private")[0] == 0
    assert hub.repositories[NAME]["private"]
    hub.add("team/open", {})
    assert "exists and is public" in fails("model", "push", bundle, "team/open", "--private")
    assert hub.files("team/open") == {}


def test_a_dry_run_needs_no_hub_and_no_token(hub, bundle, relsdk, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, out, _ = relsdk("model", "push", bundle, NAME, "--dry-run")
    assert code == 0
    assert "onnx/query_model.onnx" in out
    assert "library_name: relsdk" in out
    assert not hub.writes


def test_what_is_damaged_never_leaves(hub, bundle, fails):
    path = bundle / "onnx/model_qint8_any.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert "is not the file that was exported" in fails("model", "push", bundle, NAME)
    assert not hub.writes


def test_who_may_not_write_is_told(hub, bundle, fails, relsdk, monkeypatch, tmp_path):
    assert "no repository; name one as owner/name" in fails("model", "push", bundle, "videos")
    foreign = make_foreign(copy_bundle("encoder-bundle-v1", tmp_path / "foreign"))
    assert "upload it with: hf upload" in fails("model", "push", foreign, NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = relsdk("model", "push", bundle, NAME)
    assert code != 0
    assert "the token needs the right to write to team" in err
    assert not hub.repositories
    monkeypatch.delenv("HF_TOKEN")
    assert "not logged in" in fails("model", "push", bundle, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in fails("model", "push", bundle, NAME)


def test_a_file_that_the_hub_leaves_out_is_told(hub, bundle, relsdk):
    hub.ignored = {"golden.json"}
    code, _, err = relsdk("model", "push", bundle, NAME)
    assert code != 0
    assert "has no golden.json after the upload" in err


@pytest.fixture
def command(hub, tmp_path):
    """Run a command as a user does: nothing but the environment says where the hub is; return its output."""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def run(*arguments, **changes):
        done = subprocess.run(
            [sys.executable, "-m", "relsdk", *map(str, arguments)],
            env={**os.environ, "HF_ENDPOINT": hub.url, **home, **changes},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_commands_of_the_page_give_an_index_of_what_was_pushed(hub, bundle, command, corpus, tmp_path):
    (tmp_path / "docs.jsonl").write_text('{"_id": "v1", "title": "大宅门演员表"}\n', encoding="utf-8")
    page = Path(__file__).resolve().parents[2] / "docs/integrations/hub.md"
    blocks = re.findall(r"(?ms)^```\n(.*?)^```", page.read_text(encoding="utf-8"))
    lines = [line.split()[1:] for block in blocks for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["model", "push"]] * 2 + [["model", "verify"], ["index", "build"]]
    for line in lines:
        command(*line)
    assert hub.repositories[NAME]["private"]

    offline = {"HF_HUB_OFFLINE": "1", "HF_TOKEN": ""}
    verified = json.loads(command("model", "verify", NAME, "--json", **offline))
    assert verified["passed"]
    assert verified["checksum"]  # of the relsdk.json that was uploaded with its own card
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(corpus), encoding="utf-8")
    command("encode", NAME, texts, tmp_path / "v.npy", "--as", "query", "--variant", "fp32", **offline)
    expected = Embedder(bundle, variant="fp32").encode_query(corpus)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)
