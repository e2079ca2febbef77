"""Index folders."""
