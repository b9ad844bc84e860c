"""What this machine can do, found without importing torch."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
from pathlib import Path
from typing import Literal

from fute.core.errors import MissingError

DType = Literal["bfloat16", "float32"]

# CPUs with one of these multiply bfloat16 matrices faster than float32 ones; others emulate them slowly.
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags, or none where the system doesn't say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def fast_bfloat16() -> bool:
    """Whether this CPU has bfloat16 matrix products in hardware (AMX or AVX512-BF16)."""
    return bool(_BFLOAT16_FLAGS & cpu_flags())


def choose_dtype(wish: str = "auto") -> DType:
    """`auto` is bfloat16 where the CPU is fast at it, else float32."""
    if wish == "auto":
        return "bfloat16" if fast_bfloat16() else "float32"
    return "bfloat16" if wish == "bfloat16" else "float32"


def describe_machine() -> str:
    """One line for benchmark results."""
    kind = next(
        (f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in cpu_flags()), "no vector flags"
    )
    return f"{platform.machine()}, {os.cpu_count()} cores, {kind}"


def require(module: str, extra: str, purpose: str) -> None:
    """Raise `MissingError` that says what to install, unless `module` can be imported."""
    if importlib.util.find_spec(module) is None:
        raise MissingError(
            f"{purpose} needs the package {module}, which isn't installed",
            fix=f"pip install 'fute[{extra}]'",
        )
