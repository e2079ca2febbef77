"""Generated parts of README and docs."""
