"""Pairs, samples and texts to train on."""
