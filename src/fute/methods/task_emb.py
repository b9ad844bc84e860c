"""TaskEmb: the task as the parameters that matter to it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fute.core.errors import ConfigError
from fute.core.progress import Progress, silent
from fute.core.types import Examples, Floats
from fute.methods.base import Embedded, check_options, flat
from fute.methods.projection import Sketch, sketch
from fute.surrogates.features import Features

if TYPE_CHECKING:
    from torch import Tensor

    from fute.surrogates.training import Fitted, Training

_MOST_LABELS = 3  # C − 1 gradients an example are made: with more labels one pass for each model is as fast
_MOST_SUMS = 4 << 30  # bytes of the sums of models that are embedded together
_TIMES = 2  # so much more goes backward at once then: every model's sums are touched once a pass
_HEADS_RATE, _WHOLE_RATE = 0.001, 0.00005  # at the first a whole model forgets what it knew
_CHOICES = {
    "head": ("labels", "noise"),
    "adapt": ("none", "head", "full"),
    "estimator": ("per_example", "per_batch", "squared_mean"),
    "targets": ("given", "sampled"),
    "of": ("parameters", "outputs"),
}


@dataclass(frozen=True)
class TaskEmb:
    """The diagonal of the Fisher of the adapted surrogate: how much each parameter matters to the examples.

    `F = (1/n) Σ_i (∂L_i/∂θ)²`, element by element, L_i the loss of example i (`fute.surrogates.training`), θ
    the surrogate's own parameters, tied ones once, without the head. Projected to 32,768 numbers
    (`fute.methods.projection`).

    Attributes:
        adapt: what is trained before: "none" (the head is its start), the "head", or the "full" surrogate.
            Texts have the surrogate's own language model head, which isn't trained.
        estimator: "per_example" (equation 3 of FUTE); "per_batch", `(1/B) Σ_b (∂L̄_b/∂θ)²` over means of
            batches (the code of Vu et al.); "squared_mean", `(∂L̄/∂θ)²` of the mean loss (FUTE's code).
        targets: "given", or "sampled" from the adapted model (not texts): then it is the Fisher, not the
            empirical one.
        of: "parameters", or "outputs": of each layer, `(1/n) Σ_i Σ_t (∂L_i/∂h_it)²` over tokens t,
            (layers × d,), as Vu et al. do too.
        head: what it starts from, as for `tupate`.
        learning_rate: of AdamW; 0: 0.00005 where the surrogate learns, 0.001 where its head alone does.
        steps, epochs, stop_early, batch_size, max_tokens: of training, as for `tupate`; batch_size also of
            "per_batch".

    Raises:
        ConfigError: an option that isn't one of these; texts are to be sampled.
        ModelError: the surrogate has a layer that no rule is known for; it is an encoder, and is to learn
            texts.

    Source: Achille et al. 2019 (Task2Vec), doi:10.1109/ICCV.2019.00653; Vu et al. 2020,
    doi:10.18653/v1/2020.emnlp-main.635; FUTE (Wang et al. 2024), equation 3.
    """

    name: ClassVar[str] = "task-emb"
    defining: ClassVar[tuple[str, ...]] = ("adapt", "estimator", "targets", "of", "head")

    adapt: str = "head"
    estimator: str = "per_example"
    targets: str = "given"
    of: str = "parameters"
    head: str = "labels"
    steps: int = 60
    epochs: int = 0
    stop_early: bool = True
    batch_size: int = 32
    learning_rate: float = 0.0
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if self.learning_rate == 0:
            object.__setattr__(self, "learning_rate", _WHOLE_RATE if self.adapt == "full" else _HEADS_RATE)
        check_options(self, _CHOICES, ("steps", "batch_size", "max_tokens"))
        if self.of == "outputs" and self.estimator != "per_example":
            raise ConfigError("task-emb: `of: outputs` is per example", fix="leave `estimator` out")

    def embed(
        self, examples: Examples, features: Features, seed: int, progress: Progress = silent
    ) -> Embedded:
        pieces, notes = self._vector(examples, features, seed, progress)
        if self.of == "outputs":
            return flat(np.concatenate([piece.ravel() for piece in pieces]), [], seed, notes)
        return flat(sketch(pieces, seed), [], seed, notes)

    def shared(self, examples: Examples) -> Hashable | None:
        """What must be equal for examples to be embedded in one pass: inputs and label names, so that only
        the targets differ. None where these can only be embedded alone.
        """
        usual = (self.adapt, self.estimator, self.targets, self.of) == (
            "none",
            "per_example",
            "given",
            "parameters",
        )
        few = examples.output == "score" or (
            examples.output == "class" and 2 <= len(examples.labels) <= _MOST_LABELS
        )
        if not usual or not few:
            return None
        labels = tuple(sorted(examples.labels)) if self.head == "labels" else examples.labels
        return examples.output, labels, tuple(examples.inputs)

    def embed_many(
        self, many: Sequence[Examples], features: Features, seed: int, progress: Progress = silent
    ) -> list[Embedded]:
        """The embedding of each, as `embed` makes it, from one pass for as many as memory allows: a further
        one costs a sum over the first one's products of gradients.

        Args:
            many: examples for which `shared` gives the same key.
        """
        from fute.surrogates.frozen import Frozen
        from fute.surrogates.training import Training

        surrogate = features.surrogate
        frozen = Frozen(surrogate, surrogate.load("float32"), self.max_tokens)
        size = sum(p.nbytes for p in frozen.model.parameters())
        most = max(1, _MOST_SUMS // size)
        made: list[Embedded] = []
        # All heads start from the model before any Fisher makes it less precise.
        trainings = [Training(frozen, examples, self, seed) for examples in many]
        for start in range(0, len(many), most):
            some = trainings[start : start + most]
            sketches = [Sketch(seed) for _ in some]
            for piece in _pieces_together(some, progress):
                for one, into in zip(piece, sketches, strict=True):
                    into.add(one)
            made += [flat(one.made, [], seed) for one in sketches]
        return made

    def raw(
        self, examples: Examples, features: Features, seed: int, progress: Progress = silent
    ) -> Iterator[Floats]:
        """The vector before it is projected, one parameter or layer after the other."""
        return self._vector(examples, features, seed, progress)[0]

    def _vector(
        self, examples: Examples, features: Features, seed: int, progress: Progress
    ) -> tuple[Iterator[Floats], Mapping[str, Any]]:
        from fute.surrogates.training import Training

        training = Training(features.copied(self.max_tokens, examples.output), examples, self, seed)
        fitted = self._adapted(training, progress)
        if self.targets == "sampled":
            training.sample_targets(fitted.head, seed)
        return self._pieces(training, fitted, progress), fitted.notes

    def _adapted(self, training: Training, progress: Progress) -> Fitted:
        from fute.surrogates.adapters import Nothing, Whole

        if self.adapt == "none":
            return training.unfitted()
        adapter = Whole(training.parameters) if self.adapt == "full" else Nothing()
        fitted = training.fit(adapter, np.ones(len(training.examples.inputs), np.int64), progress)
        for name, tensor in adapter.tensors.items():
            tensor.data.copy_(fitted.tensors[name])
        return replace(fitted, start={}, tensors={})  # each as large as the model, which holds them now

    def _pieces(self, training: Training, fitted: Fitted, progress: Progress) -> Iterator[Floats]:
        """F, one parameter after the other in the model's order; of outputs one layer after the other, the
        last first.
        """
        from fute.surrogates.adapters import Nothing
        from fute.surrogates.fisher import Fisher, OutputFisher, mean_gradient

        n = len(training.examples.inputs)
        if self.estimator == "per_example":
            outputs = self.of == "outputs"
            model = training.at_surrogates_precision()
            fisher = OutputFisher(model) if outputs else Fisher(model, training.writing_head)
            for rows in training.passes():
                fisher.add(len(rows), partial(training.losses, Nothing(), fitted.head, rows, exact=True))
                progress("fisher", fisher.examples, n)
            yield from (piece[0] for piece in _popped(fisher.squares, n))
            return
        every = self.batch_size if self.estimator == "per_batch" else n
        batches = -(-n // every)
        total: dict[str, Floats] = {}
        for start in range(0, n, every):
            some = np.arange(start, min(start + every, n))
            for name, mean in mean_gradient(training, fitted.head, some).items():
                square = np.asarray(mean**2 / batches, dtype=np.float32)
                total[name] = total[name] + square if name in total else square
            progress("fisher", min(start + every, n), n)
        yield from total.values()


def _pieces_together(trainings: Sequence[Training], progress: Progress) -> Iterator[Floats]:
    """F of each of these, whose inputs, labels and head are the same: (models, …) for each parameter."""
    from fute.surrogates.fisher import Fisher, add_together

    first, n = trainings[0], len(trainings[0].examples.inputs)
    fisher = Fisher(first.at_surrogates_precision(), models=len(trainings))
    for rows in first.passes(times=_TIMES):
        add_together(fisher, first, [one.targets for one in trainings], first.head_start, rows)
        progress("fisher", fisher.examples, n)
    yield from _popped(fisher.squares, n)


def _popped(squares: dict[str, Tensor], n: int) -> Iterator[Floats]:
    """The sums over n, freed one after the other."""
    for name in list(squares):
        yield squares.pop(name).div_(n).cpu().numpy()
