"""Few labels or none, and a language model's opinions, to a calibrated bundle; see `recipe`."""
