"""What each way to choose a source model says of every source model and target: higher is better."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from fute.api import Embedder, Work, dataset_provenance, model_examples, task_of
from fute.choosing.states import LOG_ME_OF_LAYERS, OF_STATES, of_states
from fute.config import read_source
from fute.core.files import write_atomically
from fute.core.progress import Progress, silent
from fute.core.types import Examples, TaskEmbedding
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.presets import options_of, surrogate_of
from fute.reproduce.finetuning import tuned_model
from fute.reproduce.said import read_said, write_said
from fute.reproduce.tasks import Task
from fute.reproduce.transfer import BaseConfig, Transfer
from fute.reproduce.ways import PAPERS, STEPS, Way, drawn, embedded
from fute.selection.baselines.sources import curve_grad, data_size, fit_loss_curve
from fute.space.similarity import cosine
from fute.space.space import Space
from fute.surrogates.base import DEFAULT_SURROGATE, Surrogate
from fute.surrogates.features import Features
from fute.surrogates.kernel import layer_kernel

# source → score, of one base's source models for one target; a way that can't say is left out.
Scores = dict[str, float]
Scorer = Callable[[BaseConfig, Sequence[Task], Task], Scores]


FUTE, RELATIONS, OF_DATASETS = "fute", "fute, relations of pairs", "LinearProbe of datasets"
WAYS = {
    FUTE: Way("linear-probe", {"replicates": 0}),
    "fute, to label meaning": Way("linear-probe", {"replicates": 0}, similarity="map"),
    RELATIONS: Way("linear-probe", {"replicates": 0, "pairs": "relation"}),
    **PAPERS,
    OF_DATASETS: Way("linear-probe", {"replicates": 0}, of_models=False),
    "TaskEmb": Way("task-emb", {}, rows=200, of_models=False),
    "TuPaTE": Way("tupate", STEPS, rows=200, of_models=False),
    "sentence embeddings": Way("text-emb", {"replicates": 0}, of_models=False),
}


class Evidence:
    """Scores from a grid's source models, their answers on U, and the rows of the targets.

    Args:
        grid: whose source models are there, or are made.
        folder: where features, answers and embeddings are kept, and in `scores/WAY/BASE/TARGET.json` what
            came of them; in `answers/BASE/SOURCE.npz` the answers.
    """

    def __init__(self, grid: Transfer, folder: Path, progress: Progress = silent) -> None:
        self.grid, self.folder, self.progress = grid, folder, progress
        self._embedders: dict[tuple[str, str], Embedder] = {}
        self._spaces: dict[str, dict[str, TaskEmbedding]] = {}
        self._bases: dict[str, Features] = {}
        self._kept_states: dict[tuple[str, str], Features] = {}

    @cached_property
    def ways(self) -> dict[str, Way]:
        """`WAYS`, with as many rows as the recipe says."""
        rows = self.grid.recipe.embedded_rows
        return {name: way if rows is None else replace(way, rows=rows) for name, way in WAYS.items()}

    @cached_property
    def surrogate(self) -> str:
        recipe = self.grid.recipe
        return recipe.surrogate or (surrogate_of(recipe.preset) if recipe.preset else DEFAULT_SURROGATE)

    @cached_property
    def corpus(self) -> Corpus:
        return read_source(Corpus, self.grid.recipe.corpus)

    def few(self, target: Task) -> Dataset:
        """The rows that a target's DTE may see: those that models are fine-tuned on there."""
        return target.train.few(self.grid.recipe.target.rows)

    def seen(self, target: Task) -> Dataset:
        """Those of them that the source models' states are read of."""
        most = self.grid.recipe.state_rows
        return self.few(target) if most is None else self.few(target).few(most)

    def learnt(self, source: Task) -> Dataset:
        """The rows that a source's models have seen."""
        return source.train.few(self.grid.recipe.source.rows)

    def conditions(self) -> dict[str, Any]:
        """What the kept scores and answers are true under, by their folder: of each way its own, so that a
        further way, or a changed one, asks for nothing of the others.
        """
        recipe, grid = self.grid.recipe, self.grid.conditions()
        corpus = recipe.corpus.model_dump(mode="json", exclude={"path"})
        own = {task.name: task.config.preset for task in self.grid.tasks if task.config.preset}
        said = {"preset": recipe.preset, "surrogate": recipe.surrogate, "state_rows": recipe.state_rows}
        some = {key: value for key, value in {**said, "presets": own}.items() if value}
        common = {**grid["pairs"], "corpus": corpus, **some}
        ways = {name: {**common, "way": asdict(way)} for name, way in self.ways.items()}
        states = {**common, "segments": "as the source models were taught"}
        scores = {**ways, **dict.fromkeys(OF_STATES, states), "DataSize": common}
        scores["TextEmb"] = {**common, "states": "of the layers that are kept"}
        kept = {f"scores/{name}": made_under for name, made_under in scores.items()}
        return {**kept, "answers": {**grid["losses"], "corpus": corpus}}

    def make(self, cells: Iterable[tuple[BaseConfig, Task, Sequence[Task]]]) -> None:
        """Make the embeddings and states that `scores` of these still needs. Several processes may share the
        work, as for `Transfer.run`.
        """
        tasks: dict[Task, set[str]] = {}  # the ways that each is needed for
        models: dict[tuple[BaseConfig, Task], set[str]] = {}
        for base, target, sources in cells:
            for way, new in self._unscored(base, target, sources).items():
                for task in (target, *new):
                    tasks.setdefault(task, set()).add(way)
                for source in new:
                    models.setdefault((base, source), set()).add(way)
        for wait in (False, True):
            for task, ways in tasks.items():
                with self._new_alone(task.name, wait) as free:
                    if free:
                        self._of_task(task, ways)
            for (base, source), ways in models.items():
                with self._new_alone(f"{base.name}.{source.name}", wait) as free:
                    if free:
                        self._of_model(base, source, ways)

    def _unscored(self, base: BaseConfig, target: Task, sources: Sequence[Task]) -> dict[str, list[Task]]:
        """Way → those whose scores by it aren't kept. With them come all others whose models are there, so
        that nothing has to be embedded again for pairs that are run later.
        """
        others = [s for s in self.grid.sources if s != target and self.grid.model_folder(base, s).is_dir()]
        lacking = {}
        for way in self._scorers(target):
            kept = self._kept_scores(way, base, target)
            if any(source.name not in kept for source in sources):
                lacking[way] = [s for s in dict.fromkeys([*sources, *others]) if s.name not in kept]
        return lacking

    @contextlib.contextmanager
    def _new_alone(self, name: str, wait: bool) -> Iterator[bool]:
        with self.grid.alone(f"evidence.{name}", wait=wait) as free:
            self._spaces.clear()  # what other processes have added since isn't made again
            yield free

    def _of_task(self, task: Task, ways: Container[str]) -> None:
        for way in [way for name, way in self.ways.items() if name in ways]:
            self._dte(way, f"target {task.name}", task, self.few(task))
            if not way.of_models and task in self.grid.sources:
                self._dte(way, f"source {task.name}", task, self.learnt(task))

    def _of_model(self, base: BaseConfig, source: Task, ways: Container[str]) -> None:
        for way in [way for name, way in self.ways.items() if name in ways]:
            if way.of_models:
                self._mte(way, base, source)
        if any(name in ways for name in OF_STATES):
            self._read_states(base, source, ways)

    def scores(self, base: BaseConfig, target: Task, sources: Sequence[Task]) -> dict[str, Scores]:
        """What each way says of the base's source models of these tasks, which are others than the target."""
        names, lacking = {source.name for source in sources}, self._unscored(base, target, sources)
        found: dict[str, Scores] = {}
        for way, scorer in self._scorers(target).items():
            kept = self._kept_scores(way, base, target)
            if way in lacking:
                kept |= scorer(base, lacking[way], target)
                write_atomically(self.scores_file(way, base, target), json.dumps(kept))
            found[way] = {source: score for source, score in kept.items() if source in names}
        return {**found, "CurveGrad": self._curve_grad(base, sources)}  # compares the sources with each other

    def _kept_scores(self, way: str, base: BaseConfig, target: Task) -> Scores:
        file = self.scores_file(way, base, target)
        kept: Scores = json.loads(file.read_text()) if file.is_file() else {}
        return kept

    def scores_file(self, way: str, base: BaseConfig, target: Task) -> Path:
        """Where the scores of a base's source models for a target are kept."""
        return self.folder / "scores" / way / base.name / f"{target.name}.json"

    def _scorers(self, target: Task) -> dict[str, Scorer]:
        """What can say something of a target."""
        return {
            **{name: partial(self._similarities, name) for name in self.ways},
            "TextEmb": self._text_emb,
            **{name: partial(self._by_states, name) for name in of_states(target.train.output)},
            "DataSize": self._data_size,
        }

    def embeddings(self, name: str) -> list[TaskEmbedding]:
        """All that were made for a way: "model BASE/SOURCE", "source NAME", "target NAME"."""
        return list(self._held(self.ways[name]).values())

    def _similarities(self, name: str, base: BaseConfig, sources: Sequence[Task], target: Task) -> Scores:
        way = self.ways[name]
        mine = self._dte(way, f"target {target.name}", target, self.few(target))
        if way.of_models:
            others = {s.name: self._mte(way, base, s) for s in sources}
        else:
            others = {s.name: self._dte(way, f"source {s.name}", s, self.learnt(s)) for s in sources}
        return {source: cosine(mine, other, way.similarity) for source, other in others.items()}

    def _dte(self, way: Way, name: str, task: Task, dataset: Dataset) -> TaskEmbedding:
        def work() -> Work:
            return Work(name, "dataset", dataset.examples, dataset_provenance(dataset))

        return self._kept(way, name, task, work)

    def _mte(self, way: Way, base: BaseConfig, source: Task) -> TaskEmbedding:
        name = f"model {base.name}/{source.name}"

        def work() -> Work:
            examples, corpus = self._said(base, source), self.corpus
            provenance = {
                "weights": base.weights,
                "trained_on": source.name,
                "corpus": corpus.origin,
                "corpus_fingerprint": corpus.fingerprint[:16],
                "task": task_of(examples.labels) or examples.output,
            }
            return Work(name, "model", examples, provenance)

        return self._kept(way, name, source, work)

    def _said(self, base: BaseConfig, source: Task) -> Examples:
        """What a source model says of U; from its file, where it is kept."""
        file = self.folder / "answers" / base.name / f"{source.name}.npz"
        if not file.is_file():
            folder, most = self.grid.source_model(base, source), self.grid.learning(source).max_tokens
            model = tuned_model(folder, source.train, name=f"{base.name}/{source.name}", max_tokens=most)
            labelled = label([model], self.corpus.inputs, PredictionCache(None), self.progress)
            for failure in labelled.failures.values():
                raise failure
            write_said(file, model, labelled.answered[model.name], model_examples(model, labelled))
        return read_said(file, self.corpus)

    def _kept(self, way: Way, name: str, task: Task, work: Callable[[], Work]) -> TaskEmbedding:
        """The embedding of that name, made only where its space doesn't hold it."""
        held = self._held(way)
        if name not in held:
            embedder = self._embedder(way, task)
            held[name] = embedded(way, embedder, drawn(way, work(), embedder.seed), self.progress)
            self._space(way).add(held[name])
        return held[name]

    def _held(self, way: Way) -> dict[str, TaskEmbedding]:
        space = self._space(way)
        if space.path.name not in self._spaces:
            self._spaces[space.path.name] = {e.name: e for e in space.embeddings()}
        return self._spaces[space.path.name]

    def _space(self, way: Way) -> Space:
        return Space(self.folder / "spaces" / f"{self._embedder(way).spec.fingerprint}-{way.rows}")

    def _embedder(self, way: Way, task: Task | None = None) -> Embedder:
        """f of a way, trained as the task's preset says, or else the recipe's: the space is the same."""
        preset = (task and task.config.preset) or self.grid.recipe.preset
        options = {**options_of(preset, way.method), **way.options}
        key = (way.method, repr(options))
        if key not in self._embedders:
            self._embedders[key] = Embedder.create(way.method, options, self.surrogate, folder=self.folder)
        return self._embedders[key]

    def _text_emb(self, base: BaseConfig, sources: Sequence[Task], target: Task) -> Scores:
        """Cosines of the mean last states of the base itself, before it was fine-tuned."""
        if base.name not in self._bases:
            start = Surrogate(self.grid.start(base).id)
            self._bases[base.name] = Features(start, self.folder / "features.sqlite")
        features = self._bases[base.name]
        mine = features(self.few(target).inputs).mean(axis=0)
        others = {s.name: features(self.learnt(s).inputs).mean(axis=0) for s in sources}
        return {
            name: float(mine @ v / np.linalg.norm(mine) / np.linalg.norm(v)) for name, v in others.items()
        }

    def _by_states(self, name: str, base: BaseConfig, sources: Sequence[Task], target: Task) -> Scores:
        """From the source models' own states of the target's rows."""
        rows = self.seen(target)
        of = self._states if rows.output == "span" else self._states_read
        return {s.name: OF_STATES[name](of(base, s), rows, self.progress) for s in sources}

    def _data_size(self, base: BaseConfig, sources: Sequence[Task], target: Task) -> Scores:
        return {source.name: data_size(self.learnt(source)) for source in sources}

    def _read_states(self, base: BaseConfig, source: Task, ways: Container[str]) -> None:
        """Let a source model read the rows of all targets while it is loaded."""
        features = self._states(base, source)
        rows = [self.seen(task).inputs for task in self.grid.tasks if task.train.output != "span"]
        if any(name in ways for name in OF_STATES if name != LOG_ME_OF_LAYERS):
            features([item for own in rows for item in own])
        for own in rows if LOG_ME_OF_LAYERS in ways else []:
            layer_kernel(features.surrogate, own, features.path)

    def _states_read(self, base: BaseConfig, source: Task) -> Features:
        """Those that are kept of it: they don't load it."""
        key = base.name, source.name
        if key not in self._kept_states:
            self._kept_states[key] = self._states(base, source)
        return self._kept_states[key]

    def _states(self, base: BaseConfig, source: Task) -> Features:
        """A source model's states, the mean over its layers, of texts and pairs as it was taught them."""
        body = Surrogate(str(self.grid.source_model(base, source)), segments=True)
        return Features(body, self.folder / "features.sqlite", layer=None)

    def _curve_grad(self, base: BaseConfig, sources: Sequence[Task]) -> Scores:
        """Of source models that took as many steps: runs of other lengths can't be compared."""
        losses = {s.name: self.grid.losses(base, s) for s in sources}
        longest = max(map(len, losses.values()))
        compared = {name: some for name, some in losses.items() if len(some) == longest}
        curves = [fit_loss_curve(np.arange(1, len(some) + 1), some) for some in compared.values()]
        values = dict(zip(compared, map(float, curve_grad(curves)), strict=True))
        # A shorter run has fewer rows: it comes last.
        return {name: values.get(name, 0.0) for name in losses}
