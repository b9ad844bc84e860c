"""Prefix tuning on real MiniLM weights: exactness of the prefix, gradients, and what the vector keeps."""

import collections

import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    LlamaConfig,
    LlamaModel,
    MPNetConfig,
    MPNetModel,
    set_seed,
)

from fute.api import Embedder, Work
from fute.core.errors import ConfigError, ModelError
from fute.core.progress import silent
from fute.core.types import Examples, Input
from fute.methods.base import bootstrap_counts
from fute.methods.tupate import TuPaTE
from fute.space import similarity
from fute.surrogates.prefix_attention import Prefix
from fute.surrogates.training import Training

from .helpers import refused
from .reviews import REVIEWS

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
}


def tiny(family: str):
    set_seed(0)
    if family == "bert":
        return BertModel(BertConfig(**SMALL)).eval()
    if family == "mpnet":
        return MPNetModel(MPNetConfig(**SMALL)).eval()
    return LlamaModel(LlamaConfig(**SMALL, num_key_value_heads=2)).eval()


def batch():
    ids = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.mark.parametrize("family", ["bert", "llama", "mpnet"])
def test_a_prefix_of_no_tokens_changes_nothing(family):
    model = tiny(family)
    before = model(**batch()).last_hidden_state
    with Prefix(model, 0, seed=0).attached():
        after = model(**batch()).last_hidden_state
    assert torch.allclose(before[0], after[0], atol=1e-5)
    assert torch.allclose(before[1, :3], after[1, :3], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama", "mpnet"])
def test_attention_with_a_prefix_equals_attention_written_out(family):
    model = tiny(family)
    if family == "mpnet":  # far from 0, so that it counts where it stands
        model.encoder.relative_attention_bias.weight.data.normal_()
    prefix = Prefix(model, 3, seed=1)
    captured = {}
    layer = prefix._layers[0][0]

    def remember(module, inputs, kwargs, output):
        captured["states"] = kwargs.get("hidden_states", inputs[0] if inputs else None)
        captured["output"] = output[0]

    hook = layer.register_forward_hook(remember, with_kwargs=True)
    with prefix.attached(), torch.no_grad():
        model(input_ids=batch()["input_ids"][:1])
    hook.remove()
    if family == "llama":  # rotary positions and the output projection make it long: BERT shows the formula
        assert captured["output"].shape[1] == 5
        return
    states, bias, out = captured["states"][0], torch.zeros(4, 5, 5), torch.nn.Identity()
    names = ("query", "key", "value")
    if family == "mpnet":
        names, out = ("q", "k", "v"), layer.o
        bias = model.encoder.compute_position_bias(captured["states"])[0]
    heads = []
    for head in range(4):
        part = slice(head * 8, head * 8 + 8)
        query, key, value = (
            (states @ linear.weight.T + linear.bias)[:, part]
            for linear in (getattr(layer, name) for name in names)
        )
        key = torch.cat([prefix.keys[0, head], key])
        value = torch.cat([prefix.values[0, head], value])
        distances = torch.nn.functional.pad(bias[head], (3, 0))  # virtual tokens stand at none
        heads.append(torch.softmax(query @ key.T / 8**0.5 + distances, dim=-1) @ value)
    assert torch.allclose(captured["output"][0], out(torch.cat(heads, dim=-1)), atol=1e-5)


def test_layers_that_share_one_module_have_a_prefix_each():
    """As if each had a copy of it."""
    grads = []
    for groups in (1, 3):
        config = AlbertConfig(**SMALL | {"num_hidden_layers": 3}, num_hidden_groups=groups)
        model = AlbertModel(config).eval().double()
        for p in model.requires_grad_(False).parameters():  # each group's alike
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).double() / 3
        prefix = Prefix(model, 2, seed=0).double()
        with prefix.attached():
            first, second = (model(**batch()).last_hidden_state for _ in range(2))
        assert torch.equal(first, second)
        second.sin().sum().backward()
        grads.append(torch.stack([prefix.keys.grad, prefix.values.grad]))
    assert (grads[1].abs().amax((2, 3, 4)) > 1e-6).all()
    assert torch.allclose(*grads, atol=1e-9)


def test_attention_that_cannot_be_reached_is_refused():
    model = DebertaV2Model(DebertaV2Config(**SMALL)).eval()
    with pytest.raises(ModelError, match=r"deberta-v2's attention(.|\n)*bitfit"):
        Prefix(model, 3, seed=0)


def test_a_causal_model_still_never_looks_ahead():
    model = tiny("llama")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    changed = torch.tensor([[5, 6, 7, 8, 20]])
    with Prefix(model, 3, seed=0).attached(), torch.no_grad():
        one, other = model(input_ids=ids).last_hidden_state, model(input_ids=changed).last_hidden_state
    assert torch.allclose(one[:, :4], other[:, :4], atol=1e-6)
    assert not torch.allclose(one[:, 4], other[:, 4], atol=1e-3)


# Llama's norm computes in float32 whatever the weights are, so its differences need a long step.
@pytest.mark.parametrize(("family", "step", "tolerance"), [("bert", 1e-5, 1e-4), ("llama", 2e-2, 5e-2)])
def test_every_coordinate_has_a_gradient_and_it_is_the_finite_difference(family, step, tolerance):
    model = tiny(family).double().requires_grad_(False)
    prefix = Prefix(model, 2, seed=3).double()

    def loss():
        with prefix.attached():
            states = model(**batch()).last_hidden_state
        return (states[0].sin().sum() + states[1, :3].cos().sum()) / 10

    loss().backward()
    for parameter in (prefix.keys, prefix.values):
        assert (parameter.grad != 0).all()
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(0, len(flat), 37):
            old = flat[i].item()
            flat[i] = old + step
            up = loss().item()
            flat[i] = old - step
            down = loss().item()
            flat[i] = old
            assert gradient[i].item() == pytest.approx(
                (up - down) / (2 * step), rel=tolerance, abs=tolerance * 1e-3
            )


def embed(features, probabilities=None, labels=("negative", "positive"), seed=0, **options):
    inputs = [Input(text) for text, _ in REVIEWS]
    hard = np.eye(2, dtype=np.float32)[[label for _, label in REVIEWS]]
    data = Examples(inputs, hard if probabilities is None else probabilities, labels)
    made = TuPaTE(**{"steps": 20, "batch_size": 8, "num_virtual_tokens": 4, **options}).embed(
        data, features, seed
    )
    return made, hard


def cosine(a, b):
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_equal_seeds_give_equal_vectors_bit_for_bit(features):
    assert np.array_equal(embed(features)[0].left, embed(features)[0].left)


def test_the_order_of_the_labels_does_not_matter(features):
    one, hard = embed(features)
    turned, _ = embed(features, hard[:, ::-1].copy(), ("positive", "negative"))
    assert cosine(one.left, turned.left) > 0.999


def test_the_opposite_task_is_further_away_than_the_same_one_from_another_half(features):
    one, hard = embed(features, steps=40)
    softened, _ = embed(features, 0.8 * hard + 0.1, steps=40)
    opposite, _ = embed(features, hard[:, ::-1].copy(), steps=40)
    assert cosine(one.left, softened.left) > cosine(one.left, opposite.left)


def test_the_vector_has_the_size_of_its_pooling(features):
    assert embed(features, pool="layers", steps=1)[0].left.shape == (2 * 4 * 384, 1)
    assert embed(features, pool="tokens", steps=1)[0].left.shape == (2 * 6 * 384, 1)


def test_training_learns_the_training_task(features):
    made, _ = embed(features, steps=40)
    assert made.notes["held_out_loss"] < np.log(2)


def test_replicates_are_refits(features):
    made, _ = embed(features, replicates=2)
    assert made.replicates.shape == (2, *made.left.shape)
    assert 0.2 < cosine(made.replicates[0].astype(float), made.left) < 0.9999


def test_a_refit_looks_at_no_row_that_it_trains_on(features, monkeypatch):
    inputs = [Input(text) for text, _ in REVIEWS]
    examples = Examples(inputs, np.eye(2, dtype=np.float32)[[x for _, x in REVIEWS]], ("bad", "good"))
    method = TuPaTE(steps=12, batch_size=8, num_virtual_tokens=1)
    training = Training(features.frozen(128), examples, method, seed=0)
    own, read = training.losses, {True: [], False: []}

    def losses(adapter, head, rows):
        read[torch.is_grad_enabled()].extend(rows.tolist())
        return own(adapter, head, rows)

    monkeypatch.setattr(training, "losses", losses)
    (counts,) = bootstrap_counts(len(inputs), 1, seed=0)
    training.fit(Prefix(training.model, 1, seed=0), counts, silent)
    assert set(read[True]).isdisjoint(read[False])
    assert set(read[True]) | set(read[False]) == set(np.flatnonzero(counts))
    looked_at = collections.Counter(read[False])
    assert all(looked_at[row] == 2 * counts[row] for row in looked_at), "at steps 10 and 12"


def test_divergence_is_an_error_that_names_the_step(features):
    with pytest.raises(ModelError, match=r"loss is .* at step \d+(.|\n)*lower `learning_rate`"):
        embed(features, learning_rate=1e30)


@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize(("rate", "steps"), [(1e30, 1), (1e6, 12), (100.0, 12)])
def test_divergence_is_an_error_where_the_loss_is_still_a_number_and_where_no_step_follows(
    features, rate, steps, stop_early
):
    with refused(ModelError, "the loss is", "at step 1", "lower `learning_rate`"):
        embed(features, learning_rate=rate, steps=steps, stop_early=stop_early)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ConfigError, match="one of layers, tokens"):
        TuPaTE(pool="heads")


def test_the_end_is_the_start_and_the_change():
    """As published; unless the start is left out, vectors from different noise are far apart."""
    examples = Examples(
        [Input(text) for text, _ in REVIEWS[:12]],
        np.eye(2, dtype=np.float32)[[label for _, label in REVIEWS[:12]]],
        ("negative", "positive"),
    )
    options = {"steps": 2, "batch_size": 8, "num_virtual_tokens": 2, "pool": "none"}

    def embedders(**more):
        return Embedder.create("tupate", {**options, **more}, dtype="float32")

    change, end = embedders(), embedders(vector="end")
    start = Prefix(change.surrogate.model, 2, seed=0)
    both = torch.cat([start.tensors["keys"].ravel(), start.tensors["values"].ravel()]).detach().numpy()
    made = [one.embed("e", "dataset", examples, {}) for one in (change, end)]
    np.testing.assert_allclose(made[1].vector, both + made[0].vector, atol=1e-6)
    assert change.spec != end.spec

    work = Work("e", "dataset", examples, {})
    assert similarity.cosine(end.embed_from(0, work), made[1]) == pytest.approx(1)
    assert similarity.cosine(end.embed_from(1, work), made[1]) < 0.9
