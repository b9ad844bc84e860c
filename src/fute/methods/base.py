"""What an embedding method is, and how one is made from its name and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fute.core.errors import ConfigError, did_you_mean, listing
from fute.core.progress import Progress
from fute.core.types import Examples, Floats
from fute.methods.projection import sketch
from fute.surrogates.features import Features

LONGEST = 1 << 16  # bytes of a vector that is kept as it is


@dataclass(frozen=True)
class Embedded:
    """What f gives: the factors of `W = left @ right.T`, and their bootstrap.

    Attributes:
        left: float32 (d, r), or float16 where it was projected.
        right: float32 (k, r).
        replicates: float16 (B, d, r): `left` from B resamples of the examples.
        notes: how the fit went, for provenance.
    """

    left: Floats | NDArray[np.float16]
    right: Floats
    replicates: NDArray[np.float16]
    notes: Mapping[str, Any] = field(default_factory=dict)


def flat(
    vector: Floats | NDArray[np.float16],
    replicates: Sequence[Floats],
    seed: int,
    notes: Mapping[str, Any] | None = None,
) -> Embedded:
    """An embedding that is one vector (d,), and the vectors from B resamples; long ones are projected."""
    short = [v if v.nbytes <= LONGEST else sketch([v], seed) for v in (vector, *replicates)]
    return Embedded(
        left=short[0][:, None],
        right=np.ones((1, 1), dtype=np.float32),
        replicates=np.array(short[1:], dtype=np.float16).reshape(len(replicates), len(short[0]), 1),
        notes=notes or {},
    )


class EmbeddingMethod(Protocol):
    """f. A dataclass whose fields are its options.

    Attributes:
        name: as in `fute.yaml`.
        defining: those options that define the vector, so that they belong to the SpaceSpec.
    """

    name: ClassVar[str]
    defining: ClassVar[tuple[str, ...]]

    def embed(self, examples: Examples, features: Features, seed: int, progress: Progress) -> Embedded:
        """The embedding of the examples through the surrogate whose features these are.

        The same call for a DTE and an MTE. Equal examples, surrogate and seed give equal vectors.
        """
        ...


def make_method(name: str, options: Mapping[str, Any], methods: Mapping[str, type[Any]]) -> EmbeddingMethod:
    """The method of that name with these options.

    Raises:
        ConfigError: an unknown name or option, with the nearest known one, a value of the wrong type, or
            none where one is needed.
    """
    if name not in methods:
        raise ConfigError(
            f'there is no method "{name}".{did_you_mean(name, methods)}',
            expected=f"one of {listing(methods)}",
        )
    fields = {f.name: f for f in dataclasses.fields(methods[name])}
    for option in options:
        if option not in fields:
            raise ConfigError(
                f'the method {name} has no option "{option}".{did_you_mean(option, fields)}',
                expected=f"one of {listing(fields)}",
            )
    given = {option: _typed(name, fields[option], value) for option, value in options.items()}
    try:
        method: EmbeddingMethod = methods[name](**given)
    except TypeError as error:  # such as one that has no default, and isn't given
        raise ConfigError(
            f"the method {name} can't be made with these options",
            expected=f"values for {listing(fields)}",
            found=str(error),
        ) from error
    return method


def _typed(name: str, option: dataclasses.Field[Any], value: Any) -> Any:
    """The value, of the type of the option's default; as it is where there is none that tells a type."""
    default: Any = option.default
    untyped = default is dataclasses.MISSING or default is None
    if untyped or value in option.metadata.get("words", ()):
        return value
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise ConfigError(
            f"the method {name}: `{option.name}` is {value!r}",
            expected=f"a {kinds[-1].__name__}, such as {default!r}",
        )
    return float(value) if isinstance(default, float) else value  # 1 and 1.0 define one space


def check_options(method: Any, choices: Mapping[str, Sequence[str]], counts: Sequence[str]) -> None:
    """Raise `ConfigError` unless each option of `choices` is one of its words, each of `counts` at least 1,
    the epochs at least 0 and the learning rate positive and finite.
    """
    for option, known in choices.items():
        if getattr(method, option) not in known:
            raise ConfigError(
                f"{method.name}: `{option}` is {getattr(method, option)!r}",
                expected=f"one of {listing(known)}",
            )
    for option in counts:
        if getattr(method, option) < 1:
            raise ConfigError(
                f"{method.name}: `{option}` must be at least 1", found=str(getattr(method, option))
            )
    if method.epochs < 0:
        raise ConfigError(f"{method.name}: `epochs` must be at least 0", found=str(method.epochs))
    if not 0 < method.learning_rate < np.inf:
        raise ConfigError(
            f"{method.name}: `learning_rate` must be positive and finite", found=str(method.learning_rate)
        )


def alike(method: EmbeddingMethod, other: EmbeddingMethod, where: str) -> EmbeddingMethod:
    """The other method. Raises `ConfigError` where its vectors can't be compared with those of the first."""
    mine, theirs = defining_options(method), defining_options(other)
    differing = [option for option in mine if mine[option] != theirs[option]]
    if differing:
        raise ConfigError(
            f"the method {method.name}: `{where}` changes {listing(differing)}, which defines the vector",
            expected="options of training, such as `steps`",
            fix="set it for datasets and models alike",
        )
    return other


def defining_options(method: EmbeddingMethod) -> dict[str, Any]:
    """The part of a method's options that goes into the SpaceSpec."""
    return {option: getattr(method, option) for option in method.defining}


def bootstrap_counts(n: int, replicates: int, seed: int) -> NDArray[np.int64]:
    """How often each of n examples is drawn in each resample: int64 (B, n), rows sum to n.

    They depend on n and the seed only, so models labelled on the same U are resampled alike and their
    scores can be compared pair by pair.
    """
    rng = np.random.default_rng([seed, n])
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates)
