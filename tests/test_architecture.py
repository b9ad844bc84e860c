"""The rooms of fute: who may import whom, what stays light, and that all that is public explains itself."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

import fute
from fute.cli.main import cli

SOURCE = Path(fute.__file__).parent
# Each may import from those before it.
ROOMS = ["core", "weights", "text", "data", "models", "labelling", "surrogates", "methods", "space"]
ROOMS += ["selection", "plots", "api", "presets", "config", "project", "changed", "outcomes", "choosing"]
ROOMS += ["reproduce", "cli"]
_MODELS = ["weights", "models/backends", "surrogates", "methods/tupate.py", "methods/task_emb.py"]
HEAVY = {
    "torch": [*_MODELS, "reproduce/finetuning.py"],
    "transformers": [*_MODELS, "reproduce/finetuning.py"],
    "datasets": ["data/readers.py"],
    "matplotlib": ["plots"],
    "plotly": ["plots"],
    "lancedb": ["space"],
}
PUBLIC = [
    "BlackBox",
    "CallableModel",
    "Corpus",
    "Dataset",
    "Embedder",
    "FuteError",
    "Input",
    "Project",
    "PromptedLLM",
    "Ranking",
    "SklearnModel",
    "Space",
    "SpaceSpec",
    "TaskEmbedding",
    "__version__",
    "embed_dataset",
    "embed_model",
    "embed_models",
    "rank",
]


def files():
    """All modules but the example projects, which are their users' files."""
    return {
        ".".join(("fute", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] != "demo"
    }


FILES = files()


def statements(node, at_import):
    """The statements below `node` that run; with `at_import`, only those that run when it is imported."""
    for child in ast.iter_child_nodes(node):
        if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from statements(child, at_import)


def imports(module, at_import=False):
    """The names of the modules that a module imports, the nearest that exists for `from a import b`."""
    for node in statements(ast.parse(FILES[module].read_text(encoding="utf-8")), at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write imports in full"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in FILES else str(node.module)


def own_imports(module, at_import=False):
    return {name for name in imports(module, at_import) if name in FILES}


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_every_module_is_in_a_room():
    assert {room(module) for module in FILES} == {"", "__main__", *ROOMS}


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(name):
    allowed = {*ROOMS[: ROOMS.index(name) + 1], *([""] if name == "cli" else [])}
    upward = [
        f"{module} imports {target}"
        for module in FILES
        if room(module) == name
        for target in own_imports(module)
        if room(target) not in allowed
    ]
    assert upward == []


def test_no_file_imports_itself_through_others():
    graph = {module: own_imports(module) for module in FILES}
    done = set()

    def visit(module, path):
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_stays_in_its_rooms(package):
    outside = [
        module
        for module, path in FILES.items()
        if any(name.split(".")[0] == package for name in imports(module))
        and not any(path.relative_to(SOURCE).is_relative_to(place) for place in HEAVY[package])
    ]
    assert outside == []


@pytest.mark.parametrize("start", ["fute", "fute.cli.main"])
def test_nothing_heavy_is_imported_before_it_is_needed(start):
    reached, todo = set(), {start}
    while todo:
        module = todo.pop()
        reached.add(module)
        parts = module.split(".")
        packages = {".".join(parts[:i]) for i in range(1, len(parts))}
        todo |= (own_imports(module, at_import=True) | packages) - reached
    heavy = {
        f"{module} imports {name}"
        for module in reached
        for name in imports(module, at_import=True)
        if name.split(".")[0] in HEAVY
    }
    assert heavy == set()
    assert ("fute.surrogates.base" in reached) == (start == "fute.cli.main")


def loaded_after(statement):
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


def test_importing_fute_loads_next_to_nothing():
    loaded = loaded_after("import fute")
    assert "fute" in loaded
    assert loaded & {"numpy", "torch", "transformers", "lancedb", "pydantic", "sklearn", "scipy"} == set()


def test_the_command_line_starts_without_heavy_packages():
    loaded = loaded_after("import fute.cli.main")
    assert "fute.api" in loaded
    assert loaded & {*HEAVY, "pandas"} == set()


def test_the_public_names_are_these():
    assert fute.__all__ == PUBLIC
    assert dir(fute) == PUBLIC
    assert fute.__version__.count(".") == 2


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_a_public_name_is_there_and_explains_itself(name):
    thing = getattr(fute, name)
    assert thing.__name__ == name
    assert len(thing.__doc__) > 20


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'fute' has no attribute 'Datset'"):
        _ = fute.Datset


def commands(command, path=()):
    path = (*path, command.name if path else "fute")
    yield " ".join(path), command
    for child in getattr(command, "commands", {}).values():
        yield from commands(child, path)


COMMANDS = dict(commands(cli))


def test_the_commands_are_these():
    top = [
        "budget",
        "corpus",
        "demo",
        "doctor",
        "init",
        "map",
        "plan",
        "prompts",
        "rank",
        "reproduce",
        "run",
        "select",
        "space",
    ]
    below = ["compare", "ls", "raw", "rm", "show"]
    named = ["fute", *(f"fute {n}" for n in top), "fute corpus crossfit", *(f"fute space {n}" for n in below)]
    assert sorted(COMMANDS) == sorted(named)


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_help_and_an_example_of_itself(path):
    command = COMMANDS[path]
    assert command.help
    assert command.help.strip().endswith(".")
    before, _, example = command.epilog.partition("Example:")
    assert before.strip() == "\b", "click joins the lines of an epilog without it"
    for line in example.strip().splitlines():
        words = line.split("&&")[0].split(">")[0].split()
        assert words[: len(path.split())] == path.split()
        if not isinstance(command, click.Group):
            command.make_context(path, words[len(path.split()) :])  # the example's arguments are valid


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_has_help(path):
    options = [option for option in COMMANDS[path].params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []
