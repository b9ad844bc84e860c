"""What a transfer grid still has to do, and to download, without opening a connection."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fute.reproduce.evidence import Evidence
from fute.reproduce.finetuning import Schedule
from fute.reproduce.tasks import Task
from fute.reproduce.transfer import NOTHING, BaseConfig, Transfer

_FORWARD = 3  # a step of training counts as so many passes that only read


class Download(NamedTuple):
    """One thing that a grid takes from the hub or the web.

    Attributes:
        what: "model" or "dataset".
        name: its id, with a dataset's configuration, or its URL.
        rows: to learn from; None where nobody has said.
    """

    what: str
    name: str
    rows: int | None = None


class Planned(NamedTuple):
    """What a grid still has to do with one base.

    Attributes:
        base: its name.
        weights: where they come from.
        models: source models to be fine-tuned.
        pairs: of them and `NOTHING` with targets, to be fine-tuned.
        kept: pairs that are there.
        steps: of all these fine-tunings, but for those of unknown size.
        tokens: that are read in them, by a guess of 4 characters each; of what isn't here yet as many as are
            read at most.
        calls: of source models, which label U.
        read: tokens of these calls at most.
        hours: all of it takes on one GPU, where the recipe says how fast that is.
        unknown: tasks that aren't here, and whose size the recipe doesn't say.
    """

    base: str
    weights: str
    models: int
    pairs: int
    kept: int
    steps: int
    tokens: int
    calls: int
    read: int
    hours: float | None
    unknown: tuple[str, ...]


def plan(evidence: Evidence, kept: Container[str] = ()) -> list[Planned]:
    """What running a grid would do, one base after the other.

    Args:
        evidence: of the grid.
        kept: paths in the grid's folder of what needs not be there, since a run begins with unpacking it.
    """
    return [_planned(evidence, base, kept) for base in evidence.grid.recipe.bases]


def _planned(evidence: Evidence, base: BaseConfig, kept: Container[str]) -> Planned:
    grid = evidence.grid
    pairs = [pair for pair in grid.pairs() if pair.base is base]
    missing = [pair for pair in pairs if not _is_there(grid, grid.pair_file(pair), kept)]
    targets, sources = [task for task in grid.tasks if base.takes(task)], grid.sources_of(base)
    files = [evidence.scores_file(way, base, target) for way in evidence.ways for target in targets]
    scored = all(_is_there(grid, file, kept) for file in files)
    needed = {pair.source for pair in missing} - {NOTHING}
    models = [s for s in sources if s.name in needed and not grid.model_folder(base, s).is_dir()]
    work = [(source, grid.learning(source)) for source in models]
    work += [(pair.target, grid.learning_target(pair.target)) for pair in missing]
    steps, tokens, unknown = _sum(work)
    texts = 0 if scored else grid.recipe.corpus.sample or len(evidence.corpus)
    read = sum(texts * grid.learning(source).max_tokens for source in sources)
    speed = grid.recipe.tokens_per_second
    return Planned(
        base=base.name,
        weights=base.weights,
        models=len(models),
        pairs=len(missing),
        kept=len(pairs) - len(missing),
        steps=steps,
        tokens=tokens,
        calls=texts * len(sources),
        read=read,
        hours=None if speed is None else (tokens + read / _FORWARD) / speed / 3600,
        unknown=unknown,
    )


def _sum(work: Sequence[tuple[Task, Schedule]]) -> tuple[int, int, tuple[str, ...]]:
    """Steps and tokens of all, and the names of those whose size isn't known."""
    takes = [(task.name, task.takes(schedule)) for task, schedule in work]
    known = [some for _, some in takes if some is not None]
    steps, tokens = (sum(one[i] for one in known) for i in range(2))
    return steps, tokens, tuple(dict.fromkeys(name for name, some in takes if some is None))


def _is_there(grid: Transfer, file: Path, kept: Container[str]) -> bool:
    return file.is_file() or file.relative_to(grid.folder).as_posix() in kept


def downloads(evidence: Evidence) -> Iterator[Download]:
    """What a grid takes from the hub or the web, whether it is here already or not."""
    recipe = evidence.grid.recipe
    for name in dict.fromkeys([*(base.weights for base in recipe.bases), evidence.surrogate]):
        if name.startswith("hf:"):
            yield Download("model", name)
    for task in recipe.tasks:
        if task.hf is not None:
            yield Download("dataset", " ".join(filter(None, (f"hf:{task.hf}", task.config))), task.size)
        elif str(task.path).startswith("http"):
            yield Download("dataset", str(task.path), task.size)
