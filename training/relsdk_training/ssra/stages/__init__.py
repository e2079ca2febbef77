"""One file a stage: what its result depends on, what is wrong with its settings, and what it does."""
