"""Models that grade pairs for a score model to learn from."""
