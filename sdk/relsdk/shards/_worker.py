"""The program of a worker's process: reads items from standard input, writes answers to standard output."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Any

from relsdk.shards.runner import portable_error

__all__ = ["serve"]


def serve() -> None:
    """Do what comes until standard input ends: its other end is closed when the parent dies, too."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    messages: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(messages,), daemon=True).start()
    do: Any = None
    while True:
        try:
            message = pickle.loads(messages.get())
            if do is None:
                do = message.open()
                continue
            answer: Any = (do(message), None, "")
        except BaseException as error:
            answer = (None, portable_error(error), "".join(traceback.format_exception(error)))
        pickle.dump(answer, answers)
        answers.flush()


def _receive(messages: SimpleQueue[bytes]) -> None:
    """Pass on what comes; when nothing can come any more, end the process, whatever it does."""
    try:
        while True:
            messages.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(1)
