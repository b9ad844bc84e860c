"""What the sections of a YAML file are made of: strict pydantic models, and values as people write them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


# A name, which YAML may have read as a number.
Name = Annotated[str, Field(min_length=1, max_length=200), BeforeValidator(_as_text)]
# One word or several.
Words = Annotated[list[Name], Field(min_length=1), BeforeValidator(_as_list)]
# What both NumPy and PyTorch draw from.
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A section that knows all its keys: another one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
