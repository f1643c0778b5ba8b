"""Dense sketches: Gaussian and Rademacher matrices, made block by block from the counter and never whole."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from .._check import quiet
from .._memo import memoised
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels import Kernel, philox
from ._base import PartwiseSketch, SeededSketch
from ._row_stream import BlockStream, RowStream

__all__ = ["GaussianSketch", "RademacherSketch"]

# Entries of one block of the matrix. Block boundaries are a function of sketch_dim alone, so that the order of
# summation, and with it the result, does not depend on free memory.
BLOCK_ENTRIES = 2**20

# Rows and columns of one product: what a caller's part lacks of so many columns is held back. A GPU needs more work.
PRODUCT = {"numpy": (256, 512), "cupy": (2**14, 2**12)}


@dataclass(frozen=True, slots=True)
class _DenseSketch(SeededSketch, PartwiseSketch):
    """A matrix G of shape (in_dim, sketch_dim) whose entry (j, i) is element ``j * sketch_dim + i`` of a stream."""

    _stream: ClassVar[Stream]
    _kernel: ClassVar[Kernel]

    def _adjoint_unchecked(self, z: Array, backend: Backend) -> Array:
        """`adjoint` of checked rows: ``z @ G.T / sqrt(sketch_dim)``."""
        z = z * z.dtype.type(1.0 / math.sqrt(self.sketch_dim))
        out = backend.xp.empty((z.shape[0], self.in_dim), z.dtype)
        for start, stop in self._blocks(0, self.in_dim):
            block = self._block(start, stop, backend, z.dtype)
            with quiet():
                out[:, start:stop] = z @ block.T
        return out

    def _apply_sparse_columns(self, x: Any, start: int, backend: Backend) -> Array:
        """`apply_part` of a sparse matrix: its product with rows of ``G / sqrt(sketch_dim)``."""
        out = backend.xp.zeros((x.shape[0], self.sketch_dim), x.dtype)
        columns = x.tocsc()  # a slice of columns is cheap in CSC only
        for first, last in self._blocks(start, start + x.shape[1]):
            block = self._block(first, last, backend, x.dtype)
            with quiet():
                out += columns[:, first - start : last - start] @ block
        out *= x.dtype.type(1.0 / math.sqrt(self.sketch_dim))
        return out

    def _open_columns(self, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part` of unchecked dense rows whose columns come in parts."""
        out = backend.xp.zeros((n_rows, self.sketch_dim), dtype)
        products = _Products(self, columns, backend)
        return BlockStream(columns, products.width, products.add, out, 1.0 / math.sqrt(self.sketch_dim))

    def _columns_held(self, backend: Backend) -> int:
        """Numbers of a row that a stream may hold at once: the columns of a product."""
        return min(PRODUCT[backend.name][1], self._block_height(), self.in_dim)

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Ranges of input columns, cut at multiples of the block height."""
        height = self._block_height()
        while start < stop:
            last = min(stop, (start // height + 1) * height)
            yield start, last
            start = last

    def _block_height(self) -> int:
        return max(1, BLOCK_ENTRIES // self.sketch_dim)

    def _block(self, start: int, stop: int, backend: Backend, dtype: Any) -> Array:
        """Rows [start, stop) of G. A matrix that is one block is kept, a larger one is made anew."""
        if self.in_dim > self._block_height():
            return self._entries(start, stop, backend, dtype)
        (whole,) = memoised(self, _whole_matrix, backend, dtype)
        return whole[start:stop]

    def _entries(self, start: int, stop: int, backend: Backend, dtype: Any) -> Array:
        block = backend.xp.empty((stop - start, self.sketch_dim), dtype)
        key = philox.derive_key(self.seed, self._stream)
        backend.launch(self._kernel, key, start * self.sketch_dim, block.reshape(-1))
        return block


class _Products:
    """Products of blocks of columns with their rows of G: for the same rows, always the same calls of the BLAS."""

    def __init__(self, sketch: _DenseSketch, columns: range, backend: Backend) -> None:
        self._sketch, self._stop, self._backend = sketch, columns.stop, backend
        self._n_rows, width = PRODUCT[backend.name]
        self.width = min(width, sketch._block_height())
        self._held: tuple[range, Array] | None = None
        self._scratch: tuple[Array, Array] | None = None

    def add(self, x: Array, first: int, out: Array) -> None:
        """Add the products of a block's columns (n, w), of which the first is `first`, to `out` (n, sketch_dim)."""
        matrix = self._rows_of_matrix(first, first + x.shape[1], x.dtype)
        with quiet():
            for start in range(0, x.shape[0], self._n_rows):
                rows = slice(start, min(start + self._n_rows, x.shape[0]))
                out[rows] += self._product(x[rows], matrix)

    def _product(self, tile: Array, matrix: Array) -> Array:
        """``tile @ matrix``, from a copy of the tile, so that its place and strides in memory never show."""
        if self._scratch is None:  # the first tile is the largest
            empty, n_rows = self._backend.xp.empty, tile.shape[0]
            self._scratch = empty((n_rows, self.width), tile.dtype), empty((n_rows, matrix.shape[1]), tile.dtype)
        copy, product = (array[: tile.shape[0]] for array in self._scratch)
        copy[:, : tile.shape[1]] = tile
        return self._backend.xp.matmul(copy[:, : tile.shape[1]], matrix, out=product)

    def _rows_of_matrix(self, first: int, stop: int, dtype: Any) -> Array:
        """Rows [first, stop) of G, of which several blocks are made at once."""
        if self._held is None or stop > self._held[0].stop:
            n_blocks = self._sketch._block_height() // self.width
            place = range(first, min(self._stop, first + n_blocks * self.width))
            self._held = place, self._sketch._block(place.start, place.stop, self._backend, dtype)
        place, matrix = self._held
        return matrix[first - place.start : stop - place.start]


def _whole_matrix(sketch: _DenseSketch, backend: Backend, dtype: Any) -> tuple[Array, ...]:
    return (sketch._entries(0, sketch.in_dim, backend, dtype),)


@dataclass(frozen=True, slots=True)
class GaussianSketch(_DenseSketch):
    """Dense Gaussian sketch: ``S x = G^T x / sqrt(sketch_dim)`` with independent entries N(0, 1).

    ``E <S x, S y> = <x, y>``; the classical Johnson-Lindenstrauss map.

    Parameters
    ----------
    in_dim, sketch_dim : int
        Input and output width, 1 <= width < 2**31. Either may be the larger one.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S x, S y>``, exactly: ``(|x|^2 |y|^2 + <x, y>^2) / sketch_dim``.

    Cost: ``2 n in_dim sketch_dim`` operations in matrix products, and ``in_dim sketch_dim`` random numbers, made
    anew in every call unless the matrix has at most 2**20 entries; memory: the result twice and a block of about 2**20
    entries. Sparse input costs ``2 nnz sketch_dim`` instead; its random numbers cost the same.

    Determinism: entries are the same bits for every block, thread count and run, on a GPU to a few units in the last
    place. Products are as reproducible as the BLAS: equal calls give equal bits, also where columns come in parts; the
    number of rows or threads, and a row's place among them, may move the last bits. Dense and sparse input agree to
    rounding.

    Backends: numpy, cupy.

    References
    ----------
    Johnson, Lindenstrauss. Extensions of Lipschitz mappings into a Hilbert space. Contemporary Mathematics 26, 1984.

    Examples
    --------
    >>> import numpy as np
    >>> GaussianSketch(100, 16, seed=0).apply(np.ones((2, 100), np.float32)).shape
    (2, 16)
    """

    _stream: ClassVar[Stream] = Stream.GAUSSIAN
    _kernel: ClassVar[Kernel] = philox.normal


@dataclass(frozen=True, slots=True)
class RademacherSketch(_DenseSketch):
    """Dense sign sketch: ``S x = R^T x / sqrt(sketch_dim)`` with independent signs +1 and -1.

    ``E <S x, S y> = <x, y>``; less variance than `GaussianSketch`, and cheaper random numbers.

    Parameters
    ----------
    in_dim, sketch_dim : int
        Input and output width, 1 <= width < 2**31. Either may be the larger one.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S x, S y>``, exactly: ``(|x|^2 |y|^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2) / sketch_dim``.

    Cost: ``2 n in_dim sketch_dim`` operations in matrix products, and ``in_dim sketch_dim`` signs (32 from one random
    word), made anew in every call unless the matrix has at most 2**20 entries; memory: the result twice and a block
    of about 2**20 entries. Sparse input costs ``2 nnz sketch_dim`` instead; its signs cost the same.

    Determinism: signs are the same bits everywhere. Products are as reproducible as the BLAS: equal calls give
    equal bits, also where columns come in parts; the number of rows or threads, and a row's place among them, may move
    the last bits. Dense and sparse input agree to rounding.

    Backends: numpy, cupy.

    References
    ----------
    Achlioptas. Database-friendly random projections. Journal of Computer and System Sciences 66, 2003.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3)
    >>> np.abs(RademacherSketch(3, 4, seed=0).apply(x))[0]
    array([0.5, 0.5, 0.5, 0.5])
    """

    _stream: ClassVar[Stream] = Stream.RADEMACHER
    _kernel: ClassVar[Kernel] = philox.signs
