"""Predictions on disk: nothing lost, nothing mixed up, nothing half there, whatever the disk does."""

import gc
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.core.errors import StorageError
from fute.core.files import write_atomically
from fute.core.keyvalue import KeyValue
from fute.core.types import Input
from fute.labelling.cache import PredictionCache
from tests.helpers import refused
from tests.storage import finish, run_with_file_size_limit, start, write_protected

# --- KeyValue ---------------------------------------------------------------------------------------------


def test_put_and_get_in_another_object(tmp_path):
    KeyValue(tmp_path / "new" / "folder" / "items.sqlite").put({"one": b"\x00\xff", "two": b""})
    store = KeyValue(tmp_path / "new" / "folder" / "items.sqlite")
    assert store.get(["two", "one", "three"]) == {"one": b"\x00\xff", "two": b""}
    assert len(store) == 2


def test_a_missing_file_is_empty_and_reading_does_not_make_it(tmp_path):
    store = KeyValue(tmp_path / "folder" / "items.sqlite")
    assert store.get(["one"]) == {}
    assert len(store) == 0
    assert list(tmp_path.iterdir()) == []


def test_more_keys_than_sqlite_takes_in_one_statement(tmp_path):
    store = KeyValue(tmp_path / "items.sqlite")
    items = {f"key {i}": str(i * i).encode() for i in range(2345)}
    store.put(items)
    assert store.get(items) == items
    every_third = list(items)[::3]
    assert store.get([*every_third, "unknown", *every_third]) == {key: items[key] for key in every_third}


puts = st.lists(st.dictionaries(st.text(max_size=3), st.binary(max_size=5), max_size=5), max_size=5)


@given(puts)
def test_whatever_is_put_the_first_value_of_a_key_stays(batches):
    expected: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = KeyValue(Path(folder) / "items.sqlite")
        for batch in batches:
            store.put(batch)
            expected = {**batch, **expected}
        assert store.get(expected) == expected
        assert len(store) == len(expected)


def test_put_is_all_or_nothing(tmp_path):
    store = KeyValue(tmp_path / "items.sqlite")
    store.put({"before": b"0"})
    with pytest.raises(OverflowError):
        store.put({"first": b"1", "no bytes at all": 2**70})
    assert store.get(["before", "first"]) == {"before": b"0"}
    store.put({"after": b"2"})
    assert len(store) == 2


def test_two_processes_writing_at_once_lose_nothing(tmp_path):
    script = """
        import json, sys
        from pathlib import Path
        from fute.core.keyvalue import KeyValue
        path, me, other = Path(sys.argv[1]), *sys.argv[2:]
        store, saw = KeyValue(path), {}
        # Each writes until the other has written 100 items, so they do write at once.
        while len(saw) < 200 or len(store.get(f"{other} {i}" for i in range(100))) < 100:
            i = len(saw)
            store.put({f"{me} {i}": f"{me}{i}".encode(), f"both {i}": me.encode()})
            saw[f"both {i}"] = store.get([f"both {i}"])[f"both {i}"].decode()
        print(json.dumps(saw))
    """
    path = tmp_path / "items.sqlite"
    writers = {"a": start(script, path, "a", "b"), "b": start(script, path, "b", "a")}
    saw = {me: json.loads(finish(writer)) for me, writer in writers.items()}
    store = KeyValue(path)
    own = {f"{me} {i}": f"{me}{i}".encode() for me in saw for i in range(len(saw[me]))}
    assert store.get(own) == own
    both = store.get(saw["a"] | saw["b"])
    assert len(store) == len(own) + len(both)
    for seen in saw.values():
        assert {key: both[key].decode() for key in seen} == seen, "the first value stays for both of them"


def test_processes_that_open_a_new_file_at_once_all_get_it(tmp_path):
    script = """
        import sys, time
        from pathlib import Path
        from fute.core.sqlite import connect
        folder, start = Path(sys.argv[1]), float(sys.argv[2])
        for i in range(200):  # all processes open the next file at the same moment
            time.sleep(max(0, start + i * 0.01 - time.time()))
            connect(folder / f"{i}.sqlite", "CREATE TABLE IF NOT EXISTS t (a)").close()
        print("opened all")
    """
    openers = [start(script, tmp_path, str(time.time() + 1)) for _ in range(4)]
    assert [finish(opener).strip() for opener in openers] == ["opened all"] * 4


# --- A disk in trouble ------------------------------------------------------------------------------------


def damage_all(path):
    path.write_bytes(random.Random(0).randbytes(20_000))


def damage_all_but_the_header(path):
    content = path.read_bytes()
    path.write_bytes(content[:100] + random.Random(0).randbytes(len(content) - 100))


@pytest.mark.parametrize("damage", [damage_all, damage_all_but_the_header])
def test_a_damaged_file_is_reported_and_left_alone(tmp_path, damage):
    path = tmp_path / "items.sqlite"
    store = KeyValue(path)
    store.put({f"key {i}": bytes(100) for i in range(100)})
    del store
    gc.collect()  # closes the file, so that all of it is in one place
    damage(path)
    before = path.read_bytes()
    for use in (lambda s: s.get(["key 1"]), lambda s: s.put({"key 1": b"new"}), len):
        with refused(StorageError, str(path), "damaged", f"move {path} away"):
            use(KeyValue(path))
    assert path.read_bytes() == before


def test_once_the_damaged_file_is_moved_away_the_same_object_works(tmp_path):
    path = tmp_path / "items.sqlite"
    damage_all(path)
    store = KeyValue(path)
    with refused(StorageError, "damaged"):
        store.put({"key": b"1"})
    path.rename(tmp_path / "damaged")
    store.put({"key": b"2"})
    assert store.get(["key"]) == {"key": b"2"}


def test_a_folder_that_can_only_be_read(public_folder):
    path = public_folder / "items.sqlite"
    KeyValue(path).put({"old": b"1"})
    with write_protected(public_folder):
        assert KeyValue(path).get(["old", "new"]) == {"old": b"1"}
        with refused(StorageError, str(path), "no permission", "choose a folder that you may write"):
            KeyValue(path).put({"new": b"2"})
        with refused(StorageError, "no permission"):
            KeyValue(public_folder / "sub" / "items.sqlite").put({"new": b"2"})
    assert KeyValue(path).get(["old", "new"]) == {"old": b"1"}
    assert not (public_folder / "sub").exists()


def test_what_no_process_has_open_can_be_read_where_nothing_may_be_written(public_folder):
    """SQLite itself would make a file beside it first."""
    path = public_folder / "items.sqlite"
    store = KeyValue(path)
    store.put({"old": b"1"})
    store._db.close()
    with write_protected(public_folder):
        assert [file.name for file in public_folder.iterdir()] == ["items.sqlite"]
        only_read = KeyValue(path)
        assert only_read.get(["old", "new"]) == {"old": b"1"}
        with refused(StorageError, str(path), "no permission"):
            only_read.put({"new": b"2"})
    assert KeyValue(path).get(["old", "new"]) == {"old": b"1"}


def test_a_folder_that_can_not_even_be_read(public_folder):
    hidden = public_folder / "hidden"
    path = hidden / "items.sqlite"
    KeyValue(path).put({"old": b"1"})
    hidden.chmod(0)
    try:
        with write_protected(public_folder):
            for use in (lambda s: s.get(["old"]), lambda s: s.put({"new": b"2"}), len):
                with refused(StorageError, "no permission"):
                    use(KeyValue(path))
    finally:
        hidden.chmod(0o755)


def test_a_full_disk_ends_with_advice_and_keeps_what_was_saved(tmp_path):
    path = tmp_path / "items.sqlite"
    script = """
        import sys
        from pathlib import Path
        from fute.core.errors import StorageError
        from fute.core.keyvalue import KeyValue
        store = KeyValue(Path(sys.argv[1]))
        limit(300_000)
        saved = 0
        try:
            while saved < 10_000:
                store.put({f"{part} {saved}": f"{part}{saved}".encode() * 300 for part in "abc"})
                saved += 1
        except StorageError as error:
            print(saved, str(error).replace("\\n", " "), len(store), sep="|")
        limit(None)
        store.put({"afterwards": b"x"})
    """
    saved, message, held = run_with_file_size_limit(script, path).strip().split("|")
    assert int(saved) >= 10
    assert str(path) in message
    assert "the disk is full" in message
    assert "what is saved stays saved" in message
    assert int(held) == 3 * int(saved), "the batch that failed is not there in part"
    store = KeyValue(path)
    expected = {f"{part} {i}": f"{part}{i}".encode() * 300 for part in "abc" for i in range(int(saved))}
    assert store.get(expected) == expected
    assert store.get(["afterwards", f"a {saved}"]) == {"afterwards": b"x"}
    store.put({f"a {saved}": b"now"})
    assert len(store) == len(expected) + 2


# --- write_atomically -------------------------------------------------------------------------------------


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path):
    write_atomically(tmp_path / "new" / "text", "größer ≥\n")
    assert (tmp_path / "new" / "text").read_bytes() == b"gr\xc3\xb6\xc3\x9fer \xe2\x89\xa5\n"
    write_atomically(tmp_path / "new" / "text", b"\xff\x00")
    assert (tmp_path / "new" / "text").read_bytes() == b"\xff\x00"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["text"]


def test_the_new_file_is_made_beside_the_old_one(tmp_path, monkeypatch):
    """A file is replaced at once only within a file system; that of temporary files may be another."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    write_atomically(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_text() == "new"


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(public_folder):
    path = public_folder / "page.html"
    write_atomically(path, "old")
    with write_protected(public_folder), refused(StorageError, str(path), "no permission"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in public_folder.iterdir()] == ["page.html"]


def test_a_file_that_can_not_be_replaced_leaves_no_other_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with refused(StorageError, str(tmp_path / "taken")):
        write_atomically(tmp_path / "taken", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_full_disk_leaves_the_old_content_and_no_other_file(tmp_path):
    path = tmp_path / "page.html"
    write_atomically(path, "old")
    script = """
        import sys
        from pathlib import Path
        from fute.core.errors import StorageError
        from fute.core.files import write_atomically
        limit(10_000)
        try:
            write_atomically(Path(sys.argv[1]), "new" * 10_000)
        except StorageError as error:
            print(error)
    """
    message = run_with_file_size_limit(script, path)
    assert "the file may not grow further" in message
    assert "ulimit -f" in message
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


# --- PredictionCache --------------------------------------------------------------------------------------


def test_predictions_come_back_to_the_last_bit(tmp_path):
    rows = np.random.default_rng(0).dirichlet(np.ones(3), size=5).astype(np.float32)
    keys = [PredictionCache.key("model", Input(f"text {i}")) for i in range(5)]
    PredictionCache(tmp_path / "p.sqlite").put(dict(zip(keys, rows, strict=True)))
    found = PredictionCache(tmp_path / "p.sqlite").get([*keys, PredictionCache.key("model", Input("other"))])
    assert set(found) == set(keys)
    for key, row in zip(keys, rows, strict=True):
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], row)


def test_without_a_path_nothing_is_kept():
    cache = PredictionCache(None)
    cache.put({"key": np.ones(2, dtype=np.float32)})
    assert cache.get(["key"]) == {}


def test_the_key_tells_models_texts_and_pairs_apart():
    inputs = [Input("ab"), Input("a", "b"), Input("b", "a"), Input("ab", ""), Input("", "ab"), Input("a\nb")]
    keys = {PredictionCache.key(model, item) for model in ("model 1", "model 2", "") for item in inputs}
    assert len(keys) == 3 * len(inputs)
    assert PredictionCache.key("model 1", Input("a", "b")) == PredictionCache.key("model 1", Input("a", "b"))
