"""`fute corpus`: making a U."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fute.cli import show
from fute.core.progress import Progress
from fute.data import crossfit
from fute.data.crossfit import Drawn
from fute.reproduce.evaluated import evaluated


def build(to: Path, per_task: int, seed: int, progress: Progress) -> list[Drawn]:
    """U from CrossFit, without what the paper's tables are evaluated on."""
    return crossfit.build(to, evaluated(progress), per_task=per_task, seed=seed, progress=progress)


def print_drawn(drawn: Sequence[Drawn], to: Path) -> None:
    failed = [one for one in drawn if one.failure is not None]
    columns = [("task", "left"), ("texts", "right"), ("overlapping", "right")]
    rows = [[one.task, f"{one.texts:,}", f"{one.overlapping:,}"] for one in drawn if one.failure is None]
    show.table(str(to), columns, rows)
    texts, tasks = sum(one.texts for one in drawn), len(drawn) - len(failed)
    show.remark(f"{texts:,} texts of {tasks} tasks; {len(crossfit.crossfit().left_out)} are evaluated on.")
    for one in failed:
        show.remark(f"{one.task}: {one.failure}")
    if failed:
        show.remark(f"Run it again to try the {len(failed)} that failed once more.")
