"""An onnxruntime session that a server can rely on: bounded threads and memory, safe after a fork.

Shape letters: B texts of one batch, T tokens, D dimension.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import BundleError, InputError
from relsdk.files.folders import FileStamp
from relsdk.runtime.hardware import ThreadChoice
from relsdk.runtime.native_engine import native_engine
from relsdk.runtime.onnx_runtime import check_onnxruntime, onnxruntime

__all__ = ["ModelSession", "loading"]

# What token ids and masks may be asked for as.
_INPUT_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}

# On the CPU the fused kernel is slower than the Add and LayerNormalization that it replaces (onnxruntime
# 1.32, 12 layers of width 384: 2.7 ms with it, 2.3 ms without).
_DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]


class ModelSession:
    """One ONNX file, loaded by `load` or on first use, and again in every forked process.

    A session's threads do not survive a fork: a child that used its parent's, or destroyed it, would wait for
    them for ever, so it leaves that alone and loads its own. What is loaded later is the file that was there
    when the session was made, or an error: weights of another model under this one's name would be wrong
    vectors that nobody sees.

    Args:
        path: The ONNX file.
        threads: How many threads an operator may use.
        providers: onnxruntime execution providers; None means the CPU.
        weights: Files beside it that hold its weights.
        native: Let the native engine compute what it can, where it is; tests and benchmarks compare.

    Raises:
        InputError: A provider is not in this build of onnxruntime.
        RelsdkError: This version of onnxruntime gives wrong results.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: ThreadChoice,
        providers: Sequence[str] | None = None,
        weights: Sequence[Path] = (),
        native: bool = True,
    ) -> None:
        check_onnxruntime()
        self._stamp = FileStamp.of(path)
        # Of a link (in the Hugging Face cache) its own place: onnxruntime looks there for weights beside it.
        self.path = path.parent.resolve() / path.name
        places = [file.parent.resolve() / file.name for file in weights]
        self._weights = [(place, FileStamp.of(place)) for place in places]
        self.threads = threads
        self.providers = list(providers) if providers is not None else ["CPUExecutionProvider"]
        self._native = native and self.providers == ["CPUExecutionProvider"]
        available = onnxruntime.get_available_providers()
        missing = [provider for provider in self.providers if provider not in available]
        if missing:
            raise InputError(
                f"execution provider {missing[0]!r} is not in this build; available: {available}"
            )
        self._lock = threading.Lock()
        self._session: Any = None
        self._wanted: dict[str, np.dtype[Any]] = {}  # the graph's inputs
        _made.add(self)

    @property
    def stamp(self) -> FileStamp:
        """The file, as it was when the session was made."""
        return self._stamp

    @property
    def input_names(self) -> list[str]:
        """Names of the graph's inputs."""
        return [item.name for item in self._get().get_inputs()]

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return [item.name for item in self._get().get_outputs()]

    def run(self, output: str, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Run the graph.

        Args:
            output: Which output to compute.
            inputs: (B, T) int64 arrays by name; names the graph does not have are left out.

        Returns:
            The output as float32.

        Raises:
            BundleError: The graph asks for an input that is not among them, does not run, or its output is
                not of floating-point numbers.
        """
        session = self._get()
        unknown = [name for name in self._wanted if name not in inputs]
        if unknown:
            raise BundleError(f"{self.path} asks for the inputs {unknown}; known are {sorted(inputs)}")
        feed = {name: inputs[name].astype(dtype, copy=False) for name, dtype in self._wanted.items()}
        try:
            result = np.asarray(session.run([output], feed)[0])
        except Exception as error:  # as in `_load`
            shapes = {name: list(values.shape) for name, values in feed.items()}
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BundleError(f"{self.path} does not run inputs of shape {shapes}: {reason}") from error
        self._check_weights()
        if result.dtype.kind != "f":
            raise BundleError(
                f"{self.path} gives {output} as {result.dtype}; floating-point numbers are needed"
            )
        return result.astype(np.float32, copy=False)

    def _check_weights(self) -> None:
        """Raise `BundleError` where a file of weights was written over: the model is mapped from it."""
        for place, stamp in self._weights:
            if stamp.written_over:
                raise BundleError(
                    f"{place} was written over while the model was open; open the model again, and replace a "
                    "bundle that is in use by renaming another, not by copying over its files"
                )

    def load(self) -> None:
        """Load the file now, unless it is loaded.

        Raises:
            BundleError: onnxruntime cannot load it.
        """
        self._get()

    def _get(self) -> Any:
        if self._session is None:
            with self._lock:
                if self._session is None:
                    loaded = self._load()
                    self._wanted = {item.name: self._dtype_of(item) for item in loaded.get_inputs()}
                    self._session = loaded
        return self._session

    def _forget(self) -> None:
        """Leave the parent's session and lock alone: a lock may have been held when it forked."""
        self._lock = threading.Lock()
        self._session = None

    def _dtype_of(self, item: Any) -> np.dtype[Any]:
        if item.type not in _INPUT_TYPES:
            raise BundleError(
                f"{self.path} asks for {item.name} as {item.type}; known are {list(_INPUT_TYPES)}"
            )
        return np.dtype(_INPUT_TYPES[item.type])

    def _load(self) -> Any:
        changed = [
            place for place, stamp in self._weights if not stamp.holds or place.resolve() != stamp.path
        ]
        if not self._stamp.holds:
            changed = [self.path]
        if changed:
            raise BundleError(
                f"{changed[0]} is gone or no longer the file that this model was opened with; "
                f"open the model again"
            )
        moved = self.path.resolve() != self._stamp.path  # a link that leads to another file by now
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it keeps a plan for every shape seen: memory would grow
        options.log_severity_level = 3
        library = native_engine()[0] if self._native else None
        try:
            if library is not None:
                options.register_custom_ops_library(str(library))
            loaded = onnxruntime.InferenceSession(
                str(self._stamp.path if moved else self.path),
                options,
                providers=self.providers,
                disabled_optimizers=_DISABLED_OPTIMIZERS,
                enable_fallback=0,  # it would print on stdout, and try the same again
            )
        except Exception as error:  # onnxruntime's errors share no base class
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BundleError(f"{self.path} is not a loadable ONNX model: {reason}") from error
        _loaded.add(loaded)
        return loaded


# What a forked child must not use: see `ModelSession`.
_made: weakref.WeakSet[ModelSession] = weakref.WeakSet()
_loaded: weakref.WeakSet[Any] = weakref.WeakSet()  # onnxruntime's own


def _after_fork_in_child() -> None:
    for loaded in _loaded:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(loaded))  # never destroyed, not even at exit
    _loaded.clear()
    for session in _made:
        session._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def loading(session: ModelSession) -> Iterator[None]:
    """Load a session while the body does something else; onnxruntime leaves Python alone meanwhile.

    Raises:
        BundleError: onnxruntime cannot load the file, and the body raised nothing itself.
    """

    def attempt() -> None:
        with suppress(BundleError):  # raised below, where somebody listens
            session.load()

    thread = threading.Thread(target=attempt, name="relsdk-load")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    session.load()
