"""Works for the tests of Ray; in a module of their own, since an actor imports them."""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from relsdk.shards.encode import EncodeWork


@dataclass(frozen=True)
class Measured:
    """Does a work; says also which process did an item, and how much memory it has resident after it.

    Attributes:
        work: The work.
    """

    work: EncodeWork

    def open(self):
        do = self.work.open()

        def measure(shard):
            do(shard)
            resident = re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())[1]
            return os.getpid(), 1024 * int(resident)

        return measure


@dataclass(frozen=True)
class Threads:
    """Says on how many CPUs Ray counts for an actor.

    Attributes:
        threads: Of an actor.
    """

    threads: int

    def open(self):
        import ray

        return lambda item: (ray.get_runtime_context().get_assigned_resources()["CPU"], socket.gethostname())
