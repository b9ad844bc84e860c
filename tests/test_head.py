"""Probabilities of words by head.cpp against float64, and where PyTorch makes them."""

import pytest
import torch

from fute.weights import attention, head
from fute.weights.head import Head, log_sum_exp

needs_avx512 = pytest.mark.skipif(attention._library() is None, reason="needs AVX512-BF16, no AMX, and g++")


def drawn(n, vocabulary, size, dtype=torch.bfloat16, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(n, size, generator=draw)
    weight = scale * torch.randn(vocabulary, size, generator=draw)
    return states.to(dtype), weight.to(dtype)


def layer(weight, bias=None):
    made = torch.nn.Linear(weight.shape[1], len(weight), bias=bias is not None, dtype=weight.dtype)
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias, requires_grad=False)
    return made


# One state and several blocks of them; words that aren't a multiple of what goes at a time.
SIZES = [(1, 1, 2), (3, 7, 16), (17, 49, 6), (65, 100, 32), (300, 1003, 24)]


@needs_avx512
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_log_sum_exp_is_that_of_float64(sizes, scale):
    states, weight = drawn(*sizes, scale=scale)
    right = (states.double() @ weight.double().T).logsumexp(-1)
    assert (log_sum_exp(states, weight) - right).abs().max() < 1e-4 + 1e-6 * right.abs().max()


@needs_avx512
def test_many_words_of_little_probability_are_not_lost():
    states, weight = torch.ones(1, 2).bfloat16(), torch.zeros(200_001, 2).bfloat16()
    weight[0] = 6.0  # e^12 = 162,755 beside 200,000 × e^0
    right = torch.tensor([12.0, *[0.0] * 200_000], dtype=torch.float64).logsumexp(0)
    assert log_sum_exp(states, weight).item() == pytest.approx(right.item(), abs=1e-4)


@needs_avx512
def test_any_number_of_threads_and_states_beside_gives_the_same():
    states, weight = drawn(300, 1003, 24)
    made, threads = [], torch.get_num_threads()
    for some in (1, 2, 3):
        torch.set_num_threads(some)
        made.append(log_sum_exp(states, weight))
    torch.set_num_threads(threads)
    made.append(torch.cat([log_sum_exp(states[i : i + 70], weight) for i in range(0, 300, 70)]))
    assert all(torch.equal(one, made[0]) for one in made)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("library", [True, False])
def test_probabilities_are_softmax_of_the_layer(dtype, bias, library, monkeypatch):
    if not library:
        monkeypatch.setattr(head, "_takes", lambda weight: False)
    monkeypatch.setattr(head, "_ROWS", 4)
    states, weight = drawn(9, 50, 16, dtype)
    own = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(dtype) if bias else None
    made = Head(layer(weight, own))
    logits = states.double() @ weight.double().T + (0 if own is None else own.double())
    rows, tokens = torch.tensor([8, 0, 3, 3, 5, 8, 1]), torch.tensor([49, 0, 7, 8, 7, 2, 31])
    assert (made.logits(states) - logits).abs().max() < 1e-5
    got = made.log_probabilities(states, rows, tokens)
    assert got.dtype == torch.float32
    assert (got - logits.log_softmax(-1)[rows, tokens]).abs().max() < 2e-4


@needs_avx512
def test_only_halves_without_a_bias_are_taken():
    _, weight = drawn(1, 50, 16)
    assert Head(layer(weight))._fused
    assert Head(layer(weight))._weight.dtype == torch.bfloat16, "no copy"
    assert not Head(layer(weight, weight[:, 0].contiguous()))._fused
    assert not Head(layer(weight.float()))._fused
    assert not Head(layer(weight[:, :15].contiguous()))._fused
