"""The quality gate: what an exported bundle must pass."""
