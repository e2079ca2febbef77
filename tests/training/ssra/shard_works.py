"""What a stage does with shards, for workers that import it."""

import json
import os

from relsdk.errors import InputError


def number_lines(job):
    """Write each line with the number of its shard, and into a log which process did it."""

    def make(lines, shard):
        with job.path("log").open("a") as log:
            log.write(json.dumps([shard, os.getpid()]) + "\n")
        return [{**line, "shard": shard} for line in lines]

    return make


def fail_at_4(job):
    make = number_lines(job)

    def make_or_fail(lines, shard):
        if lines[0]["n"] == 4:
            raise InputError("line 4")
        return make(lines, shard)

    return make_or_fail
