"""Training of relsdk models; the first objectives arrive with the training release."""
