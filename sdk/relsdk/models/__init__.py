"""Encoders, cross-encoders, and both together."""
