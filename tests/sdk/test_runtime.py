"""onnxruntime as it is: versions that are wrong, events that nobody asked for, numbers that are none."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from relsdk import Embedder, RelevanceScorer
from relsdk.errors import BundleError, RelsdkError
from relsdk.files.folders import file_sha256
from relsdk.models.open import open_pair_model
from relsdk.runtime.onnx_runtime import MINIMUM_ONNXRUNTIME

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
BUNDLES = {name: FIXTURES / f"{name}-bundle-v1" for name in ("encoder", "scorer", "tower")}


@pytest.fixture(params=sorted(BUNDLES))
def copy(request, tmp_path):
    """A bundle that a test may change; its fp32 file is the one to open."""
    return Path(shutil.copytree(BUNDLES[request.param], tmp_path / request.param))


def edit(folder, *, version=onnxruntime.__version__):
    """Note which version of onnxruntime made it, by default this one, and make every hash right again."""
    path = folder / "relsdk.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["provenance"]["versions"]["onnxruntime"] = version
    content["files"] = {name: file_sha256(folder / name) for name in content["files"]}
    path.write_text(json.dumps(content), encoding="utf-8")


def wrong_when_batched(path, *, value="noise"):
    """Change a graph as a faulty runtime would compute it: right for one input, wrong for several."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    names = {item.name for item in graph.output}
    output = next(name for name in ("sentence_embedding", "logits", "last_hidden_state") if name in names)
    for node in graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
        node.input[:] = ["right" if name == output else name for name in node.input]
    spoilt = np.float32(np.nan) if value == "nan" else np.float32(0.7)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0, dtype=np.int64), "zero_row"),
            numpy_helper.from_array(np.array(1, dtype=np.int64), "one_row"),
            numpy_helper.from_array(spoilt, "spoilt"),
            numpy_helper.from_array(np.float32(0.0), "nothing"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Shape", [graph.input[0].name], ["input_shape"]),
            helper.make_node("Gather", ["input_shape", "zero_row"], ["batch_rows"]),
            helper.make_node("Greater", ["batch_rows", "one_row"], ["several"]),
            helper.make_node("Where", ["several", "spoilt", "nothing"], ["offset"]),
            helper.make_node("Add", ["right", "offset"], [output]),
        ]
    )
    assert TensorProto.FLOAT == 1
    onnx.save(model, path)


# With one of these onnxruntime sends nothing: it takes the machine for one that builds and tests.
CI_VARIABLES = (
    "BITBUCKET_BUILD_NUMBER",
    "BUILDKITE",
    "CI",
    "CIRCLECI",
    "CODEBUILD_BUILD_ID",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "JENKINS_URL",
    "TEAMCITY_VERSION",
    "TF_BUILD",
    "TRAVIS",
)


def run(program, **environment):
    base = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("XDG_", "ORT_")) and key not in CI_VARIABLES
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**base, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )


PROGRAM = f"""
import os
before = dict(os.environ)
from relsdk import Embedder, Index, Searcher
embedder = Embedder({str(BUNDLES["encoder"])!r})
with Index.open({str(FIXTURES / "index-v1")!r}) as index:
    print(len(Searcher(embedder, index).search("红烧肉怎么做", k=3)))
assert dict(os.environ) == before
"""


def foreign_files(home):
    """Files in a home folder but for relsdk's own notes: which files of an index were found intact."""
    return [
        path for path in home.rglob("*") if path.is_file() and path.parent != home / "cache/relsdk/intact"
    ]


def test_no_file_appears_in_the_users_folders(tmp_path):
    done = run(PROGRAM, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert foreign_files(tmp_path) == []


def test_no_socket_is_opened(tmp_path):
    """With the network taken away, where the kernel lets us, and by looking at what is open."""
    program = (
        PROGRAM
        + """
folder = "/proc/self/fd"
links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder) if os.path.islink(f"{folder}/{name}")]
print([link for link in links if link.startswith("socket:")])
"""
    )
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    done = run(program, HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "3\n[]\n"), done.stderr


def test_who_set_the_variable_himself_is_left_alone(tmp_path):
    """With telemetry wanted it is on, which also shows that the first test can fail."""
    done = run(PROGRAM, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"), ORT_DISABLE_TELEMETRY="0")
    assert done.returncode == 0, done.stderr
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 32):
        assert foreign_files(tmp_path) != []


def test_the_floor_is_the_one_that_pip_is_told():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'"onnxruntime>=([\d.]+)"', text) == [".".join(map(str, MINIMUM_ONNXRUNTIME))]


@pytest.mark.parametrize("version", ["1.20.1", "1.21.0", "1.9"])
def test_a_version_below_the_floor_is_refused(version, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    for folder in BUNDLES.values():
        with pytest.raises(RelsdkError, match=rf"onnxruntime {version} gives wrong vectors.*pip install -U"):
            open_pair_model(folder)


def test_doctor_says_that_a_version_is_too_old(monkeypatch, relsdk):
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    code, out, error = relsdk("doctor", "-m", BUNDLES["encoder"])
    assert code == 2
    assert "onnxruntime 1.20.1 gives wrong vectors" in out
    assert "the self-test failed" in error


@pytest.mark.parametrize("version", ["1.21.1", "1.32.0", "1.33.0.dev20261101", "2.0"])
def test_a_version_from_the_floor_on_is_taken(version, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert Embedder(BUNDLES["encoder"], variant="fp32").encode_query("红烧肉").shape == (32,)


def test_a_model_that_is_wrong_in_batches_only_does_not_pass(copy, relsdk):
    wrong_when_batched(copy / "onnx/model.onnx")
    edit(copy)
    found = open_pair_model(copy, variant="fp32").verify()
    assert not found.passed
    assert len(found.problems) == 1
    assert "in one call" in found.problems[0]
    code, out, _ = relsdk("model", "verify", copy, "--json")
    assert code == 2
    failed = [record["variant"] for record in json.loads(out)["variants"] if record["problems"]]
    assert failed == ["fp32"]


def test_another_runtime_is_tried_once_when_a_model_is_opened(copy):
    edit(copy, version="1.2.3")
    first = open_pair_model(copy, variant="fp32")
    assert first.verify().passed
    again = json.loads((copy / "golden.json").read_text())
    again["vectors"]["fp32"] = np.roll(again["vectors"]["fp32"], 1, axis=0).tolist()
    (copy / "golden.json").write_text(json.dumps(again))
    edit(copy, version="1.2.3")
    open_pair_model(copy, variant="fp32")  # a file that passed is not asked again


def test_another_runtime_that_is_wrong_is_refused(copy):
    wrong_when_batched(copy / "onnx/model.onnx")
    edit(copy)
    use_all_files(copy)  # made with this version: not tried
    edit(copy, version="1.2.3")
    version = re.escape(onnxruntime.__version__)
    with pytest.raises(
        BundleError, match=rf"made with onnxruntime 1\.2\.3; with {version}.*golden.*onnxruntime==1\.2\.3"
    ):
        use_all_files(copy)
    edit(copy, version="")
    with pytest.raises(BundleError, match="differ from the golden ones"):
        use_all_files(copy)


def use_all_files(folder):
    """Open a model; the file of a tower that does not encode queries is tried when it is first used."""
    model = open_pair_model(folder, variant="fp32")
    if folder.name != "scorer":
        model.embedder.encode_document(["红烧肉"])


def test_a_file_that_runs_none_of_the_golden_inputs_is_not_judged(tmp_path):
    """A query tower, whose inputs have another prompt's name."""
    copy = Path(shutil.copytree(BUNDLES["tower"], tmp_path / "tower"))
    golden = json.loads((copy / "golden.json").read_text())
    golden["texts"] = [["", text] for _, text in golden["texts"]]
    (copy / "golden.json").write_text(json.dumps(golden))
    edit(copy, version="1.2.3")
    assert Embedder(copy, variant="fp32").encode_query("红烧肉").shape == (32,)


def test_golden_outputs_do_not_count_as_truncated(copy):
    edit(copy, version="1.2.3")
    model = open_pair_model(copy, variant="fp32")
    model.verify()
    assert getattr(model, "embedder", model).truncated_count == 0


def test_an_output_that_is_no_number_is_an_error(copy, relsdk):
    wrong_when_batched(copy / "onnx/model.onnx", value="nan")
    edit(copy)
    told = r"\(fp32\) gives NaN or infinity for input 0 \('红烧肉.*relsdk model verify"
    if copy.name == "scorer":
        scorer = RelevanceScorer(copy, variant="fp32")
        with pytest.raises(BundleError, match=told):
            scorer.predict([("红烧肉", "怎么做"), ("大理", "旅游攻略")])
    else:
        embedder = Embedder(copy, variant="fp32")
        with pytest.raises(BundleError, match=told):
            embedder.encode(["红烧肉怎么做", "大理"])
        assert np.isfinite(embedder.encode("红烧肉")).all()
    assert "NaN or infinity" in " ".join(open_pair_model(copy, variant="fp32").verify().problems)
    assert relsdk("model", "verify", copy)[0] == 2
