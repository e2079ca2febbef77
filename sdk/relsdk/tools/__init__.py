"""What measures a model or an index and prepares training: used by commands, not by serving."""
