"""examples/deploy: each file is read, and what it says of the server is true of this one."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="needs pyyaml, which the extra backbone brings")

import yaml

from relsdk.tools.drift import LARGE_SHIFT, SMALL_SHIFT
from relsdk_serve._connection import KEEP_ALIVE_SECONDS
from relsdk_serve._metrics import Metrics
from relsdk_serve._routes import route_paths
from relsdk_serve._settings import Limits, Settings
from relsdk_serve.cli.serve import serve

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "examples" / "deploy"
ENDING = Settings().drain_seconds + Settings().grace_seconds


def text_of(name):
    return (DEPLOY / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(text_of("compose.yaml"))


@pytest.fixture(scope="module")
def manifests():
    return {one["kind"]: one for one in yaml.safe_load_all(text_of("kubernetes.yaml"))}


@pytest.fixture(scope="module")
def pod(manifests):
    return manifests["Deployment"]["spec"]["template"]["spec"]


def instructions():
    """Return the Dockerfile's instructions with their arguments, stage by stage."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text_of("Dockerfile")))
    stages = [[]]
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM" and stages[-1]:
            stages.append([])
        stages[-1].append((word, rest.strip()))
    return stages


def one_of(stage, word):
    (found,) = [rest for name, rest in stage if name == word]
    return found


def entrypoint():
    return json.loads(one_of(instructions()[-1], "ENTRYPOINT"))


def service():
    """Return the settings of the unit by name."""
    joined = text_of("relsdk.service").replace("\\\n", " ")
    return dict(re.findall(r"(?m)^(\w+)=(.*)$", joined))


def settings_of(arguments):
    """Parse what follows `relsdk serve`, as the command does."""
    return serve.make_context("serve", list(arguments)).params


def test_what_the_image_runs():
    command, name, *options = entrypoint()
    assert (command, name) == ("relsdk", "serve")
    settings = settings_of(options + json.loads(one_of(instructions()[-1], "CMD")))
    assert (settings["host"], settings["port"]) == ("0.0.0.0", 8080)
    assert settings["state"] == Path("/state")
    assert settings["path"] == "/data/index"


def test_the_image_is_small_and_harmless():
    *_, build, final = instructions()
    assert "g++" in str(build)
    assert not re.search(r"g\+\+|apt-get|pip install", str(final))
    assert "rm -rf /var/lib/apt/lists" in str(build)
    assert "--no-install-recommends" in str(build)
    assert not any(word == "ADD" for word, _ in build + final)
    assert ":latest" not in text_of("Dockerfile")
    user, _, group = one_of(final, "USER").partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    assert one_of(final, "STOPSIGNAL") == "SIGTERM"
    assert one_of(final, "EXPOSE") == str(settings_of(entrypoint()[2:])["port"])
    health = one_of(final, "HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:8080(/\w+)", health)[1]
    assert path == "/livez"
    assert path in route_paths()
    compile(json.loads(health[health.index("CMD") + 4 :])[2], "health", "exec")


def test_the_image_is_built_of_what_the_repository_has():
    copied = [name for word, rest in instructions()[-2] if word == "COPY" for name in rest.split()[:-1]]
    let_in = {line[1:] for line in text_of("Dockerfile.dockerignore").splitlines() if line.startswith("!")}
    assert set(copied) == let_in
    assert all((ROOT / name).exists() for name in copied)
    lines = text_of("Dockerfile.dockerignore").splitlines()  # the last that matches decides
    assert lines.index("examples/deploy") > lines.index("!examples"), ".env and data of compose.yaml stay out"


def test_compose(compose):
    relsdk = compose["services"]["relsdk"]
    assert (DEPLOY / relsdk["build"]["context"] / relsdk["build"]["dockerfile"]).is_file()
    settings = settings_of(entrypoint()[2:] + relsdk["command"])
    assert settings["workers"] == relsdk["cpus"]
    assert relsdk["read_only"] is True
    assert relsdk["cap_drop"] == ["ALL"]
    assert float(relsdk["stop_grace_period"].removesuffix("s")) > ENDING
    assert set(relsdk["environment"]) == {"RELSDK_SERVE_KEYS"}
    assert all(port.startswith("127.0.0.1:") for one in compose["services"].values() for port in one["ports"])
    for name in ("prometheus", "alerts"):
        assert (DEPLOY / compose["configs"][name]["file"]).is_file()
    places = {one["target"] for one in compose["services"]["prometheus"]["configs"]}
    prometheus = yaml.safe_load(text_of("prometheus.yml"))
    (job,) = prometheus["scrape_configs"]
    assert job["authorization"]["credentials_file"] in places
    assert {f"/etc/prometheus/{name}" for name in prometheus["rule_files"]} <= places
    assert job["metrics_path"] in route_paths()
    assert job["static_configs"] == [{"targets": [f"relsdk:{settings['port']}"]}]


def rendered():
    """Return the metrics of a server: name -> labels."""
    metrics = Metrics("1", routes=["/v1/search"], models=["m"], indexes=["i"])
    metrics.request("/v1/search", 200, 0.1)
    metrics.drift("i", "cosine", {"level": 0.2})
    lines = metrics.render()[0].decode().splitlines()
    found = {"up": {"job", "instance"}}
    for line in lines:
        if match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def alerts():
    (group,) = yaml.safe_load(text_of("alerts.yml"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_about_a_metric_that_there_is(name):
    rule, known = alerts()[name], rendered()
    metrics = set(re.findall(r"\b(relsdk_\w+|up)\b", rule["expr"]))
    assert metrics
    assert metrics <= set(known)
    labels = set().union(*(known[metric] for metric in metrics)) | {"instance", "job"}
    assert set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", rule["expr"])) <= labels
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_alerts_of_the_drift_watch_are_those_of_doctor():
    small, large = (alerts()[name]["expr"] for name in ("RelsdkDrift", "RelsdkDriftFar"))
    assert small == f"relsdk_drift_psi >= {SMALL_SHIFT} and relsdk_drift_psi < {LARGE_SHIFT}"
    assert large == f"relsdk_drift_psi >= {LARGE_SHIFT}"


SERIES = {
    'relsdk_drift_psi{index="i",order="cosine",kind="level"}': "0.15x70 0.3x70",
    'relsdk_workers_alive{instance="a"}': "1x140",
    'relsdk_worker_restarts_total{instance="a"}': "0x30 1x110",
    'relsdk_rejected_total{reason="overloaded"}': "0+5x140",
    'relsdk_requests_total{route="/v1/search",status="200"}': "0+100x140",
    'relsdk_requests_total{route="/v1/search",status="500"}': "0x60 1+1x80",
}
DRIFT = {"index": "i", "order": "cosine", "kind": "level"}
# Minute, alert, its labels beside the severity, and what it says; None: it does not ring.
RINGS = [
    (65, "RelsdkDrift", DRIFT, "i, cosine: level has moved a little (0.15); look with relsdk doctor --state"),
    (65, "RelsdkDriftFar", {}, None),
    (135, "RelsdkDriftFar", DRIFT, "i, cosine: level has moved far (0.30); levels may no longer hold"),
    (
        32,
        "RelsdkWorkerDead",
        {"instance": "a"},
        "a worker of a died; another one took its place, the log says why",
    ),
    (60, "RelsdkWorkerDead", {}, None),
    (20, "RelsdkRejects", {}, "5% of the requests are refused: more workers or replicas are needed"),
    (50, "RelsdkErrors", {}, None),
    (70, "RelsdkErrors", {"route": "/v1/search"}, "/v1/search fails; the log names the requests"),
]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which comes with Prometheus")
def test_the_alerts_ring_when_they_should(tmp_path):
    rings = []
    for minute, name, labels, said in RINGS:
        ringing = {
            "exp_labels": {**labels, "severity": alerts()[name]["labels"]["severity"]},
            "exp_annotations": {"summary": said},
        }
        expected = [] if said is None else [ringing]
        rings.append({"eval_time": f"{minute}m", "alertname": name, "exp_alerts": expected})
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    content = {
        "rule_files": [str(DEPLOY / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": rings}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes(manifests, pod):
    (container,) = pod["containers"]
    settings = settings_of(entrypoint()[2:] + container["args"])
    (port,) = container["ports"]
    assert port["containerPort"] == settings["port"]
    for probe, path in (
        ("startupProbe", "/readyz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in route_paths()
    assert pod["terminationGracePeriodSeconds"] > ENDING
    ready = container[
        "readinessProbe"
    ]  # an end is noticed while requests are still taken, a late answer is borne
    assert ready["periodSeconds"] * ready["failureThreshold"] < Settings().drain_seconds
    assert ready["timeoutSeconds"] > 1
    assert int(container["resources"]["limits"]["cpu"]) == settings["workers"]
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert (
        manifests["Service"]["spec"]["selector"] == manifests["Deployment"]["spec"]["selector"]["matchLabels"]
    )
    assert manifests["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}


def test_kubernetes_lets_it_do_little(manifests, pod):
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) in one_of(instructions()[-1], "USER")
    assert pod["automountServiceAccountToken"] is False


def test_kubernetes_mounts_what_the_server_reads_and_writes(manifests, pod):
    (container,) = pod["containers"]
    settings = settings_of(entrypoint()[2:] + container["args"])
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert set(volumes) == {mount["name"] for mount in mounts.values()}
    assert (
        volumes["data"]["persistentVolumeClaim"]["claimName"]
        == (manifests["PersistentVolumeClaim"]["metadata"]["name"])
    )
    secret = volumes[mounts[str(settings["key_file"].parent)]["name"]]["secret"]
    assert secret["defaultMode"] == 0o440  # for the group of the pod, not for everybody
    assert f"--from-literal={settings['key_file'].name}=" in text_of("kubernetes.yaml")
    for path in (settings["path"], settings["state"]):
        assert any(
            Path(path).is_relative_to(mount) and not one.get("readOnly") for mount, one in mounts.items()
        )


def test_the_service_of_systemd():
    unit = service()
    command, name, *arguments = shlex.split(unit["ExecStart"].replace("%d", "/credentials"))
    assert (Path(command).name, name) == ("relsdk", "serve")
    settings = settings_of(arguments)
    assert settings["host"] == "127.0.0.1"
    assert settings["workers"] * 100 == int(unit["CPUQuota"].removesuffix("%"))
    assert float(unit["TimeoutStopSec"]) > ENDING
    assert unit["Type"] == "exec"  # it sends no notification
    assert unit["KillSignal"] == "SIGTERM"
    assert settings["key_file"].name == unit["LoadCredential"].partition(":")[0]
    assert settings["state"].is_relative_to(f"/var/lib/{unit['StateDirectory']}")
    head = text_of("relsdk.service").partition("[Unit]")[0]
    made = re.search(r"install -d .*(/var/lib/\w+)\n", head)  # useradd --system makes no home
    copied = head.index("cp -r docs.idx /var/lib")
    assert made.start() < copied
    assert made[1] == f"/var/lib/{unit['StateDirectory']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_the_service(tmp_path):
    unit = text_of("relsdk.service").replace("/opt/relsdk/bin/relsdk", shutil.which("true"))
    (tmp_path / "relsdk.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "relsdk.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    own = [line for line in done.stderr.splitlines() if "relsdk.service" in line]
    assert (done.returncode, own) == (0, [])


def test_nginx():
    text = text_of("nginx.conf")
    assert text.count("{") == text.count("}")
    statements = re.sub(r"(?m)#.*$", "", text)
    assert all(line.rstrip().endswith((";", "{", "}")) for line in statements.splitlines() if line.strip())
    assert f"client_max_body_size {Limits().body >> 20}m;" in text
    assert int(re.search(r"keepalive_timeout (\d+)s", text)[1]) < KEEP_ALIVE_SECONDS
    # A full server is no dead one: two that count as dead are a 502, without a Retry-After.
    assert "http_429" in text
    assert set(re.findall(r"max_fails=(\d+)", text)) == {"0"}
    for path in re.findall(r"location (?:= )?(/\S*) \{", text):
        assert path in route_paths()


READ_ONLY = """
mkdir -p root && mount --rbind / root && mount -o remount,bind,ro root && mount --bind data "root$PWD/data"
exec chroot root env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" HOME=/ XDG_CACHE_HOME="$PWD/data/cache" "$@"
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("unshare") is None, reason="needs Linux and unshare"
)
def test_it_serves_from_a_read_only_root(encoder, index_folder, tmp_path):
    """As in the container: the folders of index and state can be written, and nothing else."""
    inside = ["unshare", "-rm", "sh", "-c", READ_ONLY, "-"]
    (tmp_path / "data").mkdir()
    probe = subprocess.run(
        [*inside, "sh", "-c", f"! touch /x && ! touch {tmp_path}/x"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip("may not mount here")
    model = shutil.copytree(encoder, tmp_path / "data" / "model")
    index = shutil.copytree(index_folder, tmp_path / "data" / "index")
    command = [sys.executable, "-m", "relsdk", "serve", index, "--model", model]
    done = subprocess.run(
        [*inside, *command, "--state", tmp_path / "data" / "state", "--workers", "1", "--check", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexes"][0]["documents"] == 66
    assert (tmp_path / "data" / "state" / "drift.json").is_file()
