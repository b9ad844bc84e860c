"""The transfer grid: what each source model reaches on each target, once it is fine-tuned there, too.

A source model is a base fine-tuned on a source; its performance on a target is the truth that a ranking of
source models for this target is measured by (tables 1 and 2 of the paper).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field
from ruamel.yaml import YAML

from fute.config import CorpusConfig
from fute.core.errors import ConfigError
from fute.core.files import write_atomically, writing
from fute.core.progress import Progress, silent
from fute.core.section import Name, Section
from fute.core.sqlite import alone
from fute.core.types import Floats
from fute.reproduce.finetuning import LOSSES, Schedule, evaluate, fine_tune, keep_lowest
from fute.reproduce.said import ids_of
from fute.reproduce.tasks import Task, TaskConfig
from fute.weights.locate import Weights, locate

_LOOK_EVERY = 0.5  # seconds, whether another process is done
NOTHING = "none"  # the source of a base that was fine-tuned on the target alone


class BaseConfig(Section):
    """What source models are fine-tuned from.

    Attributes:
        layers: the lowest so many are kept; None: all.
        groups: of tasks, both its sources and its targets; None: all.
        seeds: so many times each of its pairs is fine-tuned, with other rows of the target, another head and
            another order; the truth is their mean.
        seeds_of: the same for targets of some groups.
    """

    name: Name
    weights: str
    layers: int | None = Field(default=None, ge=1)
    groups: list[str] | None = None
    seeds: int = Field(default=1, ge=1)
    seeds_of: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.name)  # lists and mappings have no hash

    def takes(self, task: Task) -> bool:
        """Whether a task is a source or a target for it."""
        return self.groups is None or task.group in self.groups

    def times(self, target: Task) -> int:
        """How often each pair on a target is fine-tuned."""
        return self.seeds_of.get(target.group, self.seeds)


class TransferRecipe(Section):
    """One grid: `recipes/transfer-SCALE.yaml`.

    Attributes:
        corpus: U.
        bases: what source models are made from.
        source, target: how long source models and pairs are fine-tuned; a task may have its `own`.
        test_rows: of a target that are scored, at most; None: all.
        window: words that are kept of a context; None: all, and what `max_tokens` has no room for is cut.
        tasks: the datasets.
        sources: groups whose tasks are sources.
        preset: whose options the task embeddings are trained with; None: each method's own.
        surrogate: of all task embeddings; by default the preset's.
        embedded_rows: of a dataset or of U that a task embedding is trained on; None: as each way says.
        state_rows: of a target that are read by baselines which see the source models' states; None: as
            many as are learnt from.
        tokens_per_second: of fine-tuning, for plans.
    """

    corpus: CorpusConfig
    bases: list[BaseConfig] = Field(min_length=1)
    source: Schedule
    target: Schedule
    test_rows: int | None = Field(ge=1)
    window: int | None = Field(ge=1)
    tasks: list[TaskConfig] = Field(min_length=2)
    sources: list[str] = Field(default=["cr", "qa"])
    preset: str | None = None
    surrogate: str | None = None
    embedded_rows: int | None = Field(default=None, ge=1)
    state_rows: int | None = Field(default=None, ge=1)
    tokens_per_second: int | None = Field(default=None, ge=1)

    @classmethod
    def read(cls, scale: str, data: Path) -> TransferRecipe:
        """The recipe of a scale, with `$FUTE_DATA` as this folder."""
        file = resources.files("fute.reproduce").joinpath(f"recipes/transfer-{scale}.yaml")
        if not file.is_file():
            raise ConfigError(f"there is no recipe for source models at the {scale} scale yet")
        filled = string.Template(file.read_text("utf-8")).substitute(FUTE_DATA=data.resolve())
        return cls.model_validate(YAML(typ="safe").load(filled))

    def read_tasks(self) -> list[Task]:
        return [task.read(self.test_rows, self.window) for task in self.tasks]


class Pair(NamedTuple):
    """One fine-tuning on a target, from a base that has seen a source, or `NOTHING`."""

    base: BaseConfig
    source: str
    target: Task
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.base.name}/{self.source}/{self.target.name}"


class Transfer:
    """A grid in a folder, each of whose models and pairs is made once and then kept.

    Args:
        recipe: what is in it.
        folder: `models/BASE/SOURCE` are the source models, `losses/BASE/SOURCE.json` the losses of their
            fine-tuning, `pairs/BASE/SOURCE/TARGET-SEED.npz` what was reached: the "performance", of each row
            a number ("rows", see `quality`) and of classes their probabilities ("labels").
    """

    def __init__(self, recipe: TransferRecipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.tasks = recipe.read_tasks()  # their rows are read when they are first asked for

    @property
    def sources(self) -> list[Task]:
        return [task for task in self.tasks if task.group in self.recipe.sources]

    def sources_of(self, base: BaseConfig) -> list[Task]:
        return [source for source in self.sources if base.takes(source)]

    def pairs(self) -> Iterator[Pair]:
        """All of them, in an order in which what is compared is complete early: of one base after the other,
        with one seed after the other, in class, then across, with those groups first that are only targets.
        """
        groups = list(dict.fromkeys(task.group for task in self.tasks))
        across = sorted(groups, key=lambda group: group in self.recipe.sources)
        parts = [(False, group) for group in groups] + [(True, group) for group in across]
        for base in self.recipe.bases:
            targets = [task for task in self.tasks if base.takes(task)]
            most = max((base.times(target) for target in targets), default=0)
            for seed, (is_across, group) in itertools.product(range(most), parts):
                own = [t for t in targets if t.group == group and seed < base.times(t)]
                sources = [s.name for s in self.sources_of(base) if (s.group != group) == is_across]
                for target, source in itertools.product(own, ([] if is_across else [NOTHING]) + sources):
                    if source != target.name:
                        yield Pair(base, source, target, seed)

    def run(self, progress: Progress = silent, *, after: Callable[[], object] = lambda: None) -> None:
        """Fine-tune what isn't yet. May be killed and started again, and several processes may share the
        work: a pair that another one is at is waited for only when nothing else is left.

        Args:
            after: called after each pair.
        """
        for done, task in enumerate(self.tasks):  # what can't be read fails before hours of work
            progress(f"reading {task.name}", done, len(self.tasks))
            task.read()
        pairs = list(self.pairs())
        for wait in (False, True):
            for done, pair in enumerate(pairs):
                progress(f"fine-tuning ({pair.name}, seed {pair.seed})", done, len(pairs))
                if self.pair_file(pair).is_file():
                    continue
                with self.alone(f"{pair.name.replace('/', '.')}-{pair.seed}", wait=wait) as free:
                    if free and not self.pair_file(pair).is_file():
                        self._run(pair)
                        after()
        progress("fine-tuning", len(pairs), len(pairs))

    @contextlib.contextmanager
    def alone(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold what is called so against other processes; False where one of them has it."""
        folder = self.folder / ".at-work"
        folder.mkdir(parents=True, exist_ok=True)
        while (held := alone(folder / name)) is None and wait:
            time.sleep(_LOOK_EVERY)
        with contextlib.closing(held) if held else contextlib.nullcontext():
            yield held is not None

    def learning(self, source: Task) -> Schedule:
        """How a source model is made."""
        return source.config.learn.of(self.recipe.source)

    def learning_target(self, target: Task) -> Schedule:
        """How a pair is fine-tuned on its target."""
        return target.config.learn.of(self.recipe.target)

    def model_folder(self, base: BaseConfig, source: Task) -> Path:
        """Where a source model is kept."""
        return self.folder / "models" / base.name / source.name

    def source_model(self, base: BaseConfig, source: Task) -> Path:
        """The folder of a source model, fine-tuned first where it isn't there."""
        to = self.model_folder(base, source)
        if not to.is_dir():
            with self.alone(f"model.{base.name}.{source.name}"):
                if not to.is_dir():
                    fine_tune(self.start(base), source.train, to, self.learning(source))
                    self.losses(base, source)
        return to

    def start(self, base: BaseConfig) -> Weights:
        """What a base's source models are fine-tuned from: the weights, or a folder with the layers of them
        that are kept.
        """
        if base.layers is None:
            return locate(base.weights)
        to = self.folder / "models" / base.name / NOTHING
        if not to.is_dir():
            with self.alone(f"model.{base.name}.{NOTHING}"):
                if not to.is_dir():
                    keep_lowest(base.layers, locate(base.weights), to)
        return locate(str(to))

    def losses(self, base: BaseConfig, source: Task) -> list[float]:
        """Of each step of a source model's fine-tuning."""
        kept = self.folder / "losses" / base.name / f"{source.name}.json"
        if not kept.is_file():
            write_atomically(kept, (self.source_model(base, source) / LOSSES).read_text())
        found: list[float] = json.loads(kept.read_text())
        return found

    def conditions(self) -> dict[str, Any]:
        """What pairs, losses and ids are true under, beside the bases and tasks that their names say."""
        of = self.recipe.model_dump(mode="json", include={"source", "target", "test_rows", "window"})
        learn = {t.name: own for t in self.tasks if (own := t.config.learn.model_dump(exclude_none=True))}
        some = {"learn": learn} if learn else {}
        scored = {"test_rows": of["test_rows"], "window": of["window"]}
        return {"pairs": {**of, **some}, "losses": {"source": of["source"], **some}, "ids": scored}

    def reached(self, pair: Pair) -> tuple[float, Floats] | None:
        """The performance of a pair and its number for each row (`quality`); None where it wasn't run yet."""
        file = self.pair_file(pair)
        if not file.is_file():
            return None
        with np.load(file) as saved:
            return float(saved["performance"]), saved["rows"]

    def pair_file(self, pair: Pair) -> Path:
        """Where what a pair has reached is kept."""
        return self.folder / "pairs" / pair.base.name / pair.source / f"{pair.target.name}-{pair.seed}.npz"

    def _run(self, pair: Pair) -> None:
        if pair.source == NOTHING:
            start = self.start(pair.base)
        else:
            source = next(task for task in self.tasks if task.name == pair.source)
            start = locate(str(self.source_model(pair.base, source)))
        schedule = self.learning_target(pair.target)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".unfinished-") as folder:
            tuned = Path(folder) / "model"
            fine_tune(start, pair.target.train, tuned, schedule, seed=pair.seed)
            found = evaluate(tuned, pair.target.test, max_tokens=schedule.max_tokens)
        self.keep_ids(pair.target)
        said: dict[str, Any] = {"performance": found.performance, "rows": found.rows}
        if found.labels is not None:
            said["labels"] = found.labels.astype(np.float16)
        with writing(self.pair_file(pair)) as stream:
            np.savez_compressed(stream, **said, schedule=json.dumps(asdict(schedule)))

    def keep_ids(self, target: Task) -> None:
        """Say in `ids/TARGET.npz` which rows of a target the pairs were scored on."""
        file = self.folder / "ids" / f"{target.name}.npz"
        if not file.is_file():
            with writing(file) as stream:
                np.savez_compressed(stream, id=ids_of(target.test.inputs))
