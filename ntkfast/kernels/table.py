"""A nonlinearity of one variable as a table of cubic pieces: the features of a map from its projections.

q functions g_0 .. g_{q-1} on [-reach, reach], cut into n cells of width h = 2 reach / n. In cell j, with the local
coordinate f = (u + reach) / h - j in [0, 1],

    g_a(u) = table[a, j, 0] + table[a, j, 1] f + table[a, j, 2] f^2 + table[a, j, 3] f^3.

Beyond +-reach, g is continued by its value there (clipped tails, slope 0). If the pieces are Hermite's (values and
slopes met at the ends of the cell, `pieces`), g is once continuously differentiable inside and its error is below
h^4 max|g''''| / 384.

Letters: u (n_rows, p) projections of unit rows; scale (n_rows,) one factor per row; out, ct (n_rows, m), of which the
columns first .. first + q p - 1 belong to the table, function by function.

evaluate(u, scale, table, reach, first, out)
    out[i, first + a p + k] = scale[i] g_a(u[i, k])
pullback(u, ct, scale, table, reach, first, slope, value)
    slope[i, k] = scale[i] sum_a ct[i, first + a p + k] g_a'(u[i, k])
    value[i] = sum_{a, k} ct[i, first + a p + k] g_a(u[i, k])

Promise: agrees with the reference to rounding; an entry depends on its own u only, whatever the block of rows.
"""

import math
from typing import Any

import numba
import numpy as np

from . import _kernel
from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, shared

__all__ = ["evaluate", "pieces", "pullback"]


def pieces(values: Any, slopes: Any, width: float) -> Any:
    """Cubic pieces that meet values and slopes at the ends of every cell.

    Parameters
    ----------
    values, slopes : (q, n + 1)
        g and g' at the ends of n cells.
    width : float
        Width h of a cell.

    Returns
    -------
    ndarray (q, n, 4)
        Coefficients of 1, f, f^2, f^3.
    """
    left, right = values[:, :-1], values[:, 1:]
    rise, fall = width * slopes[:, :-1], width * slopes[:, 1:]
    square = 3.0 * (right - left) - 2.0 * rise - fall
    cube = 2.0 * (left - right) + rise + fall
    return np.ascontiguousarray(np.stack([left, rise, square, cube], axis=-1))


@shared
def _position(u, reach, per_unit, last):
    """(u + reach) / h clipped to [0, n); `last` is the largest number below n."""
    zero = u - u
    position = (u + reach) * per_unit
    position = position if position > zero else zero
    return position if position < last else last


@shared
def _cubic(c0, c1, c2, c3, f):
    return ((c3 * f + c2) * f + c1) * f + c0


@shared
def _cubic_slope(c1, c2, c3, f):
    return (c3 * (f + f + f) + (c2 + c2)) * f + c1


def _geometry(u, table, reach):
    """Typed scalars (reach, 1 / h, largest number below n)."""
    real, n = u.dtype.type, table.shape[1]
    return real(reach), real(n / (2.0 * float(reach))), np.nextafter(real(n), real(0))


def _cells(u, table, reach):
    """Cell (n_rows, p) of every projection, and the local coordinate."""
    reach, per_unit, last = _geometry(u, table, reach)
    position = np.clip((u + reach) * per_unit, u.dtype.type(0), last)
    cell = position.astype(np.int64)
    return cell, position - cell.astype(u.dtype)


def _evaluate_reference(u, scale, table, reach, first, out):
    """Write scale g(u) into columns of `out`; see the module.

    Parameters
    ----------
    u : (n_rows, p)
    scale : (n_rows,)
    table : (q, n, 4)
    reach : float
    first : int
        First column of `out` to write.
    out : (n_rows, m), m >= first + q p
    """
    cell, f = _cells(u, table, reach)
    p = u.shape[1]
    for a in range(table.shape[0]):
        c0, c1, c2, c3 = np.moveaxis(table[a][cell], -1, 0)
        out[:, first + a * p : first + (a + 1) * p] = scale[:, None] * (((c3 * f + c2) * f + c1) * f + c0)


@cpu_jit
def _evaluate_rows(u, scale, table, reach, per_unit, last, first, out):
    n_rows, p = u.shape
    for i in numba.prange(n_rows):
        row, target, factor = u[i], out[i], scale[i]
        for a in range(table.shape[0]):
            piece, start = table[a], first + a * p
            for k in range(p):
                position = _position(row[k], reach, per_unit, last)
                cell = np.uint32(np.int32(position))
                c0, c1, c2, c3 = piece[cell, 0], piece[cell, 1], piece[cell, 2], piece[cell, 3]
                value = _cubic(c0, c1, c2, c3, position - u.dtype.type(np.int32(position)))
                target[start + k] = factor * value


def _evaluate_cpu(u, scale, table, reach, first, out):
    _evaluate_rows(u, scale, table, *_geometry(u, table, reach), first, out)


@cuda_jit
def _evaluate_cuda_kernel(u, scale, table, reach, per_unit, last, first, out):
    n_rows, p = u.shape
    for index in range(cuda.grid(1), n_rows * p, cuda.gridsize(1)):
        i, k = index // p, index % p
        position = _position(u[i, k], reach, per_unit, last)
        cell = np.int32(position)
        f = position - u.dtype.type(cell)
        for a in range(table.shape[0]):
            c0, c1, c2, c3 = table[a, cell, 0], table[a, cell, 1], table[a, cell, 2], table[a, cell, 3]
            out[i, first + a * p + k] = scale[i] * _cubic(c0, c1, c2, c3, f)


def _evaluate_cuda(u, scale, table, reach, first, out, stream=0):
    blocks, threads = _kernel.grid(u.size)
    geometry = _geometry(u, table, reach)
    _evaluate_cuda_kernel[blocks, threads, stream](u, scale, table, *geometry, first, out)


evaluate = Kernel("table.evaluate", _evaluate_reference, _evaluate_cpu, _evaluate_cuda)


def _pullback_reference(u, ct, scale, table, reach, first, slope, value):
    """Cotangents of projections and of row factors; see the module.

    Parameters
    ----------
    u : (n_rows, p)
    ct : (n_rows, m)
        Cotangent of `out` of ``evaluate``.
    scale : (n_rows,)
    table : (q, n, 4)
    reach : float
    first : int
    slope : (n_rows, p), out
    value : (n_rows,), out
    """
    cell, f = _cells(u, table, reach)
    inside = np.abs(u) < u.dtype.type(reach)
    p = u.shape[1]
    per_unit = _geometry(u, table, reach)[1]
    slope[...], value[...] = 0, 0
    for a in range(table.shape[0]):
        c0, c1, c2, c3 = np.moveaxis(table[a][cell], -1, 0)
        block = ct[:, first + a * p : first + (a + 1) * p]
        slope += np.where(inside, block * ((c3 * (f + f + f) + (c2 + c2)) * f + c1), 0)
        value += (block * (((c3 * f + c2) * f + c1) * f + c0)).sum(axis=1)
    slope *= (scale * per_unit)[:, None]


@cpu_jit
def _pullback_rows(u, ct, scale, table, reach, per_unit, last, first, slope, value):
    n_rows, p = u.shape
    zero = u.dtype.type(0)
    for i in numba.prange(n_rows):
        row, factor, total = u[i], scale[i] * per_unit, zero
        for k in range(p):
            position = _position(row[k], reach, per_unit, last)
            cell = np.uint32(np.int32(position))
            f = position - u.dtype.type(np.int32(position))
            steep = zero
            for a in range(table.shape[0]):
                c0, c1, c2, c3 = table[a, cell, 0], table[a, cell, 1], table[a, cell, 2], table[a, cell, 3]
                total += ct[i, first + a * p + k] * _cubic(c0, c1, c2, c3, f)
                steep += ct[i, first + a * p + k] * _cubic_slope(c1, c2, c3, f)
            slope[i, k] = factor * steep if abs(row[k]) < reach else zero
        value[i] = total


def _pullback_cpu(u, ct, scale, table, reach, first, slope, value):
    _pullback_rows(u, ct, scale, table, *_geometry(u, table, reach), first, slope, value)


@cuda_jit
def _pullback_cuda_kernel(u, ct, scale, table, reach, per_unit, last, first, slope, value):
    """A block per row; `value` is summed in a fixed order, in shared memory."""
    lanes = cuda.blockDim.x
    n_rows, p = u.shape
    zero = u.dtype.type(0)
    partial = cuda.shared.array(1024, u.dtype)
    for i in range(cuda.blockIdx.x, n_rows, cuda.gridDim.x):
        total = zero
        for k in range(cuda.threadIdx.x, p, lanes):
            position = _position(u[i, k], reach, per_unit, last)
            cell = np.int32(position)
            f = position - u.dtype.type(cell)
            steep = zero
            for a in range(table.shape[0]):
                c0, c1, c2, c3 = table[a, cell, 0], table[a, cell, 1], table[a, cell, 2], table[a, cell, 3]
                total += ct[i, first + a * p + k] * _cubic(c0, c1, c2, c3, f)
                steep += ct[i, first + a * p + k] * _cubic_slope(c1, c2, c3, f)
            slope[i, k] = scale[i] * per_unit * steep if abs(u[i, k]) < reach else zero
        partial[cuda.threadIdx.x] = total
        cuda.syncthreads()
        half = lanes // 2
        while half > 0:
            if cuda.threadIdx.x < half:
                partial[cuda.threadIdx.x] += partial[cuda.threadIdx.x + half]
            cuda.syncthreads()
            half //= 2
        if cuda.threadIdx.x == 0:
            value[i] = partial[0]
        cuda.syncthreads()


def _pullback_cuda(u, ct, scale, table, reach, first, slope, value, stream=0):
    # The sum of a block halves its threads, so their number is a power of two; BLOCK is one, in tests as well.
    threads = 1 << int(math.log2(_kernel.BLOCK))
    geometry = _geometry(u, table, reach)
    blocks = max(1, min(u.shape[0], 65_535))
    _pullback_cuda_kernel[blocks, threads, stream](u, ct, scale, table, *geometry, first, slope, value)


pullback = Kernel("table.pullback", _pullback_reference, _pullback_cpu, _pullback_cuda)
