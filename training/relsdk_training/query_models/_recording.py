"""A recording: the questions that a chat model was asked and its answers, appended to a file of JSON lines.

    {"model": NAME, "messages": [...], "temperature": T, "seed": N, "samples": S, "answers": [...]}

A line is on the disk before its answers are used, so an answer that was paid for is not lost. A question is
known again by what it says, wherever the endpoint is.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, LockedError, RelsdkError, TrainingError
from relsdk.files.atomic import HeldLock, hold_lock
from relsdk.files.folders import check_file_target, json_sha256
from relsdk.typed_json import convert_json

__all__ = ["Question", "Recording", "open_recording"]

_LOGGER = logging.getLogger(__name__)
_DAMAGED = "delete this line, or take the file from where it is whole"
# Of a question in a message: its first and its last so many characters.
_SHOWN_FIRST, _SHOWN_LAST = 120, 60


@dataclass(frozen=True)
class Question:
    """What one request asks.

    Attributes:
        model: Name of the model.
        messages: Each with "role" and "content".
        temperature: Of sampling.
        seed: Of sampling.
        samples: How many answers are wanted.
    """

    model: str
    messages: list[dict[str, str]]
    temperature: float
    seed: int
    samples: int

    @property
    def key(self) -> str:
        """Hash of all it says."""
        numbers = [float(self.temperature), self.seed, self.samples]
        return json_sha256([self.model, self.messages, *numbers])

    @property
    def conversation(self) -> str:
        """Hash of its messages alone."""
        return json_sha256(self.messages)

    def __str__(self) -> str:
        text = " ".join((self.messages[-1].get("content", "") if self.messages else "").split())
        if len(text) > _SHOWN_FIRST + _SHOWN_LAST + 5:
            text = f"{text[:_SHOWN_FIRST]} ... {text[-_SHOWN_LAST:]}"
        return f"{text!r} for {self.how}"

    @property
    def how(self) -> str:
        """Which model is asked, and how, for people."""
        return f"{self.model} (temperature {self.temperature:g}, seed {self.seed}, {self.samples} at once)"


@dataclass(frozen=True)
class _Line(Question):
    answers: list[str]


class Recording:
    """The answers of a file, and the end of that file where more are appended.

    Args:
        path: The file. One to append to is made if it is not there, and no other process may append
            meanwhile.
        append: Whether answers are added; without that the file is only read.

    Raises:
        InputError: The file is missing, cannot be read or written, or a line that is not the last is damaged.
        LockedError: Another process appends to it.
    """

    def __init__(self, path: Path, *, append: bool) -> None:
        self.path = path
        self._answers: dict[str, list[str]] = {}
        self._asked: dict[str, str] = {}  # how each conversation was asked first
        self._appending = threading.Lock()
        self._being_asked: set[str] = set()
        self._was_asked = threading.Condition()
        self._close: Callable[[], object] = int  # nothing to close
        if append:
            check_file_target(path, overwrite=True)
            self._handle, lock = _open_to_append(path)
            self._close = weakref.finalize(self, _release, self._handle, lock)
        try:
            whole = 0
            for question, end in _read_lines(path):
                self._remember(question, question.answers)
                whole = end
            if append:
                self._cut(whole)
        except BaseException:  # an error holds its frames, and they the recording
            self._close()
            raise

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, question: Question) -> list[str] | None:
        """Return the answers to a question: none where several at once were refused, None if it lacks it."""
        return self._answers.get(question.key)

    @contextmanager
    def alone(self, question: Question) -> Iterator[None]:
        """Wait until no other thread asks the same: then its answers are here."""
        key = question.key
        with self._was_asked:
            self._was_asked.wait_for(lambda: key not in self._being_asked)
            self._being_asked.add(key)
        try:
            yield
        finally:
            with self._was_asked:
                self._being_asked.remove(key)
                self._was_asked.notify_all()

    def add(self, question: Question, answers: list[str]) -> None:
        """Append answers; they are on the disk when this returns.

        Raises:
            TrainingError: The disk is full or failed.
        """
        content = {name: getattr(question, name) for name in Question.__dataclass_fields__}
        line = json.dumps({**content, "answers": answers}, ensure_ascii=False) + "\n"
        with self._appending:
            size = os.fstat(self._handle).st_size
            try:
                _write_whole(self._handle, line.encode())
                os.fsync(self._handle)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._handle, size)
                raise TrainingError(
                    f"{self.path} cannot be written ({error.strerror or error}); make room; the same command "
                    "goes on from there"
                ) from error
            self._remember(question, answers)

    def lacking(self, question: Question) -> InputError:
        """Return the error of a question that is not there."""
        otherwise = self._asked.get(question.conversation)
        if otherwise:
            remedy = f"it holds this question for {otherwise}: ask as it was asked then"
        else:
            remedy = "take the data, the settings and the rubric of then"
        return InputError(
            f"{self.path} holds {len(self):,} answered questions and not {question}; {remedy}, or replace "
            "replay by record, and an endpoint is asked for what is missing"
        )

    def _remember(self, question: Question, answers: list[str]) -> None:
        self._answers.setdefault(question.key, answers)
        self._asked.setdefault(question.conversation, question.how)

    def _cut(self, whole: int) -> None:
        """Remove what follows the last whole line, and end that line."""
        size = os.fstat(self._handle).st_size
        try:
            if size > whole:
                os.ftruncate(self._handle, whole)
            if whole and os.pread(self._handle, 1, whole - 1) != b"\n":
                _write_whole(self._handle, b"\n")
        except OSError as error:
            raise _unreadable(self.path, error) from error


_open: weakref.WeakValueDictionary[str, Recording] = weakref.WeakValueDictionary()


def open_recording(path: str | os.PathLike[str], *, append: bool) -> Recording:
    """Open a recording; those who append to the same file in one process share it. See `Recording`."""
    target = os.path.realpath(path)
    if not append:
        return Recording(Path(target), append=False)
    recording = _open.get(target)
    if recording is None:
        recording = _open[target] = Recording(Path(target), append=True)
    return recording


def _open_to_append(path: Path) -> tuple[int, HeldLock]:
    try:
        lock = hold_lock(path)
    except LockedError:
        raise LockedError(
            f"{path} is being recorded by another process; wait for it, or record into another file"
        ) from None
    except RelsdkError as error:
        raise InputError(f"{path} cannot hold a recording: {error}") from error
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)), lock
    except OSError as error:
        lock.release()
        raise _unreadable(path, error) from error


def _release(handle: int, lock: HeldLock) -> None:
    """Close a recording; one that nothing was written to is removed."""
    with suppress(OSError):
        empty = os.fstat(handle).st_size == 0
        os.close(handle)
        lock.release(remove=empty)


def _read_lines(path: Path) -> Iterator[tuple[_Line, int]]:
    """Yield what each line says and where it ends; a last line that a kill cut off is left out, and said."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise InputError(f"the recording {path} is no regular file; name one that was made with record")
        with path.open("rb") as stream:
            end = 0
            for number, line in enumerate(stream, start=1):
                end += len(line)
                try:
                    content = json.loads(line)
                except (ValueError, RecursionError) as error:  # ValueError: also of Unicode
                    if not line.endswith(b"\n"):
                        _LOGGER.warning(
                            "%s: the last line was cut off when its writer was stopped; it is left out", path
                        )
                        return
                    raise InputError(f"{path}:{number}: no JSON ({error}); {_DAMAGED}") from error
                yield _checked(content, f"{path}:{number}"), end
    except OSError as error:
        raise _unreadable(path, error) from error


def _checked(content: Any, where: str) -> _Line:
    line = convert_json(content, _Line, where=where, error=InputError, remedy=_DAMAGED)
    if not 0 < line.samples or len(line.answers) < (line.samples == 1):
        raise InputError(f"{where}: {len(line.answers)} answers for {line.samples} samples; {_DAMAGED}")
    return line


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"the recording {path} cannot be opened: {error.strerror or error}; name a file that was made with "
        "record, and can be read"
    )


def _write_whole(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
