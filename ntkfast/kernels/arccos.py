"""Arc-cosine kernels elementwise, with their own branch-free arc cosine and sine.

With t the angle of two vectors and c = cos t, the order-0 and order-1 kernels of relu are (Cho and Saul 2009)

    kappa_0 = 1 - t / pi,     kappa_1 = (sin t + (pi - t) cos t) / pi,     d kappa_1 / dc = kappa_0,

and of phi(z) = p z + q |z|, with r = q^2 / (p^2 + q^2) (relu 1/2, abs 1, linear 0),

    kappa_0 = 1 - 2 r t / pi,     1 - kappa_1 = (1 - cos t) - (2 r / pi) (sin t - t cos t).

kappa(c, kappa_0, kappa_1)
    relu, at cosines (n,); |c| > 1 by rounding is clipped.
slope(c, eps, d_kappa_0, d_kappa_1)
    Their derivatives by c. That of kappa_0 is 1 / (pi sqrt(1 - c^2)), at |c| = 1 replaced by its value at the last
    cosine before; eps is the distance of 1 to the float below.
kappa_of_angle(t, r, kappa_0, lost)
    kappa_0 and lost = 1 - kappa_1 at angles (n,), 0 <= t <= pi; small angles keep their digits.
angle(u1, u2, threshold, row, column, mirror, out)
    The block of out (N1, N2) at (row, column) holds c = u1 u2^T of unit rows and is replaced by angles; where
    1 - |c| < threshold they come from the chord |u1 -+ u2|. With `mirror` 1 only the upper triangle is computed, and
    copied to the lower one, with an exact 0 on the diagonal; see also kernels/zonal.py.

The arc cosine uses arcsin x = x + x z R(z), z = x^2 <= 1/4, R a polynomial of degree 12, on x = c for |c| < 1/2 and on
x = sqrt((1 - |c|) / 2) beyond (arccos c = 2 arcsin x, or its supplement). Nothing branches: loops become vector code.

Promise: absolute error of angles below 1e-15 (float64) and 5e-7 (float32), of the rest a few units of rounding.
"""

import math

import numba
import numpy as np

from . import _kernel
from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, shared

__all__ = ["angle", "kappa", "kappa_of_angle", "slope"]

# (arcsin(x) / x - 1) / z on [0, 1/4], interpolated at Chebyshev nodes in 40 digits; lowest power first. Error 6e-18.
ARCSIN = (
    0.16666666666666669,
    0.07499999999998433,
    0.04464285714635543,
    0.030381944138531247,
    0.02237217294214989,
    0.017352392720869973,
    0.013971212973552933,
    0.011479177415184906,
    0.01032281435018578,
    0.005457506718640358,
    0.01740087944269402,
    -0.014851887071247204,
    0.028757851367421566,
)
# (sin(x) / x - 1) / z on [0, (pi / 2)^2], in the same way. Error 3e-17.
SINE = (
    -0.16666666666666666,
    0.008333333333333316,
    -0.00019841269841254974,
    2.7557319219163234e-06,
    -2.5052107616996182e-08,
    1.6058977312464087e-10,
    -7.643970296798572e-13,
    2.7314447669863995e-15,
)
# 2 k (-1)^(k+1) / (2 k + 1)!, k = 1, 2, ...: the series of (sin u - u cos u) / u^3 in u^2.
SINE_GAP = tuple((-1.0) ** (k + 1) * 2.0 * k / math.factorial(2 * k + 1) for k in range(1, 9))

TILE_ROWS = 32  # of a CPU tile; the mirrored tile is written in runs of this length
TILE_COLUMNS = 512
SERIAL_SIZE = 1 << 17  # entries, some 0.2 ms of work, up to which waking other threads does not pay
CUDA_TILE = 16  # side of the square of entries that consecutive threads visit

# Sums of non-negative terms (chords) or of ones (counts), good in any order: "reassoc" runs them in vector lanes.
_sum_jit = numba.njit(fastmath={*_kernel.FASTMATH, "reassoc"}, cache=False)


@shared
def _polynomial(coefficients, z):
    total = type(z)(coefficients[len(coefficients) - 1])
    for k in range(len(coefficients) - 2, -1, -1):
        total = total * z + type(z)(coefficients[k])
    return total


@shared
def _arcsin(x):
    """Arc sine of |x| <= 1/2 (up to the root of 1/2 with a few more units of rounding)."""
    z = x * x
    return x + x * z * _polynomial(ARCSIN, z)


@shared
def _arccos(c):
    """Arc cosine, clipped to [0, pi]."""
    real = type(c)
    zero, one, half, pi = real(0), real(1), real(0.5), real(math.pi)
    a = abs(c)
    middle = a < half
    gap = one - a if a < one else zero
    bow = _arcsin(c if middle else math.sqrt(half * gap))
    outer = bow + bow
    return half * pi - bow if middle else (outer if c > zero else pi - outer)


@shared
def _sine(x):
    """Sine of |x| <= pi / 2."""
    z = x * x
    return x + x * z * _polynomial(SINE, z)


@shared
def _kappas(c):
    """(kappa_0, kappa_1) of relu at a cosine."""
    real = type(c)
    one, pi = real(1), real(math.pi)
    c = -one if c < -one else (one if c > one else c)
    t = _arccos(c)
    return one - t / pi, (math.sqrt((one - c) * (one + c)) + (pi - t) * c) / pi


# The divisor is never 0; NumPy's error model spares the check for it, which would keep the loop from vector code.
@numba.njit(fastmath=set(_kernel.FASTMATH), error_model="numpy", cache=False)
def _slopes(c, eps):
    """(d kappa_0 / dc, d kappa_1 / dc) of relu at a cosine; eps is the distance of 1 to the float below."""
    real = type(c)
    one, pi = real(1), real(math.pi)
    gap = (one - c) * (one + c)
    gap = gap if gap > eps + eps else eps + eps
    return one / (pi * math.sqrt(gap)), one - _arccos(c) / pi


@shared
def _kappas_of_angle(t, r):
    """(kappa_0, 1 - kappa_1) at an angle.

    Beyond a right angle, with u = pi - t,

        1 - kappa_1 = 2 (1 - r) + (2 r - 1) (1 - cos u) - (2 r / pi) (sin u - u cos u):

    for abs opposite vectors are as good as equal ones, and this is free of cancellation there too.
    """
    real = type(t)
    one, two, half, pi = real(1), real(2), real(0.5), real(math.pi)
    near = t + t <= pi
    u = t if near else pi - t
    bow, complement = _sine(half * u), _sine(half * (half * pi - u))
    versine, sine = two * bow * bow, one - two * complement * complement
    z = u * u
    gap = u * z * _polynomial(SINE_GAP, z) if u < half else sine - u * (one - versine)
    share = two * r / pi
    return one - share * t, (versine if near else two * (one - r) + (two * r - one) * versine) - share * gap


def _kappa_reference(c, kappa_0, kappa_1):
    """Order-0 and order-1 arc-cosine kernels of cosines c, all (n,)."""
    clipped = np.clip(c, -1, 1)
    t = np.arccos(clipped)
    kappa_0[...] = 1 - t / np.pi
    kappa_1[...] = (np.sqrt((1 - clipped) * (1 + clipped)) + (np.pi - t) * clipped) / np.pi


@cpu_jit
def _kappa_cpu(c, kappa_0, kappa_1):
    for i in numba.prange(c.size):
        kappa_0[i], kappa_1[i] = _kappas(c[i])


@cuda_jit
def _kappa_cuda_kernel(c, kappa_0, kappa_1):
    for i in range(cuda.grid(1), c.size, cuda.gridsize(1)):
        kappa_0[i], kappa_1[i] = _kappas(c[i])


def _kappa_cuda(c, kappa_0, kappa_1, stream=0):
    blocks, threads = _kernel.grid(c.size)
    _kappa_cuda_kernel[blocks, threads, stream](c, kappa_0, kappa_1)


kappa = Kernel("arccos.kappa", _kappa_reference, _kappa_cpu, _kappa_cuda)


def _slope_reference(c, eps, d_kappa_0, d_kappa_1):
    """Derivatives of the order-0 and order-1 kernels by the cosine; eps as np.finfo(dtype).epsneg."""
    d_kappa_0[...] = 1 / (np.pi * np.sqrt(np.maximum((1 - c) * (1 + c), 2 * eps)))
    d_kappa_1[...] = 1 - np.arccos(np.clip(c, -1, 1)) / np.pi


@cpu_jit
def _slope_cpu(c, eps, d_kappa_0, d_kappa_1):
    for i in numba.prange(c.size):
        d_kappa_0[i], d_kappa_1[i] = _slopes(c[i], eps)


@cuda_jit
def _slope_cuda_kernel(c, eps, d_kappa_0, d_kappa_1):
    for i in range(cuda.grid(1), c.size, cuda.gridsize(1)):
        d_kappa_0[i], d_kappa_1[i] = _slopes(c[i], eps)


def _slope_cuda(c, eps, d_kappa_0, d_kappa_1, stream=0):
    blocks, threads = _kernel.grid(c.size)
    _slope_cuda_kernel[blocks, threads, stream](c, eps, d_kappa_0, d_kappa_1)


slope = Kernel("arccos.slope", _slope_reference, _slope_cpu, _slope_cuda)


def _kappa_of_angle_reference(t, r, kappa_0, lost):
    """kappa_0 and 1 - kappa_1 of angles t, all (n,); r is a scalar of the dtype."""
    near = t <= np.pi / 2
    u = np.where(near, t, np.pi - t).astype(np.float64)
    versine = 2 * np.sin(u / 2) ** 2
    series = u**3 * np.polynomial.polynomial.polyval(u**2, SINE_GAP)
    gap = np.where(u < 0.5, series, np.sin(u) - u * np.cos(u))
    kappa_0[...] = 1 - 2 * r * t / np.pi
    lost[...] = np.where(near, versine, 2 * (1 - r) + (2 * r - 1) * versine) - 2 * r * gap / np.pi


@cpu_jit
def _kappa_of_angle_cpu(t, r, kappa_0, lost):
    for i in numba.prange(t.size):
        kappa_0[i], lost[i] = _kappas_of_angle(t[i], r)


@cuda_jit
def _kappa_of_angle_cuda_kernel(t, r, kappa_0, lost):
    for i in range(cuda.grid(1), t.size, cuda.gridsize(1)):
        kappa_0[i], lost[i] = _kappas_of_angle(t[i], r)


def _kappa_of_angle_cuda(t, r, kappa_0, lost, stream=0):
    blocks, threads = _kernel.grid(t.size)
    _kappa_of_angle_cuda_kernel[blocks, threads, stream](t, r, kappa_0, lost)


kappa_of_angle = Kernel("arccos.kappa_of_angle", _kappa_of_angle_reference, _kappa_of_angle_cpu, _kappa_of_angle_cuda)


@_sum_jit
def _half_chord(u, v, sign):
    """|u - sign v| / 2."""
    total = u.dtype.type(0)
    for k in range(u.size):
        difference = u[k] - sign * v[k]
        total += difference * difference
    return u.dtype.type(0.5) * math.sqrt(total)


@shared
def _angle_of_chord(u, v, c):
    """Angle of two unit vectors with product c near 1 or -1, from the shorter chord."""
    one = type(c)(1)
    bow = _arcsin(_half_chord(u, v, one if c >= type(c)(0) else -one))
    return bow + bow if c >= type(c)(0) else type(c)(math.pi) - (bow + bow)


def _angle_reference(u1, u2, threshold, row, column, mirror, out):
    """Replace dot products by angles; see the module.

    Parameters
    ----------
    u1, u2 : (n1, d), (n2, d)
        Unit rows.
    threshold : scalar of the dtype
    row, column, mirror : int
    out : (N1, N2), in and out
    """
    n1, n2 = u1.shape[0], u2.shape[0]
    block = out[row : row + n1, column : column + n2]
    c = block.copy()
    t = np.arccos(np.clip(c, -1, 1))
    for i, j in np.argwhere(1 - np.abs(c) < threshold):
        chord = 2 * np.arcsin(np.linalg.norm(u1[i] - u2[j] if c[i, j] >= 0 else u1[i] + u2[j]) / 2)
        t[i, j] = chord if c[i, j] >= 0 else np.pi - chord
    if not mirror:
        block[...] = t
        return
    order = np.arange(row, row + n1)[:, None] - np.arange(column, column + n2)
    t[order == 0] = 0
    i, j = np.nonzero(order <= 0)
    out[column + j, row + i] = out[row + i, column + j] = t[i, j]


@_sum_jit
def _angle_row(c, threshold, t):
    """Angles of a row of products; returns how many products are too close to +-1."""
    one, zero = c.dtype.type(1), c.dtype.type(0)
    close = zero
    for j in range(c.size):
        close += one if one - abs(c[j]) < threshold else zero
        t[j] = _arccos(c[j])
    return close


@shared
def _angle_tile(u1, u2, threshold, diagonal, out, i0, i1, j0, j1, row, column):
    """One tile, row by row; `diagonal` is row - column in a symmetric block, or below -n1 - n2 otherwise."""
    scratch = np.empty(TILE_COLUMNS, out.dtype)
    for i in range(i0, i1):
        first = max(j0, i + diagonal)
        if first >= j1:
            continue
        t = out[row + i, column + first : column + j1]
        c = scratch[: t.size]
        c[:] = t
        if _angle_row(c, threshold, t) > 0:
            for j in range(c.size):
                if out.dtype.type(1) - abs(c[j]) < threshold:
                    t[j] = _angle_of_chord(u1[i], u2[first + j], c[j])
        if first == i + diagonal:
            t[0] = out.dtype.type(0)


@shared
def _mirror_tile(out, i0, i1, j0, j1):
    """Copy the tile to its mirror image, leaving out what is below the diagonal."""
    for j in range(j0, j1):
        for i in range(i0, min(i1, j)):
            out[j, i] = out[i, j]


@shared
def _angle_at(tile, across, u1, u2, threshold, row, column, mirror, out):
    n1, n2 = u1.shape[0], u2.shape[0]
    diagonal = row - column if mirror else -n1 - n2
    i0, j0 = tile // across * TILE_ROWS, tile % across * TILE_COLUMNS
    i1, j1 = min(i0 + TILE_ROWS, n1), min(j0 + TILE_COLUMNS, n2)
    _angle_tile(u1, u2, threshold, diagonal, out, i0, i1, j0, j1, row, column)
    if mirror:
        _mirror_tile(out, row + i0, row + i1, column + j0, column + j1)


@cpu_jit
def _angle_cpu(u1, u2, threshold, row, column, mirror, out):
    across = (u2.shape[0] + TILE_COLUMNS - 1) // TILE_COLUMNS
    n_tiles = (u1.shape[0] + TILE_ROWS - 1) // TILE_ROWS * across
    if u1.shape[0] * u2.shape[0] <= SERIAL_SIZE:
        for tile in range(n_tiles):
            _angle_at(tile, across, u1, u2, threshold, row, column, mirror, out)
    else:
        for tile in numba.prange(n_tiles):
            _angle_at(tile, across, u1, u2, threshold, row, column, mirror, out)


@cuda_jit
def _angle_cuda_kernel(u1, u2, threshold, row, column, mirror, out):
    one = u1.dtype.type(1)
    n1, n2 = u1.shape[0], u2.shape[0]
    across = (n2 + CUDA_TILE - 1) // CUDA_TILE
    down = (n1 + CUDA_TILE - 1) // CUDA_TILE
    for index in range(cuda.grid(1), down * across * CUDA_TILE * CUDA_TILE, cuda.gridsize(1)):
        tile, within = index // (CUDA_TILE * CUDA_TILE), index % (CUDA_TILE * CUDA_TILE)
        i = tile // across * CUDA_TILE + within // CUDA_TILE
        j = tile % across * CUDA_TILE + within % CUDA_TILE
        if i >= n1 or j >= n2 or (mirror and row + i > column + j):
            continue
        c = out[row + i, column + j]
        t = _angle_of_chord(u1[i], u2[j], c) if one - abs(c) < threshold else _arccos(c)
        if mirror and row + i == column + j:
            t = u1.dtype.type(0)
        out[row + i, column + j] = t
        if mirror:
            out[column + j, row + i] = t


def _angle_cuda(u1, u2, threshold, row, column, mirror, out, stream=0):
    tiles = -(-u1.shape[0] // CUDA_TILE) * -(-u2.shape[0] // CUDA_TILE)
    blocks, threads = _kernel.grid(tiles * CUDA_TILE * CUDA_TILE)
    _angle_cuda_kernel[blocks, threads, stream](u1, u2, threshold, row, column, mirror, out)


angle = Kernel("arccos.angle", _angle_reference, _angle_cpu, _angle_cuda)
