"""ONNX graphs of checkpoints."""
