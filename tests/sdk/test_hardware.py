import os
from pathlib import Path

import pytest

from relsdk import Embedder, Index
from relsdk.errors import InputError
from relsdk.runtime.hardware import _cgroup_cpu_quota, choose_threads, cpu_features

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def put(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cgroup_v2_quota_of_the_own_group_or_any_ancestor(tmp_path):
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kube/pod1\n",
            "sys/fs/cgroup/kube/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/kube/pod1/cpu.max": "max 100000\n",
        },
    )
    assert _cgroup_cpu_quota(root) == 1.5
    (root / "sys/fs/cgroup/kube/pod1/cpu.max").write_text("50000 100000\n")
    assert _cgroup_cpu_quota(root) == 0.5
    assert choose_threads(cgroup_root=root).threads == 1


def test_cgroup_v1_quota(tmp_path):
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert _cgroup_cpu_quota(root) == 4.0


def test_a_container_whose_group_is_outside_its_namespace(tmp_path):
    root = put(
        tmp_path, {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}
    )
    assert _cgroup_cpu_quota(root) == 2.0


@pytest.mark.parametrize("text", ["", "max", "x y", "1000 0"])
def test_no_or_strange_limits_are_no_limit(tmp_path, text):
    assert _cgroup_cpu_quota(tmp_path) is None
    assert _cgroup_cpu_quota(put(tmp_path, {"sys/fs/cgroup/cpu.max": text})) is None


def test_threads_come_from_affinity_unless_asked_for(tmp_path):
    choice = choose_threads(cgroup_root=tmp_path)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert (choice.threads, choice.quota) == (affinity, None)
    assert choose_threads(7, cgroup_root=tmp_path).threads == 7


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31, 2**70, True, 1.0, "2x", None])
def test_a_thread_count_is_bounded(threads, monkeypatch):
    """Before onnxruntime is asked: it takes 2**31 for a negative number, and starts any pool it can."""
    if threads is not None:
        with pytest.raises(InputError, match=r"threads=.*; a whole number from 1 to 1024 is needed"):
            choose_threads(threads)
    monkeypatch.setenv("RELSDK_THREADS", "none" if threads is None else str(threads))
    with pytest.raises(InputError, match=r"RELSDK_THREADS='.*'; a whole number from 1 to 1024 is needed"):
        choose_threads()
    assert choose_threads(3).threads == 3


def test_the_variable_sets_the_threads_and_an_argument_goes_first(monkeypatch):
    monkeypatch.setenv("RELSDK_THREADS", " 3 ")
    assert (choose_threads().threads, choose_threads().reason) == (3, "RELSDK_THREADS says so")
    assert choose_threads(2).threads == 2
    assert Embedder(FIXTURES / "encoder-bundle-v1").threads == 3
    assert Embedder(FIXTURES / "encoder-bundle-v1", threads=1).threads == 1
    monkeypatch.setenv("RELSDK_THREADS", "")
    assert choose_threads().reason != "RELSDK_THREADS says so"


def test_cpu_features(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert {"avx2", "avx512_vnni"} <= cpu_features(info)
    assert not {"avx2", "avx512_vnni"} & cpu_features(tmp_path / "none")


def test_a_build_is_told_of_a_thread_count_before_it_encodes(tmp_path):
    def documents():
        raise AssertionError("read before the arguments were looked at")
        yield

    embedder = Embedder(FIXTURES / "encoder-bundle-v1")
    with pytest.raises(InputError, match="a whole number from 1 to 1024 is needed"):
        Index.build(tmp_path / "index", documents(), embedder, num_threads=2**31)
