"""Which files a user's function comes from: its module, what that imports from the same folder, and the data
files that these name.
"""

from __future__ import annotations

import ast
import os
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fute.core.errors import ConfigError
from fute.core.hashing import digest, digest_files


def imported_files(module: str, file: Path) -> dict[str, Path]:
    """The modules that a module imports, they import, and so on, by name: those beside it or in packages
    there.

    Imports are read from the text, wherever they stand in it, so nothing is run; those made by a call
    (`importlib.import_module`) aren't seen. What is installed, Python's own modules and fute aren't the
    user's and don't count.

    Args:
        module: the dotted name of the first.
        file: where it lies.
    """
    root = _root(module, file)
    if root is None:
        return {}
    found = {module: file}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        package = name if found[name].name == "__init__.py" else name.rpartition(".")[0]
        for other in _imports(found[name], package):
            path = module_file(root, other)
            if path is not None and other not in found and other.partition(".")[0] != "fute":
                found[other] = path
                waiting.append(other)
    del found[module]
    return found


def named_files(module: str, file: Path) -> dict[str, Path]:
    """The files that a module, and those of the user's own that it imports, name in their text: strings such
    as "cnn.pt" that are the relative path of a file, from the module's folder or from that where its imports
    start. What is opened to be written to doesn't count.

    Args:
        module, file: as for `imported_files`.

    Returns:
        where they lie, by their path from the folder where imports start.
    """
    root = _root(module, file)
    if root is None:
        return {}
    found: dict[str, Path] = {}
    for source in (file, *imported_files(module, file).values()):
        for name in _strings(source):
            for folder in (source.resolve().parent, root):
                path = folder / name
                # Unlike Path.is_file, this takes a text that is too long for a file's name.
                if os.path.isfile(path):  # noqa: PTH113
                    found[os.path.relpath(path, root)] = path
    return found


def module_file(folder: Path, module: str) -> Path | None:
    """Where the module of that dotted name lies in a folder; None where it doesn't."""
    place = folder.joinpath(*module.split("."))
    candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in candidates if file.is_file()), None)


def digest_paths(paths: Mapping[str, Path]) -> str:
    """sha256 (hex) over names and contents; of a folder, all files in it.

    Raises:
        ConfigError: there is no such file or folder, or it can't be read.
    """
    parts = []
    for name, path in sorted(paths.items()):
        if not path.exists():
            raise ConfigError(f"there is no file {path}", fix="correct `files`")
        try:
            inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            parts += [[name, file.relative_to(path).as_posix(), digest_files([file])] for file in inside]
        except OSError as error:
            raise ConfigError(f"{path} can't be read", found=str(error)) from error
    return digest(parts)


def _root(module: str, file: Path) -> Path | None:
    """The folder where a module's imports start; None where it is installed, so not the user's."""
    depth = module.count(".") + (file.name == "__init__.py")
    root = file.resolve().parents[depth]
    installed = root.name in ("site-packages", "dist-packages") or str(root) in sysconfig.get_paths().values()
    return None if installed else root


def _strings(file: Path) -> Iterator[str]:
    """The strings of a module's text that may be a relative path of a file that it reads."""
    tree = _parsed(file)
    written = {id(part) for node in ast.walk(tree) for part in _written(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in written:
            name = node.value
            if name.strip() and "\0" not in name and not Path(name).is_absolute():
                yield name


def _written(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of `open(name, "w")`, `Path(name).open("a")` or `Path(name).write_text(…)` that may be the
    name.
    """
    if not isinstance(node, ast.Call):
        return
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    if called == "open" and any(isinstance(one, ast.Constant) and _is_mode(one.value) for one in given):
        yield from ast.walk(node)
    elif called in ("write_text", "write_bytes"):
        yield from ast.walk(node.func)


def _is_mode(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[wax][bt+]*", value) is not None


def _parsed(file: Path) -> ast.AST:
    """A module's text, or nothing where it can't be read: its import then says why."""
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return ast.Module([], [])


def _imports(file: Path, package: str) -> Iterator[str]:
    """The dotted names that a module's text may import, each after the packages it lies in."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*filter(None, above), *([node.module] if node.module else [])])
            for alias in node.names:  # a module of that package, or a name in it
                yield from _with_packages(f"{base}.{alias.name}" if base else alias.name)


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[:length])
