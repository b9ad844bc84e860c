"""How well each way ranked the source models, from a grid's saved results."""

from __future__ import annotations
