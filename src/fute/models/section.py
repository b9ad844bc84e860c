"""What every `models:` entry of `fute.yaml` has in common: a section that builds a black box."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from fute.core.section import Name, Section
from fute.core.types import Input
from fute.models.base import BlackBox, Price


@dataclass(frozen=True)
class Here:
    """Where a black box is built.

    Attributes:
        folder: the project's; relative paths start there.
        dtype: "auto", "float32" or "bfloat16".
        prices: by model id.
        trust: whether files that can run code when they are loaded (pickles) may be.
        held_out: from a file to the inputs that a dataset in it holds out, to be judged by: no model may see
            these before.
    """

    folder: Path
    dtype: str = "auto"
    prices: Mapping[str, Price] = field(default_factory=dict)
    trust: bool = False
    held_out: Callable[[Path], Collection[Input]] = lambda path: ()

    def local(self, name: str) -> str:
        """As `local`, of its folder."""
        return local(self.folder, name)


def local(folder: Path, name: str) -> str:
    """A name as it is, or the path of what lies in the folder under it."""
    return str(folder / name) if (folder / name).exists() else name


class TrainedOn(Section):
    """A file with texts that a model was trained on."""

    path: str
    text: str = "text"
    text_pair: str | None = None
    encoding: str = "utf-8"


def _as_files(value: Any) -> Any:
    several = value if isinstance(value, list) else [value]
    return [{"path": one} if isinstance(one, str) else one for one in several]


class ModelSection(Section):
    """One entry of `models:`. A kind of black box is a subclass, registered in `models.kinds`.

    Attributes:
        KEY: the key that tells this kind from the others.
        trained_on: the texts it was trained on, as far as they are known.
    """

    KEY: ClassVar[str]

    name: Name
    task: str | None = None
    trained_on: Annotated[list[TrainedOn], BeforeValidator(_as_files)] = Field(default_factory=list)

    def expand(self, folder: Path) -> Sequence[ModelSection]:
        """The entries that this one stands for: usually itself."""
        return [self]

    @property
    def aliases(self) -> Mapping[str, str]:
        """What datasets call some of the labels: `BlackBox.aliases`."""
        return {}

    @abstractmethod
    def build(self, here: Here) -> BlackBox:
        """The black box. Raises FuteError where it can't be made."""


class LabelsSection(ModelSection):
    """An entry with the names of its labels, or a mapping from them to what datasets call them."""

    labels: list[Name] | dict[Name, Name] | None = None

    @property
    def aliases(self) -> Mapping[str, str]:
        return self.labels if isinstance(self.labels, dict) else {}
