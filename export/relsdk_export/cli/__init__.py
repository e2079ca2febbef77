"""The commands that make bundles: `relsdk export`, `relsdk demo`, `relsdk model pull` and `cut`."""
