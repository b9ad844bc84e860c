"""The diagonal of the empirical Fisher, exactly, without ever forming a batch of gradients.

`F = (1/n) Σ_i (∂L_i/∂θ)²`, element by element, L_i the loss of example i alone. One backward pass for a whole
batch gives, at every layer, its inputs X and the gradients G of its outputs, example by example; from these
each example's gradient of that layer is made (`Gᵢᵀ Xᵢ` for a matrix), squared, added and dropped, block by
block. A parameter that is used several times (a tied embedding, a shared layer) has one gradient: the sum
over its uses, squared once.

Several models that answered the same inputs, at one shared start and head, have gradients that differ in few
numbers: `∂L_i/∂θ = Σ_a r_ia ∂v_ia/∂θ`, v the R values that the losses are made of. So their Fishers are
`Σ_i Σ_ab r_ia r_ib (∂v_ia/∂θ)(∂v_ib/∂θ)`: the products on the right are made once, for all of them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fute.core.errors import ModelError
from fute.surrogates import products
from fute.surrogates.adapters import Nothing
from fute.surrogates.prefix_attention import POSITION_BIAS, switch
from fute.surrogates.training import Training, own_parameters

_BLOCK = 1 << 19  # floats of gradients that are made at once: they stay in the cache
_TOGETHER = 16  # examples whose gradients are made at once
_NEVER_CALLED = "rel_embeddings"  # DeBERTa multiplies this table with its weights as it is


@dataclass(frozen=True)
class _Forms:
    """What becomes of gradients: for each model a quadratic form in the R gradients of an example.

    Attributes:
        each: R. The gradients of example i are those of the rows i R to i R + R − 1 of a batch.
        weights: (models, n, P), for each example its form's weights of the P = R (R + 1) / 2 products.
    """

    each: int
    weights: Tensor

    @staticmethod
    def of(forms: Tensor) -> _Forms:
        """From symmetric forms (models, n, R, R)."""
        each = forms.shape[-1]
        weights = [forms[..., a, b] * (1 if a == b else 2) for a, b in _pairs(each)]
        return _Forms(each, torch.stack(weights, -1).float())

    def products(self, gradients: Tensor) -> Tensor:
        """From (n R, …) to (n, P, …): the gradients of each example times one another, element by element;
        made in their place where R is 1.
        """
        if self.each == 1:
            return gradients.mul_(gradients)[:, None]
        of = gradients.view(-1, self.each, *gradients.shape[1:])
        return torch.stack([of[:, a] * of[:, b] for a, b in _pairs(self.each)], 1)


def _pairs(each: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(each) for b in range(a, each)]


@dataclass(frozen=True)
class _Matrix:
    """A use of a matrix: row i's gradient is `Gᵢᵀ Xᵢ`, for G (B, T, rows) and X (B, T, columns)."""

    g: Tensor
    x: Tensor

    @staticmethod
    def add(uses: list[_Matrix], forms: _Forms, total: Tensor) -> None:
        """Add to total (models, rows, columns)."""
        g, x = _joined([use.g for use in uses]), _joined([use.x for use in uses])
        if g.shape[1] == 1:  # (g xᵀ) ∘ (h yᵀ) = (g ∘ h) (x ∘ y)ᵀ
            gs, xs = (
                forms.products(side[:, 0].to(torch.float32, copy=True)).flatten(0, 1) for side in (g, x)
            )
            for into, weights in zip(total, forms.weights, strict=True):
                into.addmm_((weights.reshape(-1, 1) * gs).T, xs)
            return
        if products.takes(total):
            products.add_products(g, x, forms.weights, total)
            return
        g, x = g.float(), x.float()
        flat, columns = total.flatten(1), x.shape[2]
        together = _TOGETHER // forms.each
        rows = max(1, _BLOCK // (columns * min(len(g), _TOGETHER)))
        for start in range(0, g.shape[2], rows):
            some = g[:, :, start : start + rows].transpose(1, 2).contiguous()
            into = flat[:, start * columns : (start + some.shape[1]) * columns]
            for first in range(0, len(g) // forms.each, together):
                examples = slice(first * forms.each, (first + together) * forms.each)
                made = forms.products(torch.bmm(some[examples], x[examples]))
                weights = forms.weights[:, first : first + together].flatten(1)
                into.addmm_(weights, made.reshape(weights.shape[1], -1))


@dataclass(frozen=True)
class _Rows:
    """A use of a table of rows: ids (B, T) say which, g (B, T, d) are their gradients."""

    ids: Tensor
    g: Tensor

    @staticmethod
    def add(uses: list[_Rows], forms: _Forms, total: Tensor) -> None:
        """Add to total (models, rows, d)."""
        ids, g = _joined([use.ids for use in uses]), _joined([use.g for use in uses])
        size, each = total.shape[1], forms.each
        row = torch.arange(len(ids), device=ids.device)[:, None]
        # One sum for each (example, id, which of its gradients): several tokens may be the same.
        keys, place = torch.unique((row // each * size + ids) * each + row % each, return_inverse=True)
        sums = g.new_zeros(len(keys), g.shape[2]).index_add_(0, place.flatten(), g.flatten(0, 1))
        made, keys = forms.products(sums), keys[::each] // each
        for into, weights in zip(total, forms.weights, strict=True):
            into.index_add_(0, keys % size, (weights[keys // size][..., None] * made).sum(1))


@dataclass(frozen=True)
class _Vector:
    """A use of a vector: its gradients, row by row, (B, size)."""

    g: Tensor

    @staticmethod
    def add(uses: list[_Vector], forms: _Forms, total: Tensor) -> None:
        """Add to total (models, size)."""
        made = forms.products(torch.stack([use.g for use in uses]).sum(0))
        total.flatten(1).addmm_(forms.weights.flatten(1), made.flatten(0, 1).flatten(1))


def _add_mixed(uses: list[_Matrix | _Rows], forms: _Forms, total: Tensor) -> None:
    """Add to total (models, V, d) the squares of a table that is a matrix too: the embeddings that a language
    model head shares. Example i's gradient is the sum of both uses' before it is squared. Only losses use the
    head, not the values of several classes, so there is one gradient an example.
    """
    heads = [use for use in uses if isinstance(use, _Matrix)]
    tables = [use for use in uses if isinstance(use, _Rows)]
    g, x = _joined([use.g for use in heads]), _joined([use.x for use in heads])
    ids, grads = _joined([use.ids for use in tables]), _joined([use.g for use in tables])
    rows = max(1, _BLOCK // x.shape[2])
    for start in range(0, g.shape[2], rows):
        some = g[:, :, start : start + rows].transpose(1, 2).contiguous()
        into = total[:, start : start + rows]
        for i, states in enumerate(x):
            made = (some[i] @ states).float()
            here = (ids[i] >= start) & (ids[i] < start + len(made))
            made.index_add_(0, ids[i][here] - start, grads[i][here])
            into.add_(forms.weights[:, i, :, None] * made.mul_(made))


def _joined(uses: list[Tensor]) -> Tensor:
    """(B, T, …) of each use, one behind the other along T; a single one is not copied."""
    return uses[0] if len(uses) == 1 else torch.cat(uses, 1)


_Use = _Matrix | _Rows | _Vector


def _linear(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, _Use]:
    return {"weight": _Matrix(g, x), "bias": _Vector(g.sum(1, dtype=torch.float32))}


def _conv1d(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, _Use]:
    return {"weight": _Matrix(x, g), "bias": _Vector(g.sum(1, dtype=torch.float32))}


def _layer_norm(module: Any, x: Tensor, g: Tensor) -> dict[str, _Use]:
    x, g = x.float(), g.float()
    normed = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    return {"weight": _Vector((g * normed).sum(1)), "bias": _Vector(g.sum(1))}


def _rms_norm(module: Any, x: Tensor, g: Tensor) -> dict[str, _Use]:
    eps = getattr(module, "variance_epsilon", None) or module.eps
    x, g = x.float(), g.float()
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return {"weight": _Vector((g * normed).sum(1))}


_RULES: dict[str, Callable[[Any, Tensor, Tensor], dict[str, _Use]]] = {
    "Linear": _linear,
    "Conv1D": _conv1d,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
}


class Fisher:
    """Sums of squared per-example gradients of a model's own parameters, gathered batch after batch.

    Args:
        model: in evaluation mode.
        head: a language model head that the losses use too, within the model or not. What it has of its own
            is not among the model's parameters; embeddings that it shares with the model are.
        models: how many black boxes there are whose Fishers are gathered together.

    Attributes:
        squares: for each parameter, once where it is tied, `Σ_i (∂L_i/∂θ)²` of each black box: float32
            (models, *its shape).
        examples: how many i there were.

    Raises:
        ModelError: the model has a layer that no rule is known for.
    """

    def __init__(self, model: Any, head: nn.Module | None = None, models: int = 1) -> None:
        self.model, self.examples = model, 0
        model.requires_grad_(False)
        switch(model)
        own = own_parameters(model, head)
        self.squares = {name: p.new_zeros((models, *p.shape), dtype=torch.float32) for name, p in own.items()}
        self._names = {id(p): name for name, p in own.items()}
        self._watched = dict(model.named_modules())
        if head is not None and head not in self._watched.values():
            self._watched["head"] = head
        for name, module in self._watched.items():
            has_own = any(True for _ in module.parameters(recurse=False))
            if has_own and (_kind(module) is None or name.endswith(_NEVER_CALLED)):
                raise ModelError(
                    f"no rule is known for the gradients of {name}, a {type(module).__name__}",
                    expected="layers that are linear, embeddings or norms, and that are called",
                    fix="use another surrogate, or `estimator: squared_mean`",
                )

    def add(self, batch: int, losses: Callable[[], Tensor]) -> None:
        """Add a batch of examples.

        Args:
            batch: how many.
            losses: runs the model, which keeps examples apart along the first axis, and gives their losses,
                (batch,).
        """
        self.add_forms(batch, lambda: ((made := losses()), made.new_ones(1, batch, 1, 1)))

    def add_forms(self, batch: int, run: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """Add `Σ_i Σ_ab A_ab^(m, i) (∂v_ia/∂θ)(∂v_ib/∂θ)` for each black box m.

        Args:
            batch: how many rows the model reads, n R of them.
            run: runs the model on each example R times in a row and gives v, (n R,), the a-th value of
                example i in row i R + a; and the forms A, symmetric, (models, n, R, R).
        """
        pass_ = _Pass(self._names, self.squares, batch)
        with pass_.watching(self._watched), torch.enable_grad():
            values, forms = run()
            pass_.backward(values.sum(), _Forms.of(forms.detach()))
        self.examples += forms.shape[1]


def add_together(
    fisher: Fisher, training: Training, targets: Sequence[Tensor], head: Tensor, rows: NDArray[np.int64]
) -> None:
    """Add these rows to the Fishers of several black boxes that share inputs, label names and head.

    With p = softmax(z) and targets y, `∂L/∂z_c = r_c = p_c Σy − y_c`, which sum to 0: so R = C − 1 values
    `v_a = z_a − z_C` with `∂L/∂v_a = r_a` are enough. A score z has `r = z − y`, and R = 1.

    Args:
        fisher: of as many black boxes.
        training: of any of them.
        targets: of each black box, (all rows, C).
        head: (C, d).
        rows: which of the inputs.
    """
    each = max(1, len(head) - 1)

    def run() -> tuple[Tensor, Tensor]:
        outputs = training.outputs(Nothing(), head, rows.repeat(each), exact=True)
        y = torch.stack([one[rows] for one in targets]).to(outputs.device)  # (models, n, C)
        if training.is_score:
            values, residuals = outputs[:, 0], outputs.detach() - y
        else:
            which = torch.arange(each, device=outputs.device).repeat(len(rows))[:, None]
            values = outputs.gather(1, which)[:, 0] - outputs[:, -1]
            p = outputs.detach()[::each].softmax(-1)
            residuals = (p * y.sum(-1, keepdim=True) - y)[..., :-1]
        return values, residuals[..., None] * residuals[..., None, :]

    fisher.add_forms(len(rows) * each, run)


class OutputFisher:
    """`Σ_i Σ_t (∂L_i/∂h_it)²` of each layer's output h (B, T, d), with the interface of `Fisher`.

    Args:
        model: in evaluation mode.

    Attributes:
        squares: for each layer, by name, float32 (1, d); the last first, as gradients come.
        examples: how many i there were.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.examples = model, 0
        model.requires_grad_(False)
        stacks = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
        outer = [(n, m) for n, m in stacks if not any(n.startswith(f"{other}.") for other, _ in stacks)]
        self._layers = [(f"{name}.{i}", layer) for name, m in outer for i, layer in enumerate(m)]
        self.squares: dict[str, Tensor] = {}

    def add(self, batch: int, losses: Callable[[], Tensor]) -> None:
        """As `Fisher.add`."""
        handles = [layer.register_forward_hook(self._hook(name)) for name, layer in self._layers]
        try:
            with torch.enable_grad():
                losses().sum().backward()  # type: ignore[no-untyped-call]
        finally:
            for handle in handles:
                handle.remove()
        self.examples += batch

    def _hook(self, name: str) -> Callable[..., Any]:
        def watch(_: nn.Module, __: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if not states.requires_grad:
                states = states.detach().requires_grad_()

            def done(grad: Tensor) -> None:
                squares = grad.float().square().flatten(0, -2).sum(0)[None]
                self.squares[name] = self.squares[name] + squares if name in self.squares else squares

            states.register_hook(done)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return watch


def mean_gradient(training: Training, head: Tensor, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """`∂/∂θ (1/n) Σ_i L_i` over these n rows, for each parameter of the model, tied ones once."""
    parameters = training.parameters
    for p in parameters.values():
        p.requires_grad_(True)
        p.grad = None
    with torch.enable_grad():
        for some in training.passes(rows):
            loss = training.losses(Nothing(), head, some, exact=True).sum() / len(rows)
            loss.backward()  # type: ignore[no-untyped-call]
    return {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.float().cpu().numpy()
        for name, p in parameters.items()
    }


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, nn.Embedding):
        return "Embedding"
    name = type(module).__name__
    if isinstance(module, Conv1D | nn.Linear | nn.LayerNorm):
        return (
            "Conv1D"
            if isinstance(module, Conv1D)
            else "Linear"
            if isinstance(module, nn.Linear)
            else "LayerNorm"
        )
    return "RMSNorm" if name.endswith(("RMSNorm", "T5LayerNorm")) else None


class _Pass:
    """One forward and backward pass: what it leaves at each layer becomes squared gradients."""

    def __init__(self, names: dict[int, str], squares: dict[str, Tensor], batch: int) -> None:
        self.names, self.squares, self.batch = names, squares, batch
        self.seen: Counter[str] = Counter()
        self.waiting: dict[str, list[_Use]] = {}
        self.bias: tuple[str, Tensor] | None = None
        self.forms: _Forms  # once they are known, when the gradients come

    @contextlib.contextmanager
    def watching(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        handles = []
        try:
            for name, module in modules.items():
                if name.endswith("relative_attention_bias"):
                    handles.append(module.register_forward_hook(self._position_bias))
                elif isinstance(module, nn.Embedding):
                    handles.append(module.register_forward_hook(self._embedding))
                elif any(True for _ in module.parameters(recurse=False)):
                    handles.append(module.register_forward_hook(self._layer))
                module.__dict__[POSITION_BIAS] = self._track_bias
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in modules.values():
                module.__dict__.pop(POSITION_BIAS, None)

    def backward(self, loss: Tensor, forms: _Forms) -> None:
        self.forms = forms
        # All uses are known now: a parameter that is used once needn't wait for others.
        self.waiting = {name: [] for name, count in self.seen.items() if count > 1}
        loss.backward()  # type: ignore[no-untyped-call]
        for name, uses in self.waiting.items():
            if uses:
                self._add(name, uses)

    def _name(self, module: nn.Module, key: str) -> str:
        return self.names[id(getattr(module, key))]

    def _layer(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys = [key for key, p in module.named_parameters(recurse=False) if id(p) in self.names]
        if not keys:  # a head's own
            return output
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        x = inputs[0].detach().to(output.dtype)  # as it was multiplied
        rule = _RULES[_kind(module) or ""]
        self.seen.update(self._name(module, key) for key in keys)

        def done(grad: Tensor) -> None:
            uses = rule(module, _tokens(x), _tokens(grad))
            for key in keys:
                self._use(self._name(module, key), uses[key])

        output.register_hook(done)  # type: ignore[no-untyped-call]
        return output

    def _embedding(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.dim() == 2:  # Pegasus's positions are constants
            return output
        # Positions are the same for all examples: each gets its own copy, and so its own gradient.
        output = output.detach().expand(self.batch, *output.shape[1:]).clone().requires_grad_()
        ids = inputs[0] if inputs and not inputs[0].is_floating_point() else None
        if hasattr(module, "offset"):  # BART's positions are no input: they are counted
            ids = torch.arange(output.shape[1], device=output.device)[None] + module.offset  # type: ignore[operator]
        if ids is None or ids.shape[1:] != output.shape[1:-1]:
            raise ModelError(f"no rule is known for the gradients of a {type(module).__name__}")
        ids = ids.expand(self.batch, -1)
        scale = getattr(module, "embed_scale", 1.0) if "Scaled" in type(module).__name__ else 1.0
        name = self._name(module, "weight")
        self.seen[name] += 1
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda grad: self._use(name, _Rows(ids, grad.float() * scale))
        )
        return output

    def _position_bias(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self.bias = self._name(module, "weight"), inputs[0]
        return output.detach().requires_grad_()

    def _track_bias(self, bias: Tensor) -> Tensor:
        """The position bias (1 or B, heads, queries, keys) of T5 or MPNet as each attention uses it."""
        if self.bias is None or not bias.requires_grad:  # attention to another text has none
            return bias
        name, buckets = self.bias
        self.seen[name] += 1
        bias = bias.detach().expand(self.batch, -1, -1, -1).clone().requires_grad_()

        def done(grad: Tensor) -> None:  # (B, heads, queries, keys)
            ids = buckets.flatten().expand(self.batch, -1)
            self._use(name, _Rows(ids, grad.float().flatten(2).transpose(1, 2)))

        bias.register_hook(done)  # type: ignore[no-untyped-call]
        return bias

    def _use(self, name: str, use: _Use) -> None:
        if name in self.waiting:
            self.waiting[name].append(use)
        else:
            self._add(name, [use])

    def _add(self, name: str, uses: list[Any]) -> None:
        add = _add_mixed if len(set(map(type, uses))) > 1 else uses[0].add
        add(uses, self.forms, self.squares[name])


def _tokens(x: Tensor) -> Tensor:
    """From (B, …, size) to (B, T, size)."""
    return x.reshape(len(x), -1, x.shape[-1])
