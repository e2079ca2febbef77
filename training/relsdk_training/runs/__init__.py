"""Trainings from configuration to result."""
