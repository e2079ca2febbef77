"""The commands `relsdk train` and `relsdk synth`."""
