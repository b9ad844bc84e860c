"""Races against simulated candidates, comparisons by hand, and choosing in a real project."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.choosing import choose
from fute.core.errors import ConfigError, DataError
from fute.project import Project
from fute.selection.compare import compare, doubts
from fute.selection.racing import race


def bernoulli(accuracies, rows=400, seed=0):
    """Whether each candidate is right on each row, (k, rows)."""
    rng = np.random.default_rng(seed)
    return rng.random((len(accuracies), rows)) < np.array(accuracies)[:, None]


def looking_up(right, asked=None):
    def evaluate(candidates, rows):
        if asked is not None:
            asked.extend((c, r) for c in candidates for r in rows)
        return right[np.ix_(candidates, rows)]

    return evaluate


# --- Races ------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 400), st.integers(0, 5))
def test_a_race_never_spends_more_and_asks_nothing_twice(k, rows, budget, seed):
    right, asked = bernoulli([0.5] * k, rows, seed), []
    if budget < k:
        with pytest.raises(DataError, match="an evaluation for each"):
            race(np.zeros(k), rows, budget, looking_up(right))
        return
    raced = race(np.zeros(k), rows, budget, looking_up(right, asked), seed)
    assert len(asked) == len(set(asked)) == raced.evaluations <= budget
    assert raced.seen.tolist() == [sum(c == i for c, _ in asked) for i in range(k)]
    assert np.isfinite(raced.scores).all()


def test_half_go_on_in_each_round():
    """Four candidates and 64 evaluations in two rounds: 8 rows for each of four, then 16 for each of two."""
    raced = race(np.zeros(4), 400, 64, looking_up(bernoulli([0.2, 0.9, 0.3, 0.8])))
    assert raced.seen.tolist() == [8, 24, 8, 24]
    assert raced.scores.argmax() == 1
    assert raced.scores[[1, 3]].min() > raced.scores[[0, 2]].max()


def test_a_race_finds_a_good_candidate_with_a_third_of_the_evaluations():
    accuracies = np.linspace(0.4, 0.8, 16)
    rates = []
    for seed in range(20):
        right = bernoulli(accuracies, 300, seed)
        raced = race(np.zeros(16), 300, 16 * 300 // 3, looking_up(right), seed)
        rates.append(right.mean(axis=1)[raced.scores.argmax()] / right.mean(axis=1).max())
    assert np.mean(rates) > 0.98


def test_the_prior_decides_where_few_rows_are_seen_and_not_where_many_are():
    right = np.zeros((2, 400), dtype=bool)
    right[0, :200] = True
    right[1, 200:] = True  # as good on all rows
    for prior in ([1, 0], [0, 1]):
        assert race(prior, 400, 800, looking_up(right)).scores.argmax() == np.argmax(prior)
    better = bernoulli([0.5, 0.8])
    assert race([1, 0], 400, 600, looking_up(better)).scores.argmax() == 1
    assert race([1, 0], 400, 2, looking_up(np.zeros((2, 400), dtype=bool))).scores.argmax() == 0


def test_the_estimate_of_a_candidate_by_hand():
    """Two candidates, 10 rows each, 8 and 4 right: m = 0.6, z = ±1, so (8 + 10 · 0.65) / 20 and …"""
    right = np.zeros((2, 10), dtype=bool)
    right[0, :8], right[1, :4] = True, True
    raced = race([3, 1], 10, 20, looking_up(right))
    assert raced.scores == pytest.approx([(8 + 6.5) / 20, (4 + 5.5) / 20])


# --- Comparisons ------------------------------------------------------------------------------------------


def test_a_comparison_by_hand():
    found = compare("d", ["a", "b", "c"], {"ours": [0.1, 0.9, 0.2], "flat": [1, 1, 1]}, [0.5, 0.8, 1.0], 7)
    ours, flat = found.ways
    assert (ours.picks, flat.picks) == (("b",), ("a", "b", "c"))
    assert ours.metrics["performance_rate"] == pytest.approx(0.8)
    assert flat.metrics["performance"] == pytest.approx((0.5 + 0.8 + 1) / 3)
    assert json.loads(json.dumps(found.as_dict()))["ways"][0]["picks"] == ["b"]
    assert compare("d", ["a"], {"ours": [0.1]}, None, 0).ways[0].metrics is None


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.inf], []])
def test_scores_for_other_candidates_are_refused(scores):
    with pytest.raises(DataError, match="no score to each of the 2"):
        compare("d", ["a", "b"], {"ours": scores}, None, 0)


def test_candidates_without_a_score_stand_last_and_are_never_taken():
    found = compare(
        "d", ["a", "b", "c"], {"some": [np.nan, 0.1, -5], "none": [np.nan] * 3}, [0.9, 0.4, 0.2], 7
    )
    some, none = found.ways
    assert (some.scores, some.picks) == ((None, 0.1, -5.0), ("b",))
    assert some.metrics["performance_rate"] == pytest.approx(0.4 / 0.9)
    assert some.metrics["rank_of_best"] == 3
    assert (none.scores, none.picks, none.metrics) == ((None,) * 3, (), None)


def test_doubts_name_constant_and_equal_candidates():
    answers = np.zeros((3, 100, 2))
    answers[0, :, 0] = 1
    answers[1, :98, 1], answers[1, 98:, 0] = 1, 1
    answers[2, :97, 1], answers[2, 97:, 0] = 1, 1
    similar = np.array([[1, 0.9995, 0.3], [0.9995, 1, 0.5], [0.3, 0.5, 1]])
    assert doubts(["a", "b", "c"], answers, similar) == [
        "Nearly all texts get the same label from a, b.",
        "b answers U like a.",
    ]
    assert doubts(["c"], answers[2:], np.eye(1)) == []


# --- Choosing in a project --------------------------------------------------------------------------------

MODELS = """
def good(texts):
    return [[0.1, 0.9] if "good" in text else [0.9, 0.1] for text in texts]
def turned(texts):
    return [[0.9, 0.1] if "good" in text else [0.1, 0.9] for text in texts]
def always(texts):
    return [[0.4, 0.6] for _ in texts]
def lengths(texts):
    return [[0.3, 0.7] if len(text) > 22 else [0.7, 0.3] for text in texts]
"""
WORDS = ["film", "book", "song", "play", "meal", "trip", "game", "hotel", "phone", "course"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choosing")
    (folder / "mymodels.py").write_text(MODELS)
    texts = [f"{a} {w} {b}" for w in WORDS for a in ("The", "Our long") for b in ("was good", "was bad")]
    rows = [{"text": t, "label": "pos" if "good" in t else "neg"} for t in texts]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "u.jsonl").write_text("\n".join(json.dumps({"text": t.replace("was", "is")}) for t in texts))
    names = ["good", "turned", "always", "lengths"]
    models = [f'  - {{name: {n}, python: "mymodels:{n}", labels: [neg, pos]}}' for n in names]
    (folder / "fute.yaml").write_text(
        "\n".join(
            [
                "corpus: {path: u.jsonl}",
                "method: {name: linear-probe, replicates: 10}",
                "datasets:",
                "  - {name: d, path: d.jsonl, test: 0.5}",
                "models:",
                *models,
                '  - {name: other, python: "mymodels:good", labels: [no, yes]}',
            ]
        )
    )
    made = Project(folder)
    made.run()
    return made


def test_choosing_takes_the_model_that_does_the_task(project):
    alone = choose(project, "d", "model")
    assert alone.candidates == ("good", "turned", "always", "lengths")
    assert [way.name for way in alone.ways] == ["fute"]
    assert (alone.ways[0].picks, alone.performances, alone.rows) == (("good",), None, 0)


def test_baselines_race_and_truth_stand_beside_it(project):
    found = choose(project, "d", "model", against=["MI", "MI_G"], truth=True, budget=40)
    assert [way.name for way in found.ways] == ["fute", "fute + MI_G", "MI", "MI_G", "race"]
    by_name = {way.name: way for way in found.ways}
    assert found.performances[0] == 1
    assert found.performances[1] == 0
    assert found.rows == 20
    assert by_name["fute"].metrics["performance_rate"] == 1
    assert by_name["race"].picks == ("good",)
    assert set(by_name["MI"].picks) == {"good", "turned"}, "what turns labels round tells as much of them"
    assert by_name["fute + MI_G"].picks == ("good",)
    assert found.warnings[0] == "Nearly all texts get the same label from always."


def test_what_cannot_be_chosen_from_is_said(project):
    with pytest.raises(ConfigError, match="no prompt of the space answers the labels of d"):
        choose(project, "d", "prompt")
    with pytest.raises(ConfigError, match='no dataset "e"'):
        choose(project, "e", "model")
    with pytest.raises(ConfigError, match='no baseline "MY"'):
        choose(project, "d", "model", against=["MY"])


RULE = """
import json, sys
for line in sys.stdin:
    got = json.loads(line)
    said = {"label": "pos" if "good" in got["text"] else "neg"}
    if "meal" in got["text"] and "shy" in sys.argv:
        said = {"error": "no comment"}
    print(json.dumps({"id": got["id"], **said}), flush=True)
"""


def test_a_row_without_an_answer_is_wrong_and_what_no_one_was_asked_is_not_counted(tmp_path, project):
    """Of the answers to reviews of meals one is missing; with a cap, only some rows are asked for."""
    from fute.outcomes import expected

    for file in ("d.jsonl", "u.jsonl"):
        (tmp_path / file).write_text((project.folder / file).read_text())
    (tmp_path / "rule.py").write_text(RULE)
    command = 'command: ["python", "rule.py", "NAME"], labels: [neg, pos]'
    content = ["corpus: {path: u.jsonl}", "method: {name: linear-probe, replicates: 0}", "datasets:"]
    content += ["  - {name: d, path: d.jsonl, test: 0.5}", "models:"]
    content += [f"  - {{name: {n}, {command.replace('NAME', n)}}}" for n in ("shy", "bold")]
    (tmp_path / "fute.yaml").write_text("\n".join(content))
    made = Project(tmp_path)
    made.run()
    held_out = made.datasets["d"][1]
    meals = sum("meal" in item.text for item in held_out.inputs)
    assert 0 < meals < 5
    capped = f"\nbudget: {{max_calls: {made.budget.spent.calls + 30}}}"
    (tmp_path / "fute.yaml").write_text("\n".join(content) + capped)
    stopped = choose(Project(tmp_path), "d", "model", truth=True)
    assert 0 < stopped.rows < 20
    assert not (tmp_path / ".fute" / "outcomes.json").exists(), "half an outcome is none"
    assert Project(tmp_path).accuracies("d").keys() < {"shy", "bold"}
    (tmp_path / "fute.yaml").write_text("\n".join(content))
    found = choose(Project(tmp_path), "d", "model", truth=True)
    assert (found.rows, found.performances) == (20, (1 - meals / 20, 1.0))
    assert Project(tmp_path).accuracies("d") == dict(zip(found.candidates, found.performances, strict=True))
    assert expected(made, "d") is None


def test_expected_accuracy_needs_outcomes_of_three_other_datasets(project):
    from fute.outcomes import expected, remember

    folder = project.folder
    (folder / ".fute" / "outcomes.json").unlink(missing_ok=True)
    config = (folder / "fute.yaml").read_text()
    more = "".join(
        f"  - {{name: {n}, path: d.jsonl, test: 0.5, seed: {i}}}\n" for i, n in enumerate("abc", 1)
    )
    (folder / "fute.yaml").write_text(config.replace("datasets:\n", "datasets:\n" + more))
    four = Project(folder)
    four.run()
    for number, name in enumerate("abc"):
        assert expected(four, "d") is None, f"{number} outcomes"
        if name == "a":
            choose(four, name, "model", truth=True)
        else:
            remember(four, name, {"good": 1.0, "turned": 0.0, "always": 0.5})
    remember(four, "a", {"lengths": 0.5})
    kept = json.loads((folder / ".fute" / "outcomes.json").read_text())
    assert {name: value for name, (_, value) in kept["a"].items()} == {
        "good": 1.0,
        "turned": 0.0,
        "always": 0.5,
        "lengths": 0.5,
    }
    found = expected(four, "d")
    assert found["good"].performance > 0.9
    assert found["turned"].performance < 0.1
    assert found["good"].low <= 1.0 <= found["good"].high + 1e-9
    assert expected(four, "a") is None, "its own outcome doesn't count"
    (folder / "mymodels.py").write_text(MODELS.replace("0.1, 0.9", "0.2, 0.8"))
    assert expected(Project(folder), "d") is None, "other models answered then"
