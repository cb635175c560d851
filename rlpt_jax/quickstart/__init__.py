"""A small world of texts: documents, their true facts, and training data."""
