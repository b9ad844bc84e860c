"""T5's first token behind a prefix against transformers' own layers and finite differences."""

import pytest
import torch
import transformers

from fute.core.progress import silent
from fute.methods.tupate import TuPaTE
from fute.surrogates.base import represent, states
from fute.surrogates.features import Features
from fute.surrogates.first_token import first_token
from fute.surrogates.prefix_attention import Prefix
from tests.surrogates import CONFIGS, make
from tests.test_surrogate_families import reviews

KINDS = {
    "t5": (transformers.T5Config, {}),
    "t5 with heads of another size": (transformers.T5Config, {"d_kv": 5}),
    "flan-t5": (transformers.T5Config, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": (transformers.MT5Config, {"feed_forward_proj": "gated-gelu"}),
}
IDS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 0, 0], [21, 0, 0, 0, 0]])
TOKENS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}


def tiny(kind, layers=3, dtype=torch.float64):
    config, more = KINDS[kind]
    transformers.set_seed(0)
    own = CONFIGS["t5"].to_diff_dict() | {"num_layers": layers, "num_decoder_layers": layers} | more
    own.pop("model_type", None)
    model = transformers.AutoModel.from_config(config(**own)).eval().requires_grad_(False)
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model.to(dtype)


def drawn(model, where="decoder", top_layers=0):
    """A prefix that is seen: its start is small."""
    prefix = Prefix(model, 4, 0, where, top_layers).to(model.dtype)
    with torch.no_grad():
        for side in prefix.tensors.values():
            side *= 40
    return prefix


def read(model, prefix, short_cut=True):
    """What the head reads, and the gradients of the prefix and of the encoder's states."""
    prefix.zero_grad()
    kept, prefix._short_cuts = prefix._short_cuts, prefix._short_cuts if short_cut else []
    with prefix.attached():
        encoded = states(model, TOKENS).detach().requires_grad_()
        made = represent(model, TOKENS, encoded)
    prefix._short_cuts = kept
    weigh = torch.randn(made.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (made.double() * weigh).sum().backward()
    return made.detach(), *(side.grad.clone() for side in prefix.tensors.values()), encoded.grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("where", "top_layers"), [("decoder", 0), ("all", 0), ("decoder", 2), ("all", 1)])
def test_it_is_what_the_layers_of_transformers_make(kind, where, top_layers):
    model = tiny(kind)
    prefix = drawn(model, where, top_layers)
    for ours, theirs in zip(read(model, prefix), read(model, prefix, short_cut=False), strict=True):
        assert theirs.abs().max() > 1e-3
        assert torch.allclose(ours, theirs, atol=2e-6 * theirs.abs().max().item())  # its softmax is float32


def given(model, layers):
    generator = torch.Generator().manual_seed(0)
    config = model.config
    prefix = torch.randn(2, 2 * layers, config.num_heads, 2, config.d_kv, generator=generator).double()
    encoded = torch.randn(3, 5, config.d_model, generator=generator).double()
    return encoded.requires_grad_(), *(side.clone().requires_grad_() for side in prefix)


@pytest.mark.parametrize("kind", ["t5", "flan-t5"])
@pytest.mark.parametrize("layers", [1, 2])
def test_its_gradients_are_finite_differences(kind, layers):
    model = tiny(kind, layers=2)
    begin = torch.zeros(3, 1, dtype=torch.long)

    def made(encoded, keys, values):
        return first_token(model.get_decoder(), begin, encoded, TOKENS["attention_mask"], keys, values)

    assert torch.autograd.gradcheck(made, given(model, layers), eps=1e-6, atol=1e-6)


def test_states_that_are_masked_count_for_nothing():
    model = tiny("t5")
    encoded, keys, values = given(model, 3)
    begin, mask = torch.zeros(3, 1, dtype=torch.long), TOKENS["attention_mask"]
    other = encoded.detach().masked_fill(mask[..., None] == 0, 7.0)
    rest = model.get_decoder(), begin
    assert torch.equal(
        first_token(*rest, encoded, mask, keys, values), first_token(*rest, other, mask, keys, values)
    )
    whole = torch.ones_like(mask)
    assert not torch.equal(
        first_token(*rest, encoded, whole, keys, values), first_token(*rest, other, whole, keys, values)
    )


def test_the_layers_themselves_run_for_more_tokens_only():
    model = tiny("t5")
    prefix = drawn(model)
    ran = []
    model.get_decoder().block[0].register_forward_hook(lambda *_: ran.append(1))
    with prefix.attached():
        for begin in ([0], [0, 20]):
            model(**TOKENS, decoder_input_ids=torch.tensor([begin] * 3))
            assert len(ran) == len(begin) - 1
    represent(model, TOKENS)
    assert len(ran) == 2  # nothing of it is left behind


def test_gradients_in_bfloat16_are_no_further_from_the_exact_ones_than_those_of_the_layers():
    model = tiny("t5")
    exact = read(model, drawn(model))
    model = tiny("t5", dtype=torch.bfloat16)
    prefix = drawn(model).float()
    ours, theirs = read(model, prefix), read(model, prefix, short_cut=False)

    def cosine(made, right):
        return torch.cosine_similarity(made.double().flatten(), right.flatten(), dim=0).item()

    for right, own, of_layers in zip(exact, ours, theirs, strict=True):
        assert 1 - cosine(own, right) < max(1e-4, 1.2 * (1 - cosine(of_layers, right)))


def test_a_vector_is_the_same_to_rounding_however_it_is_made(tmp_path, monkeypatch):
    method = TuPaTE(where="decoder", steps=15, batch_size=8, num_virtual_tokens=4)

    def vector():
        return method.embed(reviews(), Features(make("t5", tmp_path)), 0, silent).left

    short, kept = vector(), Prefix.attached

    def plain(prefix):
        prefix._short_cuts = []
        return kept(prefix)

    monkeypatch.setattr(Prefix, "attached", plain)
    plain_one = torch.from_numpy(vector())
    assert torch.allclose(torch.from_numpy(short), plain_one, atol=1e-4 * plain_one.abs().max().item())
