"""Llama layers in C++ for AMX: as near to float32 as transformers' own in bfloat16."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
import transformers
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from fute.core import native
from fute.core.native import has_compiler
from fute.core.runtime import cpu_flags
from fute.models.backends.packing import Question
from fute.models.backends.transformers import CausalLM
from fute.models.prompted import PromptedLLM
from fute.weights import amx
from fute.weights.locate import Weights
from tests.helpers import write

_FLAGS = cpu_flags()
needs_amx = pytest.mark.skipif(
    not _FLAGS >= amx.FLAGS or not has_compiler(), reason="needs AMX and a C++ compiler"
)
needs_halves = pytest.mark.skipif(
    "avx512_bf16" not in _FLAGS or not has_compiler(), reason="needs AVX512-BF16 and a C++ compiler"
)


@pytest.fixture
def tiles(monkeypatch, tmp_path):
    """AMX, in software where the CPU has none."""
    if not _FLAGS >= amx.FLAGS:
        parts = [Path(__file__).parent / "tiles.h", Path(amx.__file__).with_suffix(".cpp")]
        whole = write(tmp_path / "amx.cpp", "\n".join(part.read_text("utf-8") for part in parts))
        library = native.compiled(whole)
        assert library is not None
        monkeypatch.setattr(amx, "_library", lambda: library)


def config(**changes):
    """Three queries to a key, and more columns in the middle than are multiplied at a time."""
    given = {
        "hidden_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 1184,
        "vocab_size": 60,
        "attn_implementation": "sdpa",
    }
    return transformers.LlamaConfig(**{**given, **changes})


def drawn_layer(**changes):
    """A layer with weights that are bfloat16's, so that only sums differ, and norms that aren't all ones."""
    torch.manual_seed(0)
    layer = LlamaDecoderLayer(config(**changes), 0).eval().requires_grad_(False)
    for weight in layer.parameters():
        weight.copy_((weight + 0.1 * torch.randn_like(weight)).bfloat16())
    return layer


def run(layer, x, **given):
    length = x.shape[1]
    turn = LlamaRotaryEmbedding(layer.self_attn.config)(x, torch.arange(length)[None])
    return layer(x, position_embeddings=turn, **given)


def as_amx(**changes):
    layer = drawn_layer(**changes).to(torch.bfloat16)
    assert amx.takes([layer])
    amx.replace_layers([layer])
    return layer


@needs_halves
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (3, 100), (2, 300), (1, 900)])
def test_a_layer_is_as_near_to_float32_as_that_of_transformers(shape):
    x = torch.randn(*shape, 192, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.inference_mode():
        exact = run(drawn_layer(), x.float())
        its, ours = (run(layer, x).float() - exact for layer in (drawn_layer().bfloat16(), as_amx()))
    assert ours.norm() <= 1.02 * its.norm()
    assert ours.abs().max() <= 1.5 * its.abs().max()
    assert its.norm() < 0.02 * exact.norm(), "else neither says anything"


@needs_halves
@pytest.mark.usefixtures("tiles")
def test_large_values_neither_overflow_nor_vanish():
    x = 300 * torch.randn(1, 64, 192, generator=torch.Generator().manual_seed(1)).bfloat16()
    changes = {"head_dim": 64}
    with torch.inference_mode():
        weights = (
            drawn_layer(**changes),
            drawn_layer(**changes).bfloat16(),
            drawn_layer(**changes).bfloat16(),
        )
        for layer in weights:
            layer.post_attention_layernorm.weight.fill_(64)  # gates far from 0
            layer.input_layernorm.weight.fill_(16)  # sharp attention
        amx.replace_layers([weights[2]])
        exact, its, ours = (run(layer, x.to(layer.input_layernorm.weight.dtype)).float() for layer in weights)
    assert ours.isfinite().all()
    assert (ours - exact).norm() <= 1.1 * (its - exact).norm()


@needs_halves
@pytest.mark.usefixtures("tiles")
def test_it_runs_on_as_many_threads_as_torch():
    x = torch.randn(4, 200, 192, generator=torch.Generator().manual_seed(1)).bfloat16()
    layer, before = as_amx(), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                found.append(run(layer, x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_halves
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 12},  # heads of 16
        {"intermediate_size": 1000},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"attn_implementation": "eager"},
    ],
)
def test_other_layers_stay_as_they_are(changes):
    assert amx.takes([drawn_layer().bfloat16()])
    assert not amx.takes([drawn_layer(**changes).bfloat16()])


@needs_halves
@pytest.mark.usefixtures("tiles")
def test_float32_stays_float32():
    assert not amx.takes([drawn_layer()])


def test_without_a_compiler_it_takes_nothing(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    caches = (amx._library, native.compiled)
    for kept in caches:
        kept.cache_clear()
    try:
        assert not amx.takes([drawn_layer().bfloat16()])
    finally:
        for kept in caches:
            kept.cache_clear()


@pytest.fixture
def llama(tmp_path):
    transformers.set_seed(0)
    transformers.AutoModelForCausalLM.from_config(config()).save_pretrained(tmp_path)
    return Weights("llama", tmp_path)


def drawn(rng, length):
    return tuple(rng.integers(3, 60, length).tolist())


@needs_halves
@pytest.mark.usefixtures("tiles")
def test_scores_are_right_however_texts_are_read(llama):
    rng = np.random.default_rng(0)
    words = ((5,), (6,))
    alone = [[Question(drawn(rng, n), words)] for n in (9, 30, 33, 280)]
    packed = [[Question((*text, 1), words), Question((*text, 2), ((5, 6),))] for text in [drawn(rng, 20)] * 3]
    beginnings = [drawn(rng, 40), drawn(rng, 25)]
    kept = [[Question((*begin, *drawn(rng, 3 + i)), words)] for begin in beginnings for i in range(12)]

    exact, ours = CausalLM(llama, "float32"), CausalLM(llama, "bfloat16", compile=True)
    before = Counter(torch._dynamo.utils.counters["stats"])
    for items in (alone, packed, kept):
        for expected, found in zip(exact.score(items), ours.score(items), strict=True):
            for one, other in zip(expected, found, strict=True):
                assert other == pytest.approx(one, abs=0.02)
    assert Counter(torch._dynamo.utils.counters["stats"]) == before, "nothing was left to `torch.compile`"


@needs_halves
@pytest.mark.usefixtures("tiles")
def test_it_writes_what_it_would_write_in_float32(llama):
    class Tokens:
        pad_token_id = bos_token_id = eos_token_id = 0

        def decode(self, tokens, skip_special_tokens):
            return str(tokens)

    written = []
    for lm in (CausalLM(llama, "float32"), CausalLM(llama, "bfloat16", compile=True)):
        lm.__dict__["tokenizer"] = Tokens()
        written.append(lm.generate([[(5, 6, 7), (8,)]], 6))
    assert written[0] == written[1]


@needs_amx
def test_plan_knows_what_it_saves(llama):
    def box(dtype):
        return PromptedLLM(str(llama.folder), "{{ text }}", {"a": " a", "b": " b"}, dtype=dtype)

    assert box("bfloat16").compiling_saves > box("float32").compiling_saves
