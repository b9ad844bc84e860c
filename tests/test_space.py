"""A space on disk: what goes in comes out, what doesn't belong stays out, and trouble leaves it whole."""

import json
import random
import shutil
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from fute.core.errors import SpaceError, StorageError
from fute.core.types import SpaceSpec, TaskEmbedding
from fute.space.similarity import cosine
from fute.space.space import Space
from tests.helpers import refused
from tests.storage import finish, run_with_file_size_limit, start, write_protected

SPEC = SpaceSpec("linear-probe", {"regularisation": 0.1}, "pkg:small", "a" * 64, seed=0)


def embedding(name, kind="model", spec=SPEC, seed=0, replicates=3, **provenance):
    """Random factors: d = 5 features, k = 4 answer dimensions, r = 2 labels."""
    rng = np.random.default_rng(seed)
    return TaskEmbedding(
        name=name,
        kind=kind,
        spec=spec,
        left=rng.normal(size=(5, 2)).astype(np.float32),
        right=rng.normal(size=(4, 2)).astype(np.float32),
        replicates=rng.normal(size=(replicates, 5, 2)).astype(np.float16),
        labels=("no", "yes"),
        provenance=provenance,
    )


def plain(name, *vector, kind="model"):
    """A plain vector as an embedding."""
    left = np.array(vector, dtype=np.float32)[:, None]
    return TaskEmbedding(
        name,
        kind,
        SPEC,
        left,
        np.ones((1, 1), np.float32),
        np.zeros((0, *left.shape), np.float16),
        ("a", "b"),
    )


def assert_same(a, b):
    for field in ("name", "kind", "spec", "labels", "provenance"):
        assert getattr(a, field) == getattr(b, field)
    for field, dtype in (("left", np.float32), ("right", np.float32), ("replicates", np.float16)):
        assert getattr(a, field).dtype == getattr(b, field).dtype == dtype
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


@pytest.fixture
def space(tmp_path):
    return Space(tmp_path / "space")


# --- In and out -------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out_of_another_object_to_the_last_bit(space):
    one = embedding("größe 日本", "dataset", seed=1, source="Bücher.csv", nested={"π": [1, None, 0.1]})
    two = embedding("two", seed=2, replicates=0)
    space.add(one, two)
    again = Space(space.path)
    assert again.spec == SPEC
    assert again.fingerprint == SPEC.fingerprint
    assert_same(again.get("größe 日本"), one)
    assert_same(again.get("two"), two)


@pytest.mark.parametrize(
    "name",
    ["it's", "''", '"quoted"', "back\\slash", "two\nlines", "100 %", "' OR name != '", "ß 日本 🎬", " "],
)
def test_any_name_can_be_added_found_replaced_and_removed(space, name):
    space.add(embedding("other", seed=9), embedding(name, seed=1))
    assert name in space
    assert_same(space.get(name), embedding(name, seed=1))
    space.add(embedding(name, seed=2))
    assert len(space) == 2
    assert_same(space.get(name), embedding(name, seed=2))
    space.remove(name)
    assert name not in space
    assert_same(space.get("other"), embedding("other", seed=9))


def test_entries_tell_what_is_there_by_name(space):
    space.add(embedding("b", "dataset", source="b.csv"), embedding("c"), embedding("a", rows=3))
    assert [(e.name, e.kind, e.labels, e.provenance) for e in space.entries()] == [
        ("a", "model", ("no", "yes"), {"rows": 3}),
        ("b", "dataset", ("no", "yes"), {"source": "b.csv"}),
        ("c", "model", ("no", "yes"), {}),
    ]
    assert [e.name for e in space.embeddings()] == ["a", "b", "c"]
    assert [e.name for e in space.embeddings("model")] == ["a", "c"]
    assert [e.name for e in space.embeddings("dataset")] == ["b"]


def test_adding_a_name_again_replaces_that_one_alone(space):
    space.add(embedding("a", seed=1, note="old"), embedding("b", seed=2))
    space.add(embedding("a", seed=3, replicates=7, note="new"), embedding("c", seed=4))
    assert [e.name for e in space.entries()] == ["a", "b", "c"]
    assert len(space) == 3
    assert_same(space.get("a"), embedding("a", seed=3, replicates=7, note="new"))
    assert_same(space.get("b"), embedding("b", seed=2))


def test_adding_nothing_makes_nothing(space):
    space.add()
    assert not space.path.exists()


def test_an_empty_space(space):
    assert space.spec is None
    assert space.fingerprint == ""
    assert len(space) == 0
    assert space.entries() == space.embeddings() == []
    assert "anything" not in space
    for use in (space.get, space.remove, space.neighbours, lambda name: space.compare(name, name)):
        with refused(SpaceError, '"anything"', "an empty space", "fute run"):
            use("anything")
    assert not space.path.exists(), "looking at it doesn't make it"


def test_a_space_emptied_again_takes_any_spec(space):
    space.add(embedding("a"))
    space.remove("a")
    assert len(space) == 0
    assert space.spec is None
    space.add(embedding("b", spec=replace(SPEC, seed=1)))
    assert space.get("b").spec == replace(SPEC, seed=1)


def test_an_unknown_name_gets_the_nearest_one(space):
    space.add(embedding("reviews"), embedding("news"))
    for use in (space.get, space.remove, space.neighbours):
        with refused(SpaceError, 'no "review"', 'Did you mean "reviews"?', "news, reviews"):
            use("review")
    assert len(space) == 2


# --- Near and far -----------------------------------------------------------------------------------------


def test_compare_and_neighbours_by_angle(space):
    """Vectors at 0°, 60°, 90° and 180°, of different lengths: their cosines are known."""
    space.add(
        plain("east", 2, 0, kind="dataset"),
        plain("north-east", 0.5, 0.75**0.5),
        plain("north", 0, 3),
        plain("west", -1, 0, kind="dataset"),
        plain("up too", 0, 7),
    )
    assert space.compare("east", "north-east") == pytest.approx(0.5, abs=1e-6)
    assert space.compare("west", "east") == pytest.approx(-1)
    near = space.neighbours("east")
    assert [name for name, _ in near] == ["north-east", "north", "up too", "west"], "equal ones by name"
    assert [score for _, score in near] == pytest.approx([0.5, 0, 0, -1], abs=1e-6)
    assert space.neighbours("east", k=1) == near[:1]
    assert [name for name, _ in space.neighbours("north", kind="dataset")] == ["east", "west"]


def test_similarity_is_the_same_after_a_round_trip(space):
    a, b = embedding("a", seed=1), embedding("b", seed=2)
    space.add(a, b)
    assert Space(space.path).compare("a", "b") == cosine(a, b)


# --- What doesn't belong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 7}, ["seed: 0 ≠ 7"]),
        ({"method": "tupate"}, ["method: 'linear-probe' ≠ 'tupate'"]),
        ({"options": {"regularisation": 0.2}}, ["method.regularisation: 0.1 ≠ 0.2"]),
        ({"options": {}}, ["method.regularisation: 0.1 ≠ None"]),
        ({"seed": 0.0}, ["seed: 0 ≠ 0.0"]),
        (
            {"surrogate": "pkg:big", "surrogate_digest": "b" * 64},
            ["surrogate: 'pkg:small' ≠ 'pkg:big'", f"surrogate_digest: '{'a' * 64}' ≠ '{'b' * 64}'"],
        ),
        ({"seed": 1, "method": "tupate"}, ["method: 'linear-probe' ≠ 'tupate'", "seed: 0 ≠ 1"]),
    ],
)
def test_another_spec_is_refused_and_exactly_what_differs_is_named(space, changes, named):
    space.add(embedding("a"))
    with pytest.raises(SpaceError) as caught:
        space.add(embedding("b", spec=replace(SPEC, **changes)))
    assert str(caught.value.found).partition("fields that differ: ")[2].split("; ") == named
    assert [e.name for e in space.entries()] == ["a"]


def test_the_same_weights_under_another_name_are_the_same_space(space):
    space.add(embedding("a", seed=1))
    space.add(embedding("b", seed=2, spec=replace(SPEC, surrogate="/home/me/small")))
    assert space.compare("a", "b") == cosine(embedding("a", seed=1), embedding("b", seed=2))


def test_two_of_one_name_at_once_are_refused(space):
    with refused(SpaceError, "same name", "twin"):
        space.add(embedding("twin", seed=1), embedding("other"), embedding("twin", seed=2))
    assert len(space) == 0


def test_a_dataset_does_not_replace_a_model(space):
    space.add(embedding("reviews", "model", seed=1))
    with refused(SpaceError, '"reviews" is a model', "a dataset of the same name"):
        space.add(embedding("new"), embedding("reviews", "dataset", seed=2))
    assert [e.name for e in space.entries()] == ["reviews"]
    assert_same(space.get("reviews"), embedding("reviews", "model", seed=1))


def test_add_is_all_or_nothing(space):
    foreign = embedding("foreign", spec=replace(SPEC, seed=1))
    with refused(SpaceError, "seed"):
        space.add(embedding("first"), foreign)
    assert len(space) == 0
    assert space.spec is None, "an add that failed binds the space to no spec"
    space.add(foreign)
    with refused(SpaceError, "seed"):
        space.add(replace(foreign, name="second"), embedding("third"))
    assert [e.name for e in space.entries()] == ["foreign"]


def test_provenance_that_is_no_json_leaves_nothing_behind(space):
    with pytest.raises(TypeError):
        space.add(embedding("first"), embedding("second", when=np.int64(3)))
    assert len(space) == 0
    space.add(embedding("other", spec=replace(SPEC, seed=1)))
    assert len(space) == 1


# --- A folder in trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"3", b"{}", b'{"format": 1, "spec": {}}', b"\xff\xfe\x80"]
)
def test_a_damaged_space_json_is_a_clear_error(space, content):
    space.add(embedding("a"))
    (space.path / "space.json").write_bytes(content)
    for use in (lambda s: s.spec, lambda s: s.get("a"), lambda s: s.add(embedding("b"))):
        with refused(SpaceError, "space.json", "damaged", "move the folder ", "away and run again"):
            use(Space(space.path))
    assert (space.path / "space.json").read_bytes() == content


@pytest.mark.parametrize(
    ("field", "value"),
    [("options", []), ("options", "x"), ("options", None), ("method", 3), ("seed", "0"), ("surrogate", None)],
)
def test_a_spec_of_other_kinds_of_values_is_damaged_too(space, field, value):
    space.add(embedding("a"))
    content = json.loads((space.path / "space.json").read_text())
    content["spec"][field] = value
    (space.path / "space.json").write_text(json.dumps(content))
    with refused(SpaceError, "space.json", "damaged", "move the folder ", "away and run again"):
        Space(space.path).add(embedding("b"))


def test_a_newer_format_is_a_clear_error(space):
    space.add(embedding("a"))
    file = space.path / "space.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with refused(SpaceError, "format 2", "format 1", "the version of fute that wrote it"):
        Space(space.path).get("a")


def test_a_lost_space_json_does_not_let_strangers_in(space):
    space.add(embedding("a"))
    (space.path / "space.json").unlink()
    with refused(SpaceError, "space.json", "damaged", "no such file", "away and run again"):
        Space(space.path).add(embedding("b", spec=replace(SPEC, seed=1)))


def test_lost_vectors_are_damage_too(space):
    space.add(embedding("a"))
    for file in (space.path / "embeddings.lance" / "data").iterdir():
        file.unlink()
    with refused(StorageError, "may be damaged", f"move the folder {space.path} away and run again"):
        Space(space.path).get("a")


@pytest.mark.parametrize("part", ["data", "_versions"])
@pytest.mark.parametrize(
    "damage", [lambda old: old[: len(old) // 2], lambda old: random.Random(0).randbytes(len(old))]
)
def test_damaged_vectors_are_an_error_and_no_wrong_vectors(space, part, damage):
    space.add(embedding("a"))
    for file in (space.path / "embeddings.lance" / part).iterdir():
        file.write_bytes(damage(file.read_bytes()))
    with refused(StorageError, str(space.path), "may be damaged", f"move the folder {space.path} away"):
        Space(space.path).get("a")


def test_a_folder_that_can_only_be_read(public_folder):
    path = public_folder / "space"
    Space(path).add(embedding("a", seed=1))
    with write_protected(public_folder):
        assert_same(Space(path).get("a"), embedding("a", seed=1))
        for use in (
            lambda s: s.add(embedding("b")),
            lambda s: s.add(embedding("a", seed=2)),
            lambda s: s.remove("a"),
        ):
            with refused(StorageError, str(path), "no permission", "choose a folder that you may write"):
                use(Space(path))
        with refused(StorageError, "no permission"):
            Space(public_folder / "new").add(embedding("a"))
    assert [e.name for e in Space(path).entries()] == ["a"]
    assert_same(Space(path).get("a"), embedding("a", seed=1))
    assert not (public_folder / "new").exists()


def test_a_full_disk_leaves_the_space_as_it_was_and_the_next_run_succeeds(tmp_path):
    script = """
        import sys
        from pathlib import Path
        import numpy as np
        from fute.core.errors import StorageError
        from fute.core.types import SpaceSpec, TaskEmbedding
        from fute.space.space import Space

        def embedding(name, d):
            left = np.random.default_rng(0).normal(size=(d, 2)).astype(np.float32)
            return TaskEmbedding(
                name, "model", SpaceSpec("m", {}, "pkg:s", "a"), left, np.ones((3, 2), np.float32),
                np.zeros((0, d, 2), np.float16), ("a", "b"),
            )

        full, new = Space(Path(sys.argv[1]) / "full"), Space(Path(sys.argv[1]) / "new")
        full.add(embedding("small", 5))
        limit(100_000)
        for space in (full, new):
            try:
                space.add(embedding("big", 50_000), embedding("another", 5))
            except StorageError as error:
                print(error.fix, [e.name for e in space.entries()], space.spec is None, sep="|")
        limit(None)
        full.add(embedding("big", 50_000))
        Space(new.path).add(embedding("big", 50_000))
    """
    first, second = run_with_file_size_limit(script, tmp_path).splitlines()
    advice = "raise the file size limit (ulimit -f) or free space"
    assert first.split("|") == [advice, "['small']", "False"]
    assert second.split("|") == [advice, "[]", "True"]
    assert [e.left.shape for e in Space(tmp_path / "full").embeddings()] == [(50_000, 2), (5, 2)]
    assert [e.left.shape for e in Space(tmp_path / "new").embeddings()] == [(50_000, 2)]


@pytest.mark.parametrize("lost", ["_versions", "_versions/*.manifest"])
def test_a_table_that_was_never_finished_is_an_empty_space(space, lost):
    """A disk that fills up too early, or `kill -9`, leaves the data of a table without any version of it."""
    space.add(embedding("a", seed=1))
    for path in (space.path / "embeddings.lance").glob(lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = Space(space.path)
    assert again.entries() == []
    again.add(embedding("a", seed=2))
    assert_same(Space(space.path).get("a"), embedding("a", seed=2))


# --- Two at once ------------------------------------------------------------------------------------------


def test_what_another_object_adds_replaces_and_removes_is_seen_at_once(space):
    other = Space(space.path)
    space.add(embedding("a", seed=1))
    other.add(embedding("b", seed=2))
    assert [e.name for e in space.entries()] == ["a", "b"]
    other.add(embedding("a", seed=3))
    assert_same(space.get("a"), embedding("a", seed=3))
    other.remove("b")
    assert "b" not in space
    assert len(space) == 1


def test_many_who_make_one_space_at_once_put_nothing_over_each_others_rows(tmp_path):
    for number in range(40):
        together = threading.Barrier(8)

        def add(name, path=tmp_path / str(number), together=together):
            space = Space(path)
            together.wait()
            space.add(embedding(name))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(add, "abcdefgh"))
        assert [e.name for e in Space(tmp_path / str(number)).entries()] == list("abcdefgh")


# What two processes begin with, `me` and `other`: a barrier, and embeddings of one number.
_PAIR = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import lancedb
    import numpy as np
    from fute.core.errors import SpaceError
    from fute.core.types import SpaceSpec, TaskEmbedding
    from fute.space.space import Space

    folder, me, other = Path(sys.argv[1]), *sys.argv[2:]

    def meet(i):
        (folder / f"{me} {i}").touch()
        until = time.monotonic() + 90  # else it would spin for ever after the other has failed
        while not (folder / f"{other} {i}").exists():
            assert time.monotonic() < until, "the other process is gone"

    def embedding(name, kind="model", seed=0):
        one, none = np.ones((1, 1), np.float32), np.zeros((0, 1, 1), np.float16)
        spec = SpaceSpec("m", {}, "pkg:s", "a", seed)
        return TaskEmbedding(name, kind, spec, one, one, none, ("a", "b"))
    """
)


def run_pair(script, folder):
    """What two processes print that run `script` at once."""
    both = [start(_PAIR + textwrap.dedent(script), folder, *names) for names in ("ab", "ba")]
    return [finish(process) for process in both]


def test_of_two_processes_that_begin_a_space_with_different_specs_one_is_refused(tmp_path):
    script = """
        for i in range(8):
            space = Space(folder / f"space {i}")
            meet(i)
            try:
                space.add(embedding(f"{me} {i}", seed=int(me == "a")))
                print("added")
            except SpaceError as error:
                print("seed: " in str(error.found))
    """
    first, second = (said.splitlines() for said in run_pair(script, tmp_path))
    for i, said in enumerate(zip(first, second, strict=True)):
        assert sorted(said) == ["True", "added"], "one adds, the other is told what differs"
        winner = "ab"[said.index("added")]
        space = Space(tmp_path / f"space {i}")
        assert [e.name for e in space.entries()] == [f"{winner} {i}"]
        assert space.spec.seed == int(winner == "a")


def test_of_two_processes_that_add_a_dataset_and_a_model_of_one_name_one_is_refused(tmp_path):
    script = """
        space = Space(folder / "space")
        space.add(embedding(f"other {me}"))
        for i in range(8):
            meet(i)
            try:
                space.add(embedding(f"name {i}", "model" if me == "a" else "dataset"))
                print("added")
            except SpaceError as error:
                print("of the same name" in str(error))
    """
    first, second = (said.splitlines() for said in run_pair(script, tmp_path))
    kinds = {e.name: e.kind for e in Space(tmp_path / "space").entries()}
    for i, said in enumerate(zip(first, second, strict=True)):
        assert sorted(said) == ["True", "added"]
        assert kinds[f"name {i}"] == ("model", "dataset")[said.index("added")]


def test_two_processes_that_fill_a_new_space_at_once_lose_and_double_nothing(tmp_path):
    script = """
        space = Space(folder / "space")
        for i in range(5):
            meet(i)
            space.add(embedding(f"{me} {i}"), embedding(f"both {i}"))
    """
    run_pair(script, tmp_path)
    names = [e.name for e in Space(tmp_path / "space").entries()]
    assert names == sorted(f"{who} {i}" for who in ("a", "b", "both") for i in range(5))
