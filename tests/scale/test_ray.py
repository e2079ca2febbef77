"""Work on a Ray cluster of three local nodes: real deaths, the same bytes, errors, memory."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from relsdk.errors import InputError, MissingExtraError, RelsdkError
from relsdk.shards import encode_shards, open_runner, score_shards
from relsdk.shards.encode import EncodeWork
from relsdk.shards.parts import part_paths, read_part
from relsdk.shards.plan import Job, open_source, plan_shards
from tests.scale.ray_works import Measured, Threads
from tests.sdk.shards.works import Squares, Unopened
from tests.toys import copy_bundle

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
psutil = pytest.importorskip("psutil")

pytestmark = [
    pytest.mark.slow,
    # Ray Data sets its own deprecated settings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
    pytest.mark.filterwarnings("ignore:.*has no checksum"),
]

ROOT = Path(__file__).resolve().parents[2]
ROWS = 100_000
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
NUMBERS = list(range(12))


@pytest.fixture(scope="module", autouse=True)
def _actors_find_the_tests():
    """Actors get the modules that this process has, and Ray keeps its files where they are removed."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        places = [str(ROOT), *(place for place in sys.path if place)]
        patch.setenv("PYTHONPATH", os.pathsep.join(dict.fromkeys(places)))
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
        wait_until(lambda: not ray_processes(folder))


def ray_processes(folder):
    """Return the processes of Ray that keep their files in a folder."""
    every = [one for one in psutil.process_iter(["cmdline"]) if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in every if any(folder in word for word in one.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def cluster(_actors_find_the_tests):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for number in range(ROWS):
            row = {"id": f"视频{number}", "text": f"第{number % 997}集"}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return copy_bundle("tower-bundle-v1", tmp_path_factory.mktemp("models") / "tower")


@pytest.fixture(scope="module")
def on_one_machine(texts, tower, tmp_path_factory):
    """Parts of 100,000 texts that one process made."""
    folder = tmp_path_factory.mktemp("one") / "parts"
    encode_shards(tower, texts, folder, "query")
    return folder


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def actors(node):
    """Return the processes on a node that have opened a work."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [one for one in raylet.children() if "_Actor" in one.name() or "_Actor" in " ".join(one.cmdline())]


def contents(folder):
    return {path.name: path.read_bytes() for path in part_paths(folder)}


def stamps(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in part_paths(folder)}


def test_a_lost_node_and_a_killed_actor_lose_and_repeat_nothing(
    cluster, texts, tower, on_one_machine, tmp_path
):
    folder, ended = tmp_path / "parts", {}

    def watch(stage, done, _):
        if stage == "queries" and done > 20_000 and "node" not in ended:
            ended["node"] = cluster.list_all_nodes()[-1]
            assert actors(ended["node"])
            cluster.remove_node(ended["node"], allow_graceful=False)
        elif stage == "queries" and done > 40_000 and "actor" not in ended:
            ended["actor"] = actors(cluster.head_node)[0]
            ended["actor"].kill()

    runner = open_runner(ray=cluster.address)
    try:
        summary = encode_shards(tower, texts, folder, "query", runner=runner, on_progress=watch)
    finally:
        cluster.add_node(**NODE)
    assert not ended["actor"].is_running()
    assert (summary.rows, summary.parts, summary.kept, summary.computed) == (ROWS, 98, 0, ROWS)
    assert contents(folder) == contents(on_one_machine)
    ids = [name for path in part_paths(folder) for name in read_part(path)[1]["id"]]
    assert len(ids) == ROWS
    assert set(ids) == {f"视频{number}" for number in range(ROWS)}

    before = stamps(folder)
    again = encode_shards(tower, texts, folder, "query", runner=open_runner(ray=cluster.address))
    assert (again.kept, again.computed, again.tokens) == (98, 0, summary.tokens)
    assert stamps(folder) == before
    assert not ray.is_initialized()


def encode_command(tower, texts, folder, *more):
    return [
        *(sys.executable, "-m", "relsdk", "encode", tower, texts, folder),
        *("--as", "query", "--json", *more),
    ]


def test_a_driver_that_is_killed_goes_on_with_what_is_missing(
    cluster, texts, tower, on_one_machine, tmp_path
):
    folder = tmp_path / "parts"
    command = encode_command(tower, texts, folder, "--ray", cluster.address)
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: folder.is_dir() and len(part_paths(folder)) >= 20)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = stamps(folder)
    assert 20 <= len(before) < 98
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    # Actors of the driver that was killed may have ended a part each after it.
    assert len(before) <= summary["kept"] <= len(before) + 3
    assert summary["computed"] < ROWS - 1024 * (len(before) - 1)
    assert before.items() <= stamps(folder).items()
    assert contents(folder) == contents(on_one_machine)


def test_memory_of_an_actor_does_not_grow_with_rows(cluster, texts, tower, tmp_path):
    source = open_source(texts, "query")
    from relsdk import Embedder

    embedder = Embedder(tower)
    job = Job(embedder.name, embedder.fingerprint, embedder.variant.name, embedder.dimension, "query")
    work = Measured(EncodeWork(tower, job, source, tmp_path, 1))
    answers = open_runner(1, cluster.address).run(work, plan_shards(source, job))
    processes, memory = zip(*(answer for _, answer in answers), strict=True)
    assert len(memory) == 98
    assert len(set(processes)) == 1
    assert max(memory[90:]) < max(memory[:10]) + (16 << 20)


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        ({"wrong": 7}, InputError, "docs.jsonl:7: wrong; remove it"),
        (
            {"extra": 7},
            MissingExtraError,
            "squares needs packages not installed here; run: pip install 'relsdk[parquet]'",
        ),
    ],
)
def test_an_error_of_the_work_is_raised_as_it_is_and_not_tried_again(
    cluster, tmp_path, work, kind, message, capfd
):
    with pytest.raises(kind) as raised:
        list(open_runner(2, cluster.address).run(Squares(tmp_path, **work), NUMBERS))
    assert type(raised.value) is kind
    assert str(raised.value) == message
    assert f"in an actor on {socket.gethostname()}" in str(raised.value.__cause__)
    assert "works.py" in str(raised.value.__cause__)
    assert len((tmp_path / "7.log").read_text().splitlines()) == 1
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_cannot_be_opened_says_so(cluster):
    with pytest.raises(InputError, match=r"^no such model$"):
        list(open_runner(None, cluster.address).run(Unopened(), NUMBERS))


def test_an_item_that_kills_every_actor_is_named(cluster, tmp_path):
    work = Squares(tmp_path, killed=2, times=99)
    with pytest.raises(RelsdkError, match=r"^2: 4 workers ended at this; "):
        list(open_runner(1, cluster.address).run(work, [1, 2, 3]))
    assert len((tmp_path / "2.log").read_text().splitlines()) == 4


def test_an_item_whose_first_actors_die_is_done(cluster, tmp_path):
    work = Squares(tmp_path, killed=2, times=2)
    answers = list(open_runner(2, cluster.address).run(work, NUMBERS))
    assert sorted(answers) == [(number, number * number) for number in NUMBERS]


def test_an_actor_has_as_many_cpus_as_the_work_has_threads(cluster):
    ((_, (cpus, machine)),) = open_runner(1, cluster.address).run(Threads(1), ["item"])
    assert (cpus, machine) == (1, socket.gethostname())
    with pytest.raises(InputError, match=r"a worker takes 2 CPUs, and the largest machine .* has 1; "):
        list(open_runner(1, cluster.address).run(Threads(2), ["item"]))


def test_another_version_on_a_machine_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("relsdk_scale.ray_runner._version", lambda: "9.9.9")
    with pytest.raises(RelsdkError, match=r"relsdk .*, and the machine that started the work has 9\.9\.9"):
        list(open_runner(1, cluster.address).run(Squares(tmp_path), NUMBERS))


def test_a_machine_that_does_not_see_the_folder_is_named(cluster, texts, tower, tmp_path):
    source = open_source(texts, "query")
    job = Job("tower", "0", "fp32", 32, "query")
    work = EncodeWork(tower, job, source, tmp_path / "elsewhere", 1)
    message = f"the machine {socket.gethostname()} does not see {tmp_path}/elsewhere; .* shared"
    with pytest.raises(InputError, match=message.replace(" shared", " all machines have")):
        list(open_runner(1, cluster.address).run(work, plan_shards(source, job)[:1]))


def test_a_connection_that_was_there_stays(cluster, tmp_path):
    ray.init(cluster.address, log_to_driver=False)
    try:
        for _ in range(2):
            assert len(list(open_runner(1, "auto").run(Squares(tmp_path), NUMBERS))) == len(NUMBERS)
            assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_scores_on_a_cluster_are_those_of_one_machine(cluster, tmp_path):
    scorer = copy_bundle("scorer-bundle-v1", tmp_path / "scorer")
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w", encoding="utf-8") as stream:
        for number in range(3000):
            row = {"query": f"大宅门第{number}集", "id": f"d{number}", "text": f"第{number % 7}集"}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    score_shards(scorer, pairs, tmp_path / "one")
    command = ["score", scorer, "--input", pairs, "--output", tmp_path / "ray", "--ray", cluster.address]
    ended = subprocess.run(
        [sys.executable, "-m", "relsdk", *command], capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(contents(tmp_path / "ray")) == 3
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def head_of(port):
    """Start a cluster by `ray start`, as people do, and stop it."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"),
        *("--include-dashboard=false", "--num-cpus=2", "--object-store-memory=80000000"),
        "--disable-usage-stats",
    ]
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        head.terminate()
        head.wait(60)


def test_a_cluster_of_ray_start_from_the_command_line(tower, tmp_path, monkeypatch):
    # `ray start` asks for a token where the machine has one: this cluster has its own.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"第{number}集\n" for number in range(3000)), encoding="utf-8")
    encode_shards(tower, texts, tmp_path / "one", "query")
    port = free_port()
    command = encode_command(tower, texts, tmp_path / "ray", "--workers", "2")
    with head_of(port):
        wait_until(lambda: answers(port))
        ended = subprocess.run(
            [*command, "--ray", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=200, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        assert json.loads(ended.stdout)["computed"] == 3000
        assert contents(tmp_path / "ray") == contents(tmp_path / "one")
        # Without an address: the cluster that this machine belongs to.
        ended = subprocess.run(
            [*command, "--overwrite", "--dim", "16", "--ray"],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["computed"] == 3000


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_a_cluster_is_started_here_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    answers = list(open_runner(1, "auto").run(Squares(tmp_path), NUMBERS))
    assert sorted(answers) == [(number, number * number) for number in NUMBERS]
    assert not ray.is_initialized()


def test_a_machine_without_relsdk_is_told(tmp_path, monkeypatch):
    package = tmp_path / "relsdk_scale"
    package.mkdir()
    (package / "__init__.py").write_text("import relsdk_of_another_machine\n")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    with pytest.raises(RelsdkError, match=r"a machine of the Ray cluster cannot load .*No module"):
        list(open_runner(1, "auto").run(Squares(tmp_path), NUMBERS))


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("127.0.0.1:{port}", RelsdkError, "no Ray cluster answers at 127.0.0.1:{port}; start one with: ray"),
        ("nowhere.invalid:6379", RelsdkError, "no Ray cluster answers at nowhere.invalid:6379; "),
        ("ray://127.0.0.1:10001", InputError, "Ray Data does not work through Ray's client; "),
        ("6379", InputError, "'6379' is no address of a Ray cluster; give HOST:PORT of its head"),
        ("head:", InputError, "'head:' is no address of a Ray cluster"),
        ("", InputError, "'' is no address of a Ray cluster"),
    ],
)
def test_an_address_where_nothing_answers(address, kind, message):
    port = free_port()
    with pytest.raises(kind, match=message.format(port=port)) as raised:
        open_runner(1, address.format(port=port))
    assert type(raised.value) is kind


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_workers_are_a_number(workers):
    with pytest.raises(InputError, match="a whole number of at least 1 is needed"):
        open_runner(workers, "local")


def test_nothing_to_do_needs_no_cluster():
    assert list(open_runner(1, "local").run(Unopened(), [])) == []
    assert not ray.is_initialized()
