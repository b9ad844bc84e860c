"""What this machine can do, found without importing torch."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
from pathlib import Path
from typing import Literal

from fute.core.errors import ConfigError, MissingError, listing

DType = Literal["bfloat16", "float32"]


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags, or none where the system doesn't say."""
    return frozenset((_cpu("flags") or _cpu("Features")).split())


def cpu_vendor() -> str:
    """Who made the CPU, such as "AuthenticAMD"; "" where the system doesn't say."""
    return _cpu("vendor_id")


@functools.cache
def _cpu(key: str) -> str:
    """What the system says of the first CPU under this key."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    of_key = (value for name, _, value in (line.partition(":") for line in lines) if name.strip() == key)
    return next(of_key, "").strip()


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones: with AMX, or with AMD's
    AVX512-BF16. Intel's is slower than float32 where AMX is switched off: 0.6 × was measured.
    """
    by_amd = "avx512_bf16" in cpu_flags() and cpu_vendor() == "AuthenticAMD"
    return by_amd or "amx_bf16" in cpu_flags()


def choose_dtype(wish: str = "auto") -> DType:
    """`bfloat16` or `float32`; `auto` is bfloat16 where the CPU is fast at it, else float32.

    Raises:
        ConfigError: it is none of the three.
    """
    fastest: DType = "bfloat16" if fast_bfloat16() else "float32"
    known: dict[str, DType] = {"auto": fastest, "bfloat16": "bfloat16", "float32": "float32"}
    if wish not in known:
        raise ConfigError(f"there is no dtype {wish!r} here", expected=f"one of {listing(known)}")
    return known[wish]


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
