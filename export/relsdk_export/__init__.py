"""Checkpoints in, served bundles out: backbones, ONNX export, quantisation, parity."""
