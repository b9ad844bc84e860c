"""Packed scoring equals plain scoring on every family of LLM, with small seeded models."""

import functools

import numpy as np
import pytest
import torch
import transformers

from fute.core.errors import ModelError
from fute.models.backends import transformers as backend
from fute.models.backends.packing import Question
from fute.models.backends.transformers import CausalLM
from fute.weights.load import load_causal_lm
from fute.weights.locate import Weights
from tests.helpers import refused

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
GATED = {**SIZE, "intermediate_size": 48, "num_key_value_heads": 2}
CONFIGS = {
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60),
    "gpt_neox": transformers.GPTNeoXConfig(**SIZE, intermediate_size=48),
    "llama": transformers.LlamaConfig(**GATED),
    "qwen2": transformers.Qwen2Config(**GATED),
    "qwen3": transformers.Qwen3Config(**GATED, head_dim=8),
    "phi3": transformers.Phi3Config(**GATED, pad_token_id=0),
    "gptj": transformers.GPTJConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=60, rotary_dim=4),
    "xglm": transformers.XGLMConfig(
        d_model=32, num_layers=2, attention_heads=4, vocab_size=60, ffn_dim=48, pad_token_id=0
    ),
}
# These look back a window of 40 tokens in all or some of their layers.
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
LLAMA4 = {**GATED, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2, "pad_token_id": 0}
SLIDING = {
    "mistral": transformers.MistralConfig(**GATED, sliding_window=40),
    "qwen2-window": transformers.Qwen2Config(
        **GATED, **MIXED, use_sliding_window=True, sliding_window=40, max_window_layers=0
    ),
    "gemma3": transformers.Gemma3TextConfig(**GATED, **MIXED, head_dim=8, sliding_window=40),
    "gpt_oss": transformers.GptOssConfig(
        **GATED, **MIXED, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=40
    ),
}
# Some layers of these see a chunk of 40.
CHUNKED = {
    "llama4": transformers.Llama4TextConfig(**LLAMA4, attention_chunk_size=40, no_rope_layers=[1, 0]),
}
# These count along the row how far a local layer sees, or by how much a query is scaled.
ROWS = {
    "gpt_neo": transformers.GPTNeoConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        vocab_size=60,
        attention_types=[[["global", "local"], 1]],
        window_size=40,
    ),
    "llama4-scaled": transformers.Llama4TextConfig(**LLAMA4, no_rope_layers=[0, 0], floor_scale=41),
}
PACKING = CONFIGS | SLIDING | CHUNKED | ROWS
# ALiBi counts distances along the row; the others hand a state from token to token.
MAMBA = {**SIZE, "state_size": 8}
ALONE = {
    "bloom": transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=60),
    "mpt": transformers.MptConfig(d_model=32, n_layers=2, n_heads=4, vocab_size=60),
    "falcon-alibi": transformers.FalconConfig(**SIZE, alibi=True),
    "mamba": transformers.MambaConfig(**MAMBA),
    "mamba2": transformers.Mamba2Config(**{**MAMBA, "num_heads": 4}, head_dim=16, n_groups=1),
    "rwkv": transformers.RwkvConfig(**SIZE, attention_hidden_size=32, intermediate_size=48),
    "lfm2": transformers.Lfm2Config(**GATED, layer_types=["conv", "full_attention"]),
    "falcon-h1": transformers.FalconH1Config(**GATED, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_state=8),
}
EVERY = PACKING | ALONE
BEGINNING = tuple(range(10, 22))
QUESTIONS = [
    Question((*BEGINNING, 1), ((5,), (6, 7, 8))),
    Question((*BEGINNING, 2, 3), ((5, 9), (5, 4))),
    Question((7, 8), ((9,),)),
]


@pytest.fixture
def small(tmp_path):
    def make(config) -> CausalLM:
        transformers.set_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        return CausalLM(Weights(config.model_type, tmp_path), "float32")

    return make


def plain(lm: CausalLM, prompt, word) -> float:
    with torch.inference_mode():
        logits = lm._model(torch.tensor([[*prompt, *word]])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(word))


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_packed_scores_equal_plain_ones(small, config):
    lm = small(config)
    shorter = [Question((3, 4, 5), ((1,), (2,)))]
    for questions, scores in zip([QUESTIONS, shorter], lm.score([QUESTIONS, shorter]), strict=True):
        for question, values in zip(questions, scores, strict=True):
            expected = [plain(lm, question.prompt, word) for word in question.words]
            assert values == pytest.approx(np.array(expected), abs=1e-4)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_scores_after_a_beginning_that_was_read_once_equal_plain_ones(small, config, monkeypatch):
    lm = small(config)
    lengths = read_lengths(lm, monkeypatch)
    examples = tuple(np.random.default_rng(0).integers(10, 60, 60).tolist())
    texts = [(5, 6), (7,), (8, 9, 4, 3)] * 4  # of several lengths, so that padding stands beside them
    items = [
        [Question((*examples, *text, i, 1), ((5,), (6, 7, 8))), Question((*examples, *text, i, 2), ((5, 9),))]
        for i, text in enumerate(texts)
    ]
    for _ in range(2):  # the second time from what was kept
        for questions, scores in zip(items, lm.score(items), strict=True):
            for question, values in zip(questions, scores, strict=True):
                expected = [plain(lm, question.prompt, word) for word in question.words]
                assert values == pytest.approx(np.array(expected), abs=1e-4)
    assert lengths.count(len(examples)) == (1 if lm._keeps else 0)
    assert lm._packs == (config in PACKING.values())
    assert lm._keeps == (config in (CONFIGS | SLIDING).values())


def greedy(lm: CausalLM, prompt, n: int) -> list[int]:
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            tokens.append(int(lm._model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


class Tokens:
    """A tokenizer whose texts are the numbers of the tokens."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, None

    def decode(self, tokens, skip_special_tokens):
        return " ".join(map(str, tokens))


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_what_is_written_after_beginnings_that_were_read_once_is_what_is_written_alone(
    small, config, monkeypatch
):
    lm = small(config)
    lm.__dict__["tokenizer"] = Tokens()
    lm._model.generation_config.eos_token_id = None
    rng = np.random.default_rng(0)
    examples = tuple(rng.integers(10, 60, 60).tolist())
    texts = [tuple(rng.integers(2, 60, 1 + i % 13).tolist()) for i in range(20)]
    items = [[(*examples, *text, 1), (*examples, *text, 2, 3), (*examples, *text)] for text in texts]
    items += [[(5,), (5, 6)], [texts[12]], [items[0][0]]]  # nothing to share; a prompt that was there
    expected = [[" ".join(map(str, greedy(lm, prompt, 4))) for prompt in item] for item in items]
    lengths = read_lengths(lm, monkeypatch)
    for _ in range(2):
        found = lm.generate(items, 4)
        assert [[written.text for written in item] for item in found] == expected
    if lm._keeps:
        assert lengths.count(len(examples)) == 1, "once for both runs"
    assert len({text for item in expected for text in item}) > 5


def read_lengths(lm: CausalLM, monkeypatch) -> list[int]:
    """How many tokens wide each pass through the model is, from now on."""
    lengths: list[int] = []
    body = lm._decoder
    forward = body.forward

    @functools.wraps(forward)
    def counted(*args, **kwargs):
        lengths.append((args[0] if args else kwargs["input_ids"]).shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(body, "forward", counted)
    return lengths


def read_together(lm: CausalLM, monkeypatch, items) -> bool:
    """Whether each item's prompts are read in one row; either way their scores are the plain ones."""
    expected = [[[plain(lm, q.prompt, word) for word in q.words] for q in questions] for questions in items]
    lm.score(items[:1])  # it is tried out when first used
    lengths = read_lengths(lm, monkeypatch)
    for questions, values in zip(lm.score(items), expected, strict=True):
        for scores, wanted in zip(questions, values, strict=True):
            assert scores == pytest.approx(np.array(wanted), abs=1e-4)
    return len(lengths) == 1


@pytest.mark.parametrize("config", SLIDING.values(), ids=SLIDING)
def test_prompts_are_packed_whose_beginnings_lie_behind_the_window(small, config, monkeypatch):
    lm = small(config)
    rng = np.random.default_rng(0)
    for lengths in ((36, 39, 41), (120, 130)):
        texts = [tuple(rng.integers(10, 60, n).tolist()) for n in lengths]
        items = [[Question((*text, i, 9), ((5, 6, 7), (6,))) for i in range(3)] for text in texts]
        assert read_together(lm, monkeypatch, items)
    usual = np.concatenate(lm.score(items)[0])
    monkeypatch.setattr(backend, "masks_by_kind", lambda positions, mask, *_: {"full_attention": mask})
    assert not np.allclose(np.concatenate(lm.score(items)[0]), usual, atol=1e-4), "else windows don't matter"


@pytest.mark.parametrize("config", CHUNKED.values(), ids=CHUNKED)
def test_prompts_are_packed_where_each_fits_into_the_chunk(small, config, monkeypatch):
    lm = small(config)
    text = tuple(np.random.default_rng(0).integers(10, 60, 36).tolist())
    fits = [Question((*text, i, 9), ((5, 6, 7), (6,))) for i in range(4)]  # the last token isn't read
    assert sum(len(q.prompt) for q in fits) > 40
    assert read_together(lm, monkeypatch, [fits, fits[1:]])
    beyond = [*fits, Question((*text, 5, 9), ((5, 6, 7, 8),))]
    assert not read_together(lm, monkeypatch, [beyond, fits])


@pytest.mark.parametrize("config", ROWS.values(), ids=ROWS)
def test_prompts_are_packed_where_all_fit_into_what_is_counted_along_the_row(small, config, monkeypatch):
    lm = small(config)
    text = tuple(np.random.default_rng(0).integers(10, 60, 16).tolist())
    fits = [Question((*text, i, i, 9), ((5, 6), (6,))) for i in range(2)]
    assert read_together(lm, monkeypatch, [fits, fits[1:]])
    beyond = [Question((*text, i, i, i, 9), ((5, 6), (6,))) for i in range(12)]
    assert not read_together(lm, monkeypatch, [beyond, fits])


def test_logits_that_are_changed_after_the_head_are_refused_not_misread(small):
    config = transformers.Gemma2Config(**GATED, head_dim=8, final_logit_softcapping=0.01)
    with pytest.raises(ModelError, match="changes its logits"):
        small(config).score([QUESTIONS])


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_weights_without_a_head_are_no_llm(family, tmp_path):
    config = CONFIGS[family]
    config = type(config)(**{**config.to_dict(), "tie_word_embeddings": False})
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    lm = CausalLM(Weights(family, tmp_path), "float32")
    with refused(ModelError, "lacks weights of", "draw at random", "weights that were trained for this"):
        lm.score([[Question((5, 6), ((7,), (8,)))]])


def test_a_head_that_is_the_embeddings_needs_no_weights_of_its_own(tmp_path):
    config = transformers.LlamaConfig(**GATED, tie_word_embeddings=True)
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    head = load_causal_lm(Weights("llama", tmp_path), "float32").get_output_embeddings()
    assert torch.equal(head.weight, model.get_input_embeddings().weight)
