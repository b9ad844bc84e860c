"""Long vectors made short, with their cosines kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fute.core.types import Floats

SIZE = 1 << 15  # numbers of 2 bytes: 64 KiB


class Sketch:
    """A seeded sparse projection from any number of dimensions to `size`, fed piece by piece.

    The vector is cut into pieces of `size`; each is multiplied by random signs, turned by a random shift,
    and added: `s_j = Σ_{i: h(i) = j} σ(i) v_i`, so that `E <s, t> = <v, w>`. A cosine c is off by
    about `(1 − c²) / √size`, 0.006 at most for 32,768. Vectors no longer than `size` keep theirs exactly.

    Args:
        seed: of signs and shifts; equal seeds make sketches comparable.
        size: of the sketch.

    Source: Charikar, Chen & Farach-Colton 2002 (count sketch), doi:10.1007/3-540-45465-9_59; Weinberger et
    al. 2009 (feature hashing), doi:10.1145/1553374.1553516.
    """

    def __init__(self, seed: int, size: int = SIZE) -> None:
        self.seed, self.size = seed, size
        self.sums = np.zeros(size)
        self.length = 0

    def add(self, values: Floats | NDArray[np.float16]) -> None:
        """The vector's next entries; any shape, read in C order."""
        values = values.reshape(-1)
        done = 0
        while done < len(values):
            piece, at = divmod(self.length, self.size)
            some = values[done : done + self.size - at]
            signs, shift = self._rule(piece)
            signed = np.where(signs[at : at + len(some)], some, -some)
            first = (at + shift) % self.size
            behind = self.sums[first : first + len(some)]
            behind += signed[: len(behind)]
            self.sums[: len(some) - len(behind)] += signed[len(behind) :]
            self.length += len(some)
            done += len(some)

    @property
    def made(self) -> NDArray[np.float16]:
        """The sketch scaled to length 1: float16 (size,). A vector of zeros, or of numbers that float32 can't
        tell from them, stays zero.
        """
        length = np.linalg.norm(self.sums)
        return (self.sums / (length if length > 0 else 1)).astype(np.float16)

    def _rule(self, piece: int) -> tuple[NDArray[np.bool_], int]:
        rng = np.random.default_rng([self.seed, piece])
        signs = np.unpackbits(np.frombuffer(rng.bytes(-(-self.size // 8)), np.uint8))[: self.size]
        return signs.astype(bool), int(rng.integers(self.size))


def sketch(
    pieces: Iterable[Floats | NDArray[np.float16]], seed: int, size: int = SIZE
) -> NDArray[np.float16]:
    """The sketch of a vector that comes in pieces, scaled to length 1: float16 (size,)."""
    projected = Sketch(seed, size)
    for piece in pieces:
        projected.add(piece)
    return projected.made
