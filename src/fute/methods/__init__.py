"""Embedding methods f: from examples to a task embedding, the same for datasets and models."""
