"""The training loop and what it needs: checkpoints, log, lock, processes. It knows no model."""
