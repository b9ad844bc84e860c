"""What several commands do: write an example project, sum up a run, draw the map."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fute.cli import show
from fute.config import PROJECT_FILE
from fute.core.errors import ConfigError
from fute.core.files import storing
from fute.project import STATE_FOLDER, Project, RunReport
from fute.space.layout import Faith, faith
from fute.space.similarity import cosine_matrix

EXIT_WRONG_INPUT = 2


def summary(report: RunReport) -> str:
    answers = f"{report.asked:,} answers asked for, {report.cached:,} from the cache"
    embeddings = f"{len(report.embedded)} embeddings made, {len(report.unchanged)} unchanged"
    cost = f"; {show.money(report.spent.cost)} spent at most" if report.spent.cost else ""
    return f"{answers}; {embeddings}; {show.duration(report.seconds)}{cost}."


def raise_failures(report: RunReport) -> None:
    for name, count in report.cut.items():
        show.remark(f"{name}: {count} texts were too long and lost their end (see `max_tokens`)")
    for name, kinds in report.failed_items.items():
        example = {one["kind"]: one["detail"] for one in reversed(report.failed_answers[name])}
        listed = ", ".join(f"{count} {kind}{_such_as(example[kind])}" for kind, count in kinds.items())
        if "error" not in kinds:
            again = "`fute run --retry` asks again"
        elif len(kinds) == 1:
            again = "run again to ask for them"
        else:
            again = "run again to ask for the errors, `fute run --retry` asks for all"
        show.remark(f"{name}: some texts have no answer: {listed} ({again})")
    for name, error in report.failures.items():
        said = error.problem.startswith((f"{name} ", f"model {name}", f"dataset {name}"))
        show.remark(f"error: {error}" if said else f"error: {name}: {error}")
    if report.failures:
        done = "The others are done. " if report.embedded or report.unchanged else ""
        show.remark(f"{done}Correct these and run again: what is labelled is kept.")
    if report.stopped is not None:
        show.remark(f"stopped with {report.left:,} questions left: {report.stopped}")
    if report.failures or report.stopped is not None:
        raise SystemExit(EXIT_WRONG_INPUT)


def _such_as(detail: str) -> str:
    """The beginning of a failure's detail, on one line."""
    line = " ".join(detail.split())
    return f", such as “{line[:160]}{'…' if len(line) > 160 else ''}”" if line else ""


def write_map(project: Project, out: Path) -> None:
    """Write the map of a project's space as a picture or a page."""
    from fute.plots.interactive import write_page
    from fute.plots.points import points
    from fute.plots.static import write_picture

    writers: dict[str, Any] = {
        ".html": write_page,
        ".png": write_picture,
        ".svg": write_picture,
        ".pdf": write_picture,
    }
    writer = writers.get(out.suffix.lower())
    if writer is None:
        raise ConfigError(f"can't draw a map to {out}", expected=f"a name that ends in {', '.join(writers)}")
    embeddings = project.space.embeddings()
    if len(embeddings) < 2:
        raise ConfigError("the space holds fewer than two embeddings", fix="run `fute run` first")
    spec = project.embedder.spec
    places = points(embeddings)
    writer(places, out, f"{len(embeddings)} task embeddings · {spec.method} · {spec.surrogate}")
    if len(embeddings) > 2:
        show.remark(faithfulness(faith(cosine_matrix(embeddings), np.array([(p.x, p.y) for p in places]))))


def faithfulness(found: Faith) -> str:
    """How far to trust a map, in words."""
    kept = f"{found.neighbour_recall:.0%} of the {found.k} nearest in the space are so on the map, too"
    return f"trustworthiness {found.trustworthiness:.2f}; {kept}"


def copy_example(folder: Path, config: str, files: list[str], force: bool | None = None) -> None:
    """Write an example project; over files that are there only by `force`, None where a command has none."""
    source = resources.files("fute.demo")
    targets = {folder / PROJECT_FILE: config, **{folder / name: name for name in files}}
    with storing(folder):
        there = [str(path) for path in targets if path.exists()]
    if there and not force:
        otherwise = "" if force is None else ", or overwrite the example's files with --force"
        raise ConfigError(f"{there[0]} is there already", fix=f"choose another folder{otherwise}")
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path, name in targets.items():
            with resources.as_file(source / name) as file:
                shutil.copyfile(file, path)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text(f"{STATE_FOLDER}/\n")
