"""Programs in any language and HTTP endpoints as black boxes: real programs, a real server."""

import shutil
import sys
import textwrap
import time

import numpy as np
import pytest

from fute.core.errors import ConfigError, ModelError
from fute.core.types import Failure, Input, Span
from fute.labelling.budget import Budget, Caps
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.backends.client import Manners
from fute.models.callable import CallableModel
from fute.models.http import HTTPModel
from fute.models.process import ProcessModel
from tests.helpers import refused
from tests.servers import wait_until
from tests.storage import start
from tests.test_client import Script, status

LABELS = ["bad", "good"]
TEXTS = [Input(f"{i} text") for i in range(40)]
HEAD = """
    import json, sys, time, os
    def said(line):
        return json.loads(line)
    def tell(**answer):
        print(json.dumps(answer), flush=True)
    def number(item):
        return int(item["text"].split()[0])
"""


def program(folder, body, **options):
    """A model that runs a Python script of this body in `folder`."""
    (folder / "model.py").write_text(textwrap.dedent(HEAD) + textwrap.dedent(body))
    given = {"name": "program", "labels": LABELS, "folder": folder, "timeout": 10, **options}
    return ProcessModel([sys.executable, "model.py"], **given)


EVEN_IS_GOOD = """
    for line in sys.stdin:
        item = said(line)
        tell(id=item["id"], label="good" if number(item) % 2 == 0 else "bad")
"""


def right(answers, items=TEXTS):
    return [a.tolist() for a in answers] == [[float(i % 2), float(i % 2 == 0)] for i in range(len(items))]


def test_a_program_answers_each_line(tmp_path):
    assert right(program(tmp_path, EVEN_IS_GOOD).predict(TEXTS))


def test_a_program_in_another_language(tmp_path):
    if shutil.which("perl") is None:
        pytest.skip("there is no perl")
    script = (
        '$| = 1; while (<STDIN>) { /"id": (\\d+)/; '
        'printf "{\\"id\\": %d, \\"label\\": \\"%s\\"}\\n", $1, $1 % 2 ? "bad" : "good"; }'
    )
    assert right(ProcessModel(["perl", "-e", script], LABELS, name="perl", timeout=10).predict(TEXTS))


def test_answers_may_come_in_any_order(tmp_path):
    body = """
        items = []
        for line in sys.stdin:
            items.append(said(line))
            if len(items) == 8:
                for item in reversed(items):
                    tell(id=item["id"], label="good" if number(item) % 2 == 0 else "bad")
                items = []
    """
    assert right(program(tmp_path, body).predict(TEXTS))


@pytest.mark.parametrize(
    ("output", "labels", "answer", "expected"),
    [
        ("class", LABELS, 'probabilities={"good": 0.75, "bad": 0.25}', [0.25, 0.75]),
        ("class", LABELS, "probabilities=[0.25, 0.75]", [0.25, 0.75]),
        ("score", None, "score=1.5", [1.5]),
        ("text", None, 'text="Ein schöner Tag"', "Ein schöner Tag"),
        ("span", None, 'span={"text": "Tag", "start": 4}', Span("Tag", 4)),
    ],
)
def test_every_kind_of_answer(tmp_path, output, labels, answer, expected):
    body = f"""
        for line in sys.stdin:
            tell(id=said(line)["id"], {answer})
    """
    (given,) = program(tmp_path, body, output=output, labels=labels).predict(TEXTS[:1])
    assert (given.tolist() if isinstance(given, np.ndarray) else given) == expected


def test_all_parts_of_an_input_are_sent(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            tell(id=item.pop("id"), text=json.dumps(item, sort_keys=True))
    """
    box = program(tmp_path, body, output="text", labels=None, shape="question-options")
    (said,) = box.predict([Input("Why “é”?\n", "so", ("a", "b"))])
    assert said == '{"options": ["a", "b"], "text": "Why \\u201c\\u00e9\\u201d?\\n", "text_pair": "so"}'


@pytest.mark.parametrize("kind", ["program", "endpoint"])
def test_an_answer_that_can_not_be_read_is_not_asked_for_for_ever(tmp_path, kind):
    """Whatever the first text gets, the others are answered, and the next run asks for nothing."""
    cache = PredictionCache(tmp_path / "predictions.sqlite")
    body = """
        for line in sys.stdin:
            item = said(line)
            tell(id=item["id"], label="good" if number(item) else "great")
    """

    def reply(posted):
        return (
            200,
            {},
            [{"label": "great" if i["text"] == "0 text" else "good"} for i in posted["inputs"]],
            0.0,
        )

    with Script(reply) as server:
        box = program(tmp_path, body) if kind == "program" else endpoint(server.url, inputs_per_call=4)
        for asked in (40, 0):
            result = label([box], TEXTS, cache)
            assert (result.asked, result.failures) == (asked, {})
            assert result.failed_items() == {kind: {"unparsed": 1}}
            assert len(result.answered[kind].rows) == 39


def test_a_stray_line_after_an_answer_is_passed_over(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            if number(item) in (3, 30):
                print("Warning: odd text", flush=True)
            tell(id=item["id"], label="good" if number(item) % 2 == 0 else "bad")
    """
    assert right(program(tmp_path, body).predict(TEXTS))


def test_an_error_of_one_item_fails_it_alone(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            if number(item) == 7:
                tell(id=item["id"], error="seven is not for me")
            else:
                tell(id=item["id"], label="good")
    """
    answers = program(tmp_path, body).predict(TEXTS)
    assert answers[7] == Failure("error", "seven is not for me")
    assert sum(isinstance(a, Failure) for a in answers) == 1


STALLS = """
    import sys
    from pathlib import Path
    from fute.core.types import Input
    from fute.labelling.cache import PredictionCache
    from fute.labelling.runner import label
    from fute.models.process import ProcessModel

    folder = Path(sys.argv[1])
    command, labels = [sys.executable, "model.py"], ["bad", "good"]
    box = ProcessModel(command, labels, name="program", folder=folder, timeout=60)
    label([box], [Input(f"{i} text") for i in range(8)], PredictionCache(folder / "predictions.sqlite"))
"""


def test_answers_are_saved_while_the_next_one_is_waited_for(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            if number(item) == 5:
                time.sleep(60)
            tell(id=item["id"], label="good")
    """
    box, cache = program(tmp_path, body, timeout=60), PredictionCache(tmp_path / "predictions.sqlite")
    keys = [cache.key(box.fingerprint, item.key) for item in TEXTS[:8]]
    process = start(STALLS, tmp_path)
    try:
        wait_until(lambda: len(cache.get(keys)) >= 5)
    finally:
        process.kill()
        process.communicate()
    assert set(cache.get(keys)) == set(keys[:5])


def test_a_program_that_dies_now_and_then_is_started_again(tmp_path):
    body = """
        for count, line in enumerate(sys.stdin):
            if count == 7:
                sys.exit(3)
            item = said(line)
            tell(id=item["id"], label="good" if number(item) % 2 == 0 else "bad")
    """
    assert right(program(tmp_path, body).predict(TEXTS))


def test_an_item_that_kills_the_program_fails_and_the_others_are_answered(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            if number(item) in (0, 9, 33):
                print("can't stand", number(item), file=sys.stderr, flush=True)
                os._exit(5)
            tell(id=item["id"], label="good")
    """
    answers = program(tmp_path, body).predict(TEXTS)
    failed = [i for i, a in enumerate(answers) if isinstance(a, Failure)]
    assert failed == [0, 9, 33]
    assert "code 5" in answers[9].detail
    assert "can't stand 9" in answers[9].detail


def test_items_that_kill_the_program_may_stand_side_by_side(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            if number(item) in (0, 1, 17, 18, 19):
                os._exit(5)
            tell(id=item["id"], label="good")
    """
    answers = program(tmp_path, body).predict(TEXTS)
    assert [i for i, a in enumerate(answers) if isinstance(a, Failure)] == [0, 1, 17, 18, 19]


def test_items_that_kill_the_program_first_of_all_stop_one_run_and_not_the_next(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            if number(item) < 6:
                os._exit(5)
            tell(id=item["id"], label="good")
    """
    cache = PredictionCache(tmp_path / "predictions.sqlite")
    stopped = label([program(tmp_path, body)], TEXTS, cache)
    assert "its program gives no answers" in str(stopped.failures["program"])
    for left in (range(6), range(6)):
        result = label([program(tmp_path, body)], TEXTS, cache)
        assert result.failures == {}
        assert list(result.answered["program"].failed) == list(left)


def test_many_lines_under_way_may_take_longer_together_than_one_may(tmp_path):
    body = """
        for line in sys.stdin:
            item = said(line)
            time.sleep(0.05)
            tell(id=item["id"], label="good" if number(item) % 2 == 0 else "bad")
    """
    budget = Budget()
    box = program(tmp_path, body, timeout=0.8)
    result = label([box], TEXTS, PredictionCache(None), budget=budget)
    assert len(result.answered["program"].rows) == budget.spent.calls == len(TEXTS)


def test_what_a_program_started_ends_with_it(tmp_path):
    box = ProcessModel(["sh", "-c", "sleep 30; true"], LABELS, name="p", folder=tmp_path, timeout=0.3)
    began = time.monotonic()
    (failure,) = box.predict(TEXTS[:1])
    assert "no answer within" in failure.detail
    assert time.monotonic() - began < 5


def test_an_item_that_hangs_fails_after_its_time(tmp_path):
    body = """
        open("starts", "a").write("x")
        for line in sys.stdin:
            item = said(line)
            if number(item) == 2:
                time.sleep(60)
            tell(id=item["id"], label="good")
    """
    answers = program(tmp_path, body, timeout=0.6).predict(TEXTS[:6])
    assert [i for i, a in enumerate(answers) if isinstance(a, Failure)] == [2]
    assert "no answer within 0.6 s" in answers[2].detail
    assert (tmp_path / "starts").read_text() == "xxx", "for all, for it alone, for the rest"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "print('Loading the model …', flush=True); time.sleep(5)",
            ["no answer", "standard error", "Loading", '{"id": 7, "label": "good"}'],
        ),
        ('print(\'{"id": 99, "label": "good"}\', flush=True); time.sleep(5)', ["no answer", "99"]),
        (
            "for line in sys.stdin: tell(id=said(line)['id'], label='great')",
            ["none of its labels", "bad, good"],
        ),
        (
            "for line in sys.stdin: tell(id=said(line)['id'], mark=3)",
            ["can't read", '{"label": "good"}', "mark"],
        ),
        (
            "print('no licence', file=sys.stderr); sys.exit(1)",
            ["gives no answers", "code 1", "no licence", "echo"],
        ),
    ],
)
def test_a_program_that_cannot_be_used_says_why(tmp_path, body, words):
    with refused(ModelError, *words):
        program(tmp_path, body).predict(TEXTS)


def test_a_program_that_is_not_there(tmp_path):
    with refused(ModelError, "no-such-program", "check `command`"):
        ProcessModel(["no-such-program"], LABELS, name="p").predict(TEXTS)


def test_a_program_that_is_not_there_stops_no_other_model():
    here = CallableModel(lambda texts: ["good"] * len(texts), LABELS, name="here", version="1")
    gone = ProcessModel(["no-such-program"], LABELS, name="gone")
    result = label([gone, here], TEXTS, PredictionCache(None))
    assert "no-such-program" in str(result.failures["gone"])
    assert len(result.answered["here"].rows) == len(TEXTS)


def test_caps_hold_for_programs_too(tmp_path):
    budget = Budget(caps=Caps(max_calls=11))
    result = label([program(tmp_path, EVEN_IS_GOOD)], TEXTS, PredictionCache(None), budget=budget)
    assert (result.asked, budget.spent.calls, result.left) == (11, 11, 29)


def test_a_program_counts_with_the_files_it_names(tmp_path):
    first = program(tmp_path, EVEN_IS_GOOD).fingerprint
    assert program(tmp_path, EVEN_IS_GOOD).fingerprint == first
    assert program(tmp_path, EVEN_IS_GOOD + "\n# changed").fingerprint != first
    assert program(tmp_path, EVEN_IS_GOOD, version="2").fingerprint != first
    assert program(tmp_path, EVEN_IS_GOOD, labels=["good", "bad"]).fingerprint != first


def test_a_program_counts_where_it_is_its_users_and_not_where_it_is_the_machines(tmp_path):
    inside, outside = tmp_path / "project" / "rule", tmp_path / "bin"
    inside.parent.mkdir()
    for command in ("./rule", str(outside)):
        prints = []
        for content in ("one", "two"):
            inside.write_text(content)
            outside.write_text(content)
            box = ProcessModel([command, "a" * 500], LABELS, name="p", folder=inside.parent)
            prints.append(box.fingerprint)
        assert (prints[0] != prints[1]) == (command == "./rule")


def test_labels_must_fit_the_output():
    with refused(ConfigError, "takes no such labels"):
        ProcessModel(["x"], ["a", "b"], name="p", output="text")
    with refused(ConfigError, "at least two"):
        ProcessModel(["x"], None, name="p")


# --- HTTP -------------------------------------------------------------------------------------------------

QUICK = Manners(concurrency=4, timeout=2, tries=2, first_wait=0.01)


def even_is_good(body):
    numbers = [int(item["text"].split()[0]) for item in body["inputs"]]
    return (200, {}, {"answers": [{"label": "good" if n % 2 == 0 else "bad"} for n in numbers]}, 0.0)


def endpoint(url, **options):
    return HTTPModel(url, LABELS, **{"name": "endpoint", "manners": QUICK, **options})


@pytest.mark.parametrize(("size", "calls"), [(1, 40), (7, 6), (100, 1)])
def test_an_endpoint_is_posted_inputs_and_replies_with_answers(size, calls):
    with Script(even_is_good) as server:
        box = endpoint(server.url, inputs_per_call=size)
        assert right(box.predict(TEXTS))
        assert len(server.seen) == calls == box.usage(TEXTS).calls


def test_a_header_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "secret")
    with Script(even_is_good) as server:
        box = endpoint(server.url, headers={"X-Token": "MY_TOKEN"})
        box.predict(TEXTS[:1])
        assert server.seen[0][2]["X-Token"] == "secret"
    monkeypatch.delenv("MY_TOKEN")
    with refused(ModelError, "X-Token", "MY_TOKEN"):
        box.predict(TEXTS[:1])


@pytest.mark.parametrize("reply", [[], {"answers": []}, {"result": 3}, "good"])
def test_another_number_of_answers_is_asked_for_again_then_fails(reply):
    with Script((200, {}, reply, 0.0)) as server:
        answers = endpoint(server.url, inputs_per_call=2).predict(TEXTS[:2])
    assert [a.kind for a in answers] == ["error", "error"]


def test_a_label_it_does_not_have_fails_the_item_and_many_without_a_good_answer_stop_the_endpoint():
    def reply(body):
        return (200, {}, [{"label": "great"}], 0.0) if number(body) in bad else even_is_good(body)

    def number(body):
        return int(body["inputs"][0]["text"].split()[0])

    one_by_one = Manners(concurrency=1)
    for bad in ({0, 5}, {*range(7)}, {*range(1, 40)}):
        with Script(reply) as server:
            answers = endpoint(server.url, manners=one_by_one).predict(TEXTS)
        assert {i for i, a in enumerate(answers) if isinstance(a, Failure)} == bad
        assert {answers[i].kind for i in bad} == {"unparsed"}
        assert all('"great", which is none of its labels' in answers[i].detail for i in bad)
    with Script((200, {}, [{"label": "great"}], 0.0)) as server:
        with refused(ModelError, "none of its labels", "bad, good"):
            endpoint(server.url, manners=one_by_one).predict(TEXTS)
        assert len(server.seen) == 8


def test_a_refusal_fails_those_of_its_call():
    def reply(body):
        return status(413) if "3 text" in body["inputs"][0]["text"] else even_is_good(body)

    with Script(reply) as server:
        answers = endpoint(server.url).predict(TEXTS[:6])
    assert [i for i, a in enumerate(answers) if isinstance(a, Failure)] == [3]
    assert answers[3].kind == "refused"


def test_a_refused_call_of_many_inputs_is_asked_in_smaller_ones():
    def reply(body):
        return status(413) if any("5 text" in i["text"] for i in body["inputs"]) else even_is_good(body)

    with Script(reply) as server:
        answers = endpoint(server.url, inputs_per_call=4).predict(TEXTS[:8])
        assert [len(body["inputs"]) for _, body, _ in server.seen][:2] == [4, 4]
    assert [i for i, a in enumerate(answers) if isinstance(a, Failure)] == [5]
    assert answers[4].tolist() == [0, 1]


def test_a_header_that_cannot_be_sent_is_not_shown(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hidden\nX-Other: 1")
    with Script(even_is_good) as server, pytest.raises(ModelError, match="MY_TOKEN") as caught:
        endpoint(server.url, headers={"X-Token": "MY_TOKEN"}).predict(TEXTS[:1])
    assert "hidden" not in str(caught.value)


def test_any_status_of_success_is_one():
    with Script((201, {}, {"answers": [{"label": "good"}]}, 0.0)) as server:
        assert endpoint(server.url).predict(TEXTS[:1])[0].tolist() == [0, 1]
