"""Sums of products by products.cpp against einsum, and where there is none."""

import pytest
import torch

from fute.core import native
from fute.surrogates import fisher, products

needs_compiler = pytest.mark.skipif(not native.has_compiler(), reason="needs a C++ compiler")


def drawn(models, n, each, tokens, rows, columns, dtype=torch.float32):
    """g, x, forms (symmetric) and a total that already holds something."""
    draw = torch.Generator().manual_seed(0)
    g = torch.randn(n * each, tokens, rows, generator=draw).to(dtype)
    x = torch.randn(n * each, tokens, columns, generator=draw).to(dtype)
    forms = torch.randn(models, n, each, each, generator=draw)
    return g, x, forms + forms.mT, torch.randn(models, rows, columns, generator=draw)


def summed(g, x, forms, total):
    """`total + Σ_i Σ_ab A_ab^(m, i) P_ia ∘ P_ib`, the sum over all a and b, in float64."""
    n, each = forms.shape[1:3]
    p = torch.einsum("itr,itc->irc", g.double(), x.double()).unflatten(0, (n, each))
    return total + torch.einsum("miab,iarc,ibrc->mrc", forms.double(), p, p)


SIZES = [
    (1, 1, 1, 2, 6, 64),
    (1, 5, 1, 3, 7, 64),  # an odd number of tokens; a row that is left over
    (1, 21, 1, 23, 400, 128),  # more rows than are packed together
    (3, 9, 1, 4, 13, 192),
    (2, 9, 2, 5, 12, 64),
    (1, 8, 3, 2, 1, 64),
]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
def test_sums_are_those_of_einsum(sizes, dtype):
    g, x, forms, total = drawn(*sizes, dtype)
    right = summed(g, x, forms, total)
    products.add_products(g, x, fisher._Forms.of(forms).weights, total)
    assert (total - right).abs().max() < 1e-5 * right.abs().max()


@needs_compiler
def test_sums_are_the_same_with_any_number_of_threads():
    g, x, forms, total = drawn(2, 9, 2, 5, 400, 192)
    made, threads = [], torch.get_num_threads()
    for some in (1, 2, 3):
        torch.set_num_threads(some)
        products.add_products(g, x, fisher._Forms.of(forms).weights, into := total.clone())
        made.append(into)
    torch.set_num_threads(threads)
    assert all(torch.equal(one, made[0]) for one in made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
def test_without_a_compiler_they_are_made_by_torch(sizes, dtype, no_compiler):
    g, x, forms, total = drawn(*sizes, dtype)
    right = summed(g, x, forms, total)
    assert not products.takes(total)
    fisher._Matrix.add([fisher._Matrix(g, x)], fisher._Forms.of(forms), total)
    assert (total - right).abs().max() < 1e-5 * right.abs().max()


@needs_compiler
def test_widths_that_do_not_fit_are_left_to_torch():
    assert products.takes(torch.zeros(1, 5, 128))
    assert not products.takes(torch.zeros(1, 128, 96))
    assert not products.takes(torch.zeros(1, 5, 128, device="meta"))


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    native.compiled.cache_clear()
    yield
    native.compiled.cache_clear()


@pytest.fixture
def doubling(tmp_path, monkeypatch):
    """A source that doubles three numbers, and an empty cache folder."""
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "doubling.cpp"
    source.write_text('extern "C" void twice(float* x, long n) { while (n--) x[n] *= 2; }')
    return source


@needs_compiler
def test_a_source_is_compiled_once_and_kept(doubling):
    x = torch.tensor([1.0, 2.0, 3.0])
    native.call(native.compiled(doubling), "twice", x, 2)
    assert x.tolist() == [2, 4, 3]
    [kept] = (doubling.parent / "cache" / "native").iterdir()
    made = kept.stat().st_mtime_ns
    native.compiled.cache_clear()
    native.call(native.compiled(doubling), "twice", x, 3)
    assert x.tolist() == [4, 8, 6]
    assert kept.stat().st_mtime_ns == made
    doubling.write_text(doubling.read_text().replace("2", "3"))
    native.compiled.cache_clear()
    native.call(native.compiled(doubling), "twice", x, 1)
    assert x.tolist() == [12, 8, 6], "another source is another library"


@pytest.mark.parametrize("compiler", ["false", "/no/such/compiler"])
def test_no_compiler_is_no_error(doubling, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    native.compiled.cache_clear()
    assert native.compiled(doubling) is None
    assert not list((doubling.parent / "cache" / "native").iterdir()), "nothing half made is left"
