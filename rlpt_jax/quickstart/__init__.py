"""A small world of text: documents, what is true of them, lessons."""
