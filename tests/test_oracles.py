"""Other libraries' per-example gradients, and vectors that stay: across batches, precisions and runs."""

import numpy as np
import pytest
import torch
import transformers

from fute.core.types import Examples, Input
from fute.methods.task_emb import TaskEmb
from fute.methods.tupate import TuPaTE
from fute.surrogates import base, training
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features
from fute.surrogates.fisher import Fisher

from .reviews import REVIEWS
from .surrogates import make

SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
IDS = torch.tensor([[5, 6, 7, 8, 5, 9], [11, 12, 13, 0, 0, 0], [5, 5, 5, 5, 0, 0], [3, 4, 9, 30, 31, 6]])
TARGETS = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0], [0.5, 0.5]])


@pytest.fixture
def bert():
    transformers.set_seed(0)
    config = transformers.BertConfig(**SIZE, intermediate_size=40, attn_implementation="eager")
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


def losses(model, ids, targets):
    """One for each row. Positions and types are given row by row, as the other libraries need them."""
    mask = (ids > 0).long()
    places = torch.arange(ids.shape[1]).expand(len(ids), -1)
    made = model(
        input_ids=ids, attention_mask=mask, position_ids=places, token_type_ids=torch.zeros_like(ids)
    ).last_hidden_state
    pooled = (made * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    head = torch.linspace(-1, 1, 48).reshape(2, 24).sin()
    return -(targets * (pooled @ head.T).log_softmax(-1)).sum(-1)


def ours(model):
    fisher = Fisher(model)
    fisher.add(len(IDS), lambda: losses(model, IDS, TARGETS))
    return {name: square[0] for name, square in fisher.squares.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, square in expected.items():
        scale = float(square.max())
        assert torch.allclose(found[name], square, rtol=1e-3, atol=1e-5 * scale + 1e-12), name
    assert sum(float(square.sum()) > 0 for square in expected.values()) > 0.8 * len(expected)


def test_the_fisher_is_that_of_torchs_per_example_gradients(bert):
    weights = {name: p.detach() for name, p in bert.named_parameters()}

    def every(parameters):
        return losses(lambda **given: torch.func.functional_call(bert, parameters, (), given), IDS, TARGETS)

    each = torch.func.jacrev(every)(weights)  # vmap over examples fails in transformers' masks
    assert_equal(ours(bert), {name: gradient.square().sum(0) for name, gradient in each.items()})


def test_the_fisher_is_that_of_opacus(bert):
    from opacus.grad_sample import GradSampleModule

    for module in bert.modules():  # it only watches models in training, where dropout would draw
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    wrapped = GradSampleModule(bert.train(), loss_reduction="sum")
    losses(wrapped, IDS, TARGETS).sum().backward()
    expected = {name: p.grad_sample.square().sum(0) for name, p in bert.named_parameters()}
    wrapped.remove_hooks()
    bert.eval()
    for p in bert.parameters():
        p.grad = None
    assert_equal(ours(bert), expected)


def examples():
    hard = np.eye(2, dtype=np.float32)[[label for _, label in REVIEWS]]
    return Examples([Input(text) for text, _ in REVIEWS], hard, ("negative", "positive"))


def vector(method, features):
    return method.embed(examples(), features, 0).left.astype(np.float64).ravel()


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


METHODS = [TuPaTE(steps=15, batch_size=8, num_virtual_tokens=4), TaskEmb(steps=15, batch_size=8)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_equal_inputs_give_equal_vectors_bit_for_bit(method, features):
    fresh = Features(Surrogate(dtype="float32"))
    assert np.array_equal(vector(method, features), vector(method, fresh))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bfloat16_keeps_the_vector(method, features):
    assert cosine(vector(method, Features(Surrogate(dtype="bfloat16"))), vector(method, features)) > 0.999


@pytest.mark.parametrize("adapter", ["bitfit", "lora"])
def test_biases_and_low_rank_steps_are_learnt_in_float32_whatever_the_surrogate_is(adapter, features):
    """AdamW's first steps are as long where a gradient is little more than rounding."""
    method = TuPaTE(adapter=adapter, steps=10, batch_size=8)
    assert np.array_equal(vector(method, Features(Surrogate(dtype="bfloat16"))), vector(method, features))


def test_a_whole_model_learns_more_slowly_than_a_head(features):
    """At a head's rate all of MiniLM forgets what it knew, and ends at chance on 300 texts."""
    whole = TaskEmb(adapt="full", steps=30, stop_early=False)
    assert (TaskEmb().learning_rate, whole.learning_rate) == (1e-3, 5e-5)
    assert whole.embed(examples(), features, 0).notes["loss"] < 0.45


def test_bfloat16_keeps_the_fisher_of_a_whole_model_that_has_learnt(features):
    method = TaskEmb(adapt="full", steps=10, batch_size=8)
    assert cosine(vector(method, Features(Surrogate(dtype="bfloat16"))), vector(method, features)) > 0.999


def test_the_fisher_does_not_depend_on_how_many_examples_go_at_once(features, monkeypatch):
    usual = vector(METHODS[1], features)
    monkeypatch.setattr(training, "_PASS", 1)  # one by one
    assert cosine(vector(METHODS[1], features), usual) > 0.999999


def test_kept_states_do_not_depend_on_how_many_were_read_at_once(tmp_path, monkeypatch):
    surrogate = make("t5", tmp_path)
    method = TuPaTE(where="decoder", steps=15, batch_size=8, num_virtual_tokens=4)
    usual = vector(method, Features(surrogate))
    monkeypatch.setattr(base, "_BATCH_TOKENS", {"float32": 1})
    assert cosine(vector(method, Features(surrogate)), usual) > 0.999
