"""CPU features, and the number of threads from affinity and container quota."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from relsdk.errors import InputError

__all__ = ["MAX_THREADS", "ThreadChoice", "choose_threads", "cpu_features"]

# More than any machine has; a pool of many more takes all memory or ends the process.
MAX_THREADS = 1024
_VARIABLE = "RELSDK_THREADS"


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """A number of threads, and the reason.

    Attributes:
        threads: The choice.
        affinity: CPUs this process may run on.
        quota: CPUs' worth of time the container may use; None without a limit.
        reason: One sentence.
    """

    threads: int
    affinity: int
    quota: float | None
    reason: str


def choose_threads(requested: int | None = None, *, cgroup_root: Path = Path("/")) -> ThreadChoice:
    """Choose the thread count: what is asked for, else RELSDK_THREADS, else what affinity and quota allow.

    Hosts report all their CPUs inside a container; a pool of that size is throttled, so the quota counts
    (rounded down, at least 1).

    Raises:
        InputError: `requested`, or the variable, is not a whole number from 1 to `MAX_THREADS`.
    """
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        affinity = os.cpu_count() or 1
    quota = _cgroup_cpu_quota(cgroup_root)
    if requested is not None:
        return ThreadChoice(_check_thread_count("threads", requested), affinity, quota, "asked for")
    variable = os.environ.get(_VARIABLE, "").strip()
    if variable:
        return ThreadChoice(_check_thread_count(_VARIABLE, variable), affinity, quota, f"{_VARIABLE} says so")
    if quota is not None and quota < affinity:
        reason = f"the container may use {quota:g} CPUs of {affinity}"
        return ThreadChoice(max(1, math.floor(quota)), affinity, quota, reason)
    return ThreadChoice(affinity, affinity, quota, f"this process may run on {affinity} CPUs")


def _check_thread_count(name: str, value: object) -> int:
    """Return a thread count; text, of a variable, is read."""
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 9 else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_THREADS:
        raise InputError(
            f"{name}={value!r}; a whole number from 1 to {MAX_THREADS} is needed (without one, relsdk "
            f"chooses for this machine)"
        )
    return number


def _cgroup_cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the tightest CPU limit of this process's control groups, in CPUs; None without one.

    Reads cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us` / `cpu.cfs_period_us`), from the process's own
    group up to the root, as a limit may be set on any ancestor.

    Args:
        root: Where `/proc` and `/sys` are; tests give another.
    """
    limits = []
    mount = root / "sys/fs/cgroup"
    for controllers, group in _groups(root / "proc/self/cgroup"):
        base = mount if controllers == "" else mount / controllers
        folder = base / group.strip("/")
        while True:
            limits.append(_limit_v2(folder) if controllers == "" else _limit_v1(folder))
            if folder == base:
                break
            folder = folder.parent
    limits += [_limit_v2(mount), _limit_v1(mount / "cpu"), _limit_v1(mount / "cpu,cpuacct")]
    return min((limit for limit in limits if limit is not None), default=None)


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the names of the CPU's instruction sets that matter for int8, plus the architecture.

    Unknown is reported as absent: the slower file always runs correctly.
    """
    architecture = platform.machine().lower()
    features = {"arm64" if architecture in ("aarch64", "arm64") else architecture}
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return frozenset(features)
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            features.update(value.split())
            break
    return frozenset(features)


def _groups(path: Path) -> list[tuple[str, str]]:
    """Return (controllers, group) of each line of `/proc/self/cgroup`; v2 has no controllers."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, separator, group = rest.partition(":")
        inside = separator and ".." not in group  # a group outside our namespace is shown as /../..
        if inside and (controllers == "" or "cpu" in controllers.split(",")):
            groups.append((controllers, group))
    return groups


def _limit_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _limit_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
