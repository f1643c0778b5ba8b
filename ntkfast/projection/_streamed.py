"""Sketches that take the entries of a parameter array in order, so that its Jacobian can be made and met in tiles."""

import abc
import math
from collections.abc import Iterator
from typing import TypeGuard

from .._typing import Array
from ..backends import Backend, get_backend
from ..layers.factors import Factors, JacobianFactors
from ..sketch._row_stream import RowStream
from ._base import ArraySketch

__all__ = ["TILE", "StreamedArray", "spans"]

# Numbers of a tile of Jacobians: it stays in cache until it is sketched.
TILE = 2**18


class StreamedArray(ArraySketch):
    """Sketch of one parameter array, entry by entry.

    Where a sample has one position, its Jacobian is an outer product: some of its rows are made for all samples at a
    time, and forgotten. Else the Jacobians of some samples are made whole: a matrix product sums the positions.
    """

    __slots__ = ()

    @abc.abstractmethod
    def _open(self, n_rows: int, backend: Backend, dtype: object) -> RowStream:
        """A stream of the entries of `n_rows` Jacobians, in C order."""

    def of_jacobian(self, jac: Array) -> Array:
        """Sketch of Jacobians (rows, *shape)."""
        stream = self._open(len(jac), get_backend(jac), jac.dtype)
        if jac.size > 0:
            stream.add(jac.reshape(len(jac), -1))
        return stream.result()

    def of_factors(self, factors: Factors) -> Array:
        """Sketch of the Jacobian of some samples, (n, k, width)."""
        if not _is_outer(factors):
            return ArraySketch.of_factors(self, factors)
        n, k, like = factors.n, factors.k, factors.ct.shared
        stream = self._open(n * k, get_backend(like), like.dtype)
        for tile in _tiles(factors):
            stream.add(tile)
        return stream.result().reshape(n, k, -1)

    def numbers(self, factors: Factors) -> int:
        """Numbers per sample that `of_factors` holds at once."""
        if not _is_outer(factors):
            return ArraySketch.numbers(self, factors)
        return int(factors.k * (4 * factors.ct.shared.shape[-1] + self.width))


def _is_outer(factors: Factors) -> TypeGuard[JacobianFactors]:
    """Whether the Jacobian of a sample is one outer product."""
    if not isinstance(factors, JacobianFactors) or factors.act is None:
        return False
    return factors.groups == 1 and math.prod(factors.spatial) == 1


def _tiles(factors: JacobianFactors) -> Iterator[Array]:
    """Some rows of all Jacobians at a time, (n k, rows o)."""
    assert factors.act is not None  # else it is no outer product
    act, delta = factors.act[0 : factors.n][:, 0, None, :, None], factors.delta[:, 0, :, None, :]
    n, k, _, o = delta.shape
    for start, stop in spans(act.shape[2], max(1, TILE // (n * k * o))):
        tile = act[:, :, start:stop] * delta
        tile *= factors.scale
        yield tile.reshape(n * k, -1)


def spans(n: int, step: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive parts of n things, `step` at a time."""
    return ((start, min(start + step, n)) for start in range(0, n, step))
