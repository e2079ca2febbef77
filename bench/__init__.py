"""Benchmarks: what relsdk's numbers are measured with. Run by `make bench` and `make real`."""

import relsdk.runtime.onnx_runtime  # noqa: F401  # before a bench imports onnxruntime itself: without telemetry
