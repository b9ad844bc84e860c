"""Weights on the Hugging Face hub, `hf:org/name[/FILE.gguf][@revision]`: which files of a repository are
needed, how large they are, and where they lie once they are here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fute.core.errors import MissingError, ModelError, listing

# The endings of what decides what a model answers: config, weights, tokenizer, chat template.
ENDINGS = {".json", ".safetensors", ".txt", ".model", ".spm", ".jinja"}

_downloading: ContextVar[bool] = ContextVar("downloading", default=True)


class NotHereError(MissingError):
    """Weights of the hub that are not on this machine, where nothing may be downloaded.

    Attributes:
        name: what they were asked for by.
    """

    name: str = ""


@contextmanager
def without_downloads() -> Iterator[None]:
    """In the block, `fetch` takes what is on this machine and opens no connection."""
    before = _downloading.set(False)
    try:
        yield
    finally:
        _downloading.reset(before)


def fetch(name: str) -> Path:
    """The folder of a repository's safetensors, or the path of its GGUF file; downloads what isn't here.

    Raises:
        NotHereError: it isn't on this machine, and nothing may be downloaded.
        MissingError: it isn't on the hub either, or that can't be reached.
        ModelError: the repository holds no weights that fute reads, or several GGUF files to choose from.
    """
    if is_offline() or not _downloading.get():
        return _cached(name)
    repo, _, revision = _parts(name)
    try:
        wanted = needed([one.rfilename for one in _files(name)], name)
        folder = Path(_hub().snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except (MissingError, ModelError):
        raise
    except Exception as error:  # the hub client raises a dozen unrelated types: what is here may serve
        try:
            return _cached(name)
        except NotHereError:
            raise _unreachable(name, error) from error
    return folder / wanted[0] if wanted[0].endswith(".gguf") else folder


def download_size(name: str) -> int | None:
    """How many bytes `fetch` would download; None where the hub can't be asked. Downloads nothing.

    Raises:
        MissingError, ModelError: as `fetch`.
    """
    if is_offline():
        return None
    repo, _, _ = _parts(name)
    try:
        files = {one.rfilename: one for one in _files(name)}
    except (MissingError, ModelError):
        raise
    except Exception:  # no connection
        return None
    sizes = [files[one].size for one in needed(list(files), name) if not _has(repo, name, one)]
    return None if None in sizes else sum(sizes)


def needed(files: Sequence[str], name: str) -> list[str]:
    """Those of a repository's files that make up the model: its safetensors with what stands beside them, or
    else its GGUF file, or the one that the name names.

    Raises:
        MissingError: there is no such file.
        ModelError: no weights that fute reads, or several GGUF files.
    """
    repo, file, _ = _parts(name)
    if file is not None:
        if file not in files:
            raise MissingError(f"{repo} has no file {file}", expected=f"one of {listing(files)}")
        return [file]
    top = [one for one in files if "/" not in one]
    if any(one.endswith(".safetensors") for one in top):
        return [one for one in top if Path(one).suffix in ENDINGS]
    ggufs = [one for one in top if one.endswith(".gguf")]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise ModelError(
            f"{name} holds {len(ggufs)} GGUF files",
            found=listing(ggufs),
            fix=f"name one: hf:{repo}/{ggufs[0]}",
        )
    raise ModelError(
        f"{name} holds no safetensors",
        found=listing(top) or "no files",
        fix="choose weights in safetensors or GGUF: fute doesn't load pickled ones",
    )


def size_in_words(size: int | None) -> str:
    """`269 MB`, `1.6 GB`."""
    if size is None:
        return "an unknown number of bytes"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes"}


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingError(
            "weights on the hub need the package huggingface_hub", fix="pip install 'fute[local]'"
        ) from None
    return huggingface_hub


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """The repository, the GGUF file and the revision that a name names."""
    path, _, revision = name.removeprefix("hf:").partition("@")
    repo, file = path, None
    if path.endswith(".gguf") and path.count("/") > 1:
        owner, project, file = path.split("/", 2)
        repo = f"{owner}/{project}"
    return repo, file, revision or None


def _files(name: str) -> list[Any]:
    """What the hub says of a repository's files.

    Raises:
        MissingError: there is no such repository, or it isn't open to you. What the client raises where it
            can't reach the hub is left as it is.
    """
    repo, _, revision = _parts(name)
    hub = _hub()
    from huggingface_hub import errors

    try:
        return list(hub.HfApi().model_info(repo, revision=revision, files_metadata=True).siblings or [])
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise _unreachable(name, error) from error


def _cached(name: str) -> Path:
    """What `fetch` gives, from the hub's cache on this machine."""
    repo, file, revision = _parts(name)
    some = [file or "config.json"]  # else the client wants all files of the repository
    try:
        folder = Path(
            _hub().snapshot_download(repo, revision=revision, allow_patterns=some, local_files_only=True)
        )
    except Exception as error:  # as above
        raise _unreachable(name, error, NotHereError) from error
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    try:
        wanted = needed(there, name)
        shards = {one for index in folder.glob("*.index.json") for one in _shards(index)}
        if not shards <= set(there):
            raise MissingError(f"of {name} there is only a part here")
    except (MissingError, ModelError) as error:
        raise _unreachable(name, error, NotHereError) from error
    return folder / wanted[0] if wanted[0].endswith(".gguf") else folder


def _shards(index: Path) -> set[str]:
    """The safetensors files that an index names."""
    names = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
    return {one for one in names if one.endswith(".safetensors")}


def _has(repo: str, name: str, file: str) -> bool:
    _, _, revision = _parts(name)
    return isinstance(_hub().try_to_load_from_cache(repo, file, revision=revision), str)


def _unreachable(name: str, error: Exception, kind: type[MissingError] = MissingError) -> MissingError:
    said = next(iter(str(error).splitlines()), "")
    fix = "check the id and the network; or download it elsewhere and give the folder's path"
    if is_offline():
        fix = "run once without --offline; or download it elsewhere and give the folder's path"
    made = kind(f"can't get {name} from the hub", found=f"{type(error).__name__}: {said}"[:300], fix=fix)
    if isinstance(made, NotHereError):
        made.name = name
    return made
