"""Tuning the last layers alone: what those below make is kept, and nothing else changes."""

import contextlib

import numpy as np
import pytest
import torch
import transformers

from fute.core.errors import ConfigError, ModelError
from fute.core.types import Examples, Input
from fute.methods.tupate import TuPaTE
from fute.surrogates.adapters import BitFit, LoRA
from fute.surrogates.features import Features
from fute.surrogates.frozen import Frozen
from fute.surrogates.prefix_attention import Prefix
from fute.surrogates.stack import stacks, top
from fute.surrogates.training import Training

from .helpers import refused
from .reviews import REVIEWS
from .surrogates import CONFIGS, make

INPUTS = [Input(text + " And so on, and on." * (i % 3)) for i, (text, _) in enumerate(REVIEWS)]
FOUND = np.eye(2, dtype=np.float32)[[label for _, label in REVIEWS]]
EXAMPLES = Examples(INPUTS, FOUND, ("bad", "good"))
OTHERS = Examples(INPUTS, FOUND[::-1].copy(), ("bad", "good"))
METHODS = {
    "prefix": {"num_virtual_tokens": 3},
    "lora": {"adapter": "lora", "rank": 2, "pool": "none"},
}


def method(adapter, **options):
    return TuPaTE(steps=12, batch_size=5, top_layers=1, **METHODS[adapter], **options)


@pytest.fixture(scope="module", params=CONFIGS)
def surrogate(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param))


def run_whole(monkeypatch):
    """From now on, every step runs every layer."""
    monkeypatch.setattr(Frozen, "resumed", lambda *_: contextlib.nullcontext())


@pytest.mark.parametrize("adapter", METHODS)
def test_the_vector_is_that_of_running_every_layer_in_every_step(surrogate, adapter, monkeypatch):
    found = method(adapter).embed(EXAMPLES, Features(surrogate), 0).left.ravel()
    run_whole(monkeypatch)
    naive = method(adapter).embed(EXAMPLES, Features(surrogate), 0).left.ravel()
    assert found.shape == naive.shape
    assert naive.any()
    assert found @ naive / np.linalg.norm(found) / np.linalg.norm(naive) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(found - naive) < 2e-3 * np.linalg.norm(naive)


def test_what_is_read_from_kept_states_is_what_is_read_from_the_text(surrogate):
    frozen = Frozen.load(surrogate, 64, "class")
    made = Training(frozen, EXAMPLES, TuPaTE(), seed=0)
    prefix = Prefix(made.model, 3, seed=0, top_layers=1)
    assert prefix.below == 1
    for rows in (np.arange(24), np.array([3, 1, 20])):  # kept in other company than they are read in
        with torch.no_grad():
            kept = made.outputs(prefix, made.head_start, rows)
            whole = made.outputs(prefix, made.head_start, rows, exact=True)
        assert kept.numpy() == pytest.approx(whole.numpy(), abs=2e-4)  # logits are up to 10
        assert whole.std() > 1e-3


@pytest.mark.parametrize("adapter", METHODS)
def test_the_layers_below_read_each_text_once_for_all_steps_and_models(surrogate, adapter):
    features = Features(surrogate)
    model = features.frozen(128).model
    layer, rows = stacks(model)[0][0], []
    inner = layer.register_forward_hook(
        lambda *_: None if "forward" in layer.__dict__ else rows.append(1), always_call=True
    )
    method(adapter).embed(EXAMPLES, features, 0)
    first = len(rows)
    method(adapter).embed(OTHERS, features, 0)
    inner.remove()
    once = len(rows) - first
    assert first > once
    assert once <= 2, "the label names are read, and a prefix finds its layers, for each model"
    assert "forward" not in layer.__dict__


def test_only_the_last_layers_are_tuned(surrogate):
    model = surrogate.load("float32")
    inside, below = top(model, 1)
    assert below == 1
    assert len(Prefix(model, 2, 0, top_layers=1).keys) * 2 == len(Prefix(model, 2, 0).keys)
    every, last = LoRA(model, 2, 0), LoRA(model, 2, 0, top_layers=1)
    assert len(last.tensors) * 2 == len(every.tensors)
    assert {module for module, _ in last._hooks} < inside
    for name in last.tensors:
        assert last.tensors[name].shape == every.tensors[name].shape


def test_biases_of_the_last_layers(tmp_path):
    model = make("bert", tmp_path).load("float32")
    assert {name.split(".bias")[0].rpartition(".layer.1.")[0] for name in BitFit(model, 1).tensors} == {
        "encoder"
    }


def test_of_an_encoder_decoder_a_part_can_be_chosen_too(tmp_path):
    model = make("t5", tmp_path).load("float32")
    counts = {where: len(Prefix(model, 2, 0, where, 1).keys) for where in ("all", "encoder", "decoder")}
    assert counts == {"all": 3, "encoder": 1, "decoder": 2}, "a decoder's layer attends twice"


def test_layers_that_are_not_there_are_refused(tmp_path):
    surrogate = make("bert", tmp_path)
    with refused(ConfigError, "no 3 layers", "at most 2"):
        top(surrogate.load("float32"), 3)
    with refused(ConfigError, "`top_layers` must be at least 0"):
        TuPaTE(top_layers=-1)
    albert = transformers.AlbertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, vocab_size=50
    )
    with refused(ModelError, "layers can't be run apart (a albert)"):
        top(transformers.AlbertModel(albert), 1)
