"""Tools that measure a model or an index and prepare training; serving does not use them."""
