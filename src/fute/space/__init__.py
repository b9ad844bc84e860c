"""Task embeddings on disk: vectors, provenance, neighbours and 2-D layouts. No torch."""
