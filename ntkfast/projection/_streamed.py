"""Sketches that take the entries of a parameter array in order, so that its Jacobian can be made and met in tiles."""

import abc
import math
from collections.abc import Iterator
from typing import TypeGuard

from .._typing import Array
from ..backends import Backend, get_backend
from ..empirical._tiles import slices
from ..layers.factors import Factors, JacobianFactors
from ..sketch._row_stream import RowStream
from ._base import ArraySketch

__all__ = ["TILE", "StreamedArray"]

# Numbers of a tile of Jacobians: on a CPU it stays in cache until it is sketched, a GPU wants few and large launches.
TILE = {"numpy": 2**18, "cupy": 2**24}

# Columns of a tile at least, over the sketch's width: a hash reads and writes all of its sums once per tile.
_WIDTHS = 4


class StreamedArray(ArraySketch):
    """Sketch of one parameter array, entry by entry.

    Where a sample has one position, its Jacobian is an outer product: some of its rows are made for all samples at a
    time, and forgotten. Else the Jacobians are made whole: a matrix product sums the positions.
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
        backend = get_backend(like)
        stream = self._open(n * k, backend, like.dtype)
        columns = max(TILE[backend.name] // (n * k), self._tile_width)
        for tile in _tiles(factors, columns // self.shape[-1]):
            stream.add(tile)
        return stream.result().reshape(n, k, -1)

    def numbers(self, factors: Factors) -> int:
        """Numbers per sample that `of_factors` holds at once."""
        if not _is_outer(factors):
            return ArraySketch.numbers(self, factors)
        return int(factors.k * (4 * factors.ct.shared.shape[-1] + self.width + self._tile_width))

    @property
    def _tile_width(self) -> int:
        """Columns that a tile has at least, if the array has so many."""
        return min(_WIDTHS * self.width, math.prod(self.shape))


def _is_outer(factors: Factors) -> TypeGuard[JacobianFactors]:
    """Whether the Jacobian of a sample is one outer product."""
    if not isinstance(factors, JacobianFactors) or factors.act is None:
        return False
    return factors.groups == 1 and math.prod(factors.spatial) == 1


def _tiles(factors: JacobianFactors, height: int) -> Iterator[Array]:
    """Some rows of all Jacobians at a time, (n k, rows o): `height` of them, and one at least, in the same memory."""
    assert factors.act is not None  # else it is no outer product
    act, delta = factors.act[0 : factors.n][:, 0, None, :, None], factors.delta[:, 0, :, None, :]
    (n, k, _, o), i, xp = delta.shape, act.shape[2], get_backend(delta).xp
    memory = xp.empty(n * k * min(max(1, height), i) * o, delta.dtype)
    for rows in slices(i, height):
        tile = memory[: n * k * (rows.stop - rows.start) * o].reshape(n, k, -1, o)
        xp.multiply(act[:, :, rows], delta, out=tile)
        if factors.scale != 1.0:
            tile *= factors.scale
        yield tile.reshape(n * k, -1)
