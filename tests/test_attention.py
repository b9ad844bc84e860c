"""Attention by attention.cpp against float64, and where it leaves it to PyTorch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fute import Input
from fute.surrogates.base import Surrogate, states
from fute.weights import attention
from fute.weights.attention import attend

from .surrogates import CONFIGS, CONFIGS_OF_WRITERS, make

needs_avx512 = pytest.mark.skipif(attention._library() is None, reason="needs AVX512-BF16 and g++")


def drawn(batch, heads, groups, queries, keys, size, seed=0):
    """Q, K and V as linear layers make them: rows of all heads, cut into heads."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((heads, queries), (groups, keys), (groups, keys))
    rows = [torch.randn(batch, length, own, size, generator=draw).bfloat16() for own, length in shapes]
    return [side.transpose(1, 2) for side in rows]


def by_definition(query, key, value, mask=None, bias=None, scaling=None):
    """In float64: (B, T, heads, head size)."""
    query, key, value = query.double(), key.double(), value.double()
    each = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(each, dim=1), value.repeat_interleave(each, dim=1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = scores if bias is None else scores + bias.double()
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1).nan_to_num(0) @ value).transpose(1, 2)


def assert_as_by_definition(got, right):
    """Within what rounding shares and outputs to halves does."""
    assert got.dtype == torch.bfloat16
    assert got.shape == right.shape
    assert (got.double() - right).abs().max() < 2**-7 * right.abs().max()


SIZES = [
    (1, 1, 1, 2, 2, 16),
    (2, 3, 3, 6, 16, 32),
    (3, 4, 2, 7, 33, 48),  # heads in pairs; a query and a key that are left over
    (2, 12, 12, 13, 100, 64),
    (1, 2, 1, 70, 65, 128),
]


@needs_avx512
@pytest.mark.parametrize("sizes", SIZES)
def test_is_softmax_attention(sizes):
    sides = drawn(*sizes)
    assert_as_by_definition(attend(*sides), by_definition(*sides))
    assert_as_by_definition(attend(*sides, scaling=1.0), by_definition(*sides, scaling=1.0))


@needs_avx512
@pytest.mark.parametrize("sizes", SIZES)
def test_a_bias_is_added_to_each_heads_scores(sizes):
    sides = drawn(*sizes)
    _, heads, _, queries, keys, _ = sizes
    for rows in (1, queries):
        bias = 3 * torch.randn(1, heads, rows, keys, generator=torch.Generator().manual_seed(1)).bfloat16()
        assert_as_by_definition(attend(*sides, bias=bias), by_definition(*sides, bias=bias))


@needs_avx512
@pytest.mark.parametrize("sizes", SIZES)
def test_a_query_sees_the_keys_that_its_mask_lets_it(sizes):
    sides = drawn(*sizes)
    batch, _, _, queries, keys, _ = sizes
    for shape in ((batch, 1, queries, keys), (1, 1, queries, keys), (batch, 1, 1, keys)):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6
        assert_as_by_definition(attend(*sides, mask), by_definition(*sides, mask))


@needs_avx512
def test_a_query_without_keys_gets_nothing_and_large_scores_no_infinities():
    query, key, value = drawn(1, 1, 1, 3, 5, 16)
    mask = torch.tensor([[True] * 5, [False] * 5, [True, False, False, False, False]])[None, None]
    got = attend(1000 * query, key, value, mask)
    assert_as_by_definition(got, by_definition(1000 * query, key, value, mask))
    assert torch.equal(got[0, 1], torch.zeros(1, 16))
    assert torch.equal(got[0, 2, 0], value[0, 0, 0])


@needs_avx512
def test_any_number_of_threads_and_any_layout_give_the_same():
    sides = drawn(3, 4, 2, 7, 33, 32)
    made, threads = [], torch.get_num_threads()
    for some in (1, 2, 3):
        torch.set_num_threads(some)
        made.append(attend(*sides))
    torch.set_num_threads(threads)
    made.append(attend(*(side.contiguous() for side in sides)))
    made.append(attend(*(side.mT.contiguous().mT for side in sides)))
    assert all(torch.equal(one, made[0]) for one in made)


def resident():
    """MiB of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@needs_avx512
def test_threads_that_end_leave_no_memory_behind():
    sides = drawn(1, 1, 1, 1024, 1024, 64)  # 0.3 MiB in pairs

    def run(times):
        for _ in range(times):
            with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                pool.submit(attend, *sides).result()

    run(20)
    before = resident()
    run(200)
    assert resident() - before < 20


class Layer(torch.nn.Module):
    is_causal = True


@needs_avx512
@pytest.mark.parametrize("length", [2, 6, 17, 70])
def test_a_causal_layer_without_a_mask_sees_no_later_key(length):
    sides = drawn(2, 4, 2, length, length, 32)
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    assert_as_by_definition(attention.attention(Layer(), *sides, None)[0], by_definition(*sides, mask))
    both = attention.attention(Layer(), *sides, None, is_causal=False)[0]
    assert_as_by_definition(both, by_definition(*sides))


@needs_avx512
def test_keys_that_were_kept_are_shared_by_all_texts():
    query, key, value = drawn(3, 4, 2, 7, 33, 32)
    key, value = (side[:1].expand(3, -1, -1, -1) for side in (key, value))
    mask = torch.rand(3, 1, 7, 33, generator=torch.Generator().manual_seed(2)) < 0.6
    got = attention.attention(Layer(), query, key, value, mask)[0]
    assert_as_by_definition(got, by_definition(query, key, value, mask))


LEFT = {
    "float32": (torch.float32, 16, 4, {}),
    "an odd head size": (torch.bfloat16, 24, 4, {}),
    "one query": (torch.bfloat16, 16, 1, {}),
    "dropout": (torch.bfloat16, 16, 4, {"dropout": 1e-9}),
    "a beginning that was kept, without a mask": (torch.bfloat16, 16, 3, {"is_causal": True}),
    "a mask that is added": (torch.bfloat16, 16, 4, {"attention_mask": torch.zeros(1, 1, 4, 4).bfloat16()}),
}


@pytest.mark.parametrize("what", LEFT)
def test_the_rest_stays_with_pytorch(what, monkeypatch):
    dtype, size, queries, more = LEFT[what]
    monkeypatch.setattr(attention, "attend", None)
    query, key, value = (side.to(dtype) for side in drawn(1, 2, 2, 4, 4, size))
    given = {"attention_mask": None, "is_causal": False} | more
    got = attention.attention(Layer(), query[:, :, :queries], key, value, **given)[0]
    seen = torch.ones(queries, 4, dtype=torch.bool)
    right = by_definition(query[:, :, :queries], key, value, seen.tril() if given["is_causal"] else seen)
    assert (got.double() - right).abs().max() < 2**-6


def gradients(sides, grad, how):
    """∂L/∂Q, ∂L/∂K and ∂L/∂V for ∂L/∂output, of attention as it is called, and in float64."""
    mine, theirs = ([side.detach().to(d).requires_grad_() for side in sides] for d in (sides[0].dtype, float))
    mask = how.get("attention_mask")
    if how["is_causal"]:
        mask = torch.ones(sides[0].shape[2], sides[1].shape[2], dtype=torch.bool).tril()[None, None]
    got = torch.autograd.grad(attention.attention(Layer(), *mine, **how)[0], mine, grad)
    right = by_definition(*theirs, mask, how.get("position_bias"), how.get("scaling"))
    return got, torch.autograd.grad(right, theirs, grad.double())


@needs_avx512
@pytest.mark.parametrize("sizes", [*SIZES, (2, 4, 2, 17, 17, 32)])
def test_gradients_are_those_of_the_definition(sizes, monkeypatch):
    monkeypatch.setattr(attention, "sdpa_attention_forward", None)  # PyTorch is not asked
    batch, heads, _, queries, keys, size = sizes
    draw = torch.Generator().manual_seed(3)
    grad = torch.randn(batch, queries, heads, size, generator=draw).bfloat16()
    mask = torch.rand(batch, 1, queries, keys, generator=draw) < 0.6
    bias = torch.randn(1, heads, queries, keys, generator=draw).bfloat16()
    plain = {"attention_mask": None, "is_causal": False}
    ways = [plain, plain | {"attention_mask": mask}, plain | {"position_bias": bias, "scaling": 1.0}]
    for how in [*ways, *([{"attention_mask": None, "is_causal": True}] if queries == keys else [])]:
        for got, right in zip(*gradients(drawn(*sizes), grad, how), strict=True):
            assert got.dtype == torch.bfloat16
            assert (got.double() - right).abs().max() < 2**-6 * right.abs().max()


@needs_avx512
def test_a_query_without_keys_has_no_gradients_and_gives_none():
    sides, mask = drawn(1, 1, 1, 2, 5, 16), torch.tensor([[True] * 5, [False] * 5])[None, None]
    grad = torch.ones(1, 2, 1, 16).bfloat16()
    seen = {"attention_mask": mask, "is_causal": False}
    (query, *rest), _ = gradients(sides, grad, seen)
    assert torch.equal(query[0, 0, 1], torch.zeros(16))
    _, alone = gradients((sides[0][:, :, :1], *sides[1:]), grad[:, :1], seen | {"attention_mask": None})
    for got, right in zip(rest, alone[1:], strict=True):
        assert (got.double() - right).abs().max() < 2**-6 * right.abs().max()


@needs_avx512
def test_any_number_of_threads_makes_the_same_gradients():
    sides, threads, made = drawn(3, 4, 2, 7, 33, 32), torch.get_num_threads(), []
    grad = torch.ones(3, 4, 7, 32).bfloat16().transpose(1, 2)
    for some in (1, 3):
        torch.set_num_threads(some)
        made.append(gradients(sides, grad, {"attention_mask": None, "is_causal": False})[0])
    torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_a_bias_that_learns_gets_its_gradient_from_pytorch(monkeypatch):
    monkeypatch.setattr(attention, "attend", None)
    sides = [side.requires_grad_() for side in drawn(1, 2, 2, 4, 4, 16)]
    bias = torch.zeros(1, 2, 4, 4).bfloat16().requires_grad_()
    attention.attention(Layer(), *sides, None, position_bias=bias)[0].sum().backward()
    assert sides[0].grad is not None
    assert bias.grad is not None


WIDE = {
    "bert": {"hidden_size": 64},
    "modernbert": {"hidden_size": 64},
    "gpt2": {"n_embd": 64},
    "llama": {"hidden_size": 64, "head_dim": 16},
    "t5": {"d_kv": 16},
    "bart": {"d_model": 64},
}


@needs_avx512
@pytest.mark.parametrize("family", WIDE)
def test_states_of_every_family_are_those_of_pytorchs_attention(family, tmp_path, monkeypatch):
    config = CONFIGS[family]
    wide = type(config)(**config.to_diff_dict() | WIDE[family])
    monkeypatch.setitem(CONFIGS, family, wide)
    monkeypatch.setitem(CONFIGS_OF_WRITERS, family, wide)
    surrogate = Surrogate(make(family, tmp_path).id, dtype="bfloat16")
    texts = ("a fine film", "dull, and so long that it had to be watched in parts")
    tokens, calls = surrogate.tokenize([Input(text) for text in texts]), []
    monkeypatch.setattr(attention, "attend", lambda *given: calls.append(given) or attend(*given))
    with torch.no_grad():
        ours = states(surrogate.model, tokens)
        surrogate.model.set_attn_implementation("sdpa")
        right = states(surrogate.model, tokens)
    there = tokens["attention_mask"].bool()
    assert len(calls) == 2  # of its layers
    assert (ours - right)[there].abs().max() < 2**-5 * right[there].abs().max()


@needs_avx512
def test_a_compiled_function_calls_it():
    sides = drawn(1, 2, 2, 5, 5, 16)
    compiled = torch.compile(lambda *sides: 2 * attention.attention(Layer(), *sides, None)[0], dynamic=True)
    with torch.no_grad():
        assert torch.equal(compiled(*sides), 2 * attend(*sides, causal=True))
    torch.library.opcheck(attend, (*sides, None, None, 0.5, True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_halves_are_attended_so(tmp_path, dtype):
    model = Surrogate(make("bert", tmp_path).id, dtype=dtype).model
    ours = dtype == "bfloat16" and attention._library() is not None
    assert model.config._attn_implementation == (attention.IMPLEMENTATION if ours else "sdpa")


@pytest.fixture
def library_again():
    """`_library` decides anew, and so it does after."""
    attention._library.cache_clear()
    yield attention._library
    attention._library.cache_clear()


def test_other_cpus_keep_pytorchs(library_again, monkeypatch):
    monkeypatch.setattr(attention, "cpu_flags", lambda: frozenset({"avx512f"}))
    monkeypatch.setattr(attention, "compiled", None)
    assert library_again() is None


@needs_avx512
@pytest.mark.parametrize("faster", [True, False])
def test_with_amx_the_faster_one_is_taken(faster, library_again, monkeypatch):
    timed = []

    def measured(library, *both, version):
        assert version == torch.__version__
        timed.extend(both)
        return faster

    monkeypatch.setattr(attention, "cpu_flags", lambda: frozenset({"avx512_bf16", "amx_bf16"}))
    monkeypatch.setattr(attention, "is_faster", measured)
    assert (library_again() is not None) == faster
    ours, theirs = (do().float() for do in timed)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 0.02


def test_without_a_compiler_everything_stays_with_pytorch(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "_library", lambda: None)
    model = Surrogate(make("bert", tmp_path).id, dtype="bfloat16").model
    assert model.config._attn_implementation == "sdpa"
    sides = drawn(1, 2, 2, 4, 4, 16)
    right = by_definition(*sides, torch.ones(4, 4, dtype=torch.bool).tril())
    assert (attention.attention(Layer(), *sides, None)[0].double() - right).abs().max() < 2**-6
