"""Find a Ray cluster, or start one here; be connected to it, quietly."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from relsdk.errors import InputError, RelsdkError

__all__ = ["cluster_address", "connected"]

_SECONDS = 10.0
# Of a cluster that is started here: items and answers are all that is in it.
_OBJECT_STORE_BYTES = 128 << 20


def cluster_address(address: str) -> str:
    """Return "host:port" of the cluster that is meant; "local" where there is none, so that one is started.

    Ray itself waits for minutes when nothing answers.

    Raises:
        InputError: It is no such address.
        RelsdkError: Nothing answers there.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _latest_cluster() or "local"
    if address == "local" or ray.is_initialized():
        return address
    if "://" in address:
        raise InputError(
            f"{address}: Ray Data does not work through Ray's client; run this on a machine of the "
            "cluster, with --ray alone or --ray HOST:PORT"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{address!r} is no address of a Ray cluster; give HOST:PORT of its head")
    if not _answers(host, int(port)):
        raise RelsdkError(
            f"no Ray cluster answers at {address}; start one with: ray start --head --port={port}, and check "
            "that this machine reaches it"
        )
    return address


def _latest_cluster() -> str | None:
    """Return the address of the cluster that `ray start` made this machine a part of, if it answers."""
    try:
        place = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        address = place.read_text().strip()
    except OSError:
        return None
    host, _, port = address.rpartition(":")
    return address if port.isdecimal() and _answers(host, int(port)) else None


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=_SECONDS):
            return True
    except OSError:
        return False


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to a cluster without its chatter; a connection that was there before stays.

    Raises:
        RelsdkError: The cluster refused, or could not be started.
    """
    if ray.is_initialized():
        with _quiet():
            yield
        return
    try:
        _connect(address)
        with _quiet():
            yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":  # then `ray.init` sends no usage statistics
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(address, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RelsdkError(
            f"no connection to the Ray cluster {address} ({reason:.300}); this machine must belong to it "
            "(ray start --address=HOST:PORT), with the same versions of Python and Ray, and the "
            "cluster's token if it has one (RAY_AUTH_MODE=token)"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray Data write to its log file alone: what stops the work is raised."""
    consoles = [
        one for one in logging.getLogger("ray.data").handlers if isinstance(one, logging.StreamHandler)
    ]
    levels = [console.level for console in consoles]
    for console in consoles:
        console.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for console, level in zip(consoles, levels, strict=True):
            console.setLevel(level)
