"""Running code of the user's own: a function, a module, an estimator."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_lock = threading.Lock()
_held: list[TextIO] = []  # the real stdout, once for each block that runs


@contextmanager
def users_code() -> Iterator[None]:
    """Run the block with its prints on stderr, since a command's stdout is its data. Python has one stdout
    for all threads: blocks may overlap in several, and the last to end puts it back.

    Raises:
        RuntimeError: the block would end the program, which is a mistake as any other.
    """
    with _lock:
        _held.append(_held[-1] if _held else sys.stdout)
        sys.stdout = sys.stderr
    try:
        yield
    except SystemExit as error:
        problem = f"it would end the program: SystemExit({error.code!r})"
        raise RuntimeError(problem).with_traceback(error.__traceback__) from error
    finally:
        with _lock:
            real = _held.pop()
            if not _held:
                sys.stdout = real
