"""Batch-invariant int8 weights and activations."""
