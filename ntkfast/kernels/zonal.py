"""Zonal kernels: from dot products of unit rows to scale |x| |y| k(angle), in one pass and without an arc cosine.

normalize(x, floor, unit, norm)
    unit[i] = x[i] / |x[i]|, norm[i] = |x[i]|; a zero row stays zero. No intermediate overflow or underflow.

evaluate(u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out)
    The block of `out` (n_kinds, N1, N2) that starts at (row, column) holds in out[0] the products c = u1 u2^T
    (u1 (n1, d), u2 (n2, d) unit rows). It is replaced, for every kind q, by

        r1[i] r2[j] k_q,    k_q = ends[q, side] + (1 + y) sum_m coefficients[q, side, m] T_m(y),

    with s = sqrt((1 - c) / 2) = |u - v| / 2 where c >= 0 (side 0), s = sqrt((1 + c) / 2) = |u + v| / 2 elsewhere
    (side 1), and y = s / sqrt(1/8) - 1. So s is the sine of half the angle (or of half its supplement), k is analytic
    in it, and one square root per entry is all that is needed; see `ntkfast.zonal.ZonalTable`.

    Where 1 - |c| < threshold, c has too few digits: an error e of c moves s by e / (4 s). There s comes from the
    chord |u -+ v| itself, an O(d) loop per such pair that keeps s to the last digit. With `mirror` 1 the block
    belongs to a symmetric matrix: entries with row + i <= column + j are computed and copied to (column + j, row + i),
    and those with row + i == column + j have s = 0 exactly.

Promise: agrees with the reference to rounding; every entry depends on its own product and rows only, so that blocks
of any size give the same function of c. n_terms is a multiple of 8.
"""

import math

import numba
import numpy as np

from . import _kernel
from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, shared

__all__ = ["CHUNK", "evaluate", "normalize"]

CHUNK = 8  # Chebyshev terms per pass over a row; their coefficients stay in registers
TILE_ROWS = 32  # rows of a CPU tile; the mirrored tile is written in runs of this length
TILE_COLUMNS = 256  # columns of a CPU tile; four scratch rows of this length stay in the first-level cache
SERIAL_SIZE = 1 << 17  # entries, some 0.2 ms of work, up to which waking other threads does not pay
ROW_THREADS = 128  # of a CUDA block, in kernels with a block per row
CUDA_TILE = 16  # side of the square of entries that consecutive threads visit, for runs in the mirrored copy too

# "reassoc" lets these sums run in vector lanes. The order is fixed by the compilation, and all terms are non-negative,
# so that any order has a relative error of rounding only. No divisor here is 0: NumPy's error model spares the check.
_sum_jit = numba.njit(fastmath={*_kernel.FASTMATH, "reassoc"}, error_model="numpy", cache=False)


@_sum_jit
def _sum_of_squares(x):
    total = x.dtype.type(0)
    for k in range(x.size):
        total += x[k] * x[k]
    return total


@_sum_jit
def _half_chord(u, v, sign):
    """|u - sign v| / 2."""
    total = u.dtype.type(0)
    for k in range(u.size):
        difference = u[k] - sign * v[k]
        total += difference * difference
    return u.dtype.type(0.5) * math.sqrt(total)


@_sum_jit
def _normalize_row(x, floor, unit):
    """Divide a row by its norm; squares that leave the range of the dtype are avoided by a second try."""
    one = x.dtype.type(1)
    top = one
    total = _sum_of_squares(x)
    if not floor <= total < x.dtype.type(np.inf):
        top = x.dtype.type(0)
        for k in range(x.size):
            top = abs(x[k]) if abs(x[k]) > top else top
        for k in range(x.size):
            unit[k] = x[k] / top if top > 0 else top
        total = _sum_of_squares(unit)
        x = unit
    length = math.sqrt(total)
    divisor = length if length > 0 else one
    for k in range(x.size):
        unit[k] = x[k] / divisor
    return top * length


def _normalize_reference(x, floor, unit, norm):
    """Divide rows by their norms.

    Parameters
    ----------
    x : (n, d)
    floor : scalar of the dtype
        A sum of squares below it is recomputed from x / max |x|, as is one that overflows.
    unit : (n, d), out
    norm : (n,), out
    """
    top = np.abs(x).max(axis=1)
    scaled = x / np.where(top > 0, top, 1)[:, None].astype(x.dtype)
    length = np.sqrt((scaled * scaled).sum(axis=1))
    unit[...] = scaled / np.where(length > 0, length, 1)[:, None]
    with np.errstate(over="ignore"):
        norm[...] = top * length


@cpu_jit
def _normalize_cpu(x, floor, unit, norm):
    if x.size <= SERIAL_SIZE:
        for i in range(x.shape[0]):
            norm[i] = _normalize_row(x[i], floor, unit[i])
    else:
        for i in numba.prange(x.shape[0]):
            norm[i] = _normalize_row(x[i], floor, unit[i])


@shared
def _gather(partial, value, adding):
    """Sum or largest of one value per thread of a block; every thread reads them all, in the same order."""
    cuda.syncthreads()
    partial[cuda.threadIdx.x] = value
    cuda.syncthreads()
    total = partial[0]
    for k in range(1, cuda.blockDim.x):
        if adding:
            total += partial[k]
        elif partial[k] > total:
            total = partial[k]
    return total


@cuda_jit
def _normalize_cuda_kernel(x, floor, unit, norm):
    """A block per row; rows are scaled by their largest entry at once, which costs a GPU nothing."""
    partial = cuda.shared.array(ROW_THREADS, x.dtype)
    for i in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        top = total = x.dtype.type(0)
        for k in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
            top = abs(x[i, k]) if abs(x[i, k]) > top else top
        top = _gather(partial, top, False)
        divisor = top if top > total else x.dtype.type(1)
        for k in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
            scaled = x[i, k] / divisor
            total += scaled * scaled
        length = math.sqrt(_gather(partial, total, True))
        for k in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
            unit[i, k] = x[i, k] / divisor / length if length > 0 else length
        if cuda.threadIdx.x == 0:
            norm[i] = top * length


def _normalize_cuda(x, floor, unit, norm, stream=0):
    _normalize_cuda_kernel[min(x.shape[0], 65_535), ROW_THREADS, stream](x, floor, unit, norm)


normalize = Kernel("zonal.normalize", _normalize_reference, _normalize_cpu, _normalize_cuda)


def _evaluate_reference(u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out):
    """Replace dot products by kernel values; see the module.

    Parameters
    ----------
    u1, u2 : (n1, d), (n2, d)
        Unit rows.
    r1, r2 : (n1,), (n2,)
        Norms times any factors.
    coefficients, ends : (n_kinds, 2, n_terms), (n_kinds, 2)
    threshold : scalar of the dtype
    row, column : int
    mirror : int
        0 or 1.
    out : (n_kinds, N1, N2), in and out
    """
    n1, n2 = u1.shape[0], u2.shape[0]
    block = out[:, row : row + n1, column : column + n2]
    c = block[0].copy()
    s = np.sqrt(np.maximum(1 - np.abs(c), 0) / 2)
    for i, j in np.argwhere(1 - np.abs(c) < threshold):
        s[i, j] = np.linalg.norm(u1[i] - u2[j] if c[i, j] >= 0 else u1[i] + u2[j]) / 2
    order = np.arange(row, row + n1)[:, None] - np.arange(column, column + n2)
    side = np.where(c >= 0, 0, 1)
    if mirror:
        s[order == 0] = side[order == 0] = 0
    y = s * c.dtype.type(math.sqrt(8.0)) - 1
    for q in range(out.shape[0]):
        series = [np.polynomial.chebyshev.chebval(y, table) for table in coefficients[q]]
        k = np.where(side == 0, ends[q, 0] + (1 + y) * series[0], ends[q, 1] + (1 + y) * series[1])
        value = (k * r1[:, None]) * r2
        if mirror:
            i, j = np.nonzero(order <= 0)
            out[q, column + j, row + i] = out[q, row + i, column + j] = value[i, j]
        else:
            block[q] = value


@_sum_jit
def _half_chords(c, threshold, y):
    """Set y from the products c of one row; return how many are too close to +-1."""
    one, zero, half, root = c.dtype.type(1), c.dtype.type(0), c.dtype.type(0.5), c.dtype.type(math.sqrt(8.0))
    close = zero
    for j in range(c.size):
        gap = one - abs(c[j]) if abs(c[j]) < one else zero
        close += one if gap < threshold else zero
        y[j] = math.sqrt(half * gap) * root - one
    return close


@shared
def _mend(u, u2, c, threshold, twin, y):
    """Set y of the pairs too close to +-1, from their chords; `twin` is the column of the row itself, or -1."""
    one, root = c.dtype.type(1), c.dtype.type(math.sqrt(8.0))
    for j in range(c.size):
        if one - abs(c[j]) < threshold and j != twin:
            y[j] = _half_chord(u, u2[j], one if c[j] >= 0 else -one) * root - one


@shared
def _clenshaw_chunk(c, y, near, far, b1, b2):
    """Eight steps b_m = a_m + 2 y b_{m+1} - b_{m+2} of Clenshaw's sum, for the products of one row."""
    n0, n1, n2, n3, n4, n5, n6, n7 = near[0], near[1], near[2], near[3], near[4], near[5], near[6], near[7]
    f0, f1, f2, f3, f4, f5, f6, f7 = far[0], far[1], far[2], far[3], far[4], far[5], far[6], far[7]
    for j in range(c.size):
        ahead, x = c[j] >= 0, y[j] + y[j]
        p, q = b1[j], b2[j]
        q = (n7 if ahead else f7) - q + x * p
        p = (n6 if ahead else f6) - p + x * q
        q = (n5 if ahead else f5) - q + x * p
        p = (n4 if ahead else f4) - p + x * q
        q = (n3 if ahead else f3) - q + x * p
        p = (n2 if ahead else f2) - p + x * q
        q = (n1 if ahead else f1) - q + x * p
        p = (n0 if ahead else f0) - p + x * q
        b1[j], b2[j] = p, q


@shared
def _finish(c, y, b1, b2, near, far, r1, r2, out):
    """The series is b_0 - y b_1; apply the end and the norms, (k r1) r2 so that 0 never meets inf."""
    one = c.dtype.type(1)
    for j in range(c.size):
        value = (near if c[j] >= 0 else far) + (one + y[j]) * (b1[j] - y[j] * b2[j])
        out[j] = value * r1 * r2[j]


@shared
def _evaluate_row(c, y, b1, b2, coefficients, ends, r1, r2, out):
    for j in range(c.size):
        b1[j] = b2[j] = c.dtype.type(0)
    for m in range(coefficients.shape[1] - CHUNK, -1, -CHUNK):
        _clenshaw_chunk(c, y, coefficients[0, m : m + CHUNK], coefficients[1, m : m + CHUNK], b1, b2)
    _finish(c, y, b1, b2, ends[0], ends[1], r1, r2, out)


@shared
def _evaluate_tile(u1, u2, r1, r2, coefficients, ends, threshold, diagonal, out, i0, i1, j0, j1, row, column):
    """One tile, row by row; `diagonal` is row - column in a symmetric block, or below -n1 otherwise."""
    scratch = np.empty((4, TILE_COLUMNS), out.dtype)
    for i in range(i0, i1):
        first = max(j0, i + diagonal)
        n = j1 - first
        if n <= 0:
            continue
        c, y, b1, b2 = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n]
        c[:] = out[0, row + i, column + first : column + j1]
        twin = i + diagonal - first
        if twin == 0:
            c[0] = out.dtype.type(1)
        if _half_chords(c, threshold, y) > 0:
            _mend(u1[i], u2[first:j1], c, threshold, twin, y)
        for q in range(out.shape[0]):
            target = out[q, row + i, column + first : column + j1]
            _evaluate_row(c, y, b1, b2, coefficients[q], ends[q], r1[i], r2[first:j1], target)


@shared
def _mirror_tile(out, i0, i1, j0, j1):
    """Copy the tile to its mirror image, leaving out what is below the diagonal."""
    for q in range(out.shape[0]):
        for j in range(j0, j1):
            for i in range(i0, min(i1, j)):
                out[q, j, i] = out[q, i, j]


@shared
def _evaluate_at(tile, across, u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out):
    n1, n2 = u1.shape[0], u2.shape[0]
    diagonal = row - column if mirror else -n1 - n2
    i0, j0 = tile // across * TILE_ROWS, tile % across * TILE_COLUMNS
    i1, j1 = min(i0 + TILE_ROWS, n1), min(j0 + TILE_COLUMNS, n2)
    _evaluate_tile(u1, u2, r1, r2, coefficients, ends, threshold, diagonal, out, i0, i1, j0, j1, row, column)
    if mirror:
        _mirror_tile(out, row + i0, row + i1, column + j0, column + j1)


@cpu_jit
def _evaluate_cpu(u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out):
    across = (u2.shape[0] + TILE_COLUMNS - 1) // TILE_COLUMNS
    n_tiles = (u1.shape[0] + TILE_ROWS - 1) // TILE_ROWS * across
    if u1.shape[0] * u2.shape[0] <= SERIAL_SIZE:
        for tile in range(n_tiles):
            _evaluate_at(tile, across, u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out)
    else:
        for tile in numba.prange(n_tiles):
            _evaluate_at(tile, across, u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out)


@shared
def _evaluate_entry(y, coefficients, end):
    """One entry of one kind, by Clenshaw's sum over all terms."""
    p = q = coefficients.dtype.type(0)
    x = y + y
    for m in range(coefficients.size - 1, -1, -1):
        p, q = coefficients[m] - q + x * p, p
    return end + (coefficients.dtype.type(1) + y) * (p - y * q)


@cuda_jit
def _evaluate_cuda_kernel(u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out):
    one, zero, half = u1.dtype.type(1), u1.dtype.type(0), u1.dtype.type(0.5)
    root = u1.dtype.type(math.sqrt(8.0))
    n1, n2 = u1.shape[0], u2.shape[0]
    across = (n2 + CUDA_TILE - 1) // CUDA_TILE
    down = (n1 + CUDA_TILE - 1) // CUDA_TILE
    for index in range(cuda.grid(1), down * across * CUDA_TILE * CUDA_TILE, cuda.gridsize(1)):
        tile, within = index // (CUDA_TILE * CUDA_TILE), index % (CUDA_TILE * CUDA_TILE)
        i = tile // across * CUDA_TILE + within // CUDA_TILE
        j = tile % across * CUDA_TILE + within % CUDA_TILE
        if i >= n1 or j >= n2 or (mirror and row + i > column + j):
            continue
        twin = mirror and row + i == column + j
        c = one if twin else out[0, row + i, column + j]
        side, sign = (0, one) if c >= zero else (1, -one)
        gap = one - abs(c) if abs(c) < one else zero
        s = math.sqrt(half * gap)
        if gap < threshold and not twin:
            s = _half_chord(u1[i], u2[j], sign)
        y = s * root - one
        for q in range(out.shape[0]):
            k = _evaluate_entry(y, coefficients[q, side], ends[q, side])
            value = k * r1[i] * r2[j]
            out[q, row + i, column + j] = value
            if mirror:
                out[q, column + j, row + i] = value


def _evaluate_cuda(u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out, stream=0):
    tiles = -(-u1.shape[0] // CUDA_TILE) * -(-u2.shape[0] // CUDA_TILE)
    blocks, threads = _kernel.grid(tiles * CUDA_TILE * CUDA_TILE)
    _evaluate_cuda_kernel[blocks, threads, stream](
        u1, u2, r1, r2, coefficients, ends, threshold, row, column, mirror, out
    )


evaluate = Kernel("zonal.evaluate", _evaluate_reference, _evaluate_cpu, _evaluate_cuda)
