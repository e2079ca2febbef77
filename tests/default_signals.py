"""Processes that signals end, also where the tests themselves run in the background or under nohup.

A shell without job control lets what it starts with `&` ignore SIGINT, `nohup` lets it ignore SIGHUP, and
children inherit that. relsdk leaves an ignored signal ignored, as it should; a test that sends one to a
process puts `WITH_DEFAULT_SIGNALS` before its command. `exec` keeps the process id.
"""

import sys

__all__ = ["WITH_DEFAULT_SIGNALS"]

_PROGRAM = (
    "import os, signal, sys\n"
    "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
WITH_DEFAULT_SIGNALS = (sys.executable, "-S", "-c", _PROGRAM)
