"""What several test files need."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fute.cli.main import main
from fute.core.errors import FuteError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def csv_text(rows: Sequence[Sequence[str]], delimiter: str = ",") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


@contextmanager
def refused(kind: type[FuteError], *words: str) -> Iterator[None]:
    """The block raises an error of this kind whose message has all these words."""
    with pytest.raises(kind) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in the message:\n{caught.value}"


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run `fute` with these arguments in this process: its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["fute", *arguments])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()
