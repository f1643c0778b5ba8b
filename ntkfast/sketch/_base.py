"""The interface of linear sketches, and what all sketches share: checks of input, row tiles and scratch memory."""

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._check import check_dtype, check_finite, check_int, check_matrix, check_range, check_seed, set_checked
from .._typing import Array
from ..backends import Backend, get_backend
from ._row_stream import ChainStream, RowStream

MAX_DIM = 2**31 - 1  # tables index columns by int32

# Bytes of each scratch array of a tile of rows: so many rows that waking the threads costs little, so few that
# the array is still in cache when it is read again.
TILE_BYTES = 2**21


class LinearSketch(abc.ABC):
    """A linear map from `in_dim` to `sketch_dim` coordinates: its interface, and all checks.

    Attributes
    ----------
    in_dim, sketch_dim : int
        Input and output width.
    """

    __slots__ = ()

    in_dim: int
    sketch_dim: int

    def apply(self, x: Any) -> Array:
        """Sketch of each row.

        Parameters
        ----------
        x : array or sparse matrix, shape (n, in_dim), float32 or float64
            Rows are samples. Sparse: any format.

        Returns
        -------
        array, shape (n, sketch_dim), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError
            `x` is of the wrong type, dtype or shape, is empty, or has NaN or inf.
        OverflowError
            The sketch leaves the range of the dtype.
        """
        x, backend = check_rows(x, "x", self.in_dim)
        return check_range(self._apply_unchecked(x, backend), "the sketch")

    def adjoint(self, z: Array) -> Array:
        """Transpose of `apply`.

        Parameters
        ----------
        z : array, shape (n, sketch_dim), float32 or float64

        Returns
        -------
        array, shape (n, in_dim), dtype and backend of `z`

        Raises
        ------
        TypeError, ValueError
            `z` is of the wrong type, dtype or shape, is empty, or has NaN or inf.
        OverflowError
            The result leaves the range of the dtype.
        """
        z, backend = check_matrix(z, "z", columns=self.sketch_dim)
        return check_range(self._adjoint_unchecked(z, backend), "the sketch")

    @abc.abstractmethod
    def _apply_unchecked(self, x: Any, backend: Backend) -> Array:
        """`apply` of checked rows."""

    @abc.abstractmethod
    def _adjoint_unchecked(self, z: Array, backend: Backend) -> Array:
        """`adjoint` of checked rows."""

    @abc.abstractmethod
    def _open_stream(self, n_rows: int, backend: Backend, dtype: Any) -> RowStream:
        """`apply` of unchecked dense rows whose columns come in parts: the same bits for every cut."""

    def _columns_held(self, backend: Backend) -> int:
        """Numbers of a row that a stream may hold at once, beside its result."""
        return 0


class PartwiseSketch(LinearSketch):
    """A linear map whose columns can be made alone, so that a long row can be sketched in parts."""

    __slots__ = ()

    def apply_part(self, x: Any, start: int) -> Array:
        """Sketch of the columns ``start, ..., start + k - 1`` of a row, the other columns being zero.

        The parts of a row add up to its sketch (to rounding), so a long row need never exist whole, nor its tables.
        `ntkfast.projection.project` takes parts in their order, and gives the bits of the whole row.

        Parameters
        ----------
        x : array or sparse matrix, shape (n, k), float32 or float64
            ``1 <= k <= in_dim - start``.
        start : int
            Position of the first column of `x` in the whole row.

        Returns
        -------
        array, shape (n, sketch_dim), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `apply`; also where the columns reach beyond `in_dim`.
        """
        start, width = check_start(x, start, self.in_dim)
        x, backend = check_rows(x, "x", width)
        return check_range(self._apply_columns(x, start, backend), "the sketch")

    def _apply_unchecked(self, x: Any, backend: Backend) -> Array:
        """`apply` of checked rows."""
        return self._apply_columns(x, 0, backend)

    def _apply_columns(self, x: Any, start: int, backend: Backend) -> Array:
        """`apply_part` of checked rows."""
        if is_sparse(x):
            return self._apply_sparse_columns(x, start, backend)
        stream = self._open_columns(x.shape[0], range(start, start + x.shape[1]), backend, x.dtype)
        stream.add(x)
        return stream.result()

    def _open_stream(self, n_rows: int, backend: Backend, dtype: Any) -> RowStream:
        """`apply` of unchecked dense rows whose columns come in parts: the same bits for every cut."""
        return self._open_columns(n_rows, range(self.in_dim), backend, dtype)

    def _open_chain(self, second: RowStream, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part`, followed by another sketch."""
        return ChainStream(self._open_columns(n_rows, columns, backend, dtype), second)

    @abc.abstractmethod
    def _apply_sparse_columns(self, x: Any, start: int, backend: Backend) -> Array:
        """`apply_part` of a checked sparse matrix."""

    @abc.abstractmethod
    def _open_columns(self, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part` of unchecked dense rows whose columns come in parts."""


@dataclass(frozen=True, slots=True)
class SeededSketch(LinearSketch):
    """A linear map that is drawn from a seed: its fields."""

    in_dim: int
    sketch_dim: int
    seed: int = field(kw_only=True)

    def __post_init__(self) -> None:
        set_checked(self, in_dim=check_dim(self.in_dim, "in_dim"))
        set_checked(self, sketch_dim=check_dim(self.sketch_dim, "sketch_dim"))
        set_checked(self, seed=check_seed(self.seed))


def entries(x: Any) -> Array:
    """The array of a matrix that tells its backend and dtype."""
    return x.data if hasattr(x, "tocsr") else x


def check_dim(value: Any, name: str) -> int:
    """Return a dimension: 1 <= value < 2**31."""
    return check_int(value, name, minimum=1, maximum=MAX_DIM)


def is_sparse(x: Any) -> bool:
    """Whether `x` is a SciPy or CuPy sparse matrix, told without importing either."""
    return hasattr(x, "tocsr") and type(x).__module__.partition(".")[0] in ("scipy", "cupyx")


def check_rows(x: Any, name: str, in_dim: int) -> tuple[Any, Backend]:
    """Check samples, dense or sparse, and return them C-contiguous or in canonical CSR, with their backend.

    Canonical CSR has sorted column indices without duplicates; then a kernel adds the terms of a row in the
    order in which it would meet them in the dense row, and both give the same bits.
    """
    if not is_sparse(x):
        return check_matrix(x, name, columns=in_dim)
    check_dtype(x, name)
    if x.ndim != 2 or x.shape[1] != in_dim:
        raise ValueError(f"expected {name} of shape (n, {in_dim}), got {x.shape}")
    if x.shape[0] == 0:
        raise ValueError(f"expected {name} with at least one row and one column, got shape {x.shape}")
    csr = _canonical(x.tocsr())
    backend = get_backend(csr.data)
    check_finite(csr.data, f"{name}.data")
    return csr, backend


def check_start(x: Any, start: Any, in_dim: int) -> tuple[int, int]:
    """Return the first column and the number of columns of a part of a row; refuse a part that reaches too far."""
    start = check_int(start, "start", maximum=in_dim - 1)
    width = x.shape[1] if getattr(x, "ndim", 0) == 2 else 1
    if width > in_dim - start:
        raise ValueError(f"expected x of at most {in_dim - start} columns from start {start} on, got {width}")
    return start, width


def _canonical(csr: Any) -> Any:
    """Sort and merge the entries of each row, in a copy where there is anything to do."""
    if csr.has_canonical_format:
        return csr
    csr = csr.copy()  # the caller's matrix stays as it is
    csr.sum_duplicates()
    return csr


def row_tiles(n_rows: int, width: int, dtype: Any) -> Iterator[slice]:
    """Slices of rows of `width` entries that take about TILE_BYTES; rows are computed alone, so tiles never show."""
    step = max(1, TILE_BYTES // (width * np.dtype(dtype).itemsize))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


class Scratch:
    """Arrays of one call that are used again: new memory costs a page fault per 4 KiB, often more than the work."""

    def __init__(self, backend: Backend, dtype: Any) -> None:
        self.backend = backend
        self.dtype = dtype
        self._free: dict[int, list[Array]] = {}

    def take(self, n_rows: int, width: int) -> Array:
        """An array (n_rows, width) with arbitrary content. No tile has more rows than the first."""
        free = self._free.get(width)
        return free.pop()[:n_rows] if free else self.backend.xp.empty((n_rows, width), self.dtype)

    def give(self, array: Array) -> None:
        """Hand back an array that nobody reads any more."""
        self._free.setdefault(array.shape[1], []).append(array)


def dense(x: Any) -> Array:
    """A dense matrix itself, a sparse one as a new dense array."""
    return x.toarray() if is_sparse(x) else x
