"""A checkpoint folder in torch, for training and export."""
