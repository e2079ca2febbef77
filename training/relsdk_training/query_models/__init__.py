"""Models that write a query for a document and a wanted level."""
