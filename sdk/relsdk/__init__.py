"""Search relevance that runs anywhere."""
