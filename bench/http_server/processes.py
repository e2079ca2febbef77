"""Processes held to one CPU: servers, and what the kernel says of them."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.machine import ROOT

# So that every pool of every library has one thread.
ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RELSDK_THREADS", "RAYON_NUM_THREADS")
}
_HOST = "127.0.0.1"
_MB = 1e6
_END_S = 40.0


@dataclass(frozen=True)
class Cpus:
    """Who runs where: the client on one CPU, what is measured on another (the same where there is one)."""

    client: int
    server: int

    @classmethod
    def choose(cls) -> Cpus:
        """Take the first and the last of those that this process may use."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[-1])

    def hold_client(self) -> None:
        """Keep this process on the client's CPU, and let it open thousands of connections."""
        os.sched_setaffinity(0, {self.client})
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Server:
    """A server on a free port, on one CPU; a context manager.

    Args:
        name: For messages.
        command: "{port}" stands for the port.
        cpu: Its CPU.
        health: Answers 200 when it is ready.
        environment: Besides this process's own.
        log: What it prints goes to this file.
        ready_s: How long it may take to be ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        cpu: int,
        log: Path,
        *,
        health: str = "/readyz",
        environment: Mapping[str, str] | None = None,
        ready_s: float = 120.0,
    ) -> None:
        self.name, self.log = name, log
        self.address = (_HOST, _free_port())
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [part.replace("{port}", str(self.address[1])) for part in command],
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD, "HF_HUB_OFFLINE": "1", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )
        self.start_s = self._wait(health, ready_s)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def view(self) -> dict[str, Any]:
        """Return `kernel_view` of the process."""
        return kernel_view(self.pid)

    def pause(self) -> None:
        """Stop it from running; its memory stays."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self, health: str, ready_s: float) -> float:
        started = time.perf_counter()
        while True:
            seconds = time.perf_counter() - started
            if self.process.poll() is not None or seconds > ready_s:
                what = f"took {seconds:.0f} s" if self.process.poll() is None else "ended"
                self.process.kill()
                self.process.wait()
                text = self.log.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(
                    f"{self.name} {what} before it was ready: {' | '.join(text.splitlines()[-3:])}"
                )
            if _status(self.address, health) == 200:
                return seconds
            time.sleep(0.05)


def python_path() -> dict[str, str]:
    """Return what lets a child import what this process can."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def kernel_view(pid: int) -> dict[str, Any]:
    """Return resident, proportional and anonymous MB (10^6 bytes), threads and open files of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        name: int(rest.split()[0]) * 1024 / _MB for name, _, rest in (line.partition(":") for line in lines)
    }
    return {
        "resident_mb": round(sizes["Rss"], 2),
        "proportional_mb": round(sizes["Pss"], 2),
        "anonymous_mb": round(sizes["Anonymous"], 2),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }


def resident_mb(pid: int) -> float:
    """Return resident MB (10^6 bytes), quickly."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / _MB, 2)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _status(address: tuple[str, int], path: str) -> int:
    connection = http.client.HTTPConnection(*address, timeout=5.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
