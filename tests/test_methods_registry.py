"""Methods that other packages bring, by an entry point: installed ones are found, broken ones are named."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from fute.api import Embedder
from fute.core.errors import ConfigError, ModelError
from fute.core.types import Examples, Input
from fute.methods.base import make_method
from fute.methods.registry import Methods

from .helpers import refused

DOCS = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
PLUGIN = re.search(r"```python\n(.*?)```", DOCS.split("## Your own method")[1], re.DOTALL)[1]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package on the path, with the metadata that installing it would write."""

    def put(module: str, content: str, point: str) -> None:
        (tmp_path / f"{module}.py").write_text(content)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fute.methods]\n{point}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


def test_an_installed_package_brings_a_method(install):
    install("their_means", PLUGIN, "class-means = their_means:ClassMeans")
    assert "class-means" in list(Methods())
    embedder = Embedder.create("class-means", {"centred": False})
    examples = Examples([Input("good"), Input("bad")], np.eye(2, dtype=np.float32), ("yes", "no"))
    made = embedder.embed("one", "dataset", examples, {})
    phi = embedder.features(examples.inputs)
    assert made.left.ravel() == pytest.approx(np.concatenate([phi[1], phi[0]]))
    assert made.spec.method == "class-means"
    assert made.spec.options == {"centred": False}


NEVER_NO = Examples([Input("good"), Input("bad")], np.float32([[1, 0], [1, 0]]), ("yes", "no"))


def test_a_label_that_is_never_given_has_zeros(install):
    install("whole_means", PLUGIN, "class-means = whole_means:ClassMeans")
    embedder = Embedder.create("class-means", {"centred": False})
    made = embedder.embed("one", "model", NEVER_NO, {})
    mean = embedder.features(NEVER_NO.inputs).mean(axis=0)
    assert made.left.ravel() == pytest.approx(np.concatenate([0 * mean, mean]))


def test_a_vector_that_holds_what_is_no_number_is_refused(install):
    broken = PLUGIN.replace("np.maximum(shares.sum(axis=0), 1e-6)", "shares.sum(axis=0)")
    install("half_means", broken, "class-means = half_means:ClassMeans")
    with refused(ModelError, "the embedding of one by class-means holds what is no number", "never given"):
        Embedder.create("class-means").embed("one", "model", NEVER_NO, {})


def test_its_options_are_checked_like_our_own(install):
    install("more_means", PLUGIN, "class-means = more_means:ClassMeans")
    with pytest.raises(ConfigError, match=r'no option "centered".*Did you mean "centred"'):
        make_method("class-means", {"centered": True}, Methods())


def test_our_names_cannot_be_taken(install):
    install("taking", PLUGIN, "linear-probe = taking:ClassMeans")
    assert Methods()["linear-probe"].__module__ == "fute.methods.linear_probe"
    assert len(list(Methods())) == len(Methods())


@pytest.mark.parametrize(
    ("content", "words"),
    [("import no_such_module_at_all", "no_such_module_at_all"), ("Broken = int", "is no embedding method")],
)
def test_a_broken_one_is_named_only_when_it_is_asked_for(install, content, words):
    module = "broken_" + words.split()[0].strip("_")
    install(module, content, f"broken = {module}:Broken")
    assert make_method("linear-probe", {}, Methods())
    with pytest.raises(ConfigError, match=words):
        make_method("broken", {}, Methods())


@pytest.mark.parametrize("name", list(Methods()))
def test_the_page_of_methods_has_every_option_with_its_default(name):
    section = DOCS.split(f"\n## {name}\n")[1].split("\n## ")[0]
    method = Methods()[name]
    for field in dataclasses.fields(method):
        row = next((line for line in section.splitlines() if f"`{field.name}`" in line), None)
        if name == "text-emb":
            continue  # its one option is that of linear-probe
        assert row is not None, f"{name}: {field.name} is missing"
        assert (f"`{field.name}`*" in row) == (field.name in method.defining), field.name
        names = re.findall(r"`(\w+)`", row.split("|")[1])
        defaults = row.split("|")[2].split(",")
        assert defaults[names.index(field.name)].strip() == str(field.default), field.name
