"""What a CPU is fast at, from what the system says of it."""

import pytest

from fute.core import runtime
from fute.core.errors import ConfigError

from .helpers import refused

SAID = """processor\t: 0
vendor_id\t: {vendor}
model name\t: some CPU
flags\t\t: fpu {flags}
processor\t: 1
vendor_id\t: other
flags\t\t: none
"""


@pytest.fixture(autouse=True)
def _asked_anew():
    runtime._cpu.cache_clear()
    yield
    runtime._cpu.cache_clear()


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "avx2 avx512f avx512_bf16 amx_tile amx_bf16", "bfloat16"),
        # Measured with two threads, 1024 × 768 by 768 × 3072: 229 GFLOP/s in float32, 144 in bfloat16.
        ("GenuineIntel", "avx2 avx512f avx512_bf16", "float32"),
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", "bfloat16"),
        ("AuthenticAMD", "avx2", "float32"),
    ],
)
def test_bfloat16_is_taken_where_it_is_fast(monkeypatch, vendor, flags, expected):
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: SAID.format(vendor=vendor, flags=flags))
    assert runtime.cpu_flags() == {"fpu", *flags.split()}
    assert runtime.choose_dtype() == expected
    assert runtime.choose_dtype("bfloat16") == "bfloat16"


@pytest.mark.parametrize("wish", ["bf16", "float16", ""])
def test_a_dtype_that_is_not_known_is_refused(wish):
    with refused(ConfigError, f"no dtype {wish!r}", "one of auto, bfloat16, float32"):
        runtime.choose_dtype(wish)


def test_a_system_that_says_nothing_has_no_flags(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert runtime.cpu_flags() == frozenset()
    assert runtime.choose_dtype() == "float32"
