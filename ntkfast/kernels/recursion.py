r"""Layer recursion of infinitely wide networks with biases and phi(z) = p z + q abs(z), all layers in one pass.

For a pair of points with the cosine c of their angle, layers h = 0 ... L:

    y_0 = 1 - c,   Y_0 = 1 + c                                       (the input)
    v   = ((s - s')^2 + (b - b')^2) / 2 + s s' y_h                   (dense layer: v = 1 - cos t)
    V   = ((s - s')^2 + (b + b')^2) / 2 + s s' Y_h                   (              V = 1 + cos t)
    nngp_h = rho rho' cos t,   ntk_h = nngp_h + decay kappa_0(t) ntk_(h-1)
    y_(h+1) = 1 - kappa_1(t),   Y_(h+1) = 1 + kappa_1(t)             (activation)

    kappa_1(t) = cos t + (2 r / pi)(sin t - t cos t),   kappa_0(t) = 1 - 2 r t / pi,   r = q^2 / (p^2 + q^2)

A primed letter belongs to the second point. Per point and layer, ``rho`` is the standard deviation of the
pre-activation and (s, b) the shares of weight and bias in it, s^2 + b^2 = 1. Since (s, b) is a point of the unit
circle, the first term of v is 1 - cos of the angle between two such points. decay = W_std^2 (p^2 + q^2).

Both 1 - cos t and 1 + cos t are carried, each as a sum of terms of one sign, so equal and opposite points lose no
digits: the angle comes from the smaller of the two as t = 2 arcsin sqrt(v / 2), or pi minus that. At the
input, where c has the rounding error of a matrix product, y_0 = abs(u - v)^2 / 2 is recomputed from the unit rows for
the few pairs where y_0 (or Y_0) is below ``threshold``.

========== ================= ==========================================================
cosine     (n1, n2)          u . v, from a matrix product
unit1      (n1, d)           rows of norm 1, or 0 for a zero vector
unit2      (n2, d)
table1     (L + 1, 3, n1)    s, b, rho of layers 0 ... L
table2     (L + 1, 3, n2)
ratio      scalar            r
decay      scalar            W_std^2 (p^2 + q^2)
threshold  scalar            below which y_0 is recomputed
nngp, ntk  (n1, n2), (0, 0)  results; an empty one is not computed
========== ================= ==========================================================

Promise: cpu, cuda and reference agree to a few ulp of the largest possible entry, rho rho'; no entry depends on any
but its own pair.

References
----------
Cho, Saul. Kernel methods for deep learning. NIPS 2009 (kappa_0, kappa_1).
Jacot, Gabriel, Hongler. Neural tangent kernel. NeurIPS 2018, theorem 1.
"""

import math

import numpy as np
from numba import njit, prange

from ._arcsine import arcsine
from ._cuda import cuda
from ._kernel import FASTMATH, Kernel, cpu_jit, cuda_jit, grid, shared

__all__ = ["walk"]

_WIDTH = 512  # columns that a CPU thread takes through all layers at a time: its state stays in the first-level cache


@shared
def _polynomial(high, low, x):
    """Value at x. In two loops, as LLVM does not unroll one of 18 steps, and then vectorizes nothing."""
    total = high[0]
    for k in range(1, len(high)):
        total = total * x + high[k]
    for k in range(len(low)):
        total = total * x + low[k]
    return total


@shared
def _positive(x, zero):
    return zero if x < zero else x  # Numba's CUDA target has no max for functions that the CPU shares


@shared
def _dense(y, y_opposite, s1, s2, b1, b2, half):
    """1 - cos t and 1 + cos t behind a dense layer."""
    share, bias, sum_bias, weight = s1 - s2, b1 - b2, b1 + b2, s1 * s2
    share = share * share
    return half * (share + bias * bias) + weight * y, half * (share + sum_bias * sum_bias) + weight * y_opposite


@shared
def _cosine(v, v_opposite, one):
    return one - v if v <= v_opposite else v_opposite - one


@shared
def _activation(v, v_opposite, ratio, high, low, two_over_pi, zero, half, one):
    """1 - kappa_1, 1 + kappa_1 and kappa_0 of the angle with 1 - cos t = v and 1 + cos t = v_opposite."""
    two = one + one
    near = v <= v_opposite
    m = half * (v if near else v_opposite)  # sin(t / 2)^2, t folded to [0, pi / 2]
    root = math.sqrt(m)
    t = two * root * _polynomial(high, low, m)
    chord = m + m
    sine = two * root * math.sqrt(one - m)
    slope = ratio * two_over_pi
    excess = slope * (sine - t * (one - chord))
    # Folding t to pi - t turns kappa_1(t) into kappa_1(pi - t) - (1 - 2 r) 2 cos(pi - t) and so on.
    tilt = two * ratio
    y = chord - excess if near else (two - tilt) + (tilt - one) * chord - excess
    y_opposite = two - chord + excess if near else tilt - (tilt - one) * chord + excess
    kappa_0 = one - slope * t if near else one - tilt + slope * t
    return _positive(y, zero), _positive(y_opposite, zero), kappa_0


def _reference(cosine, unit1, unit2, table1, table2, ratio, decay, threshold, nngp, ntk):
    """Fill `nngp` and `ntk` of every pair of points; see the module's docstring."""
    y, y_opposite = _input_reference(cosine, unit1, unit2, threshold)
    theta = np.zeros_like(cosine)
    for h in range(len(table1)):
        (s1, b1, rho1), (s2, b2, rho2) = table1[h][:, :, None], table2[h][:, None, :]
        share, weight = (s1 - s2) ** 2, s1 * s2
        v = (share + (b1 - b2) ** 2) / 2 + weight * y
        v_opposite = (share + (b1 + b2) ** 2) / 2 + weight * y_opposite
        near = v <= v_opposite
        covariance = rho1 * rho2 * np.where(near, 1 - v, v_opposite - 1)
        theta += covariance
        if h == len(table1) - 1:
            break
        y, y_opposite, kappa_0 = _activation_reference(near, np.minimum(v, v_opposite), ratio)
        theta *= decay * kappa_0
    if nngp.size:
        nngp[...] = covariance
    if ntk.size:
        ntk[...] = theta


def _input_reference(cosine, unit1, unit2, threshold):
    y, y_opposite = 1 - cosine, 1 + cosine
    for i, j in np.argwhere(y < threshold):
        y[i, j] = ((unit1[i] - unit2[j]) ** 2).sum() / 2
        y_opposite[i, j] = 2 - y[i, j]
    for i, j in np.argwhere(y_opposite < threshold):
        y_opposite[i, j] = ((unit1[i] + unit2[j]) ** 2).sum() / 2
        y[i, j] = 2 - y_opposite[i, j]
    return y, y_opposite


def _activation_reference(near, chord, ratio):
    t = 2 * np.arcsin(np.sqrt(chord / 2))
    sine = np.sqrt(chord * (2 - chord))
    excess = 2 * ratio / math.pi * (sine - t * (1 - chord))
    y = np.where(near, chord, 2 - 2 * ratio + (2 * ratio - 1) * chord) - excess
    y_opposite = np.where(near, 2 - chord, 2 * ratio - (2 * ratio - 1) * chord) + excess
    kappa_0 = 1 - 2 * ratio * np.where(near, t / math.pi, 1 - t / math.pi)
    return np.maximum(y, 0), np.maximum(y_opposite, 0), kappa_0


# "reassoc" lets this sum run in vector lanes. Its terms are not negative, so any order is as accurate, and the order is
# fixed by the compilation.
_reordered = njit(fastmath={*FASTMATH, "reassoc"}, inline="never", cache=False)


@_reordered
def _distance(u, v, sign, zero):
    """Squared norm of u - sign v."""
    total = zero
    for k in range(len(u)):
        difference = u[k] - sign * v[k]
        total += difference * difference
    return total


@shared
def _input(c, u, v, threshold, zero, half, one):
    """1 - cos t and 1 + cos t of two unit rows with the approximate cosine c."""
    y, y_opposite = _positive(one - c, zero), _positive(one + c, zero)
    if y < threshold:
        y = half * _distance(u, v, one, zero)
        y_opposite = one + one - y
    elif y_opposite < threshold:
        y_opposite = half * _distance(u, v, -one, zero)
        y = one + one - y_opposite
    return y, y_opposite


# Loops over one row of a tile, on contiguous one-dimensional arrays: the form that LLVM turns into vector code.
_row = njit(fastmath=set(FASTMATH), nogil=True)


@_row
def _input_row(c, u, unit2, threshold, y, y_opposite):
    zero, half, one = c.dtype.type(0), c.dtype.type(0.5), c.dtype.type(1)
    close = 0
    for j in range(len(c)):
        y[j] = _positive(one - c[j], zero)
        y_opposite[j] = _positive(one + c[j], zero)
        close += min(y[j], y_opposite[j]) < threshold
    if close > 0:
        for j in range(len(c)):
            if min(y[j], y_opposite[j]) < threshold:
                y[j], y_opposite[j] = _input(c[j], u, unit2[j], threshold, zero, half, one)


@_row
def _layer_row(y, y_opposite, theta, s1, b1, rho1, s2, b2, rho2, ratio, decay, high, low):
    dtype = y.dtype.type
    zero, half, one, two_over_pi = dtype(0), dtype(0.5), dtype(1), dtype(2 / math.pi)
    for j in range(len(y)):
        v, v_opposite = _dense(y[j], y_opposite[j], s1, s2[j], b1, b2[j], half)
        covariance = rho1 * rho2[j] * _cosine(v, v_opposite, one)
        new, new_opposite, kappa_0 = _activation(v, v_opposite, ratio, high, low, two_over_pi, zero, half, one)
        y[j] = new
        y_opposite[j] = new_opposite
        theta[j] = decay * kappa_0 * (theta[j] + covariance)


@_row
def _last_row(y, y_opposite, theta, s1, b1, rho1, s2, b2, rho2):
    """Leave the last dense layer's covariance in `y` and its tangent kernel in `theta`."""
    half, one = y.dtype.type(0.5), y.dtype.type(1)
    for j in range(len(y)):
        v, v_opposite = _dense(y[j], y_opposite[j], s1, s2[j], b1, b2[j], half)
        covariance = rho1 * rho2[j] * _cosine(v, v_opposite, one)
        y[j] = covariance
        theta[j] = theta[j] + covariance


@_row
def _walk_row(cosine, u, unit2, first, last, table1, table2, ratio, decay, threshold, high, low, state):
    """Take the pairs (row of table1, columns first ... last - 1) through all layers, in `state` (3, _WIDTH)."""
    width = last - first
    y, y_opposite, theta = state[0, :width], state[1, :width], state[2, :width]
    theta[:] = y.dtype.type(0)
    _input_row(cosine[first:last], u, unit2[first:last], threshold, y, y_opposite)
    depth = len(table1) - 1
    for h in range(depth):
        s2, b2, rho2 = table2[h, 0, first:last], table2[h, 1, first:last], table2[h, 2, first:last]
        s1, b1, rho1 = table1[h, 0], table1[h, 1], table1[h, 2]
        _layer_row(y, y_opposite, theta, s1, b1, rho1, s2, b2, rho2, ratio, decay, high, low)
    s2, b2, rho2 = table2[depth, 0, first:last], table2[depth, 1, first:last], table2[depth, 2, first:last]
    _last_row(y, y_opposite, theta, table1[depth, 0], table1[depth, 1], table1[depth, 2], s2, b2, rho2)


@cpu_jit
def _cpu_kernel(cosine, unit1, unit2, table1, table2, ratio, decay, threshold, high, low, nngp, ntk):
    n1, n2 = cosine.shape
    for i in prange(n1):
        state = np.empty((3, _WIDTH), cosine.dtype)
        for first in range(0, n2, _WIDTH):
            last = min(first + _WIDTH, n2)
            _walk_row(
                cosine[i],
                unit1[i],
                unit2,
                first,
                last,
                table1[:, :, i],
                table2,
                ratio,
                decay,
                threshold,
                high,
                low,
                state,
            )
            if nngp.size > 0:
                nngp[i, first:last] = state[0, : last - first]
            if ntk.size > 0:
                ntk[i, first:last] = state[2, : last - first]


def _cpu(cosine, unit1, unit2, table1, table2, ratio, decay, threshold, nngp, ntk):
    high, low = arcsine(cosine.dtype)
    _cpu_kernel(cosine, unit1, unit2, table1, table2, ratio, decay, threshold, high, low, nngp, ntk)


@cuda_jit
def _cuda_kernel(cosine, unit1, unit2, table1, table2, ratio, decay, threshold, high, low, nngp, ntk):
    dtype = cosine.dtype.type
    zero, half, one, two_over_pi = dtype(0), dtype(0.5), dtype(1), dtype(2 / math.pi)
    n1, n2 = cosine.shape
    depth = table1.shape[0] - 1
    for index in range(cuda.grid(1), n1 * n2, cuda.gridsize(1)):
        i, j = index // n2, index % n2
        y, y_opposite = _input(cosine[i, j], unit1[i], unit2[j], threshold, zero, half, one)
        covariance, theta = zero, zero
        for h in range(depth + 1):
            v, v_opposite = _dense(
                y, y_opposite, table1[h, 0, i], table2[h, 0, j], table1[h, 1, i], table2[h, 1, j], half
            )
            covariance = table1[h, 2, i] * table2[h, 2, j] * _cosine(v, v_opposite, one)
            theta += covariance
            if h < depth:
                y, y_opposite, kappa_0 = _activation(v, v_opposite, ratio, high, low, two_over_pi, zero, half, one)
                theta *= decay * kappa_0
        if nngp.size > 0:
            nngp[i, j] = covariance
        if ntk.size > 0:
            ntk[i, j] = theta


def _cuda(cosine, unit1, unit2, table1, table2, ratio, decay, threshold, nngp, ntk, stream=0):
    high, low = arcsine(cosine.dtype)
    blocks, threads = grid(cosine.shape[0] * cosine.shape[1])
    _cuda_kernel[blocks, threads, stream](
        cosine, unit1, unit2, table1, table2, ratio, decay, threshold, high, low, nngp, ntk
    )


walk = Kernel("recursion.walk", _reference, _cpu, _cuda)
