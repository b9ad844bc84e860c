"""Races, direct evaluation and the hybrid in a project, under caps, with candidates that hardly answer."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fute import Project
from fute.choosing import choose, doubts
from fute.cli import show
from fute.core.errors import ConfigError, ModelError
from fute.selection.baselines.direct import drawn_rows
from fute.selection.baselines.entropies import mutual_information_g
from fute.selection.compare import compare
from fute.selection.fusion import standardised
from tests.helpers import refused, write

MODELS = """
def good(texts):
    return [[0.1, 0.9] if "good" in text else [0.9, 0.1] for text in texts]
def twin(texts):
    return [[0.11, 0.89] if "good" in text else [0.89, 0.11] for text in texts]
def always(texts):
    return [[0.4, 0.6] for _ in texts]
def lengths(texts):
    return [[0.3, 0.7] if len(text) > 22 else [0.7, 0.3] for text in texts]
def never(texts):
    return [[0.9, 0.1] if "good" in text else [0.1, 0.9] for text in texts]
def breaks(texts):
    return [[float("nan")] * 2 if "was" in text else [0.3, 0.7] for text in texts]
"""
WORDS = ["film", "book", "song", "play", "meal", "trip", "game", "hotel", "phone", "course"]
TEXTS = [f"{a} {w} {b}" for w in WORDS for a in ("The", "Our long") for b in ("was good", "was bad")]
# Where a text says "was", each of these answers if one of its words stands there, and else with an error.
ANSWERED = {"shy": ["meal"], "mute": [], "early": WORDS[:7], "late": WORDS[3:]}
SHY = """
import json, sys
for line in sys.stdin:
    got = json.loads(line)
    shy = "was" in got["text"] and not any(word in got["text"] for word in sys.argv[1:])
    said = {"error": "no comment"} if shy else {"label": "pos" if "good" in got["text"] else "neg"}
    print(json.dumps({"id": got["id"], **said}), flush=True)
"""


def project_of(folder, *names, more="", dataset="test: 0.5"):
    """A project of these models, after `run`, of which U says "is" and D says "was"."""
    write(folder / "mymodels.py", MODELS)
    write(folder / "shy.py", SHY)
    rows = [{"text": t, "label": "pos" if "good" in t else "neg"} for t in TEXTS]
    write(folder / "d.jsonl", "\n".join(map(json.dumps, rows)))
    write(folder / "u.jsonl", "\n".join(json.dumps({"text": t.replace("was", "is")}) for t in TEXTS))
    models = []
    for n in names:
        command = json.dumps(["python", "shy.py", *ANSWERED.get(n, [])])
        how = f"command: {command}" if n in ANSWERED else f'python: "mymodels:{n}"'
        models.append(f"  - {{name: {n}, {how}, labels: [neg, pos]}}")
    content = ["corpus: {path: u.jsonl}", "method: {name: linear-probe, replicates: 20}"]
    content += [f"datasets: [{{name: d, path: d.jsonl, {dataset}}}]", "models:", *models]
    write(folder / "fute.yaml", "\n".join(content))
    Project(folder).run()
    write(folder / "fute.yaml", "\n".join([*content, more]))
    return Project(folder)


def ways_of(found):
    return {way.name: way for way in found.ways}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return project_of(tmp_path_factory.mktemp("four"), "good", "always", "lengths", "never")


# --- Labelled evaluations ---------------------------------------------------------------------------------


def test_a_race_under_a_cap_counts_only_what_was_asked(tmp_path):
    """Of 60 evaluations the cap leaves 30, which is 7 rows for each of four. Rows that nobody was asked for
    are not wrong.
    """
    names = ["lengths", "always", "never", "good"]
    project = project_of(tmp_path, *names, more="budget: {max_calls: 190}")
    assert project.budget.spent.calls == 160
    found = choose(project, "d", "model", budget=60)
    race = ways_of(found)["race"]
    assert race.picks == ("good",)
    assert (race.evaluated, race.evaluations) == ((7, 7, 7, 7), 28)
    assert "28 evaluations, on 7 labelled rows for each; of 60, since a cap" in found.warnings[-1]
    again = choose(Project(tmp_path), "d", "model", budget=60)
    assert ways_of(again)["race"].scores == race.scores, "nothing new could be asked"


def test_a_race_that_may_ask_nothing_has_no_scores(tmp_path):
    project = project_of(tmp_path, "good", "lengths", more="budget: {max_calls: 1}")
    found = choose(project, "d", "model", budget=20, against=["direct-8"])
    assert ways_of(found)["race"].picks == ways_of(found)["direct-8"].picks == ()
    assert "race can't choose: a cap of `budget:` keeps the candidates from being asked." in found.warnings
    assert any(warning.startswith("direct-8 can't choose: a cap") for warning in found.warnings)


def test_a_race_tells_what_it_spent_and_on_whom(four):
    found = choose(four, "d", "model", budget=24)
    race = ways_of(found)["race"]
    assert sum(race.evaluated) == race.evaluations <= 24
    assert max(race.scores) <= 1
    rows = f"{min(race.evaluated)} to {max(race.evaluated)}"
    assert f"race: {race.evaluations} evaluations, on {rows} labelled rows for each." in found.warnings
    few = choose(four, "d", "model", budget=2)
    assert ways_of(few)["race"].evaluations == 2
    assert any("of the 2 candidates that fute scores highest" in warning for warning in few.warnings)


def test_direct_evaluation_is_the_accuracy_on_the_drawn_rows(four):
    found = choose(four, "d", "model", against=["direct"])
    ways = ways_of(found)
    assert list(ways) == ["fute", *(f"direct-{n}" for n in (8, 16, 32, 64, 128))]
    train = four.datasets["d"][0]
    for n in (8, 16):
        drawn = train.take(drawn_rows(20, n, 0))
        assert ways[f"direct-{n}"].scores[0] == 1
        is_long = np.array([len(item.text) > 22 for item in drawn.inputs])
        assert ways[f"direct-{n}"].scores[2] == pytest.approx((is_long == drawn.classes).mean())
        assert ways[f"direct-{n}"].evaluated == (n,) * 4
    assert ways["direct-32"].scores == (None,) * 4
    lacking = "direct-32 can't choose: 32 rows can't be labelled: there are 20"
    assert any(warning.startswith(lacking) for warning in found.warnings)
    asked = four.budget.spent.calls
    choose(four, "d", "model", against=["direct-16"])
    assert four.budget.spent.calls == asked, "a smaller draw is in a larger one"


def test_direct_evaluation_under_a_cap_says_how_many_rows_it_saw(tmp_path):
    project = project_of(tmp_path, "good", "lengths", more="budget: {max_calls: 90}")
    found = choose(project, "d", "model", against=["direct-8"])
    assert ways_of(found)["direct-8"].evaluated == (5, 5)
    assert ways_of(found)["direct-8"].scores[0] == 1
    assert "direct-8 saw 5 rows: a cap of `budget:` ended it." in found.warnings


def test_direct_evaluation_needs_labels_in_common_and_labels(four, tmp_path):
    with refused(ConfigError, "no accuracy here", "direct-8"):
        choose(four, "d", "model", transfer=True, against=["direct-8"])
    project = project_of(tmp_path, "good", "lengths", dataset="label: null, labels: [neg, pos]")
    found = choose(project, "d", "model", against=["direct-8"])
    assert "direct-8 can't choose: it needs labels." in found.warnings


# --- The hybrid -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fute + MI_G", "hybrid", "FUTE+MI_G"])
def test_the_hybrid_has_a_name(four, name):
    found = choose(four, "d", "model", against=[name])
    assert list(ways_of(found)) == ["fute", "fute + MI_G"]
    answered = four.ask(
        [m for m in four.models if m.name in found.candidates], four.datasets["d"][1]
    ).answered
    spread = [mutual_information_g(answered[n].probabilities_of(["neg", "pos"])) for n in found.candidates]
    expected = standardised(found.ways[0].scores) + standardised(spread)
    assert found.ways[1].scores == pytest.approx(expected, abs=1e-6)


def test_the_hybrid_takes_the_race_s_few_labels(four):
    """Without a label "good" and "never" tell as much of the texts; the race's rows tell them apart."""
    found = choose(four, "d", "model", against=["hybrid"], budget=40)
    ways = ways_of(found)
    assert list(ways) == ["fute", "fute + MI_G", "race", "fute + MI_G + race"]
    race, both = ways["race"], ways["fute + MI_G + race"]
    assert both.evaluated == race.evaluated, "the same evaluations"
    assert both.scores != race.scores
    assert both.picks == ("good",)
    assert "fute + MI_G + race" not in ways_of(choose(four, "d", "model", budget=40))


# --- What to know of candidates ---------------------------------------------------------------------------


def test_doubts_are_told_whatever_is_asked(tmp_path):
    project = project_of(tmp_path, "good", "twin", "always", "lengths")
    expected = [
        "Nearly all texts of U get the same answer from always.",
        "twin answers U like good.",
    ]
    spent = project.budget.spent
    assert doubts(project, ["good", "twin", "always", "lengths"]) == expected
    assert doubts(project, ["twin", "lengths"]) == []
    assert project.budget.spent == spent, "nothing is asked"
    for options in ({}, {"transfer": True}, {"against": ["spell"]}, {"budget": 8}, {"truth": True}):
        assert list(choose(project, "d", "model", **options).warnings[:2]) == expected, options


def test_the_ranking_is_in_the_comparison(four):
    found = choose(four, "d", "model")
    ranked = four.rank("d")
    assert found.ranking == ranked
    said = json.loads(json.dumps(found.as_dict()))["ranking"]
    assert said["ranking"][0].keys() >= {"p_best", "low", "high", "limit"}
    assert said["too_close_to_call"] == ranked.too_close
    assert {line.name: round(line.score, 9) for line in ranked.candidates} == dict(
        zip(found.candidates, found.ways[0].scores, strict=True)
    )


def test_the_table_shows_how_sure_each_is(four, capsys):
    found = choose(four, "d", "model", against=["MI"], truth=True)
    show.comparison(found)
    shown = capsys.readouterr().out
    assert "P(best)" in shown
    best = max(line.p_best for line in found.ranking.candidates)
    fute, mi = (
        next(line for line in shown.splitlines() if line.startswith(name)) for name in ("fute ", "MI ")
    )
    assert fute.split()[:6] == ["fute", "good", f"{best:.2f}", "1.000", "0.881", "…"]
    assert "2 are equal" in mi, "good and never tell as much"
    wide = replace(found, ranking=replace(found.ranking, candidates=(found.ranking.best,) * 2))
    show.comparison(wide)
    assert "fute: All scores are equal" in capsys.readouterr().out
    show.comparison(compare("d", ["a", "b"], {"w": [2, 1]}, [0, 0], 9))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("w "))
    assert line.split() == ["w", "a", "0.000", "0.000", "…", "0.231", "–", "1.000", "0.000", "–"]


# --- Candidates that fail or hardly answer ----------------------------------------------------------------


def test_a_candidate_that_fails_on_the_dataset_is_left_out_and_that_is_said(tmp_path):
    project = project_of(tmp_path, "breaks", "good", "lengths")
    for options in ({"against": ["MI"]}, {"truth": True}):
        found = choose(project, "d", "model", **options)
        assert found.candidates == ("good", "lengths")
        assert any("breaks is left out, it fails: " in warning for warning in found.warnings), options
    tried = choose(project, "d", "model", against=["direct-8", "LEEP"], budget=24)
    assert tried.candidates == ("breaks", "good", "lengths"), "its texts of U it has answered"
    for name in ("direct-8", "LEEP", "race"):
        way = ways_of(tried)[name]
        assert (way.scores[0], way.picks) == (None, ("good",)), name
        assert any(warning.startswith(f"{name} has no score for breaks: ") for warning in tried.warnings)
    assert ways_of(tried)["race"].evaluated[0] == 0


def test_where_all_candidates_fail_that_is_an_error(tmp_path):
    project = project_of(tmp_path, "breaks")
    for options in ({"against": ["MI"]}, {"budget": 8}):
        with refused(ModelError, "breaks"):
            choose(project, "d", "model", **options)


@pytest.mark.parametrize("name", ["shy", "mute"])
def test_who_answers_few_rows_has_no_score_by_answers_but_an_accuracy(tmp_path, name):
    """The shy one answers what is said of meals, the mute one nothing: the others are still compared on all
    rows.
    """
    project = project_of(tmp_path, name, "good", "lengths")
    found = choose(project, "d", "model", against=["MI"], truth=True)
    ways = ways_of(found)
    assert found.candidates == (name, "good", "lengths")
    assert ways["MI"].scores[0] is None
    assert ways["fute + MI_G"].scores[0] is None
    assert (found.rows, found.rows_seen) == (20, 20)
    assert f"Fewer than half of the rows are answered by {name}: no score by answers." in found.warnings
    held_out = project.datasets["d"][1]
    meals = sum("meal" in item.text for item in held_out.inputs) if name == "shy" else 0
    assert found.performances[0] == meals / 20
    alone = choose(project_of(tmp_path / "alone", name), "d", "model", against=["MI"], truth=True)
    assert (ways_of(alone)["MI"].picks, alone.rows_seen) == ((), 0)


def test_a_comparison_on_few_common_rows_says_so(tmp_path):
    """Each of two answers most rows, both together fewer than half: MI sees these alone."""
    project = project_of(tmp_path, "early", "late")
    held_out = project.datasets["d"][1]
    both = [row for row, item in enumerate(held_out.inputs) if any(w in item.text for w in WORDS[3:7])]
    assert 0 < len(both) < 10
    found = choose(project, "d", "model", against=["MI"], truth=True)
    assert (found.rows, found.rows_seen) == (20, len(both))
    assert (
        f"Scores by answers compare {len(both)} of 20 rows: those that all have answered." in found.warnings
    )
    hits = sum("good" in held_out.inputs[row].text for row in both) / len(both)
    entropy = -sum(p * np.log(p) for p in (hits, 1 - hits))
    assert ways_of(found)["MI"].scores == pytest.approx((entropy, entropy))


def test_where_nobody_is_right_the_rest_is_still_shown(tmp_path):
    found = choose(project_of(tmp_path, "never"), "d", "model", truth=True)
    assert found.performances == (0.0,)
    assert "performance_rate" not in found.ways[0].metrics
    assert found.ways[0].metrics["ndcg_linear"] == 1


# --- No labels at all, beside few -------------------------------------------------------------------------


def test_none_few_and_all_labels_are_compared_on_the_same_rows(tmp_path):
    project_of(tmp_path, "good", "lengths")
    config = (tmp_path / "fute.yaml").read_text()
    budgets = {"none": "few: 0", "eight": "few: 8", "all": ""}
    sources = "\n".join(
        f"  - {{name: {name}, path: d.jsonl, test: 0.5, {few}}}" for name, few in budgets.items()
    )
    before, models = config.split("datasets:")[0], config[config.index("models:") :]
    write(tmp_path / "fute.yaml", f"{before}datasets:\n{sources}\n{models}")
    project = Project(tmp_path)
    project.run()
    assert project.space.get("none").provenance["pseudo_labels"] == ["good", "lengths"]
    assert "pseudo_labels" not in project.space.get("eight").provenance
    found = {name: choose(project, name, "model", truth=True) for name in budgets}
    assert len({one.performances for one in found.values()}) == 1
    assert project.accuracies("none") == project.accuracies("all")
    with refused(ConfigError, "none has no labels"):
        choose(project, "none", "model", budget=8)


@pytest.mark.parametrize(("few", "words"), [("1", "at least 2"), ("0, output: score", "needs classes")])
def test_other_label_budgets_are_refused(tmp_path, few, words):
    with refused(ConfigError, "datasets", "few", words):
        project_of(tmp_path, "good", dataset=f"few: {few}")
