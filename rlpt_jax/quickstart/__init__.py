"""A small world of texts: documents, what is true of them, training data."""
