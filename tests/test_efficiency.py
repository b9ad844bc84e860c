"""What choosing costs: by hand, by the runner's own ledger, and drawn."""

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.image
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fute.choosing import choose
from fute.project import Project
from fute.reproduce.crossings import COLUMNS, crossing, draw, lines, sentences
from fute.reproduce.efficiency import COSTS, Amount, Cost, Efficiency, Measured, measured
from fute.reproduce.report import write_report
from tests.grids import TEMPLATES, WORDS, make_grid, with_prompts
from tests.helpers import command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """3 prompts, U of 5 texts, 2 datasets of 4 rows and 4 held out."""
    return make_grid(tmp_path_factory.mktemp("tiny"), {"one": 8, "two": 8}, tasks=True)


@pytest.fixture(scope="module")
def found(tiny):
    return measured("tiny", Project(tiny))


def test_the_calls_of_a_tiny_grid_by_hand(found):
    calls = {way: (cost.once.calls, cost.each.calls) for way, cost in found.ways().items()}
    assert calls == {
        "fute": (3 * 5, 0),
        "label-free, as it is or + CBM": (0, 3 * 4),
        "label-free + content-free calibration": (3 * 3, 3 * 4),  # N/A, [MASK] and nothing
        "SPELL": (0, 3 * 4),
        "Self-Select": (0, 1),
        "direct evaluation, 32 labels": (0, 3 * 4),  # there are 4
        "direct evaluation, 128 labels": (0, 3 * 4),
        "fute + race": (3 * 5, 3 * 4),  # 4 rows for all three, and then there are no more
    }
    assert {way: cost.labels for way, cost in found.ways().items() if cost.labels} == {
        "fute": 4,
        "direct evaluation, 32 labels": 4,
        "direct evaluation, 128 labels": 4,
        "fute + race": 4,
    }
    assert (found.corpus, found.rows, found.sizes) == (5, {"one": 4, "two": 4}, [3])


def test_the_tokens_of_a_tiny_grid_by_hand(found, tiny):
    """Words, numbers and marks of the vocabulary are a token each; a text begins and ends with one more."""
    templates = ["x . it was", "is this good ? x . answer :", "x . all in all it felt"]
    words = [len(template.split()) for template in templates]
    without_text = sum(words) - 3 + 3 * 2
    ways = found.ways()
    assert ways["fute"].once.tokens == 5 * (without_text + 3 * 2)  # "text good"
    assert ways["label-free, as it is or + CBM"].each.tokens == 4 * (without_text + 3 * 3)  # "one 0 good"
    assert ways["SPELL"].each.tokens == 4 * (without_text + 3 * 3)
    neutral = [3, 3, 0]  # n / a; [ mask ] is one token or three
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "llm")
    neutral[1] = len(tokenizer.tokenize("[MASK]"))
    calibrating = ways["label-free + content-free calibration"].once.tokens
    assert calibrating == 3 * without_text + 3 * sum(neutral)


def test_the_ledger_of_the_runner_has_what_is_counted(found, tiny):
    """Each way in turn, in the project itself, from a cache that holds U only."""
    project, ways = Project(tiny), found.ways()
    spent = project.budget.spent
    assert (spent.calls, spent.tokens) == (ways["fute"].once.calls, ways["fute"].once.tokens)
    for against, budget, way in [
        (["MI", "GlobalE + CBM"], None, "label-free, as it is or + CBM"),
        (["SPELL"], None, "SPELL"),
        (["Self-Select"], None, "Self-Select"),
        ([], 16 * 3, "fute + race"),
    ]:
        before = project.budget.spent
        for dataset in ("one", "two"):
            choose(project, dataset, against=against, budget=budget)
        asked = project.budget.spent - before
        assert (asked.calls, asked.tokens) == (2 * ways[way].each.calls, 2 * ways[way].each.tokens), way
    before = project.budget.spent
    choose(project, "one", against=["MI"])
    assert project.budget.spent == before, "what was asked once is kept"


def test_direct_evaluation_and_a_race_ask_for_as_much_as_is_counted(tmp_path):
    again = [*TEMPLATES, TEMPLATES[0]]  # a prompt that is there twice is asked once
    folder = make_grid(tmp_path / "grid", {"one": 80}, again)
    ways, project = measured("grid", Project(folder)).ways(), Project(folder)
    assert ways["fute"].once.calls == project.budget.spent.calls == 3 * 5
    before = project.budget.spent
    choose(project, "one", against=["direct-32"])
    asked = project.budget.spent - before
    assert asked.calls == ways["direct evaluation, 32 labels"].each.calls == 3 * 32
    assert asked.tokens == ways["direct evaluation, 32 labels"].each.tokens


def test_seconds_are_measured(found):
    for way, cost in found.ways().items():
        assert cost.each.seconds > 0, way
    ways = found.ways()
    assert ways["fute"].once.seconds > 0
    assert ways["fute + race"].each.seconds > ways["fute"].each.seconds


def test_fewer_prompts_are_measured_too(tmp_path):
    many = [f"{{{{ text }}}}. Word {word} was" for word in WORDS]
    found = measured("many", Project(make_grid(tmp_path / "grid", {"one": 8}, many)))
    assert found.sizes == [4, 8]
    for k in (4, 8):
        for way in ("label-free, as it is or + CBM", "SPELL"):
            assert (found.ways(k)[way].once.calls, found.ways(k)[way].each.calls) == (0, k * 4)
        assert found.ways(k)["Self-Select"].once.calls == 1, "one question for all datasets of a task"
        assert found.ways(k)["Self-Select"].each.calls == 0
    assert len(list(sentences(found))) == 3


amounts = st.integers(0, 6)


@given(amounts, amounts, amounts, amounts)
def test_a_crossing_is_where_fute_begins_to_cost_no_more_for_good(once, each, other_once, other_each):
    fute = Cost(way="fute", prompts=2, once=Amount(calls=once), each=Amount(calls=each))
    other = Cost(way="other", prompts=2, once=Amount(calls=other_once), each=Amount(calls=other_each))
    cheaper = [fute.of("calls", d) <= other.of("calls", d) for d in range(1, 20)]
    tail = next((d for d in range(1, 20) if all(cheaper[d - 1 :])), None)
    if each > other_each:
        tail = None  # it is overtaken in the end
    assert crossing(fute, other, "calls") == tail


def by_hand():
    """fute: 700 a prompt once. Others: 300 a prompt and dataset; or one question a dataset."""

    def cost(way, k, once, each):
        amount = [Amount(calls=n, tokens=50 * n, seconds=n / 100) for n in (once, each)]
        return Cost(way=way, prompts=k, once=amount[0], each=amount[1])

    free = "label-free, as it is or + CBM"
    costs = [
        one
        for k in (8, 4)
        for one in (cost("fute", k, 700 * k, 0), cost(free, k, 0, 300 * k), cost("Self-Select", k, 0, 1))
    ]
    return Measured(grid="hand", corpus=700, rows={"a": 300, "b": 300}, cores=2, costs=costs)


def test_lines_and_sentences_say_where_fute_is_cheaper():
    made = by_hand()
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in lines(made)}
    assert rows["fute"]["calls: once + a dataset"] == "5,600 + 0"
    assert rows["label-free, as it is or + CBM"]["fute costs no more from d ="] == f"{math.ceil(700 / 300)}"
    assert rows["Self-Select"]["fute costs no more from d ="] == "5,600"
    said = list(sentences(made))
    assert said[0] == "8 prompts, U of 700 texts, 2 datasets of 300 texts, 2 cores."
    assert said[1].startswith("Of 4 prompts fute is cheaper")
    assert said[1].endswith("from so many datasets on: 3.")


def test_what_never_gets_cheaper_is_said_and_small_amounts_are_not_0():
    made = by_hand()
    slow = Amount(calls=0, tokens=0, seconds=0.021)
    costs = [cost.model_copy(update={"each": slow}) if cost.way == "fute" else cost for cost in made.costs]
    made = made.model_copy(update={"costs": costs})
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in lines(made)}
    assert rows["fute"]["seconds: once + a dataset"] == "56 + 0.021"
    since = rows["Self-Select"]["fute costs no more from d ="]
    assert since == "5,600 (calls), 5,600 (tokens), never (seconds)"


def test_the_picture_shows_the_lines_and_the_crossing(tmp_path):
    svg, png = draw(by_hand(), tmp_path)
    assert matplotlib.image.imread(png).ndim == 3
    text = svg.read_text()
    ET.fromstring(text)
    for word in ("fute", "label-free, as it is or + CBM", "Self-Select", *COSTS, "datasets d", "3"):
        assert f"<!-- {word} -->" in text, word
    assert text.count("<!-- 3 -->") == 3, "a mark for calls, tokens and seconds"
    assert "<!-- 5600 -->" not in text, "beyond the picture"


def test_the_command_measures_a_grid_of_the_cache_saves_and_shows_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "out")
    code, _, err = command(monkeypatch, capsys, "reproduce", "efficiency", "--out", out)
    assert code == 2
    assert "fute reproduce table3 --scale small --data DIR" in err
    make_grid(tmp_path / "cache/reproduce/small/prompts/sentiment-smollm2", {"one": 8})
    code, shown, _ = command(monkeypatch, capsys, "reproduce", "efficiency", "--out", out)
    assert code == 0
    assert "Self-Select" in shown
    assert Efficiency.load(tmp_path / "out", "small").grids[0].grid == "sentiment-smollm2"
    assert (tmp_path / "out/efficiency-sentiment-smollm2.svg").is_file()
    code, again, _ = command(monkeypatch, capsys, "reproduce", "efficiency", "--out", out, "--saved")
    assert (code, again) == (0, shown)
    code, text, _ = command(monkeypatch, capsys, "reproduce", "efficiency", "--out", out, "--saved", "--json")
    assert json.loads(text)["grids"][0]["corpus"] == 5


def test_a_grid_is_saved_beside_others_and_in_its_own_place(tmp_path):
    one, other = by_hand(), by_hand().model_copy(update={"grid": "another"})
    for grid in (one, other, one.model_copy(update={"cores": 64})):
        Efficiency(scale="small", grids=[grid]).save(tmp_path)
    kept = Efficiency.load(tmp_path, "small").grids
    assert [(grid.grid, grid.cores) for grid in kept] == [("another", one.cores), ("hand", 64)]


def test_the_report_has_the_table_the_sentences_and_the_picture(tmp_path):
    with_prompts(tmp_path)
    assert "What choosing costs" not in write_report(tmp_path)
    Efficiency(scale="small", grids=[by_hand()]).save(tmp_path)
    assert "![" not in write_report(tmp_path), "nothing is drawn yet"
    draw(by_hand(), tmp_path)
    report = write_report(tmp_path)
    assert "### hand\n\n8 prompts, U of 700 texts" in report
    assert "| Self-Select | 0 | 0 + 1 | 0 + 50 | 0 + 0.01 | 5,600 |" in report
    (link,) = re.findall(r"!\[Costs of hand against d and k\]\((.*)\)", report)
    assert (Path("docs") / link).resolve() == (tmp_path / "efficiency-hand.svg").resolve()


def test_a_grid_that_has_only_begun_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    folder = make_grid(tmp_path / "cache/reproduce/small/prompts/nli-gemma3", {"one": 8})
    Project(folder).space.remove("p1")
    code, _, err = command(monkeypatch, capsys, "reproduce", "efficiency", "--out", str(tmp_path))
    assert code == 2
    assert "nli-gemma3 is left out: 1 prompts are not embedded yet" in err
