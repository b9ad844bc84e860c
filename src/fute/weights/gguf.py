"""What the head of a GGUF file says about its weights. Its other fields and tensors aren't read."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from fute.core.errors import ModelError
from fute.core.runtime import require

# Of the format's types of values, by their number: as `struct` calls them.
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_head(path: Path) -> dict[str, Any]:
    """The numbers and texts of a GGUF file's metadata, by key; its lists, such as vocabularies, are left out.

    Raises:
        ModelError: it is no GGUF file of version 2 or 3, or it is cut off.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF" or _number(file, "I") not in (2, 3):
                raise ModelError(f"{path} is no GGUF file that fute reads", expected="GGUF, version 2 or 3")
            _number(file, "Q")  # of tensors
            found = {_text(file): _value(file, _number(file, "I")) for _ in range(_number(file, "Q"))}
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} is cut off or damaged", expected="a GGUF file", found=f"{error}", fix="download it anew"
        ) from error
    return {key: value for key, value in found.items() if value is not None}


def quantisation(head: dict[str, Any]) -> str:
    """How llama.cpp calls the way in which most of the file's tensors are kept, such as "Q4_1".

    Raises:
        MissingError: the package gguf, without which the file can't be loaded either, isn't installed.
    """
    require("gguf", "local", "reading GGUF files")
    from gguf import LlamaFileType

    number = head.get("general.file_type")
    try:
        name: str = LlamaFileType(number).name
        return name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return f"file type {number}"


def _number(file: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))[0]


def _text(file: BinaryIO) -> str:
    length = _number(file, "Q")
    content = file.read(length)
    if len(content) < length:
        raise struct.error("the file ends within a text")
    return content.decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    """A value of that type; None for a list, which is passed over."""
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _SCALARS[kind])
    of, count = _number(file, "I"), _number(file, "Q")
    if of in _SCALARS:
        file.seek(struct.calcsize(f"<{_SCALARS[of]}") * count, 1)
    else:
        for _ in range(count):
            _value(file, of) if of == _ARRAY else file.seek(_number(file, "Q"), 1)
    return None
