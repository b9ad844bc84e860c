"""Choosing a prompt, a model or a source dataset: by task embeddings, beside other ways, or by a race."""

from fute.choosing.candidates import What, choose
from fute.choosing.doubts import doubts
from fute.choosing.leaks import leaks
from fute.choosing.sources import choose_source

__all__ = ["What", "choose", "choose_source", "doubts", "leaks"]
