"""The only place that joins the rooms: datasets and models in, task embeddings and rankings out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import ConfigError, ModelError, listing
from fute.core.files import cache_dir
from fute.core.hashing import digest
from fute.core.labels import key_of, matching
from fute.core.progress import Progress, silent
from fute.core.types import Examples, Floats, Kind, Output, SpaceSpec, Span, TaskEmbedding
from fute.data.corpus import Corpus
from fute.data.dataset import Dataset
from fute.labelling.cache import PredictionCache
from fute.labelling.ensemble import ensemble
from fute.labelling.runner import Answered, Labelled, label
from fute.methods.base import Embedded, EmbeddingMethod, alike, defining_options, flat, make_method
from fute.methods.registry import Methods
from fute.methods.revisions import revision
from fute.models.base import BlackBox
from fute.selection.rank import Ranking
from fute.selection.rank import rank as rank_embeddings
from fute.space.similarity import Similarity
from fute.space.space import Space
from fute.surrogates.base import DEFAULT_SURROGATE, Surrogate
from fute.surrogates.features import Features
from fute.surrogates.zero_shot import pseudo_labels

# The least share of the inputs that must have been answered for an embedding.
_LEAST_ANSWERED = 0.5
# Of how answers of a kind are learnt: raised where embeddings that are kept must be made anew.
_VERSIONS: Mapping[Output, int] = {"score": 2, "span": 2, "text": 2}


class Work(NamedTuple):
    """What is to be embedded, and what is known about it."""

    name: str
    kind: Kind
    examples: Examples
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Embedder:
    """f with its surrogate and seed: what one space is made by.

    Attributes:
        method: f.
        surrogate: Θ_T.
        seed: of the space.
        folder: where features and predictions are kept between runs; None keeps nothing.
        methods: f for "dataset" or "model", where it is trained in another way than `method`.
    """

    method: EmbeddingMethod
    surrogate: Surrogate
    seed: int = 0
    folder: Path | None = None
    methods: Mapping[Kind, EmbeddingMethod] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        method: str = "linear-probe",
        options: Mapping[str, Any] | None = None,
        surrogate: str = DEFAULT_SURROGATE,
        seed: int = 0,
        dtype: str = "auto",
        folder: Path | None = None,
    ) -> Embedder:
        """From names: the name door. Options under "datasets" or "models" hold for these alone.

        Raises ConfigError or MissingError.
        """
        both = dict(options or {})
        own = {kind: both.pop(f"{kind}s", None) for kind in get_args(Kind)}
        known = Methods()
        made = make_method(method, both, known)
        methods: dict[Kind, EmbeddingMethod] = {}
        for kind, some in own.items():
            if some is not None and not isinstance(some, Mapping):
                raise ConfigError(
                    f"the method {method}: `{kind}s` is {some!r}", expected="options for these alone"
                )
            if some:
                methods[kind] = alike(made, make_method(method, {**both, **some}, known), f"{kind}s")
        return cls(made, Surrogate(surrogate, dtype=dtype), seed, folder, methods)

    @cached_property
    def features(self) -> Features:
        return Features(self.surrogate, self.folder / "features.sqlite" if self.folder else None)

    @cached_property
    def predictions(self) -> PredictionCache:
        return predictions_in(self.folder)

    @cached_property
    def spec(self) -> SpaceSpec:
        """What makes the vectors of this embedder comparable."""
        return SpaceSpec(
            self.method.name,
            defining_options(self.method) | revision(self.method, self.surrogate.architecture),
            self.surrogate.id,
            self.surrogate.digest,
            self.seed,
        )

    def content(self, examples: Examples, kind: Kind) -> str:
        """Content address of an embedding: equal ones need not be made again."""
        own = vars(self._method(kind))
        options = {name: value for name, value in own.items() if not name.startswith("_")}
        known = [self.spec.fingerprint, options, self.surrogate.dtype, examples.fingerprint]
        version = _VERSIONS.get(examples.output)
        return digest(known if version is None else [*known, version])

    def check(self) -> None:
        """Raise ConfigError where a method's options don't fit the surrogate: before models are asked."""
        for method in (self.method, *self.methods.values()):
            check = getattr(method, "check", None)
            if check is not None:
                check(self.features)

    def embed(
        self,
        name: str,
        kind: Kind,
        examples: Examples,
        provenance: Mapping[str, Any],
        progress: Progress = silent,
    ) -> TaskEmbedding:
        """`e = f(examples, Θ_T)`: the one code path of DTEs and MTEs.

        Raises:
            ModelError: it holds what is no number, which no similarity could tell from others.
        """
        return self._embedding(
            Work(name, kind, examples, provenance),
            self._method(kind).embed(examples, self.features, self.seed, progress),
        )

    def embed_from(self, start: int, work: Work, progress: Progress = silent) -> TaskEmbedding:
        """As the published code does: what is drawn at the start comes from a seed of its own, not the
        space's, of which only the projection is drawn.
        """
        method: Any = self._method(work.kind)
        pieces = method.raw(work.examples, self.features, start, progress)
        whole = np.concatenate([np.ravel(piece) for piece in pieces])
        return self._embedding(work, flat(whole, [], self.seed))

    def embed_many(self, works: Sequence[Work], progress: Progress = silent) -> list[TaskEmbedding]:
        """The embedding of each, in one pass where the method knows how (`together` says for which)."""
        if len(works) == 1:
            return [self.embed(*works[0], progress)]
        many: Any = self._method(works[0].kind)
        made = many.embed_many([work.examples for work in works], self.features, self.seed, progress)
        return [self._embedding(work, one) for work, one in zip(works, made, strict=True)]

    def raw(self, work: Work, progress: Progress = silent) -> Iterator[Floats]:
        """The vector before it is projected, piece by piece: made again, since only its projection is kept.

        Raises:
            ConfigError: the method projects its vectors, and has no `raw` that gives them.
        """
        raw = getattr(self._method(work.kind), "raw", None)
        if raw is not None:
            yield from raw(work.examples, self.features, self.seed, progress)
            return
        made = self.embed(*work, progress)
        if made.left.dtype == np.float16:
            raise ConfigError(
                f"the method {self.method.name} doesn't give its vectors before they are projected",
                fix="add a method `raw` to it, as `task-emb` has",
            )
        yield made.vector

    def together(self, works: Sequence[Work]) -> list[list[Work]]:
        """The work in groups, each of which takes one pass; mostly each alone."""
        groups: dict[Any, list[Work]] = {}
        for work in works:
            shared = getattr(self._method(work.kind), "shared", None)
            key = shared(work.examples) if shared else None
            groups.setdefault(work.name if key is None else (work.kind, key), []).append(work)
        return list(groups.values())

    def _method(self, kind: Kind) -> EmbeddingMethod:
        return self.methods.get(kind, self.method)

    def _embedding(self, work: Work, made: Embedded) -> TaskEmbedding:
        if not all(np.isfinite(part).all() for part in (made.left, made.right, made.replicates)):
            raise ModelError(
                f"the embedding of {work.name} by {self.method.name} holds what is no number",
                expected="finite numbers: they are compared with those of others",
                fix="see whether the method allows for its answers, such as a label that is never given",
            )
        return TaskEmbedding(
            name=work.name,
            kind=work.kind,
            spec=self.spec,
            left=made.left,
            right=made.right,
            replicates=made.replicates,
            labels=work.examples.labels,
            provenance={
                **work.provenance,
                **made.notes,
                "examples": len(work.examples.inputs),
                "feature_dtype": self.surrogate.dtype,
                "content": self.content(work.examples, work.kind),
            },
        )

    def embed_dataset(
        self, dataset: Dataset, progress: Progress = silent, answers: Sequence[Answered] = ()
    ) -> TaskEmbedding:
        """The DTE of a dataset; `answers` as for `dataset_work`."""
        return self.embed(*self.dataset_work(dataset, progress, answers), progress)

    def dataset_work(
        self, dataset: Dataset, progress: Progress = silent, answers: Sequence[Answered] = ()
    ) -> Work:
        """What the DTE of a dataset is made from: its labels, or pseudo-labels where it has none.

        Args:
            dataset: D.
            answers: of models that answer D's labels, to all its inputs: their mean is the pseudo-labels
                (`labelling.ensemble`). Without any, the surrogate alone gives them (`surrogates.zero_shot`).

        Raises:
            ModelError: the models answered fewer than half of the inputs, or than two.
        """
        provenance = dataset_provenance(dataset)
        if dataset.targets is not None:
            return Work(dataset.name, "dataset", dataset.examples, provenance)
        if not answers:
            inputs = dataset.inputs
            targets = pseudo_labels(self.features, inputs, dataset.labels, progress)
            provenance["pseudo_labels"] = "zero-shot"
        else:
            rows, targets = ensemble(answers, dataset.labels)
            _check_enough(f"dataset {dataset.name}: all models together", len(rows), len(dataset))
            inputs = [dataset.inputs[row] for row in rows]
            provenance["pseudo_labels"] = [one.box.name for one in answers if len(one.rows)]
        return Work(dataset.name, "dataset", Examples(inputs, targets, dataset.labels), provenance)

    def label(
        self, models: Sequence[BlackBox], corpus: Corpus, progress: Progress = silent, **options: Any
    ) -> Labelled:
        """The models' answers on U, asked for where they aren't kept yet; options as for `runner.label`."""
        return label(models, corpus.inputs, self.predictions, progress, **options)


def predictions_in(folder: Path | None) -> PredictionCache:
    """The answers that are kept in a folder."""
    return PredictionCache(folder / "predictions.sqlite" if folder else None)


def dataset_provenance(dataset: Dataset) -> dict[str, Any]:
    return {
        "source": dataset.origin,
        "data_fingerprint": dataset.fingerprint[:16],
        "task": task_of(dataset.labels) or dataset.output,
    }


def model_provenance(model: BlackBox, corpus: Corpus) -> dict[str, Any]:
    return {
        **model.provenance,
        "model_kind": model.kind,
        "model_fingerprint": model.fingerprint[:16],
        "corpus": corpus.origin,
        "corpus_fingerprint": corpus.fingerprint[:16],
        "task": task_of(model.names) or model.output,
    }


def task_of(labels: Sequence[str]) -> str:
    """What a map colours by: the label names."""
    names = sorted(labels)
    return " / ".join(names[:4]) + (" / …" if len(names) > 4 else "")


def _default_embedder(method: str, surrogate: str, seed: int, **options: Any) -> Embedder:
    return Embedder.create(method, options, surrogate, seed, folder=cache_dir())


def embed_dataset(
    dataset: Dataset,
    *,
    models: Sequence[BlackBox] = (),
    method: str = "linear-probe",
    surrogate: str = DEFAULT_SURROGATE,
    seed: int = 0,
    **options: Any,
) -> TaskEmbedding:
    """DTE `e_D = f(D, Θ_T)` of a dataset.

    Args:
        dataset: D.
        models: where D has no labels, those that are asked for them: black boxes that answer D's labels. The
            mean of their answers is what is learnt; without models, what the surrogate makes of the names of
            the labels. Where D has labels, none is asked.
        method: f, such as "linear-probe", "tupate" or "task-emb"; `options` are its options.
        surrogate: Θ_T, `pkg:NAME`, `hf:org/name` or a folder.
        seed: of the space.

    Raises:
        FuteError: the first model's failure, where one fails; the answers of the others are kept.
    """
    embedder = _default_embedder(method, surrogate, seed, **options)
    if dataset.targets is not None:
        return embedder.embed_dataset(dataset)
    for model in models:
        check_labels(model, dataset)
    labelled = label(models, dataset.inputs, embedder.predictions)
    for failure in labelled.failures.values():
        raise failure
    return embedder.embed_dataset(dataset, answers=list(labelled.answered.values()))


def embed_models(
    models: Sequence[BlackBox],
    corpus: Corpus,
    *,
    method: str = "linear-probe",
    surrogate: str = DEFAULT_SURROGATE,
    seed: int = 0,
    **options: Any,
) -> list[TaskEmbedding]:
    """MTEs `e_M = f({(x', Θ_M(x'))}, Θ_T)` of black boxes, from their answers on U; prompts on one LLM are
    labelled together. Answers are kept in fute's cache folder, so none is asked for twice.

    Args:
        models: black boxes with names of their own.
        corpus: U.
        method, surrogate, seed, options: as for `embed_dataset`; equal ones make vectors comparable.

    Raises:
        FuteError: the first model's failure, where one fails; the answers of the others are kept.
    """
    embedder = _default_embedder(method, surrogate, seed, **options)
    labelled = embedder.label(models, corpus)
    for failure in labelled.failures.values():
        raise failure
    works = [Work(m.name, "model", model_examples(m, labelled), model_provenance(m, corpus)) for m in models]
    made = {e.name: e for group in embedder.together(works) for e in embedder.embed_many(group)}
    return [made[m.name] for m in models]


def embed_model(model: BlackBox, corpus: Corpus, **options: Any) -> TaskEmbedding:
    """MTE of one black box; arguments as for `embed_models`."""
    return embed_models([model], corpus, **options)[0]


def model_examples(model: BlackBox, labelled: Labelled) -> Examples:
    """The inputs of U that the model answered, with its own answers as targets.

    Raises:
        ModelError: it answered fewer than half of the inputs, or than two.
    """
    answered = labelled.answered[model.name]
    kinds = labelled.failed_items().get(model.name, Counter())
    _check_enough(f"model {model.name}", len(answered.rows), len(answered.inputs), kinds)
    if model.output in ("class", "score"):
        return Examples(answered.answered_inputs, answered.named, model.names, model.output)
    said = [a if isinstance(a, Span) else str(a) for a in answered.answers]
    return Examples(answered.answered_inputs, said, (), model.output)


def _check_enough(who: str, m: int, n: int, failed: Mapping[str, int] | None = None) -> None:
    """Raise ModelError where `who` answered m of n inputs and that is too few; `failed` counts the others."""
    kinds = Counter(failed or {})
    unasked = n - m - kinds.total() + kinds["error"]  # an error is asked about again
    if m < 2 or m < _LEAST_ANSWERED * n:
        raise ModelError(
            f"{who} answered {m} of {n} texts, too few to embed it",
            expected=f"at least {_LEAST_ANSWERED:.0%} of them",
            found=", ".join(f"{count} {kind}" for kind, count in kinds.items())
            or "the others were not asked",
            fix="run again for those that weren't asked; `--retry` also asks for answers that had no label"
            if unasked
            else "`fute run --retry` asks again for answers that had no label",
        )


def answers_labels(model: BlackBox, dataset: Dataset) -> bool:
    """Whether the model answers the dataset's classes, in any order, and called alike (`core.labels`)."""
    return model.output == dataset.output == "class" and matching(model.names, dataset.labels) is not None


def about_labels(models: Sequence[BlackBox], dataset: Dataset, so: str = "left out") -> list[str]:
    """What to know of models that don't call the dataset's classes just as it does: that they are taken to
    mean them, or that some of their labels mean them, and others nothing there, and what follows (`so`).
    """
    taken: dict[str, list[str]] = defaultdict(list)
    wanted = listing(dataset.labels)
    for model in models:
        if model.output != "class" or dataset.output != "class" or set(model.names) == set(dataset.labels):
            continue
        names = listing(model.names)
        if answers_labels(model, dataset):
            taken[f"{names} are taken for {wanted}."].append(model.name)
        elif {key_of(name) for name in model.names} & {key_of(name) for name in dataset.labels}:
            taken[f"{so}, for {names} aren't just {wanted}."].append(model.name)
    return [f"{listing(those)}: {line}" for line, those in taken.items()]


def check_labels(model: BlackBox, dataset: Dataset) -> None:
    """Raise ModelError unless the model answers the dataset's classes."""
    if not answers_labels(model, dataset):
        raise ModelError(
            f"model {model.name} answers other labels than dataset {dataset.name} has",
            expected=", ".join(dataset.labels),
            found=", ".join(model.names),
            fix="say in fute.yaml which mean the same, in the model or the dataset: `labels: {theirs: ours}`",
        )


def rank(space: Space, dataset: str, similarity: Similarity = "map") -> Ranking:
    """The models of a space ranked for one of its datasets, by cosine, best first; `similarity` as for
    `fute.selection.rank.rank`.

    Raises:
        SpaceError: no such dataset, or no models.
    """
    return rank_embeddings(space.get(dataset), space.embeddings("model"), similarity)


def right(model: BlackBox, dataset: Dataset, answered: Answered) -> NDArray[np.bool_]:
    """Of each row, whether the most probable label is its own: (n,). A row without an answer is wrong.

    Args:
        model: whose labels are the columns of the predictions.
        dataset: n rows; its label names are like the model's, in any order.
        answered: its answers to these rows.

    Raises:
        ModelError: the label names differ.
    """
    check_labels(model, dataset)
    found = np.zeros(len(dataset), dtype=bool)
    chosen = answered.probabilities_of(dataset.labels).argmax(axis=1)
    found[answered.rows] = chosen == dataset.classes[answered.rows]
    return found


def accuracy(model: BlackBox, dataset: Dataset, answered: Answered) -> float:
    """Share of rows that are `right`, 0 to 1."""
    return float(right(model, dataset, answered).mean())
