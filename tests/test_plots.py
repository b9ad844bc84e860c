"""The two maps: both show every name at its place, in its colour, and take nothing from the net."""

import html
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from fute.core.errors import StorageError
from fute.core.types import SpaceSpec, TaskEmbedding
from fute.plots.interactive import write_page
from fute.plots.points import COLOURS, SHAPES, Point, colours_of, points
from fute.plots.static import write_picture
from tests.helpers import refused

TITLE = "4 task embeddings · linear-probe"
FOUR = [
    Point("reviews", 0.0, 0.0, "no / yes", "dataset", ("source: reviews.csv", "examples: 24")),
    Point("prompt", 4.0, 1.0, "no / yes", "llm", ("template: Is {{ text }} good?",)),
    Point("vader", 1.0, 4.0, "bad / good", "python", ("function: mymodels:vader",)),
    Point("forest", 3.0, 3.0, "cat / dog", "sklearn", ("estimator: TfidfVectorizer → Forest",)),
]


def embedding(name, kind, vector, **provenance):
    left = np.array(vector, np.float32)[:, None]
    none = np.zeros((0, *left.shape), np.float16)
    spec = SpaceSpec("linear-probe", {}, "pkg:small", "a")
    return TaskEmbedding(name, kind, spec, left, np.ones((1, 1), np.float32), none, ("a", "b"), provenance)


class Page(HTMLParser):
    """What a page loads from elsewhere, and the data and layout of its figure."""

    def __init__(self, text):
        super().__init__()
        self.loaded = []
        self.tags = set()
        self.feed(text)
        call = re.search(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*", text)
        self.traces, end = json.JSONDecoder().raw_decode(text, call.end())
        self.layout, _ = json.JSONDecoder().raw_decode(text, text.index("{", end))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]


def page(all_points, folder, title=TITLE):
    write_page(all_points, folder / "map.html", title)
    return Page((folder / "map.html").read_text(encoding="utf-8"))


def svg(all_points, folder, title=TITLE):
    write_picture(all_points, folder / "map.svg", title)
    return (folder / "map.svg").read_text(encoding="utf-8")


# --- Points -----------------------------------------------------------------------------------------------


def test_a_point_says_what_its_embedding_is():
    made = points(
        [
            embedding("reviews", "dataset", [1, 0], task="no / yes", source="reviews.csv", examples=24),
            embedding(
                "prompt", "model", [0, 1], model_kind="llm", llm="pkg:l", template="{{ text }}?", chat=False
            ),
            embedding("forest", "model", [1, 1], model_kind="sklearn", task="a / b", words={"ü": [" x"]}),
        ]
    )
    assert [(p.name, p.kind, p.task, p.details) for p in made] == [
        ("reviews", "dataset", "no / yes", ("source: reviews.csv", "examples: 24")),
        ("prompt", "llm", "", ("llm: pkg:l", "template: {{ text }}?")),
        ("forest", "sklearn", "a / b", ('words: {"ü": [" x"]}',)),
    ]
    places = np.array([(p.x, p.y) for p in made])
    between = [np.linalg.norm(places[i] - places[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert between == pytest.approx([2**0.5, *[(2 - 2**0.5) ** 0.5] * 2], abs=1e-3)


def test_a_model_of_an_unknown_kind_is_drawn_as_python_is(tmp_path):
    embeddings = [
        embedding(name, "model", [1, i], model_kind=name) for i, name in enumerate(["rules", "llm"])
    ]
    made = points([*embeddings, embedding("silent", "model", [0, 1])])
    assert [p.kind for p in made] == ["python", "llm", "python"]
    assert sorted(name for trace in page(made, tmp_path).traces for name in trace["text"]) == [
        "llm",
        "rules",
        "silent",
    ]


def test_each_task_has_a_colour_and_the_order_of_the_points_does_not_matter():
    colours = colours_of(FOUR)
    assert set(colours) == {"no / yes", "bad / good", "cat / dog"}
    assert len(set(colours.values())) == 3
    assert colours_of(FOUR[::-1]) == colours
    assert len(set(COLOURS)) == len(COLOURS)


def test_more_tasks_than_colours_are_drawn_too(tmp_path):
    many = [Point(f"m{i}", i, i % 3, f"task {i:02}", "llm", ()) for i in range(len(COLOURS) + 2)]
    assert len(page(many, tmp_path).traces) == len(many)
    assert svg(many, tmp_path).count("<!-- m") == len(many)


def test_every_kind_has_a_marker_and_a_name_of_its_own():
    for column in zip(*SHAPES.values(), strict=True):
        assert len(set(column)) == len(SHAPES)


# --- The picture ------------------------------------------------------------------------------------------


def pixels_of(image, colour):
    """Rows and columns of the pixels of just this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.nonzero((np.rint(image[:, :, :3] * 255) == wanted).all(axis=2))


def without_legends(image):
    """What is left of the frame's right edge: the last column that is mostly not white."""
    inked = (image[:, :, :3] < 0.99).any(axis=2).mean(axis=0)
    return image[:, : np.flatnonzero(inked > 0.7).max()]


def test_a_png_has_each_point_in_its_colour_at_its_place(tmp_path):
    """Three stars of three tasks: x grows to the right, y upwards."""
    stars = [
        Point("low left", 0, 0, "a", "dataset", ()),
        Point("low right", 4, 1, "b", "dataset", ()),
        Point("top", 1, 5, "c", "dataset", ()),
    ]
    write_picture(stars, tmp_path / "map.png", TITLE)
    image = matplotlib.image.imread(tmp_path / "map.png")
    assert image.shape == (960, 1500, 4)
    row, column = {}, {}
    for task, colour in colours_of(stars).items():
        rows, columns = pixels_of(without_legends(image), colour)
        assert len(rows) > 100
        row[task], column[task] = np.median(rows), np.median(columns)
    assert column["a"] < column["c"] < column["b"]
    assert row["c"] < row["b"] < row["a"], "row 0 is the top one"
    # y is linear in the row: b is at 1 of 5.
    assert (row["a"] - row["b"]) / (row["a"] - row["c"]) == pytest.approx(1 / 5, abs=0.03)
    assert (column["c"] - column["a"]) / (column["b"] - column["a"]) == pytest.approx(1 / 4, abs=0.03)


def test_equal_maps_are_equal_files(tmp_path):
    assert svg(FOUR, tmp_path) == svg(FOUR, tmp_path)


def test_an_svg_has_every_name_task_kind_and_the_title(tmp_path):
    text = svg(FOUR, tmp_path)
    written = [html.unescape(comment) for comment in re.findall(r"<!-- (.*?) -->", text)]
    kinds = [name for name, _, _ in SHAPES.values()]
    for word in [p.name for p in FOUR] + [p.task for p in FOUR] + [*kinds, TITLE, "task", "kind"]:
        assert word in written
    for colour in colours_of(FOUR).values():
        assert f"fill: {colour.lower()}" in text


def test_each_kind_has_a_shape_of_its_own_in_the_svg(tmp_path):
    root = ET.fromstring(svg(FOUR, tmp_path))
    drawn = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        if group.get("id", "").startswith("PathCollection"):
            (path,) = group.iter("{http://www.w3.org/2000/svg}path")
            drawn[group.get("id")] = path.get("d")
    assert len(drawn) == len(FOUR)
    assert len(set(drawn.values())) == len(FOUR)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_ending_tells_the_format(tmp_path, ending):
    first = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    write_picture(FOUR, tmp_path / f"map.{ending.upper()}", TITLE)
    assert (tmp_path / f"map.{ending.upper()}").read_bytes().startswith(first)


def test_a_picture_is_the_same_each_time(tmp_path):
    pictures = []
    for name in ("one.png", "two.png"):
        write_picture(FOUR, tmp_path / name, TITLE)
        pictures.append(matplotlib.image.imread(io.BytesIO((tmp_path / name).read_bytes())))
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("name", ["$x_$y and $ \\bad$", "one $", "\\$", "_hidden", "<b>&"])
def test_names_are_drawn_as_they_are(tmp_path, name):
    """matplotlib would read formulas between dollar signs."""
    strange = [Point(name, 0, 0, f"{name} / yes", "llm", ()), Point("other", 1, 1, "b", "dataset", ())]
    text = svg(strange, tmp_path, title=name)
    written = [html.unescape(comment) for comment in re.findall(r"<!-- (.*?) -->", text, re.DOTALL)]
    assert written.count(name) == 2, "beside its point and in the title"
    assert f"{name} / yes" in written


def test_points_in_one_place_can_be_drawn(tmp_path):
    same = [Point(f"m{i}", 0.0, 0.0, "a", "llm", ()) for i in range(3)]
    write_picture(same, tmp_path / "map.png", TITLE)
    rows, columns = pixels_of(without_legends(matplotlib.image.imread(tmp_path / "map.png")), COLOURS[0])
    assert len(rows) > 50
    assert np.ptp(rows) < 30
    assert np.ptp(columns) < 30


# --- The page ---------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
    made = page(FOUR, tmp_path)
    assert made.loaded == []
    assert "script" in made.tags
    assert "iframe" not in made.tags
    assert [p.name for p in tmp_path.iterdir()] == ["map.html"]
    assert (tmp_path / "map.html").stat().st_size > 10**6, "plotly itself is inside"


def test_the_page_has_each_point_at_its_place_with_its_name_and_provenance(tmp_path):
    made = page(FOUR, tmp_path)
    drawn = {
        name: (x, y, hover)
        for trace in made.traces
        for name, x, y, hover in zip(trace["text"], trace["x"], trace["y"], trace["customdata"], strict=True)
    }
    assert {name: place[:2] for name, place in drawn.items()} == {p.name: (p.x, p.y) for p in FOUR}
    for point in FOUR:
        hover = drawn[point.name][2].split("<br>")
        kind = SHAPES[point.kind][0]
        assert hover == [f"<b>{point.name}</b>", f"kind: {kind}", f"task: {point.task}", *point.details]
    assert made.layout["title"]["text"] == TITLE


def test_page_and_picture_have_the_same_colours_and_every_kind_its_symbol(tmp_path):
    made = page(FOUR, tmp_path)
    picture = svg(FOUR, tmp_path)
    for point in FOUR:
        (trace,) = [trace for trace in made.traces if point.name in trace["text"]]
        assert trace["marker"]["color"] == colours_of(FOUR)[point.task]
        assert trace["marker"]["symbol"] == SHAPES[point.kind][2]
        assert trace["name"] == f"{point.task} · {SHAPES[point.kind][0]}", "so the legend tells both"
        assert f"fill: {trace['marker']['color'].lower()}" in picture
    assert len({trace["marker"]["symbol"] for trace in made.traces}) == 4


def test_names_that_look_like_markup_are_text(tmp_path):
    evil = "<script>alert('1 & 2')</script>"
    made = page(
        [Point(evil, 0, 0, evil, "llm", (f"template: {evil}", "two\nlines")), FOUR[0]], tmp_path, title=evil
    )
    raw = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert evil not in raw
    assert "<script>alert" not in raw
    (trace,) = [trace for trace in made.traces if "alert" in trace["text"][0]]
    hover = trace["customdata"][0]
    for shown in (trace["text"][0], trace["name"], hover, made.layout["title"]["text"]):
        assert "<script" not in shown
        assert evil in html.unescape(shown)
    assert hover.split("<br>")[-1] == "two⏎lines"


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for writer, name in ((write_page, "map.html"), (write_picture, "map.png")):
        with refused(StorageError, name):
            writer(FOUR, tmp_path / "file" / name, TITLE)
