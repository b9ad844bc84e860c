"""Choosing a prompt or a model for a dataset: by task embeddings, beside other ways, or by a race."""

from fute.choosing.candidates import What, choose

__all__ = ["What", "choose"]
