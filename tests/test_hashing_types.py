"""Content addresses, the words of fute, and the parts of methods that all of them share."""

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.api import Embedder
from fute.core.errors import ConfigError
from fute.core.hashing import digest, digest_files
from fute.core.types import Examples, Input, SpaceSpec, TaskEmbedding
from fute.methods.base import bootstrap_counts, defining_options, make_method
from fute.methods.linear_probe import LinearProbe
from fute.methods.registry import Methods
from fute.methods.revisions import revision
from fute.methods.task_emb import TaskEmb
from fute.methods.tupate import TuPaTE
from tests.helpers import refused

# --- digest -----------------------------------------------------------------------------------------------

VALUE = '{"b": ["ü", 1, None, 0.1, True], "a": {"one", "two", "three"}, "n": np.arange(6.0).reshape(2, 3)}'


def test_a_digest_is_the_same_in_every_process():
    script = f"import numpy as np; from fute.core.hashing import digest; print(digest({VALUE}))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "2")
    }
    assert digests == {digest(eval(VALUE))}


def test_a_digest_is_the_sha256_of_plain_json():
    """As `printf '{"a":[1,"é"]}' | sha256sum` says: the addresses of old caches stay valid."""
    assert digest({"a": [1, "é"]}) == "5db14a2cddc92d31365806bb5d82ed2bc436bf6960d10cd4654140f7bdadce1c"


DIFFERENT = [
    *("1", 1, 1.0, True, None, "", [], {}, "None", [1, 2], [2, 1], [[1], 2], [1, [2]], ["ab"], ["a", "b"]),
    *({"a": 1}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": 1, "b": 1}, "é", "e\u0301"),
    *(np.zeros(2, np.float32), np.zeros(2, np.float64), np.zeros(2, np.int64), np.zeros(3), np.zeros((2, 1))),
    *(np.zeros((1, 2)), np.array([0.0, 1.0]), np.array([1.0, 0.0]), [0.0, 0.0], {"x", "y"}, {"x", "z"}),
]


def test_different_values_have_different_digests():
    digests = [digest(value) for value in DIFFERENT]
    same = [(a, b) for a in range(len(digests)) for b in range(a) if digests[a] == digests[b]]
    assert [(DIFFERENT[a], DIFFERENT[b]) for a, b in same] == []


def test_equal_values_have_equal_digests():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest((1, 2)) == digest([1, 2])
    matrix = np.arange(12.0).reshape(3, 4)
    assert digest(matrix.T) == digest(np.ascontiguousarray(matrix.T)) != digest(matrix)
    assert digest({"x", "y", "z"}) == digest({"z", "x", "y"})


def test_what_has_no_content_has_no_address():
    with pytest.raises(TypeError, match="object"):
        digest([object()])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_digests_are_equal_exactly_where_values_are(a, b):
    assert (digest(a) == digest(b)) == (repr(_sorted(a)) == repr(_sorted(b)))


def _sorted(value):
    """`value` with its dicts in the order of their keys, so that equal ones look equal."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def test_the_digest_of_files_knows_names_and_contents_but_no_folder(tmp_path):
    def files(folder, **contents):
        (tmp_path / folder).mkdir()
        for name, content in contents.items():
            (tmp_path / folder / name).write_text(content)
        return [tmp_path / folder / name for name in contents]

    original = digest_files(files("one", a="1", b="2"))
    assert digest_files(files("two", b="2", a="1")) == original
    others = [files("3", a="1", b="3"), files("4", a="1", c="2"), files("5", a="2", b="1"), files("6", a="1")]
    assert len({original, *map(digest_files, others)}) == 5


# --- Types ------------------------------------------------------------------------------------------------


@given(st.text(), st.none() | st.text(), st.text(), st.none() | st.text())
def test_inputs_have_equal_keys_exactly_where_they_are_equal(a, a2, b, b2):
    assert (Input(a, a2).key == Input(b, b2).key) == ((a, a2) == (b, b2))
    assert Input(a, a2).key == Input(a, a2).key
    assert len(Input(a, a2)) == len(a) + len(a2 or "")


SPEC = SpaceSpec("m", {"x": 1, "y": 0.5}, "pkg:small", "digest", seed=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "n"},
        {"options": {"x": 2, "y": 0.5}},
        {"options": {"x": 1}},
        {"options": {}},
        {"surrogate_digest": "other"},
        {"seed": 4},
    ],
)
def test_all_that_makes_vectors_incomparable_changes_the_fingerprint(changes):
    assert replace(SPEC, **changes).fingerprint != SPEC.fingerprint


def test_what_does_not_matter_does_not_change_the_fingerprint():
    assert replace(SPEC, surrogate="hf:org/small").fingerprint == SPEC.fingerprint
    assert replace(SPEC, options={"y": 0.5, "x": 1}).fingerprint == SPEC.fingerprint
    assert len(SPEC.fingerprint) == 16
    assert int(SPEC.fingerprint, 16) >= 0


def test_examples_need_a_row_per_input_and_a_column_per_label():
    inputs = [Input("a"), Input("b"), Input("c")]
    Examples(inputs, np.full((3, 2), 0.5, np.float32), ("no", "yes"))
    for shape in ((2, 2), (3, 3), (2, 3), (6,), (3, 2, 1)):
        with pytest.raises(ValueError, match=r"expected \(3, 2\)"):
            Examples(inputs, np.full(shape, 0.5, np.float32), ("no", "yes"))


def test_the_fingerprint_of_examples_knows_inputs_targets_and_labels():
    inputs, rows, labels = [Input("a"), Input("b")], np.eye(2, dtype=np.float32), ("no", "yes")
    original = Examples(inputs, rows, labels).fingerprint
    assert Examples(list(inputs), rows.copy(), labels).fingerprint == original
    others = [
        Examples(inputs[::-1], rows, labels),
        Examples(inputs, rows[::-1].copy(), labels),
        Examples(inputs, rows, labels[::-1]),
        Examples([Input("a"), Input("b", "c")], rows, labels),
    ]
    assert len({original, *(other.fingerprint for other in others)}) == 5


def test_the_vector_of_an_embedding_is_left_times_right_row_by_row():
    left, right = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    e = TaskEmbedding("e", "model", SPEC, left, right, np.zeros((0, 2, 2), np.float16), ("a", "b"))
    assert e.vector.tolist() == [1, 2, 3, 3, 4, 7]
    assert e.vector.dtype == np.float32


# --- Methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 50])
def test_each_resample_draws_as_many_as_there_are(n):
    counts = bootstrap_counts(n, 400, seed=0)
    assert counts.shape == (400, n)
    assert (counts >= 0).all()
    assert (counts.sum(axis=1) == n).all()
    # Each count is binomial(n, 1/n): mean 1, variance 1 − 1/n; five standard errors of the mean.
    assert np.abs(counts.mean(axis=0) - 1).max() <= 5 * np.sqrt((1 - 1 / n) / 400)
    assert counts.var() == pytest.approx(1 - 1 / n, abs=0.1)


def test_resamples_depend_on_size_and_seed_alone():
    np.testing.assert_array_equal(bootstrap_counts(20, 5, seed=1), bootstrap_counts(20, 5, seed=1))
    assert (bootstrap_counts(20, 5, seed=1) != bootstrap_counts(20, 5, seed=2)).any()
    assert (bootstrap_counts(20, 5, seed=1) != bootstrap_counts(21, 5, seed=1)[:, :20]).any()
    assert len(np.unique(bootstrap_counts(20, 50, seed=1), axis=0)) == 50
    assert bootstrap_counts(20, 0, seed=1).shape == (0, 20)


@dataclass(frozen=True)
class Toy:
    """A method with an option of each type."""

    name: ClassVar[str] = "toy"
    defining: ClassVar[tuple[str, ...]] = ("width", "pool")

    width: float = 0.5
    steps: int = 3
    pool: str = "mean"
    fast: bool = False


def test_a_method_is_made_with_its_options():
    made = make_method("toy", {"steps": 7, "width": 2, "fast": True}, {"toy": Toy})
    assert made == Toy(width=2, steps=7, fast=True)
    assert defining_options(made) == {"width": 2, "pool": "mean"}
    same = make_method("toy", {"width": 2.0}, {"toy": Toy})
    assert digest(defining_options(made)) == digest(defining_options(same)), "one space"
    assert make_method("toy", {}, {"toy": Toy}) == Toy()


def test_what_is_made_otherwise_than_once_lives_in_a_space_of_its_own():
    assert revision(TaskEmb(), "mpnet") == {"revision": 1}
    unchanged = [(TaskEmb(), "bert"), (TaskEmb(), None), (LinearProbe(), "mpnet"), (TuPaTE(), "t5")]
    assert [revision(*one) for one in unchanged] == [{}] * 4
    specs = [Embedder.create("tupate", {"adapter": adapter}).spec.options for adapter in ("prefix", "bitfit")]
    assert [options.get("revision") for options in specs] == [None, 1]


def test_the_methods_of_fute_are_known_by_name():
    assert {name: type(make_method(name, {}, Methods())).__name__ for name in Methods()} == {
        "linear-probe": "LinearProbe",
        "tupate": "TuPaTE",
        "task-emb": "TaskEmb",
        "text-emb": "TextEmb",
    }


def test_an_unknown_method_or_option_gets_the_nearest_one():
    with refused(
        ConfigError, 'no method "linear-prob"', 'Did you mean "linear-probe"?', "linear-probe, tupate"
    ):
        make_method("linear-prob", {}, Methods())
    with refused(ConfigError, "toy", 'no option "step"', 'Did you mean "steps"?', "width, steps, pool, fast"):
        make_method("toy", {"step": 3}, {"toy": Toy})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("width", "0.5", "a float, such as 0.5"),
        ("width", True, "a float, such as 0.5"),
        ("width", None, "a float, such as 0.5"),
        ("steps", 3.0, "a int, such as 3"),
        ("steps", True, "a int, such as 3"),
        ("pool", 1, "a str, such as 'mean'"),
        ("fast", 1, "a bool, such as False"),
        ("fast", "yes", "a bool, such as False"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(option, value, expected):
    with refused(ConfigError, f"`{option}` is {value!r}", expected):
        make_method("toy", {option: value}, {"toy": Toy})


@dataclass(frozen=True)
class Open:
    """A method with options whose default tells no type, as other packages may bring one."""

    name: ClassVar[str] = "open"
    defining: ClassVar[tuple[str, ...]] = ("needed",)

    needed: int
    most: int | None = None
    layers: list[int] = field(default_factory=list)


def test_an_option_whose_default_tells_no_type_takes_any_value():
    made = make_method("open", {"needed": 3, "most": 2, "layers": [1]}, {"open": Open})
    assert made == Open(3, 2, [1])


def test_an_option_that_is_needed_and_missing_is_named():
    with refused(ConfigError, "the method open", "needed, most, layers", "missing", "'needed'"):
        make_method("open", {"most": 2}, {"open": Open})
