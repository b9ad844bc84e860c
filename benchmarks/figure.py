"""One measured figure, and whether it reaches its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fute.core.runtime import describe_machine


@dataclass(frozen=True)
class Figure:
    """`ok` is value ≤ target where `better` is "lower", value ≥ target where it is "higher"."""

    name: str
    value: float
    unit: str
    target: float
    better: Literal["lower", "higher"]

    @property
    def ok(self) -> bool:
        return self.value <= self.target if self.better == "lower" else self.value >= self.target

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "target": self.target,
            "ok": self.ok,
            "machine": describe_machine(),
        }
