"""What a grid has found so far, in one file: another machine goes on from it without the models' weights."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fute.core.files import storing, write_atomically, writing

_CONDITIONS = "conditions.json"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # equal results make equal files

# A folder of a grid → what its files are true under; JSON.
Conditions = Mapping[str, Any]


def pack(folder: Path, conditions: Conditions, to: Path) -> None:
    """Write all files of these parts of a folder into one."""
    with storing(to), writing(to) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(_CONDITIONS, _LONG_AGO), json.dumps(conditions))
        for part in conditions:
            for file in sorted((folder / part).rglob("*")):
                if file.is_file() and not file.name.startswith("."):  # those are being written
                    entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _LONG_AGO)
                    archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)


def kept(file: Path, conditions: Conditions) -> list[str]:
    """The paths, in a grid's folder, of what a file holds that was made under the same conditions."""
    if not file.is_file():
        return []
    with storing(file), zipfile.ZipFile(file) as archive:
        made_under = json.loads(archive.read(_CONDITIONS))
        same = [Path(part) for part in conditions if made_under.get(part) == conditions[part]]
        return [
            name
            for name in archive.namelist()
            if any(Path(name).is_relative_to(part) for part in same) and ".." not in Path(name).parts
        ]


def unpack(file: Path, folder: Path, conditions: Conditions) -> None:
    """Put back what is kept and isn't there."""
    missing = [name for name in kept(file, conditions) if not (folder / name).is_file()]
    if missing:
        with storing(file), zipfile.ZipFile(file) as archive:
            for name in missing:
                write_atomically(folder / name, archive.read(name))
