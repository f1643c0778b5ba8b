"""CountSketch and its sparse Johnson-Lindenstrauss relative: maps whose cost follows the number of nonzeros."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .._check import check_int, set_checked
from .._memo import memoised
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels import countsketch, gather, philox
from ._base import PartwiseSketch, SeededSketch, is_sparse
from ._row_stream import RowStream

__all__ = ["CountSketch", "SparseJL"]


# Entries of the tables of all columns that are kept for the next call: they take about as long to read as to make.
KEPT_ENTRIES = 2**22

# Entries of the tables of a tile of columns: they stay in a core's cache while all rows pass.
TILE_ENTRIES = 2**17


@dataclass(frozen=True, slots=True)
class _HashSketch(SeededSketch, PartwiseSketch):
    """Every column of S has one nonzero in each of some blocks of buckets: a sign over the root of their number."""

    _stream: ClassVar[Stream]

    @property
    def _n_blocks(self) -> int:
        return 1

    @property
    def _is_kept(self) -> bool:
        """Whether the tables of all columns are few enough to be kept."""
        return self.in_dim * self._n_blocks <= KEPT_ENTRIES

    def _apply_columns(self, x: Any, start: int, backend: Backend, out: Array | None = None) -> Array:
        """`apply_part` of checked rows, to `out` if given; for sketches that are made of this one."""
        if is_sparse(x):
            return self._apply_sparse_columns(x, start, backend)
        if out is None:
            out = backend.xp.empty((x.shape[0], self.sketch_dim), x.dtype)
        if self._is_kept:
            backend.launch(countsketch.apply, x, *self._tables(start, start + x.shape[1], backend, x.dtype), out)
            return self._scaled(out)
        stream = _HashStream(self, start, backend, out)
        stream.add(x)
        return stream.result()

    def _apply_sparse_columns(self, x: Any, start: int, backend: Backend) -> Array:
        """`apply_part` of a checked sparse matrix."""
        out = backend.xp.empty((x.shape[0], self.sketch_dim), x.dtype)
        tables = self._tables(start, start + x.shape[1], backend, x.dtype)
        backend.launch(countsketch.apply_sparse, x.data, x.indices, x.indptr, *tables, out)
        return self._scaled(out)

    def _adjoint_unchecked(self, z: Array, backend: Backend) -> Array:
        """`adjoint` of checked rows."""
        out = backend.xp.empty((z.shape[0], self.in_dim), z.dtype)
        backend.launch(gather.signed, z, *self._tables(0, self.in_dim, backend, z.dtype), out)
        return self._scaled(out)

    def _open_columns(self, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part` of unchecked dense rows whose columns come in parts."""
        return _HashStream(self, columns.start, backend, backend.xp.empty((n_rows, self.sketch_dim), dtype))

    def _scaled(self, out: Array) -> Array:
        """Scale in place, after the sums of +-x_i: so these are the same bits in every order of targets."""
        if self._n_blocks > 1:
            out *= out.dtype.type(1.0 / math.sqrt(self._n_blocks))
        return out

    def _tables(self, start: int, stop: int, backend: Backend, dtype: Any) -> tuple[Array, ...]:
        """Buckets and signs, each (blocks, columns), of the columns [start, stop)."""
        if not self._is_kept:
            return memoised((self, start, stop), _hash_tables, backend, dtype)
        whole = memoised((self, 0, self.in_dim), _hash_tables, backend, dtype)
        return tuple(backend.xp.ascontiguousarray(table[:, start:stop]) for table in whole)


class _HashStream(RowStream):
    """Sums of +-x_i that run column by column, so that they are the same bits wherever the columns are cut."""

    def __init__(self, sketch: _HashSketch, start: int, backend: Backend, out: Array) -> None:
        out[:] = 0
        self._sketch, self._place, self._backend, self._out = sketch, start, backend, out
        self._memory: tuple[Array, ...] | None = None

    def add(self, x: Array) -> None:
        """Add the next columns to the sums, a tile of them at a time."""
        width = max(1, TILE_ENTRIES // self._sketch._n_blocks)
        for first in range(0, x.shape[1], width):
            tile = _in_rows(x[:, first : first + width], self._backend)
            start, stop = self._place + first, self._place + first + tile.shape[1]
            self._backend.launch(countsketch.add, tile, *self._tables(start, stop, x.dtype), self._out)
        self._place += x.shape[1]

    def result(self) -> Array:
        """The sums, scaled."""
        return self._sketch._scaled(self._out)

    def _tables(self, start: int, stop: int, dtype: Any) -> tuple[Array, ...]:
        """Tables of a tile: a part of those of all columns, where they are kept, or made where the last ones were."""
        if self._sketch._is_kept:
            return self._sketch._tables(start, stop, self._backend, dtype)
        size = self._sketch._n_blocks * (stop - start)
        if self._memory is None or self._memory[0].size < size:
            self._memory = _empty_tables(size, self._backend, dtype)
        tables = tuple(table[:size].reshape(-1, stop - start) for table in self._memory)
        _fill_tables(self._sketch, start, tables, self._backend)
        return tables


def _in_rows(x: Array, backend: Backend) -> Array:
    """Rows whose entries lie side by side, one row after another with or without gaps: copied where they do not."""
    if x.strides[1] == x.itemsize and x.strides[0] >= 0:
        return x
    return backend.xp.ascontiguousarray(x)


def _hash_tables(part: tuple[_HashSketch, int, int], backend: Backend, dtype: Any) -> tuple[Array, ...]:
    """Buckets and signs, each (blocks, columns), of the columns [start, stop)."""
    sketch, start, stop = part
    tables = _empty_tables((sketch._n_blocks, stop - start), backend, dtype)
    _fill_tables(sketch, start, tables, backend)
    return tables


def _empty_tables(shape: int | tuple[int, int], backend: Backend, dtype: Any) -> tuple[Array, ...]:
    return backend.xp.empty(shape, np.int32), backend.xp.empty(shape, dtype)


def _fill_tables(sketch: _HashSketch, start: int, tables: tuple[Array, ...], backend: Backend) -> None:
    """Write buckets and signs, each (blocks, columns), of the columns from `start` on."""
    bucket, sign = tables
    bounds = block_bounds(sketch.sketch_dim, sketch._n_blocks)
    for block, (first, last) in enumerate(itertools.pairwise(bounds)):
        key = philox.derive_key(sketch.seed, sketch._stream, block)
        backend.launch(philox.bucket_sign, key, start, last - first, bucket[block], sign[block])
        if first > 0:
            bucket[block] += np.int32(first)


def block_bounds(sketch_dim: int, n_blocks: int) -> list[int]:
    """Cut the buckets into blocks whose sizes differ by at most one."""
    return [sketch_dim * block // n_blocks for block in range(n_blocks + 1)]


@dataclass(frozen=True, slots=True)
class CountSketch(_HashSketch):
    """CountSketch: every coordinate is added, with a random sign, to one random bucket.

    ``(S x)_r = sum over i with h(i) = r of sign(i) x_i``, and ``E <S x, S y> = <x, y>``.

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

    Cost: one addition for every entry, or every nonzero of a sparse `x`; memory: the result, and 8 to 12 bytes of
    tables per input column, kept for the next call. For dense rows of more than 2**22 columns the tables are made for a
    tile of columns at a time, which adds a nanosecond or two per column, and are not kept.

    Determinism: bitwise across targets, runs, row chunks, parts of columns and thread counts, and for sparse and dense
    input: the terms of a bucket are added in ascending order of columns.

    Backends: numpy, cupy.

    References
    ----------
    Charikar, Chen, Farach-Colton. Finding frequent items in data streams. Theoretical Computer Science 312, 2004.
    Clarkson, Woodruff. Low-rank approximation and regression in input sparsity time. Journal of the ACM 63, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> z = CountSketch(1000, 64, seed=0).apply(np.eye(1000)[:3])
    >>> np.abs(z).sum(axis=1)
    array([1., 1., 1.])
    """

    _stream: ClassVar[Stream] = Stream.COUNT_SKETCH


@dataclass(frozen=True, slots=True)
class SparseJL(_HashSketch):
    """Sparse Johnson-Lindenstrauss map (OSNAP): a CountSketch in each of `nnz` blocks of buckets, over sqrt(nnz).

    The buckets are cut into `nnz` blocks whose sizes differ by at most one; every column has one nonzero
    ``+-1 / sqrt(nnz)`` in each block. ``E <S x, S y> = <x, y>``.

    Parameters
    ----------
    in_dim, sketch_dim : int
        Input and output width, 1 <= width < 2**31. Either may be the larger one.
    nnz : int, default 4
        Nonzeros per column, 1 <= nnz <= sketch_dim.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S x, S y>``, exactly, with m_b the block sizes:

        (|x|^2 |y|^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2) / nnz^2 * sum_b 1 / m_b

    which is that of `CountSketch` where nnz divides `sketch_dim`. What nnz > 1 buys are lighter tails: two large
    coordinates meet in one block of nnz, not altogether.

    Cost: nnz times that of `CountSketch`, in time and tables, of which 2**22 entries are kept.

    Determinism: bitwise across targets, runs, row chunks, parts of columns and thread counts, and for sparse and dense
    input.

    Backends: numpy, cupy.

    References
    ----------
    Kane, Nelson. Sparser Johnson-Lindenstrauss transforms. Journal of the ACM 61, 2014 (the block construction).
    Nelson, Nguyen. OSNAP: faster numerical linear algebra algorithms via sparser subspace embeddings. FOCS 2013.

    Examples
    --------
    >>> import numpy as np
    >>> z = SparseJL(1000, 64, nnz=4, seed=0).apply(np.eye(1000)[:2])
    >>> (z * z).sum(axis=1)
    array([1., 1.])
    """

    nnz: int = field(default=4, kw_only=True)

    _stream: ClassVar[Stream] = Stream.SPARSE_JL

    def __post_init__(self) -> None:
        # slots make dataclass rebuild the class, so super() without arguments would miss it
        SeededSketch.__post_init__(self)
        set_checked(self, nnz=check_int(self.nnz, "nnz", minimum=1, maximum=self.sketch_dim))

    @property
    def _n_blocks(self) -> int:
        return self.nnz
