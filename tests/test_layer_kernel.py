"""How alike a model's states are over all layers, against transformers and a loop over single texts."""

import numpy as np
import pytest
import torch
import transformers

from fute import Input
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features
from fute.surrogates.kernel import layer_kernel
from tests.surrogates import make

INPUTS = [
    Input("It rained all day."),
    Input("Hm.", "So it goes, and so it went on until the end of it."),
    Input("Nobody came to see the match.", "Nobody came."),
]


def states_of(folder, token, inputs=INPUTS):
    """Of each input one state a layer, (n, L, d), read alone, as the tokenizer gives it to the model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    rows = []
    for item in inputs:
        given = tokenizer(item.text, item.text_pair, return_tensors="pt")
        kept = (
            "input_ids",
            "attention_mask",
            *(["token_type_ids"] if model.config.model_type == "bert" else []),
        )
        with torch.inference_mode():
            every = reader(**{k: given[k] for k in kept}, output_hidden_states=True).hidden_states
        rows.append(torch.stack([layer[0, token] for layer in every[1:]]).numpy())
    return np.array(rows)


@pytest.mark.parametrize(("name", "token"), [("bert", 0), ("modernbert", 0), ("llama", -1), ("t5", -1)])
def test_it_is_the_mean_over_layers_of_the_cosines_of_the_states_at_the_token_that_heads_read(
    name, token, tmp_path
):
    make(name, tmp_path)
    states = states_of(tmp_path, token)
    expected = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for a, b in zip(states[i], states[j], strict=True):
                expected[i, j] += a @ b / np.linalg.norm(a) / np.linalg.norm(b) / len(states[i])
    made = layer_kernel(Surrogate(str(tmp_path), dtype="float32", segments=True), INPUTS)
    assert made == pytest.approx(expected, abs=1e-5)


def test_layers_side_by_side_are_scaled_alike(tmp_path):
    make("bert", tmp_path)
    made = Features(Surrogate(str(tmp_path), dtype="float32", segments=True), layer="each", pooling="first")(
        INPUTS
    )
    states = states_of(tmp_path, 0)
    unit = states / np.linalg.norm(states, axis=-1, keepdims=True)
    assert made == pytest.approx(unit.reshape(3, -1) / 2**0.5, abs=1e-5)
    assert np.linalg.norm(made, axis=1) == pytest.approx(1)


def test_a_kernel_is_kept_for_the_inputs_in_their_order(tmp_path, monkeypatch):
    make("bert", tmp_path / "bert")
    path = tmp_path / "kept.sqlite"
    first = layer_kernel(Surrogate(str(tmp_path / "bert"), dtype="float32"), INPUTS, path)
    turned = layer_kernel(Surrogate(str(tmp_path / "bert"), dtype="float32"), INPUTS[::-1], path)
    assert turned == pytest.approx(first[::-1, ::-1], abs=1e-6)
    monkeypatch.setattr(Surrogate, "model", None)
    assert np.array_equal(
        layer_kernel(Surrogate(str(tmp_path / "bert"), dtype="float32"), INPUTS, path), first
    )


def test_halves_are_told_apart_only_where_the_model_was_taught_to(tmp_path):
    """MiniLM is a BERT: its features are of single segments unless they are asked for."""
    pair = [Input("It rains.", "The street is wet."), Input("Hm.")]
    plain, told = Surrogate(dtype="float32"), Surrogate(dtype="float32", segments=True)
    assert "segments" not in plain.tokenize(pair)
    tokens = told.tokenize(pair)
    assert tokens["segments"].tolist() == [[0] * 5 + [1] * 6, [0] * 11]
    assert tokens["segments"].tolist() == told.tokenize(pair, offsets=True)["segments"].tolist()
    assert "segments" not in plain.tokenize(pair, offsets=True)
    assert told.sizes(pair) == plain.sizes(pair) == [11, 4]
    mine, theirs = Features(plain)(pair), Features(told)(pair)
    assert mine[1] == pytest.approx(theirs[1], abs=1e-6)
    assert abs(mine[0] - theirs[0]).max() > 5e-3
    model = transformers.AutoModel.from_pretrained(told.weights.folder).eval()
    given = transformers.AutoTokenizer.from_pretrained(told.weights.folder)(
        pair[0].text, pair[0].text_pair, return_tensors="pt"
    )
    with torch.inference_mode():
        mean = model(**given).last_hidden_state[0].mean(0)
    assert theirs[0] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
    make("llama", tmp_path)
    assert "segments" not in Surrogate(str(tmp_path), segments=True).tokenize(pair)
