"""Gram matrices of a bias-free homogeneous network: one matrix product and one function of the angle, at any depth."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._angles import close_threshold, unit_rows
from .._check import memory_budget
from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import zonal as kernel
from ..zonal import Zonal

__all__ = ["zonal_gram"]

# Most bytes of products that are written before the kernel reads them. BLAS and the kernel have threads of their own,
# and every change between them costs a wake-up (under load, many milliseconds): so panels are large rather than small.
PANEL_BYTES = 1 << 26
# NumPy computes half of u @ u.T and copies the other half in a plain loop, which pays from about this width on.
SYMMETRIC_WIDTH = 64


class _Rows(NamedTuple):
    """A block of rows of one argument: directions, and norms times the root of the scale."""

    unit: Array
    radius: Array


class _Tables(NamedTuple):
    """What the kernel knows of the functions; see `ntkfast.kernels.zonal`."""

    coefficients: Array
    ends: Array
    threshold: float


def zonal_gram(
    x1: Array,
    x2: Array | None,
    functions: Sequence[Zonal],
    *,
    scale: float = 1.0,
    max_memory: int | None = None,
) -> tuple[Array, ...]:
    """One matrix ``scale |x| |y| k(angle)`` per zonal function, from one matrix product.

    Parameters
    ----------
    x1 : array, shape (n1, d), float32 or float64
        Rows, as `check_pair` returns them; zero rows give zero entries.
    x2 : array, shape (n2, d), or None
        None is x1 itself, at half the cost: the result is exactly symmetric, and its diagonal exactly
        scale |x|^2 k(0) up to the rounding of |x|.
    functions : sequence of Zonal
        One, or NNGP and NTK of one depth; all come from the same pass.
    scale : float
        Factor of all matrices, not negative.
    max_memory : int, optional
        Bytes for the unit rows, which are all that is allocated beside the result. Fewer mean more, smaller blocks.

    Returns
    -------
    tuple of arrays, shape (n1, n2), in the dtype of `x1`
        Deviation (from the exact values, relative to the largest entry of unit rows) about 1e-14 in float64 and
        1e-6 in float32, coincident and opposite rows included. Entries beyond the range of the dtype are inf;
        NaN does not occur. The same bits for any number of threads; blocks change the matrix product's rounding only.

    Raises
    ------
    MemoryBudgetError
        `max_memory` is too small for one row of each side.

    Notes
    -----
    Cost: one matrix product (half of one if x2 is None) and about 1 ns per entry, whatever the depth.
    """
    backend = get_backend(x1)
    other = x1 if x2 is None else x2
    tables = _stack_tables(functions, x1, backend)
    out = backend.xp.empty((len(functions), x1.shape[0], other.shape[0]), x1.dtype)
    size = _block_rows(x1, other, max_memory, backend)
    for row in range(0, x1.shape[0], size):
        first = _rows(x1[row : row + size], scale)
        for column in range(row if x2 is None else 0, other.shape[0], size):
            same = x2 is None and column == row
            second = first if same else _rows(other[column : column + size], scale)
            _block(first, second, tables, (row, column), x2 is None, out, backend)
    return tuple(out)


def _stack_tables(functions: Sequence[Zonal], x: Array, backend: Backend) -> _Tables:
    """Tables of all functions, padded with zero terms to one length, on the backend of `x`."""
    tables = [function.table(str(x.dtype)) for function in functions]
    n_terms = max(table.coefficients.shape[1] for table in tables)
    coefficients = np.zeros((len(tables), 2, n_terms), str(x.dtype))
    for padded, table in zip(coefficients, tables, strict=True):
        padded[:, : table.coefficients.shape[1]] = table.coefficients
    ends = np.stack([table.ends for table in tables])
    threshold = close_threshold(x, max(table.slope for table in tables))
    return _Tables(backend.xp.asarray(coefficients), backend.xp.asarray(ends), threshold)


def _block_rows(x1: Array, x2: Array, max_memory: int | None, backend: Backend) -> int:
    """Rows per block, so that the unit rows and radii of two blocks fit the budget."""
    per_row = int((x1.shape[1] + 1) * x1.dtype.itemsize)
    budget = memory_budget(max_memory, backend, smallest=2 * per_row)
    return min(int(max(x1.shape[0], x2.shape[0])), budget // (2 * per_row))


def _rows(x: Array, scale: float) -> _Rows:
    """Unit rows, and norms times sqrt(scale) below 2^-20 of the largest float.

    The cap keeps (k r1) finite, so that no inf meets the 0 of a zero row; it alters only rows whose own diagonal
    entry is far beyond the range of the dtype.
    """
    xp = get_backend(x).xp
    unit, norm = unit_rows(x)
    with np.errstate(over="ignore"):
        radius = norm.astype("float64") * math.sqrt(scale)
    cap = float(np.finfo(str(x.dtype)).max) * 2.0**-20
    return _Rows(unit, xp.minimum(radius, cap).astype(x.dtype))


def _block(
    first: _Rows, second: _Rows, tables: _Tables, corner: tuple[int, int], mirror: bool, out: Array, backend: Backend
) -> None:
    """Fill the block of `out` at `corner`, and its mirror image, panel by panel."""
    row, column = corner
    n1, n2 = first.unit.shape[0], second.unit.shape[0]
    n_panels = 1 if backend.name == "cupy" else -(-n1 * n2 * first.unit.dtype.itemsize // PANEL_BYTES)
    step = -(-n1 // n_panels)
    for start in range(0, n1, step):
        stop = min(start + step, n1)
        # What lies left of the diagonal comes from the mirror.
        diagonal = mirror and row == column
        left = start if diagonal else 0
        rows = _Rows(*(a[start:stop] for a in first))
        columns = _Rows(*(a[left:] for a in second))
        products = out[0, row + start : row + stop, column + left : column + n2]
        _multiply(rows.unit, columns.unit, stop - start if diagonal else 0, products, backend)
        place = (row + start, column + left, int(mirror))
        backend.launch(kernel.evaluate, rows.unit, columns.unit, rows.radius, columns.radius, *tables, *place, out)


def _multiply(u1: Array, u2: Array, same: int, out: Array, backend: Backend) -> None:
    """``u1 @ u2.T``, where u1 and u2 may share their first `same` rows.

    Wide rows: the shared square by itself, of which NumPy then computes half. Narrow rows: in two parts, so that
    NumPy does not recognize the shared square, whose other half it would complete by a slow loop.
    """
    matmul = backend.xp.matmul
    if same and u1.shape[1] >= SYMMETRIC_WIDTH:
        matmul(u1, u1.T, out=out[:, :same])
        if same < u2.shape[0]:
            matmul(u1, u2[same:].T, out=out[:, same:])
        return
    half = u1.shape[0] // 2 if same else 0
    matmul(u1[half:], u2.T, out=out[half:])
    if half:
        matmul(u1[:half], u2.T, out=out[:half])
