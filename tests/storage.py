"""Real trouble with storage: folders that may not be written, files that may not grow, other processes."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NOBODY = 65534


@contextmanager
def write_protected(folder: Path) -> Iterator[None]:
    """While it lasts, this process may read `folder`, but write nothing in it.

    Modes mean nothing to root, who becomes another user for that time.
    """
    if os.geteuid() == 0:
        os.seteuid(_NOBODY)
        try:
            if not _can_read(folder):
                pytest.skip("the folder for temporary files is root's alone; set TMPDIR")
            yield
        finally:
            os.seteuid(0)
        return
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def _can_read(folder: Path) -> bool:
    try:
        next(folder.iterdir(), None)
    except PermissionError:
        return False
    return True


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process of its own that runs `script`."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """What the process printed, once it has ended well."""
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


def run(script: str, *arguments: object) -> str:
    return finish(start(script, *arguments))


_LIMIT = """\
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_HARD = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (_HARD if size is None else size, _HARD))
"""


def run_with_file_size_limit(script: str, *arguments: object) -> str:
    """Run a script where `limit(n)` stops files from growing beyond n bytes, and `limit(None)` ends that."""
    return run(_LIMIT + textwrap.dedent(script), *arguments)
