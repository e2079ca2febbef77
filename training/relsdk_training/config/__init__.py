"""Settings of every training: types, files, SSRA's stages."""
