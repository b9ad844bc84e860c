"""`fute demo`: a project of prompts and other black boxes, run, ranked, checked and drawn."""

from __future__ import annotations

import time
from pathlib import Path

import click

from fute.cli import show
from fute.cli.steps import copy_example, raise_failures, summary, write_map
from fute.config import PROJECT_FILE
from fute.core.files import storing
from fute.project import Project

_FILES = ["reviews.csv", "headlines.csv", "corpus.jsonl", "blackboxes.py"]


def run_demo(folder: Path) -> None:
    """Make the project unless it is there, run it, print rankings beside true accuracies, draw the map."""
    began = time.monotonic()
    with storing(folder):
        is_there = (folder / PROJECT_FILE).exists()
    if not is_there:
        copy_example(folder, "demo.yaml", _FILES)
    project = Project(folder)
    sizes = (
        f"{len(project.models)} models, {len(project.datasets)} datasets, U of {len(project.corpus)} texts"
    )
    show.remark(f"{sizes}; see {folder / PROJECT_FILE}")
    with show.progress() as progress:
        report = project.run(progress)
        truths = {name: project.accuracies(name, progress) for name in project.datasets}
    show.remark(summary(report))
    for name, truth in truths.items():
        show.ranking(project.rank(name), truth)
        click.echo()
    maps = [folder / "map.html", folder / "map.png"]
    for path in maps:
        write_map(project, path)
    click.echo("accuracy: on held-out rows that no embedding saw; – for models that answer other labels.")
    click.echo(
        f"The map: {' and '.join(map(str, maps))}. All of it took {show.duration(time.monotonic() - began)}."
    )
    raise_failures(report)
