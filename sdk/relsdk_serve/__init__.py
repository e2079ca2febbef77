"""`relsdk serve`: models and indexes behind HTTP, and the page beside them."""
