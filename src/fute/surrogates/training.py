"""Fitting an adapter and a head to examples, with the surrogate's own weights frozen or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fute.core.batching import batches, full_batches
from fute.core.errors import ModelError
from fute.core.progress import Progress
from fute.core.types import Examples, Floats, Input
from fute.surrogates.adapters import Adapter, Nothing, Reach
from fute.surrogates.answers import Answers, Spans, Texts
from fute.surrogates.base import SHARPNESS, family, represent
from fute.surrogates.frozen import Frozen

_CHECK_EVERY = 10  # steps between two looks at the held-out rows
_PATIENCE = 4  # looks without improvement before stopping
_HELD_OUT = 0.1  # share of the examples that training never sees
_MOST_LOOKED_AT = 96  # of these, so that looking costs less than training
_PASS = 512  # tokens that go backward at once: more are hardly faster, and all their states are kept
_FAR = 20.0  # so many times the loss at the start no training that learns ends with
_LOOK = 32_000  # characters that are looked at at once
_AHEAD = 32  # batches whose texts a frozen encoder reads together
_WINDOW = 8  # batches among which examples are sorted by length, so that little is padded


class Schedule(Protocol):
    """Where from, how long and how fast: the options of the methods that train."""

    @property
    def head(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def stop_early(self) -> bool: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def max_tokens(self) -> int: ...


@dataclass(frozen=True)
class Fitted:
    """What training found best on the held-out rows.

    Attributes:
        start: the adapter's tensors, by name, where they began.
        tensors: the same, where they ended.
        head: (C, d), its rows in the order of the sorted label names.
        notes: how it went.
        losses: the mean loss of each step's batch, before the step: (steps,).
    """

    start: dict[str, Tensor]
    tensors: dict[str, Tensor]
    head: Tensor
    notes: dict[str, Any]
    losses: Sequence[float] = ()

    @property
    def change(self) -> dict[str, Floats]:
        """The tensors as arrays, less where they began."""
        change = {name: tensor - self.start[name] for name, tensor in self.tensors.items()}
        return {name: step.float().cpu().numpy() for name, step in change.items()}

    @property
    def end(self) -> dict[str, Floats]:
        """The adapter's tensors as arrays."""
        return {name: tensor.float().cpu().numpy() for name, tensor in self.tensors.items()}


def own_parameters(model: Any, head: Any = None) -> dict[str, torch.nn.Parameter]:
    """A model's parameters by name, tied ones once, less those that a language model head has alone: the same
    in the same order whether the model was loaded with a head or not.
    """
    if head is None:
        return dict(model.named_parameters())
    shared = model.get_input_embeddings().weight
    alone = {id(p) for p in head.parameters() if p is not shared}
    return {name: p for name, p in model.named_parameters() if id(p) not in alone}


class Training:
    """Examples, as one copy of the surrogate sees them.

    The loss of example i is `−Σ_c p_ic log softmax(h_cᵀ r(x_i))_c` for classes and probabilities, and
    `½ (s_i − hᵀ r(x_i))²` for scores, which are standardised first; r is `represent`, h the head. It starts
    from the label names' representations, so the order of the labels doesn't matter; with `head: noise` from
    seeded noise of the same length, where it does. Spans and texts: `surrogates.answers`.

    Args:
        frozen: Θ_T with a copy of its model, and what it makes of inputs while nothing is attached.
        examples: with targets of any kind; for texts `frozen` has a writer.
        schedule: where from, how long and how fast.
        seed: of the order of examples, and of a head for spans or of noise.

    Raises:
        DataError, ConfigError, ModelError: these answers can't be learnt; says why.
    """

    def __init__(self, frozen: Frozen, examples: Examples, schedule: Schedule, seed: int) -> None:
        self.frozen, self.surrogate, self.model = frozen, frozen.surrogate, frozen.model
        self.examples = examples
        self.schedule, self.seed = schedule, seed
        self.is_score = examples.output == "score"
        self._settled = False  # whether nothing trains any more
        self.answers = _answers(frozen, examples, seed)
        if self.answers is not None:
            self.examples = replace(examples, inputs=self.answers.inputs)
            self.head_start = self.answers.head_start
            return
        order = sorted(range(len(examples.labels)), key=lambda i: examples.labels[i])  # sums round alike then
        targets = examples.probabilities[:, order]
        self.targets = torch.from_numpy(_standardised(targets) if self.is_score else targets)
        with torch.no_grad():
            names = represent(self.model, self._tokenize([Input(examples.labels[i]) for i in order]))
        if schedule.head == "noise":
            noise = torch.randn(names.shape, generator=torch.Generator().manual_seed(seed))
            names = torch.nn.functional.normalize(noise, dim=-1)[order].to(names)
        self.head_start = names * (1.0 if self.is_score else SHARPNESS)  # logits are 10 × a cosine

    @property
    def writing_head(self) -> Any:
        """The surrogate's own language model head, where the losses use it, else None."""
        return None if self.frozen.writer is None else self.frozen.writer.get_output_embeddings()

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The surrogate's own, without any head."""
        return own_parameters(self.model, self.writing_head)

    def at_surrogates_precision(self) -> Any:
        """The model, which nothing trains any more, from now on as precise as the surrogate's own. Where it
        learns texts or spans only the products of its linear layers are: what is rounded between layers and
        in the weights of norms turns the Fisher of so many places more than that of a few classes.
        """
        self._settled = True
        if self.answers is not None:
            return self.model
        return self.model.to(getattr(torch, self.surrogate.dtype))

    def fit(self, adapter: Adapter, counts: NDArray[np.int64], progress: Progress) -> Fitted:
        """Train the adapter and a head on the examples, each as often as it counts, with AdamW; stops early
        where held-out rows of these examples say so, at a look after each epoch, or after some steps.

        Raises:
            ModelError: the loss is no number, or in the end far from what it was; says at which step.
        """
        if not adapter.tensors and not self.head_start.numel():
            return self.unfitted()
        self.frozen.kept.make_room(self.examples.inputs)
        schedule = self.schedule
        start = {name: tensor.detach().clone() for name, tensor in adapter.tensors.items()}
        head = torch.nn.Parameter(self.head_start.clone())
        optimiser = torch.optim.AdamW(
            [*adapter.tensors.values(), head], lr=schedule.learning_rate, weight_decay=0.0
        )
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(np.flatnonzero(counts))
        parts = np.split(rows, [max(1, int(_HELD_OUT * len(rows)))])
        held_out, train = (np.repeat(part, counts[part]) for part in parts)  # no copy is on the other side
        if not (schedule.stop_early and len(train)):
            train = np.repeat(rows, counts[rows])
        epoch = -(-len(train) // schedule.batch_size)
        steps = schedule.epochs * epoch or schedule.steps
        every = epoch if schedule.epochs else _CHECK_EVERY
        best_loss, best_step = np.inf, 0
        best, best_head = start, self.head_start
        looked_at = held_out[:_MOST_LOOKED_AT]
        drawn = self._ahead(islice(self._steps(train, rng), steps), looked_at, adapter.reach)
        losses = []
        for step in range(1, steps + 1):
            optimiser.zero_grad()
            loss = self.losses(adapter, head, next(drawn)).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            _check(loss.item(), step, schedule)
            losses.append(loss.item())
            progress("tuning", step, steps)
            if step == steps or (schedule.stop_early and step % every == 0):
                current = self._mean_loss(adapter, head, looked_at)
                _check(current, step, schedule)
                if current < best_loss or not schedule.stop_early:
                    best_loss, best_step = current, step
                    best = {name: tensor.detach().clone() for name, tensor in adapter.tensors.items()}
                    best_head = head.detach().clone()
                elif step - best_step >= _PATIENCE * every:
                    break
        progress("tuning", steps, steps)
        optimiser.zero_grad()  # which frees the gradients
        # Few rows are held out: by chance a model that has diverged is right about all of them.
        lately = np.median(losses[max(0, best_step - every) : best_step])
        _check(max(best_loss, float(lately)), best_step, schedule, most=_FAR * max(1.0, losses[0]))
        what = "held_out_loss" if schedule.stop_early else "loss"
        notes = {"steps": best_step, what: round(best_loss, 4)}
        return Fitted(start, best, best_head, notes, losses)

    def _mean_loss(self, adapter: Adapter, head: Tensor, rows: NDArray[np.int64]) -> float:
        with torch.no_grad():
            sizes = [len(self.examples.inputs[i]) for i in rows]
            parts = [self.losses(adapter, head, rows[some]) for some in batches(sizes, _LOOK)]
        return torch.cat(parts).mean().item()

    def unfitted(self) -> Fitted:
        """The start, as if it had been fitted."""
        return Fitted({}, {}, self.head_start, {})

    def sample_targets(self, head: Tensor, seed: int) -> None:
        """Put answers in the targets' place that are drawn from the model itself, with this head."""
        rng = np.random.default_rng(seed)
        for rows in self.passes():
            with torch.no_grad():
                if self.answers is not None:
                    self.answers.sample(head, rows, rng)
                    continue
                outputs = self.outputs(Nothing(), head, rows, exact=True)
            if self.is_score:
                self.targets[rows] = outputs.cpu() + torch.from_numpy(rng.normal(size=outputs.shape)).float()
            else:
                shares = outputs.double().softmax(-1).cumsum(-1).cpu().numpy()
                drawn = (rng.random((len(rows), 1)) * shares[:, -1:] >= shares).sum(axis=1)
                self.targets[rows] = torch.eye(shares.shape[1])[drawn]

    def passes(self, rows: NDArray[np.int64] | None = None, times: int = 1) -> Iterator[NDArray[np.int64]]:
        """These rows, or all, in small batches of similar length: what goes backward at once, or so many
        times as much.
        """
        rows = np.arange(len(self.examples.inputs)) if rows is None else rows
        padded = self._padded or (lambda longest: longest)
        sizes = self.surrogate.sizes([self.examples.inputs[i] for i in rows], self.schedule.max_tokens)
        yield from (rows[batch] for batch in full_batches(sizes, times * _PASS, padded))

    def _steps(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Batches of texts of similar length, in random order, epoch after epoch."""
        lengths = np.array([len(item) for item in self.examples.inputs])
        size = self.schedule.batch_size
        while True:
            order = rng.permutation(rows)
            for start in range(0, len(order), size * _WINDOW):
                window = order[start : start + size * _WINDOW]
                window = window[np.argsort(lengths[window], kind="stable")]
                cuts = [window[i : i + size] for i in range(0, len(window), size)]
                for i in rng.permutation(len(cuts)):
                    yield cuts[i]

    def _ahead(
        self, drawn: Iterator[NDArray[np.int64]], looked_at: NDArray[np.int64], reach: Reach
    ) -> Iterator[NDArray[np.int64]]:
        """The same batches; where the encoder is frozen, it has read the texts of many before the first, and
        those that are looked at.
        """
        if reach != "decoder" or family(self.model) != "encoder-decoder":
            yield from drawn
        while ahead := list(islice(drawn, _AHEAD)):
            self.frozen.read_ahead([self.examples.inputs[i] for i in np.concatenate([*ahead, looked_at])])
            yield from ahead

    def outputs(
        self, adapter: Adapter, head: Tensor, rows: NDArray[np.int64], *, exact: bool = False
    ) -> Tensor:
        """Logits (n, C), or scores (n, 1), of these rows; `exact`: by the weights' own precision."""
        with adapter.attached():
            read = self._read([self.examples.inputs[i] for i in rows], adapter, exact)
        outputs: Tensor = read @ head.T
        return outputs

    def losses(
        self, adapter: Adapter, head: Tensor, rows: NDArray[np.int64], *, exact: bool = False
    ) -> Tensor:
        """The loss of each of these rows: (n,)."""
        if self.answers is not None:
            with adapter.attached(), self._precision(adapter, exact):
                return self.answers.losses(head, rows, "all" if exact else adapter.reach)
        outputs = self.outputs(adapter, head, rows, exact=exact)
        targets = self.targets[rows].to(outputs.device)
        if self.is_score:
            return 0.5 * (outputs - targets).square().sum(-1)
        return -(targets * outputs.log_softmax(-1)).sum(-1)

    def _read(self, inputs: Sequence[Input], adapter: Adapter, exact: bool) -> Any:
        reach: Reach = "all" if exact else adapter.reach
        if reach == "nothing":
            return self.frozen.representations(inputs)
        if reach == "decoder" and family(self.model) == "encoder-decoder":
            encoded, mask = self.frozen.encoded(inputs)
            return represent(self.model, {"attention_mask": mask}, encoded)
        with self._precision(adapter, exact), self.frozen.resumed(inputs, 0 if exact else adapter.below):
            return represent(self.model, self._tokenize(inputs))

    def _precision(self, adapter: Adapter, exact: bool) -> torch.autocast:
        fast = self.surrogate.dtype == "bfloat16" and self.model.dtype == torch.float32
        # AdamW's steps are as long where a gradient is rounding: only a head learns the same in bfloat16.
        fast = fast and (self._settled or (adapter.reach == "nothing" and not exact))
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=fast)

    def _tokenize(self, inputs: Sequence[Input]) -> Any:
        most = self.schedule.max_tokens
        return self.surrogate.tokenize(inputs, most, padded=self._padded).to(self.model.device)

    @property
    def _padded(self) -> Callable[[int], int] | None:
        """What so many tokens are padded to, if not to the longest text's."""
        return _few_lengths if self.model.dtype == torch.bfloat16 else None


def _standardised(scores: Floats) -> Floats:
    """Of mean 0 and standard deviation 1; zeros where all are the same but for float32's rounding."""
    exact = scores.astype(np.float64)
    if np.ptp(exact) <= 2 * np.finfo(np.float32).eps * np.abs(exact).max():
        return np.zeros_like(scores)
    return np.asarray((exact - exact.mean()) / exact.std(), dtype=np.float32)


def _few_lengths(tokens: int) -> int:
    """The next of 8, 12, 16, 24, 32, 48, …: products in bfloat16 are compiled, and kept, for each shape."""
    power = 1 << (tokens - 1).bit_length()
    return max(8, power * 3 // 4 if tokens <= power * 3 // 4 else power)


def _answers(frozen: Frozen, examples: Examples, seed: int) -> Answers | None:
    if examples.output == "span":
        return Spans(frozen, examples, seed)
    return Texts(frozen, examples) if examples.output == "text" else None


def _check(loss: float, step: int, schedule: Schedule, most: float = np.inf) -> None:
    if not np.isfinite(loss) or loss > most:
        raise ModelError(
            f"the loss is {loss} at step {step}",
            fix=f"lower `learning_rate` (it is {schedule.learning_rate})",
        )
