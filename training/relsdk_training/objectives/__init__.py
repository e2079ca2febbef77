"""Objectives: the loss and the dev measures of each kind of training."""
