"""Asking a server that misbehaves: what is asked again, how long that may take, what it costs."""

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.runner_chaos import chaos
from fute.core.errors import BudgetError, ConfigError, ModelError
from fute.core.types import Failure, Input
from fute.labelling.budget import BoxMeter, Budget, Caps
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.backends import client
from fute.models.backends.client import Manners, _Pace, retry_after
from fute.models.base import Unmetered
from fute.models.callable import CallableModel
from tests.chaos import model
from tests.helpers import refused
from tests.servers import free_port, requests_in, serving

FAST = Manners(concurrency=4, timeout=0.5, tries=3, first_wait=0.01, most_wait=0.05)


class Script:
    """A loopback server that replies what a script says, the last line for ever."""

    def __init__(self, *replies):
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        script = self
        self.replies, self.seen, self.times = list(replies), [], []
        self.under_way = self.most_under_way = 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    script.seen.append((self.path, body, dict(self.headers)))
                    script.times.append(time.monotonic())
                    script.under_way += 1
                    script.most_under_way = max(script.most_under_way, script.under_way)
                    reply = script.replies.pop(0) if len(script.replies) > 1 else script.replies[0]
                status, headers, content, wait = reply(body) if callable(reply) else reply
                time.sleep(wait)
                with lock:
                    script.under_way -= 1
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                with contextlib.suppress(ConnectionError):  # who asked may have gone
                    self.send_response(status)
                    for key, value in headers.items():
                        self.send_header(key, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def says(word, wait=0.0, **usage):
    message = {"choices": [{"message": {"content": word}, "finish_reason": "stop"}]}
    return (200, {}, {**message, "usage": usage} if usage else message, wait)


def status(code, error=None, **headers):
    return (code, headers, {"error": {"message": f"status {code}", "code": error}}, 0.0)


def ask(url, n=1, **options):
    return model(url, **{"manners": FAST, **options}).predict([Input(f"text {i}") for i in range(n)])


@pytest.mark.parametrize("trouble", [408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(trouble):
    with Script(status(trouble), says("good")) as server:
        (answer,) = ask(server.url)
        assert answer.tolist() == [0, 1]
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    "content",
    [b'{"choices": [{"mess', b"", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"message": 3}]}'],
)
def test_a_reply_that_makes_no_sense_is_asked_again_and_then_reported(content):
    with Script((200, {}, content, 0.0), says("good")) as server:
        assert ask(server.url)[0].tolist() == [0, 1]
    with Script((200, {}, content, 0.0)) as server:
        (failure,) = ask(server.url)
        assert failure.kind == "error"
        assert "3 tries" in failure.detail
        assert failure.detail.endswith(f"): {content.decode()}")
        assert len(server.seen) == 3


def test_of_a_long_reply_that_makes_no_sense_the_beginning_is_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with Script((200, {}, {"sk-secret": "x" * 10**6}, 0.0)) as server:
        (failure,) = ask(server.url, key="MY_KEY")
    assert failure.detail.endswith('(KeyError: \'choices\'): {"…": "' + "x" * 193)


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_server_that_moved_says_where_to_and_stops_the_model(code):
    with Script(status(code, Location="https://elsewhere/v1")) as server:
        with refused(ModelError, f"status {code}, moved to https://elsewhere/v1", "do: check `url`"):
            ask(server.url, 100)
        assert len(server.seen) <= FAST.concurrency


def test_no_answer_in_time_is_asked_again():
    with Script(says("good", wait=1.0), says("good")) as server:
        began = time.monotonic()
        assert ask(server.url)[0].tolist() == [0, 1]
        assert time.monotonic() - began < 1.0


def test_a_server_that_is_not_there_is_reported():
    (failure,) = ask(f"http://127.0.0.1:{free_port()}/v1")
    assert failure.kind == "error"
    assert "ConnectError" in failure.detail


@pytest.mark.parametrize(
    ("code", "error", "advice"),
    [
        (401, None, "check the key"),
        (402, None, "check the account"),
        (403, None, "key"),
        (404, None, "model's id"),
        (429, "insufficient_quota", "check the account"),
        (400, "unsupported_parameter", "options"),
    ],
)
def test_what_refuses_all_stops_the_model_at_once(code, error, advice):
    with Script(status(code, error)) as server:
        with pytest.raises(ModelError, match=advice):
            ask(server.url, 100)
        assert len(server.seen) <= FAST.concurrency


def test_a_refused_item_fails_alone():
    def reply(body):
        long = "text 3" in body["messages"][0]["content"]
        return (400, {}, {"error": "context length"}, 0.0) if long else says("bad")

    with Script(reply) as server:
        answers = ask(server.url, 6)
        assert answers[3] == Failure("refused", 'status 400: {"error": "context length"}')
        assert all(answers[i].tolist() == [1, 0] for i in (0, 1, 2, 4, 5))


def test_nothing_but_refusals_stops_the_model():
    with Script(status(400)) as server:
        with pytest.raises(ModelError, match="no answer to 20 questions in a row"):
            ask(server.url, 500)
        assert len(server.seen) < 30


def test_refusals_after_an_answer_stop_nothing():
    with Script(says("good"), status(400)) as server:
        answers = ask(server.url, 40, manners=Manners(concurrency=1))
    assert [getattr(a, "kind", "label") for a in answers] == ["label", *["refused"] * 39]


def test_a_server_that_went_away_stops_the_model_and_costs_no_tokens():
    budget = Budget()
    box = model(f"http://127.0.0.1:{free_port()}/v1", manners=FAST)
    result = label([box], [Input(f"text {i}") for i in range(500)], PredictionCache(None), budget=budget)
    assert "no answer to 20 questions in a row" in str(result.failures["chaos"])
    assert "ConnectError" in str(result.failures["chaos"])
    assert budget.spent.calls <= (20 + FAST.concurrency) * FAST.tries
    assert budget.spent.tokens == 0


def test_an_answer_now_and_then_keeps_the_model_going():
    def reply(body):
        return (
            says("good") if body["messages"][0]["content"].startswith(("text 15", "text 30")) else status(500)
        )

    with Script(reply) as server:
        answers = ask(server.url, 45, manners=Manners(concurrency=1, tries=1))
    assert sum(isinstance(answer, Failure) for answer in answers) == 43


def test_the_server_says_how_long_to_wait():
    with Script(status(429, **{"Retry-After": "0.4"}), says("good")) as server:
        ask(server.url)
        assert 0.4 <= server.times[1] - server.times[0] < 0.8


def test_when_the_server_says_wait_all_wait():
    with Script(status(429, **{"Retry-After": "0.6"}), says("good", wait=0.05)) as server:
        ask(server.url, 16)
        began = server.times[0]
    early = [t - began for t in server.times if t - began < 0.6]
    assert len(early) == FAST.concurrency, "those that were under way already"
    assert max(early) < 0.3
    assert len(server.times) == 17


def test_a_pause_holds_for_those_that_wait_already():
    async def both():
        pace = _Pace(Manners(requests_per_minute=600))
        await pace.turn(0)
        waiting = asyncio.create_task(pace.turn(0))
        await asyncio.sleep(0.02)
        pace.pause(0.4)
        began = time.monotonic()
        await waiting
        return time.monotonic() - began

    assert 0.4 <= asyncio.run(both()) < 0.7


def test_tokens_keep_to_the_pace_of_the_server_by_what_was_really_used():
    async def seconds(used):
        pace = _Pace(Manners(tokens_per_minute=60_000))
        began = time.monotonic()
        for _ in range(5):
            await pace.turn(100)
            pace.put_back(100 - used)
        return time.monotonic() - began

    assert 0.4 <= asyncio.run(seconds(used=100)) < 0.7
    assert asyncio.run(seconds(used=10)) < 0.2


def test_retry_after_in_seconds_and_as_a_date():
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "86400"}) == 86400
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_a_wait_longer_than_fute_waits_fails_the_question_and_says_so():
    with Script(status(429, **{"Retry-After": "3600"})) as server:
        began = time.monotonic()
        (failure,) = ask(server.url)
        assert failure.kind == "error"
        assert "1 tries; the last: told to wait 3600 s, longer than 600 s; status 429" in failure.detail
        with pytest.raises(ModelError, match="told to wait 3600 s"):
            ask(server.url, 500)
        assert time.monotonic() - began < 5


def test_a_wait_within_the_bound_is_kept_to(monkeypatch):
    monkeypatch.setattr(client, "_MOST_TOLD", 0.5)
    with Script(status(503, **{"Retry-After": "0.5"}), says("good")) as server:
        assert ask(server.url)[0].tolist() == [0, 1]
        assert server.times[1] - server.times[0] >= 0.5


def test_as_many_at_once_as_was_said_and_no_more():
    with Script(says("good", wait=0.05)) as server:
        ask(server.url, 24)
        assert server.most_under_way == FAST.concurrency


def test_requests_keep_to_the_pace_of_the_server():
    manners = Manners(concurrency=8, requests_per_minute=600, timeout=5)
    with Script(says("good")) as server:
        ask(server.url, 8, manners=manners)
        gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
        assert server.times[-1] - server.times[0] >= 7 * 0.1 * 0.95
        assert min(gaps) > 0.03


def test_every_try_counts_and_what_was_not_used_is_put_back():
    budget = Budget()
    with Script(status(500), says("good", prompt_tokens=7, completion_tokens=2)) as server:
        box = model(server.url, manners=FAST)
        list(box.stream([(box, Input("text 0"))], {"chaos": BoxMeter(budget, box)}))
    assert (budget.spent.calls, budget.spent.tokens) == (2, 9)


def test_what_nobody_knows_stays_spent():
    budget = Budget()
    with Script(says("good")) as server:  # says nothing of tokens
        box = model(server.url, manners=FAST)
        list(box.stream([(box, Input("text 0"))], {"chaos": BoxMeter(budget, box)}))
        most = box.usage([Input("text 0")])
    assert budget.spent.tokens == most.tokens_in + most.tokens_out > len("text 0 Good or bad?")


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5000, "completion_tokens": 1},
        {"prompt_tokens": 7, "completion_tokens": -5000},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 7, "completion_tokens": 1.5},
        {"prompt_tokens": 10**30},
    ],
)
def test_what_nobody_can_have_used_does_not_count_and_the_most_stays_spent(usage):
    budget = Budget()
    with Script(says("good", **usage)) as server:
        box = model(server.url, manners=FAST)
        (answered,) = box.stream([(box, Input("text 0"))], {"chaos": BoxMeter(budget, box)})
        most = box.usage([Input("text 0")])
    assert answered[1][0].tolist() == [0, 1]
    assert budget.spent.tokens == most.tokens_in + most.tokens_out


@pytest.mark.parametrize("usage", [{"prompt_tokens": None}, {"prompt_tokens": "7"}, {"total_tokens": 9}])
def test_an_answer_counts_whatever_it_says_of_tokens(usage):
    with Script(says("good", **usage)) as server:
        assert ask(server.url)[0].tolist() == [0, 1]
        assert len(server.seen) == 1


@pytest.mark.parametrize("cap", [0, 1, 5, 9])
def test_a_cap_on_calls_is_reached_and_not_passed_with_many_at_once(cap):
    patient = replace(FAST, timeout=30)  # a call that times out on a busy machine counts, seen or not
    with Script(says("good", wait=0.01, prompt_tokens=1)) as server:
        box = model(server.url, manners=patient)
        budget = Budget(caps=Caps(max_calls=cap))
        questions = [(box, Input(f"text {i}")) for i in range(20)]
        results = list(box.stream(questions, {"chaos": BoxMeter(budget, box)}))
        assert len(server.seen) == cap == sum(not isinstance(a, Exception) for _, a in filter(None, results))
        assert 1 <= sum(isinstance(a, BudgetError) for _, a in filter(None, results)) <= FAST.concurrency


@pytest.mark.parametrize("paid", [0, 1, 5, 12])
def test_a_cap_stops_no_question_that_what_is_under_way_leaves_room_for(paid):
    """Each question takes 2 tokens of the M that are reserved for it: `paid` are answered with 2·(paid − 1) +
    M of them.
    """
    with Script(says("good", wait=0.02, prompt_tokens=1, completion_tokens=1)) as server:
        box = model(server.url, manners=replace(FAST, timeout=30))
        most = box.usage([Input("text 0")])
        budget = Budget(caps=Caps(max_tokens=most.tokens_in + most.tokens_out + 2 * (paid - 1)))
        questions = [(box, Input(f"text {i % 10}")) for i in range(12)]
        results = [a for _, a in filter(None, box.stream(questions, {"chaos": BoxMeter(budget, box)}))]
    assert sum(not isinstance(a, Exception) for a in results) == len(server.seen) == paid
    assert any(isinstance(a, BudgetError) for a in results) == (paid < 12)
    assert budget.spent.tokens == 2 * paid


def test_closing_early_ends_at_once():
    with Script(says("good", wait=0.3)) as server:
        box = model(server.url, manners=FAST)
        stream = box.stream([(box, Input(f"text {i}")) for i in range(500)], {"chaos": Unmetered()})
        next(filter(None, stream))
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 1.0
        asked = len(server.seen)
        time.sleep(0.5)
        assert len(server.seen) <= asked + FAST.concurrency


def test_answers_that_nobody_takes_are_not_asked_for_on_and_on(monkeypatch):
    monkeypatch.setattr(client, "_WAITING", 5)
    with Script(says("good")) as server:
        box = model(server.url, manners=FAST)
        stream = box.stream([(box, Input(f"text {i}")) for i in range(60)], {"chaos": Unmetered()})
        next(filter(None, stream))
        time.sleep(0.5)
        assert 5 <= len(server.seen) <= 5 + 2 * FAST.concurrency
        assert len(list(filter(None, stream))) == 59


def test_it_works_inside_a_running_loop():
    async def notebook(url):
        return ask(url)

    with Script(says("good")) as server:
        assert asyncio.run(notebook(server.url))[0].tolist() == [0, 1]


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    repeated = (401, {}, {"error": "the key sk-secret is wrong"}, 0.0)
    with Script(repeated) as server:
        box = model(server.url, key="MY_KEY", manners=FAST)
        with pytest.raises(ModelError, match="the key … is wrong") as caught:
            box.predict([Input("text 0")])
        assert server.seen[0][2]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in f"{caught.value}{box.fingerprint}{box.provenance}"


@pytest.mark.parametrize("value", ["sk-secret\n and more", "sk-secret-ü"])
def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch, value):
    monkeypatch.setenv("MY_KEY", value)
    with Script(says("good")) as server:
        with pytest.raises(ModelError, match="MY_KEY") as caught:
            ask(server.url, key="MY_KEY")
        assert server.seen == []
    assert "sk-secret" not in str(caught.value)


def test_a_line_break_after_the_key_is_not_part_of_it(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret\n")
    with Script(says("good")) as server:
        ask(server.url, key="MY_KEY")
        assert server.seen[0][2]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize(
    "url", ["localhost:8080/v1", "ftp://host/v1", "http://", "http://[::1/v1", "http://h:x"]
)
def test_a_url_that_cannot_be_asked_is_refused(url):
    with pytest.raises(ConfigError, match="http://host:port/path"):
        model(url)


def test_a_url_with_a_password_is_refused_and_the_password_not_shown():
    with pytest.raises(ConfigError, match="environment variables") as caught:
        model("https://me:sk-secret@example.invalid/v1")
    assert "sk-secret" not in str(caught.value)


def test_a_key_that_is_missing_is_named(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ModelError, match="NO_KEY"):
        model("https://example.invalid/v1", key="NO_KEY").predict([Input("text 0")])


def test_a_key_that_is_missing_stops_no_other_model(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    here = CallableModel(lambda texts: ["good"] * len(texts), ["bad", "good"], name="here", version="1")
    without = model("https://example.invalid/v1", key="NO_KEY")
    result = label([without, here], [Input("text 0")], PredictionCache(None))
    assert "NO_KEY" in str(result.failures["chaos"])
    assert len(result.answered["here"].rows) == 1


def test_chaos_loses_nothing_and_never_passes_the_budget(tmp_path: Path):
    found = chaos(tmp_path, texts=300, kills=3, seed=3, max_calls=2000, max_tokens=10**6)
    assert {key: n for key, n in found.items() if n} == {"labelled": found["labelled"], "killed": 3}
    assert found["labelled"] > 270


def test_chaos_within_a_tight_budget_leaves_the_rest(tmp_path: Path):
    found = chaos(tmp_path, texts=200, kills=1, seed=4, max_calls=120, max_tokens=10**6)
    assert found["calls over the budget"] == found["lost"] == found["wrong"] == 0
    assert found["left"] > 50
    assert len(requests_in(tmp_path / "requests.log")) <= 120


def test_a_misbehaving_server_really_misbehaves(tmp_path: Path):
    with serving("tests.servers", free_port(), 1, tmp_path / "log", 1.0) as url:
        answers = ask(url, 12, manners=Manners(concurrency=4, timeout=0.3, tries=1))
    assert sum(isinstance(answer, Failure) for answer in answers) > 6
