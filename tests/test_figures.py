"""The paper's maps, from tiny grids and from a made-up case in which it is clear what lies near what."""

import json
import shutil
import xml.etree.ElementTree as ET

import matplotlib.image
import numpy as np
import pytest

from fute.core.errors import ConfigError
from fute.plots.points import COLOURS
from fute.reproduce.evidence import WAYS, Evidence, Way
from fute.reproduce.figures import BY, FIGURES, Map, Shown, draw, fullest_map, source_models
from fute.reproduce.report import write_report
from fute.reproduce.transfer import TransferRecipe
from fute.space.layout import layout_of
from tests.grids import make_grid, make_transfer, transfer_recipe, with_prompts
from tests.helpers import command, refused
from tests.test_plots import Page

PROBES, TUPATE = BY
GROUPS = {"classification or regression": 6, "question answering": 5}
BASES = ("bert", "gpt2", "t5")


def clear_case():
    """Groups far apart, within them the models of a base near each other; the datasets in the middle."""
    rng = np.random.default_rng(0)
    shown, vectors = [], []
    of_base = {base: rng.normal(size=30) for base in BASES}
    for group, tasks in GROUPS.items():
        of_group = 4 * rng.normal(size=30)
        for task in [f"{group[0]}{i}" for i in range(tasks)]:
            for model in (*BASES, "dataset"):
                name = task if model == "dataset" else f"{model}/{task}"
                shown.append(Shown(name=name, label=task, group=group, model=model))
                vectors.append(of_group + of_base.get(model, 0) + 0.3 * rng.normal(size=30))
    unit = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Map(shown=shown, cosines=(unit @ unit.T).round(5).tolist())


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


def drawn(page):
    """Name → (x, y, colour, symbol, text beside it)."""
    return {
        hover.split("</b>")[0].removeprefix("<b>"): (
            x,
            y,
            trace["marker"]["color"],
            trace["marker"]["symbol"],
            t,
        )
        for trace in page.traces
        for hover, x, y, t in zip(trace["customdata"], trace["x"], trace["y"], trace["text"], strict=True)
    }


@pytest.mark.parametrize(("figure", "count"), [("figure3", 33), ("figureA1", 44)])
def test_colours_are_tasks_and_shapes_are_models(figure, count, tmp_path):
    made = clear_case()
    faith = draw(made, FIGURES[figure], tmp_path / figure, BY[0])
    assert faith.trustworthiness > 0.9
    said = (
        f"trustworthiness {faith.trustworthiness:.2f}, neighbour recall {faith.neighbour_recall:.2f} (k = 5)"
    )
    assert page_of(tmp_path / f"{figure}.html").layout["title"]["text"].endswith(f"<br>{said}")
    points = drawn(page_of(tmp_path / f"{figure}.html"))
    assert len(points) == count
    colour = dict(zip(sorted(GROUPS), COLOURS, strict=False))
    symbol = {"bert": "circle", "gpt2": "square", "t5": "diamond", "dataset": "star"}
    for one in made.shown:
        if figure == "figure3" and one.model == "dataset":
            assert one.name not in points
            continue
        _, _, of_task, of_model, text = points[one.name]
        assert (of_task, of_model) == (colour[one.group], symbol[one.model])
        assert text == (one.label if figure == "figureA1" else "")
    root = ET.parse(tmp_path / f"{figure}.svg").getroot()
    marks = [g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.get("id", "").startswith("PathColl")]
    assert len(marks) == count
    text = (tmp_path / f"{figure}.svg").read_text(encoding="utf-8")
    beside = " and 11 of datasets" if figure == "figureA1" else ""
    title = f"33 task embeddings of models{beside}, by fute's linear probes"
    for word in (*GROUPS, *BASES, "task", "model", title, said):
        assert f"<!-- {word} -->" in text, word
    assert matplotlib.image.imread(tmp_path / f"{figure}.png").shape == (960, 1500, 4)


def test_points_of_a_group_and_of_a_base_lie_nearer_than_others(tmp_path):
    made = clear_case()
    draw(made, FIGURES["figureA1"], tmp_path / "f", BY[0])
    points = drawn(page_of(tmp_path / "f.html"))
    places = np.array([points[one.name][:2] for one in made.shown])
    far = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag([np.inf] * len(places))
    groups = np.array([one.group for one in made.shown])
    models = np.array([one.model for one in made.shown])
    within = far[groups[:, None] == groups[None]]
    across = far[groups[:, None] != groups[None]]
    assert within[np.isfinite(within)].max() < across.min()
    nearest = far.argmin(axis=1)
    assert (models == models[nearest]).mean() > 0.9


def test_two_embeddings_make_no_map(tmp_path):
    made = clear_case()
    two = Map(shown=made.shown[:2], cosines=[row[:2] for row in made.cosines[:2]])
    with refused(ConfigError, "too few task embeddings"):
        draw(two, FIGURES["figureA1"], tmp_path / "f", BY[0])


def test_the_map_that_shows_more_is_kept(tmp_path):
    made = clear_case()
    fewer = made.without_datasets()
    assert fullest_map(lambda: None, tmp_path, "models", TUPATE, "small") is None
    assert fullest_map(lambda: fewer, tmp_path, "models", TUPATE, "small") == fewer
    assert fullest_map(lambda: made, tmp_path, "models", TUPATE, "small") == made
    for fresh in (lambda: fewer, lambda: None):
        assert fullest_map(fresh, tmp_path, "models", TUPATE, "small") == made
    assert (tmp_path / "map-models-tupate-small.json").stat().st_size < 2**20


@pytest.fixture
def few_ways(monkeypatch):
    few = {TUPATE.way: Way("tupate", {"steps": 2}, rows=400), PROBES.way: WAYS[PROBES.way]}
    monkeypatch.setattr("fute.reproduce.evidence.WAYS", few)


def test_a_map_of_a_grid_of_source_models_has_models_and_datasets(tmp_path, few_ways):
    grid = make_transfer(tmp_path / "grid")
    evidence = Evidence(grid, tmp_path / "evidence")
    target = next(task for task in grid.tasks if task.name == "tone")
    evidence.scores(grid.recipe.bases[0], target, grid.sources)
    for by in BY:
        made = source_models(evidence, by)
        found = {one.name: (one.label, one.group, one.model) for one in made.shown}
        assert found["tiny/mood"] == ("mood", "classification or regression", "tiny")
        assert found["tone"] == ("tone", "other domains", "dataset")
        assert len(found) == 3 + 1
        assert np.diag(made.cosines) == pytest.approx(1)
    embeddings = {e.name: e for e in evidence.embeddings(TUPATE.way)}
    a, b = (embeddings[f"model tiny/{task}"].vector.astype(float) for task in ("mood", "case"))
    made = source_models(evidence, TUPATE)
    i, j = ([one.name for one in made.shown].index(f"tiny/{task}") for task in ("mood", "case"))
    assert made.cosines[i][j] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-4)


def test_table_1_leaves_what_figure_3_is_drawn_from(tmp_path, few_ways, monkeypatch, capsys):
    recipe, out = transfer_recipe(tmp_path / "grid"), tmp_path / "out"
    monkeypatch.setattr(TransferRecipe, "read", lambda scale, data: recipe)
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "cache"))
    arguments = ("--data", str(tmp_path), "--out", str(out))
    assert command(monkeypatch, capsys, "reproduce", "table1", *arguments)[0] == 0
    assert command(monkeypatch, capsys, "reproduce", "figure3", *arguments)[0] == 0
    before = drawn(page_of(out / "figure3.html"))
    assert len(before) == 3
    shutil.rmtree(tmp_path / "cache")
    (out / "figure3.html").unlink()
    assert command(monkeypatch, capsys, "reproduce", "figureA1", "--saved", *arguments)[0] == 0
    assert command(monkeypatch, capsys, "reproduce", "figure3", *arguments)[0] == 0
    assert drawn(page_of(out / "figure3.html")) == before
    assert len(drawn(page_of(out / "figureA1.html"))) == 3 + 4


def test_prompts_are_drawn_from_the_cache_and_then_from_the_results_alone(tmp_path, monkeypatch, capsys):
    cache, out = tmp_path / "cache", tmp_path / "out"
    monkeypatch.setenv("FUTE_CACHE", str(cache))
    code, _, err = command(monkeypatch, capsys, "reproduce", "figure4", "--out", str(out))
    assert code == 2
    assert "fute reproduce table3 --scale small --data DIR" in err
    for grid in ("sentiment-smollm2", "nli-gemma3"):
        make_grid(cache / "reproduce/small/prompts" / grid, {"d": 8}, family="paper")

    code, shown, err = command(monkeypatch, capsys, "reproduce", "figureA2", "--out", str(out))
    assert code == 0
    assert err.count("trustworthiness") == 2
    files = [out / f"figureA2{by.ending}{ending}" for by in BY for ending in (".svg", ".png", ".html")]
    assert shown.split() == list(map(str, files))
    for by in BY:
        points = drawn(page_of(out / f"figureA2{by.ending}.html"))
        assert len(points) == 2 * 3
        assert points["paper/1 (smollm2)"][2:] == (COLOURS[1], "square", "1")
        assert points["paper/1 (gemma3)"][2:] == (COLOURS[0], "circle", "1")
    before = {file.name: file.read_bytes() for file in files if file.suffix == ".svg"}

    shutil.rmtree(cache)
    for file in files:
        file.unlink()
    assert command(monkeypatch, capsys, "reproduce", "figureA2", "--out", str(out))[0] == 0
    # Names of clips are random in an SVG; places are not.
    for name, old in before.items():
        assert places_in((out / name).read_bytes()) == places_in(old)
    code, shown, _ = command(monkeypatch, capsys, "reproduce", "figure4", "--out", str(out), "--json")
    assert code == 0
    for by, one in zip(BY, json.loads(shown), strict=True):
        assert one["files"][0] == str(out / f"figure4{by.ending}.svg")
        assert 0 <= one["neighbour_recall"] <= 1
    assert all(text == "" for *_, text in drawn(page_of(out / "figure4.html")).values())


def places_in(svg):
    return [
        (use.get("x"), use.get("y"), use.get("style"))
        for use in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
    ]


def test_figure_3_is_drawn_from_the_results_alone_and_is_in_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "none"))
    made = clear_case()
    fullest_map(lambda: made, tmp_path, "models", TUPATE, "small")
    arguments = ("--data", str(tmp_path / "no-data"), "--out", str(tmp_path))
    code, shown, _ = command(monkeypatch, capsys, "reproduce", "figure3", *arguments)
    assert code == 0
    assert shown.split() == [str(tmp_path / f"figure3{ending}") for ending in (".svg", ".png", ".html")]
    points = drawn(page_of(tmp_path / "figure3.html"))
    models = made.without_datasets()
    places = [points[one.name][:2] for one in models.shown]
    np.testing.assert_allclose(places, layout_of(np.array(models.cosines)))
    report = write_report(with_prompts(tmp_path))
    assert "## Figures 3, 4, A1 and A2" in report
    assert "figure3.svg)" in report
    assert "figureA1.svg)" not in report
