"""What is faster in C++: sources of this package, compiled when first needed, if there is a compiler."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fute.core.files import cache_dir, write_atomically
from fute.core.hashing import digest
from fute.core.runtime import cpu_flags

log = logging.getLogger("fute")
_HEADERS = Path(__file__).parent
_RUNS = 7
_FLAGS = ["-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC"]


def compiler() -> list[str]:
    """The command that compiles C++: $CXX, or g++."""
    return shlex.split(os.environ.get("CXX", "")) or ["g++"]


def has_compiler() -> bool:
    """Whether there is one."""
    return shutil.which(compiler()[0]) is not None


@functools.cache
def compiled(source: Path, cpu: str = "native") -> ctypes.CDLL | None:
    """A source as a library, made by `compiler` in a second and kept in the cache folder; None where that
    can't be.

    Args:
        source: C++17 with functions that are `extern "C"`, which may include the headers beside this file.
            Where it takes tensors torch has been imported before, so that both use its OpenMP.
        cpu: whose instructions it may use, as -march says them.
    """
    command = [*compiler(), *_FLAGS, f"-march={cpu}"]
    texts = [path.read_text("utf-8") for path in [source, *sorted(_HEADERS.glob("*.h"))]]
    own = digest([texts, command, sorted(cpu_flags())])
    made = cache_dir() / "native" / f"{source.stem}-{own[:32]}.so"
    try:
        if not made.is_file():
            made.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=made.parent) as folder:
                whole = Path(folder) / made.name
                command += [f"-I{_HEADERS}", str(source), "-o", str(whole)]
                subprocess.run(command, capture_output=True, text=True, check=True)
                whole.replace(made)
        return ctypes.CDLL(str(made))
    except subprocess.CalledProcessError as error:
        log.debug("%s can't be compiled here: %s", source.name, error.stderr[:500])
    except OSError as error:
        log.debug("%s can't be compiled or loaded here: %s", source.name, error)
    return None


def compiled_for_halves(source: Path) -> ctypes.CDLL | None:
    """A source for CPUs with AVX512-BF16, where its products of bfloat16 are faster than PyTorch's: not where
    there is AMX, which PyTorch uses. None elsewhere, and where it can't be compiled.
    """
    flags = cpu_flags()
    return compiled(source) if "avx512_bf16" in flags and "amx_bf16" not in flags else None


def is_faster(
    library: ctypes.CDLL, ours: Callable[[], object], theirs: Callable[[], object], *, version: str = ""
) -> bool:
    """Whether `ours`, by a library of `compiled`, takes less time here than `theirs`: the least of some runs
    of each in turn. What was measured is kept beside the library, so that later processes decide alike, for
    that version of theirs.
    """
    kept = Path(library._name).with_suffix(f".{digest(version)[:8]}.json")
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads(kept.read_text("utf-8"))["faster"])
    runs = [(_seconds(ours), _seconds(theirs)) for _ in range(_RUNS)]
    seconds = min(run[0] for run in runs), min(run[1] for run in runs)
    faster = seconds[0] < seconds[1]
    with contextlib.suppress(OSError):
        write_atomically(kept, json.dumps({"faster": faster, "seconds": seconds}) + "\n")
    return faster


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """A library's function, which returns nothing, with these arguments: an int as a long, a float, a tensor
    as its address, and None as none.
    """
    kinds = {int: ctypes.c_long, float: ctypes.c_float, type(None): ctypes.c_void_p}
    given = [kinds[type(a)](a) if type(a) in kinds else ctypes.c_void_p(a.data_ptr()) for a in arguments]
    getattr(library, name)(*given)
