"""What is compiled for this CPU, and whether it is taken."""

import ctypes
import time

import pytest

from fute.core import native
from tests.helpers import write

pytestmark = pytest.mark.skipif(not native.has_compiler(), reason="needs a C++ compiler")


def slow():
    time.sleep(0.003)


def quick():
    pass


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    native.compiled.cache_clear()
    yield native.compiled(write(tmp_path / "one.cpp", 'extern "C" long one() { return 1; }'))
    native.compiled.cache_clear()


def test_a_source_is_compiled_and_called(library):
    assert isinstance(library, ctypes.CDLL)
    assert library.one() == 1


def test_the_quicker_one_is_the_faster(library):
    assert native.is_faster(library, quick, slow)


def test_the_slower_one_is_not_and_later_processes_decide_alike(library, tmp_path):
    assert not native.is_faster(library, slow, quick)
    assert not native.is_faster(library, quick, slow), "it was measured before"
    assert native.is_faster(library, quick, slow, version="next"), "not of that version"
    for kept in (tmp_path / "cache" / "native").glob("*.json"):
        kept.write_text("damaged")
    assert native.is_faster(library, quick, slow), "measured anew"


def test_where_nothing_can_be_kept_it_is_measured_each_time(library, monkeypatch):
    monkeypatch.setattr(native, "write_atomically", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert native.is_faster(library, quick, slow)
    assert not native.is_faster(library, slow, quick)
