"""Smaller checkpoints: fewer layers, a smaller vocabulary."""
