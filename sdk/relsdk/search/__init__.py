"""Retrieval and grading in one call, within a time budget."""
