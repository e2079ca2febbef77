"""The ending of a command: one line on stderr for whatever went wrong, and an exit code.

| code | meaning |
|---|---|
| 0 | done; also when the reader of the output went away (`| head`) |
| 2 | a mistake that the user can act on: the line says what and where |
| 70 | a bug of relsdk |
| 129, 130, 143 | ended by SIGHUP, Ctrl-C, SIGTERM: finished work is kept, unfinished work removed |
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any

import click

from relsdk.errors import MissingExtraError, RelsdkError

__all__ = ["EXIT_CODES", "Signals", "close_streams", "ending_of", "open_streams", "shorten"]

EXIT_CODES = {
    0: "Done; also when the reader of the output went away, as in `| head`.",
    2: "A mistake that you can act on; one line on stderr says what and where.",
    70: "A bug of relsdk; `RELSDK_TRACEBACK=1` shows where. Please report it.",
    129: "Ended by SIGHUP. Finished work is kept, unfinished work is removed.",
    130: "Ended by Ctrl-C (SIGINT). The same.",
    143: "Ended by SIGTERM. The same.",
}
# Packages that only an extra brings.
_HEAVY = ("accelerate", "bm25s", "onnx", "onnx_ir", "onnxscript", "safetensors", "torch", "transformers")
# Errors of libraries that say that a file or this machine is at fault, by the first part of their module.
_FOREIGN = {
    "onnxruntime": "onnxruntime refused",
    "pyo3_runtime": "the tokenizer failed",
    "safetensors_rust": "the weights cannot be read",
    "sqlite3": "the database refused",
}
_REMEDIES = {
    errno.ENAMETOOLONG: "; give a shorter path",
    errno.EACCES: "; check its permissions",
    errno.ENOSPC: "; free some space, or write elsewhere",
    errno.EMFILE: "; raise the limit with: ulimit -n",
}
_NUL = re.compile("embedded null|null (byte|character)")
_LONGEST = 2000  # characters of a message
_BUG = 70


class Signals:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, so that all of them clean up; remembers which came.

    A signal that was ignored (`nohup`, a background job) stays so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():  # a second one may end what waits for threads at exit
            signal.signal(number, handler if self.received is None else signal.SIG_DFL)
        if self.received is not None:
            # CPython notes that KeyboardInterrupt left an evaluated text (a named tuple's, in an import), and
            # `python -m` then dies of SIGINT whatever the exit code. The next evaluated text takes it back.
            eval("0")

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        self.received = number
        # What a library prints of an interrupted import, or of work that it does alone, has nothing to add.
        sys.excepthook = lambda *_: None
        sys.unraisablehook = lambda _: None
        raise KeyboardInterrupt


def ending_of(error: BaseException, called: str, signals: Signals) -> tuple[str, int]:
    """Return what to say of an error, "" for nothing, and the exit code.

    Args:
        error: What ended the command.
        called: The command's name.
        signals: What came from outside: an interrupted import or library may raise anything.
    """
    if isinstance(error, click.exceptions.Exit):
        return "", error.exit_code
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt | click.Abort) or signals.received is not None:
        number = signals.received or signal.SIGINT
        return "interrupted; finished work is kept, unfinished work was removed", 128 + number
    if isinstance(error, BrokenPipeError) and _reader_is_gone():
        return "", 0
    if isinstance(error, RelsdkError):
        return str(error), 2
    if isinstance(error, click.ClickException):
        return _usage(error), 2
    message = _of_libraries(error, called) or _of_system(error)
    if message:
        return message, 2
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({os.path.basename(place[0].filename)}:{place[0].lineno})" if place else ""
    return (
        f"this is a bug in relsdk: {type(error).__name__}: {error}{where}; please report it with what "
        "RELSDK_TRACEBACK=1 shows",
        _BUG,
    )


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    if message.startswith("No such command") and "Did you mean" not in message:
        message = f"{message.rstrip('.')}{_nearest(message, context)}"
    return f"{message.rstrip('.')}; see: {context.command_path} --help"


def _nearest(message: str, context: click.Context) -> str:
    import difflib

    names = context.command.list_commands(context) if isinstance(context.command, click.Group) else []
    near = difflib.get_close_matches(message.partition("'")[2].partition("'")[0], names, n=1)
    return f". Did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"


def _of_libraries(error: BaseException, called: str) -> str:
    """Return what to say of an error that a library raised because of its input; "" of another one."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _HEAVY:
        return str(MissingExtraError("this command", "train" if called in ("train", "synth") else "export"))
    for kind in type(error).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _FOREIGN:
            return f"{_FOREIGN[package]}: {error}"
    return ""


def _of_system(error: BaseException) -> str:
    """Return what to say of an error of the operating system or of the machine's limits; "" of another."""
    if isinstance(error, OSError):
        names = [
            os.fsdecode(file)
            for file in (error.filename, error.filename2)
            if isinstance(file, str | bytes | os.PathLike)
        ]
        reason = error.strerror or str(error) or type(error).__name__
        remedy = _REMEDIES.get(error.errno or 0, "")
        return f"{' -> '.join(names)}: {reason}{remedy}" if names else reason + remedy
    if isinstance(error, MemoryError):
        return "there is not enough memory; take fewer or shorter texts, or a smaller model"
    if isinstance(error, RecursionError):
        return "an input is nested too deeply; flatten it"
    if isinstance(error, UnicodeError):
        return f"a text or a path is not valid Unicode ({error}); save the file as UTF-8, or rename the path"
    if isinstance(error, ValueError) and _NUL.search(str(error)):
        return "a path holds a NUL character; remove it"
    return ""


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more; another pipe's end is a mistake."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


class _Closed(io.TextIOBase):
    """Stands for a stdout that was closed before the start: what is lost is said."""

    encoding = "utf-8"
    errors = "strict"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "standard output is closed; redirect it to a file or /dev/null")


def open_streams() -> None:
    """Give descriptors 0 to 2, where closed, to the null device; the next file opened would become stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    if sys.stdout is None:
        sys.stdout = _Closed()


def close_streams() -> None:
    """Keep Python's own flush at exit from failing, which would print and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (OSError, ValueError, AttributeError):
                pass


def shorten(message: str) -> str:
    """Return a message on one line, its middle left out where it is long."""
    line = " ".join(message.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
