"""Any Python function as a black box."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import model_validator

from fute.core.errors import ConfigError, ModelError, did_you_mean, listing
from fute.core.hashing import digest, digest_files, digest_object
from fute.core.section import Name
from fute.core.types import Answers, Input, Output, Shape
from fute.models.answers import Reader, labels_for, listed, read_returned
from fute.models.base import BlackBox
from fute.models.section import Here, LabelsSection
from fute.models.sources import digest_paths, imported_files, module_file, named_files
from fute.models.users_code import users_code


class CallableModel(BlackBox):
    """A function from a list of inputs to a list of answers.

    Args:
        function: takes a list and returns as many answers. An input is a text, or by `shape` a tuple: (text,
            text_pair), (question, context) or (question, options). An answer is by `output` "class" a label,
            a mapping from labels to probabilities (those left out are 0) or a sequence of probabilities in
            the order of `labels`; "score" a number; "text" a string; "span" (text, start), start counted in
            characters of the context, ("", -1) for none. For all but "class" it may be a mapping as a program
            writes it. None is no answer, and so is {"error": "why"}.
        labels: for `output` "class" the label names, for "score" its name.
        name: by default the function's.
        pair: short for `shape="pair"`.
        shape: what it reads.
        output: what it answers.
        version: says when answers may have changed. By default the source of the function's module tells,
            that of the modules it imports from its own folder (`models.sources`), and what the function holds
            on to: defaults, closures, an object's attributes.
        files: files and folders that decide the answers too, such as weights, by a name: a change of their
            contents is a change of the model.

    Raises:
        ConfigError: what can't be called; fewer than two labels, or one twice; labels that don't fit
            `output`; `pair` with another shape.
    """

    kind = "python"
    batch_seconds = 1.0

    def __init__(
        self,
        function: Callable[[list[Any]], Sequence[Any]],
        labels: Sequence[str] | None = None,
        *,
        name: str | None = None,
        pair: bool = False,
        shape: Shape | None = None,
        output: Output = "class",
        version: str | None = None,
        files: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        if not callable(function):
            raise ConfigError(
                f"model {self.name}: no function",
                expected="a function from a list of inputs to a list of answers",
                found=f"{function!r:.80}, which can't be called",
            )
        self.labels = labels_for(self.name, output, list(labels) if labels is not None else None)
        if pair and shape not in (None, "pair"):
            raise ConfigError(
                f"model {self.name}: `pair` and `shape: {shape}` contradict each other",
                fix="leave `pair` out",
            )
        self.shape, self.output = shape or ("pair" if pair else "text"), output
        self._version, self._files = version, dict(files)
        self._read = Reader(self, read_returned)

    @functools.cached_property
    def fingerprint(self) -> str:
        made = [self.name, self._version] if self._version else _identity(self.function, self.name)
        if self._files:
            made = [*made, digest_paths(self._files)]
        plain = self.output == "class" and self.shape in ("text", "pair")
        return digest(
            ["callable", 1, made, list(self.labels), self.is_pair if plain else [self.shape, self.output]]
        )

    @property
    def provenance(self) -> Mapping[str, Any]:
        module = getattr(self.function, "__module__", "")
        return {"function": f"{module}:{getattr(self.function, '__qualname__', self.name)}"}

    def predict(self, inputs: Sequence[Input]) -> Answers:
        texts = self.plain(inputs)
        try:
            with users_code():
                answers = self.function(texts)
                if inspect.isgenerator(answers):
                    answers = list(answers)
        except Exception as error:  # whatever the user's function raises is the user's to see
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            raise ModelError(
                f"model {self.name} failed on a batch of {len(inputs)} inputs",
                found=f"{type(error).__name__}: {error!s:.300} ({place})",
                fix="call the function with a list of inputs and see",
            ) from error
        return self._read(listed(self, answers, len(inputs)))


def _identity(function: Any, name: str) -> list[str]:
    """The text of the module that defines `function`, since helpers and tables beside it count too, which
    function it is with all that it holds on to, and the modules of the user's own that its module imports.
    """
    target = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    target = target if inspect.isroutine(target) else type(target)
    try:
        file = inspect.getsourcefile(target)
        source = Path(file).read_text(encoding="utf-8") if file else inspect.getsource(target)
        # Code that was run by `exec` has no module.
        files = imported_files(target.__module__, Path(file)) if file and target.__module__ else {}
        imported = [text for name in sorted(files) for text in (name, digest_files([files[name]]))]
    except (OSError, TypeError):
        raise ConfigError(
            f"model {name}: the source of its function can't be found, so fute can't know when it changes",
            fix='pass version="1", and change it when the function changes',
        ) from None
    try:
        return [source, digest_object(function), *imported]
    except Exception as error:  # pickling raises what it likes
        raise ConfigError(
            f"model {name}: what its function holds on to can't be hashed",
            expected="values that fute can compare, to know when they change",
            found=f"{type(error).__name__}: {error}"[:300],
            fix='call it from a plain function of a module, or pass version="1" and change it yourself',
        ) from error


# Modules that `import_object` imported, and files that they read: where from, and what was in them then.
_IMPORTED: dict[str, tuple[Path, str]] = {}


def import_object(reference: str, folder: Path, files: Mapping[str, Path] = MappingProxyType({})) -> Any:
    """The object behind `module:name`; modules in `folder` are found first. A module is imported again when
    its text changed, that of one it imports, a file that these name, or one of `files`.

    Raises:
        ConfigError: not of that form, no such module or name, or the module fails to import.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ConfigError(
            f'"{reference}" names no object', expected='"module:name", for example "mymodels:vader"'
        )
    path = folder.resolve()
    _forget_what_changed(module_name, path, files)
    sys.path.insert(0, str(path))
    importlib.invalidate_caches()
    # `fute plan` changes nothing: no byte code beside the user's files.
    writes_byte_code, sys.dont_write_bytecode = not sys.dont_write_bytecode, True
    try:
        with users_code():
            module = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything at import
        raise ConfigError(
            f'the module "{module_name}" of "{reference}" can\'t be imported',
            found=f"{type(error).__name__}: {error!s:.300}",
            fix=f"check that {module_name}.py lies in {folder}, and that what it imports is installed",
        ) from error
    finally:
        sys.dont_write_bytecode = not writes_byte_code
        sys.path.remove(str(path))
        if str(path) not in sys.path:
            sys.path.append(str(path))  # for what its functions import when they are called
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(
            f'the module "{module_name}" has no "{attribute}".{did_you_mean(attribute, public)}',
            found=listing(public),
        )
    return getattr(module, attribute)


def _forget_what_changed(module: str, folder: Path, files: Mapping[str, Path]) -> None:
    """Have the modules of the folder that `module` needs imported anew, if a file of theirs is another than
    when they were imported: a newer one, or one of another project.
    """
    own = module_file(folder, module)
    if own is None:
        return
    packages = (".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 1))
    around = {name: file for name in packages if (file := module_file(folder, name))}
    modules = {module: own, **around, **imported_files(module, own)}
    current = {name: (file, digest_paths({"": file})) for name, file in modules.items()}
    # All that the texts name, so that entries of one module that name some of it each share one import.
    read = {path.resolve() for path in (*named_files(module, own).values(), *files.values())}
    current |= {str(path): (path, digest_paths({"": path})) for path in read}
    if any(_IMPORTED.get(name) != what for name, what in current.items()):
        for name in current:
            if name == module or name in _IMPORTED:
                sys.modules.pop(name, None)
        _IMPORTED.update(current)


class PythonSection(LabelsSection):
    """`python: "module:function"`: a function of the project's own.

    Attributes:
        version: stands for the function's source: raised by hand when its answers may have changed.
        files: files and folders that decide its answers; by default those that its source names.
    """

    KEY: ClassVar[str] = "python"

    python: str
    pair: bool = False
    shape: Shape | None = None
    output: Output = "class"
    version: Name | None = None
    files: list[str] | None = None

    @model_validator(mode="after")
    def _has_labels(self) -> PythonSection:
        if self.labels is None and self.output == "class":
            raise ValueError("a `python` model needs `labels`: the list of its label names")
        return self

    def build(self, here: Here) -> BlackBox:
        files = self._files(here.folder)
        return CallableModel(
            import_object(self.python, here.folder, files),
            list(self.labels or []),
            name=self.name,
            pair=self.pair,
            shape=self.shape,
            output=self.output,
            version=self.version and f"{self.python} {self.version}",
            files=files,
        )

    def _files(self, folder: Path) -> dict[str, Path]:
        """What counts beside the source: `files`, else what the source names, unless `version` stands for it
        all.
        """
        if self.files is not None:
            return {name: folder / name for name in self.files}
        module = self.python.partition(":")[0]
        file = module_file(folder, module) if module else None
        return {} if self.version or file is None else named_files(module, file)
