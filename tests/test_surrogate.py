"""Frozen features on real MiniLM weights."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, ByT5Tokenizer, XLNetConfig

from fute import Input
from fute.core.errors import ModelError
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features

TEXTS = [
    Input("A short one."),
    Input("It rained all day, and the match was called off at half past three."),
    Input("Hm."),
]


def test_features_are_the_mean_of_the_last_states_scaled_to_length_one():
    surrogate = Surrogate(dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(surrogate.weights.folder)
    model = AutoModel.from_pretrained(surrogate.weights.folder).eval()
    for item, row in zip(TEXTS, Features(surrogate)(TEXTS), strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(item.text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert row == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_bfloat16_keeps_the_direction():
    exact, fast = (Features(Surrogate(dtype=dtype))(TEXTS) for dtype in ("float32", "bfloat16"))
    assert ((exact * fast).sum(1) / np.linalg.norm(fast, axis=1) > 0.999).all()


def test_a_pair_is_read_as_a_pair():
    surrogate = Surrogate(dtype="float32")
    made = Features(surrogate)([Input("It rains.", "The street is wet.")])
    tokens = surrogate.tokenize([Input("It rains.", "The street is wet.")])
    assert tokens["input_ids"][0].tolist().count(surrogate.tokenizer.sep_token_id) == 2
    assert not np.allclose(made, Features(surrogate)([Input("It rains. The street is wet.")]), atol=1e-3)


@pytest.mark.parametrize("bytewise", [False, True], ids=["tokenizer.json", "python"])
def test_texts_and_pairs_are_tokenised_together_as_each_is_alone(bytewise):
    surrogate = Surrogate(dtype="float32")
    if bytewise:
        surrogate.tokenizer = ByT5Tokenizer()
    pair = Input("It rains.", "The street is wet.")
    inputs = [pair, Input("It rains."), Input("Nobody came."), Input("It rains.", ""), pair]
    tokens = surrogate.tokenize(inputs, 20)
    alone = [surrogate.tokenize([item], 20)["input_ids"][0].tolist() for item in inputs]
    together = zip(tokens["input_ids"].tolist(), tokens["attention_mask"].sum(1).tolist(), strict=True)
    assert [ids[:size] for ids, size in together] == alone
    assert surrogate.sizes(inputs, 20) == [len(ids) for ids in alone]
    assert alone[1] != alone[3], "an empty second text is one"


def test_tokens_are_padded_to_the_length_that_is_asked_for():
    surrogate = Surrogate(dtype="float32")
    texts = [Input("It rains."), Input("The street is wet again.")]
    assert surrogate.sizes(texts) == [5, 8]
    plain, longer = (surrogate.tokenize(texts, 12, padded=how) for how in (None, lambda n: n + 3))
    assert plain["input_ids"].shape == (2, 8)
    assert longer["input_ids"].shape == (2, 11)
    assert longer["attention_mask"].sum(1).tolist() == [5, 8]
    cut = surrogate.tokenize(texts, 6, padded=lambda n: n + 3)
    assert cut["input_ids"].shape == (2, 6), "never more than the most"


def test_a_text_of_100_000_words_is_cut_not_refused():
    made = Features(Surrogate(dtype="float32"))([Input("word " * 100_000), Input("word " * 90_000)])
    assert made[0] == pytest.approx(made[1])


def test_features_are_kept_on_disk_and_not_computed_twice(tmp_path):
    surrogate = Surrogate(dtype="float32")
    first = Features(surrogate, tmp_path / "features.sqlite")(TEXTS)
    seen = []
    again = Features(Surrogate(dtype="float32"), tmp_path / "features.sqlite")(
        TEXTS, lambda what, done, total: seen.append(what)
    )
    assert np.array_equal(first, again)
    assert seen == []


def test_what_is_stored_is_found_without_a_model(tmp_path, monkeypatch):
    path = tmp_path / "features.sqlite"
    first = Features(Surrogate(dtype="float32"), path)(TEXTS)
    monkeypatch.setattr(Surrogate, "tokenizer", None)
    monkeypatch.setattr(Surrogate, "model", None)
    assert np.array_equal(Features(Surrogate(dtype="float32"), path)(TEXTS), first)


def test_more_texts_than_tokens_are_kept_of_are_tokenised_once(monkeypatch):
    surrogate, calls = Surrogate(dtype="float32"), []
    monkeypatch.setattr("fute.surrogates.base._MOST_KEPT", 2)
    own = surrogate._tokenized
    monkeypatch.setattr(surrogate, "_tokenized", lambda *given: calls.append(given) or own(*given))
    texts = [Input(f"{number} texts") for number in range(5)]
    for batch in surrogate.by_tokens(texts):
        surrogate.tokenize(batch)
    assert len(calls) == 1
    surrogate.tokenize([Input("another")])
    assert len(calls) == 2
    assert len(surrogate._kept) == 1, "the oldest are forgotten"


def test_an_architecture_that_it_does_not_know_is_refused(tmp_path):
    config = XLNetConfig(d_model=8, n_layer=1, n_head=2, d_inner=8, vocab_size=20)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a xlnet can't be a surrogate"):
        Surrogate(str(tmp_path)).load("float32")


def test_texts_and_pairs_may_be_read_together():
    pairs = [Input("It rains.", "The street is wet."), Input("Hm.", "So it goes.")]
    mixed = Features(Surrogate(dtype="float32"))([TEXTS[0], pairs[0], TEXTS[1], pairs[1]])
    apart = [Features(Surrogate(dtype="float32"))(some) for some in (TEXTS[:2], pairs)]
    assert mixed[[0, 2]] == pytest.approx(apart[0], abs=1e-5)
    assert mixed[[1, 3]] == pytest.approx(apart[1], abs=1e-5)
