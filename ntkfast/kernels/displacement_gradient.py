r"""Gradients of kernels of convolutional networks, one displacement at a time: the adjoint of `displacement.walk`.

Letters, planes and arguments as there. A plane goes through the stage once more, which leaves the *slopes* of every
activation in the cache, and the cotangents (dK, dTheta) of its results go back through the same operations:

    activation     K' = f(K, q, q'),  Theta' = kappa Theta,  kappa = df/dK
                   dK     <-  kappa dK' + bend dTheta',  bend = Theta dkappa/dK
                   dTheta <-  kappa dTheta'
    convolution    dK     <-  scale sum_s (dK + dTheta)(p - s, p' - s)
                   dTheta <-  scale sum_s dTheta(p - s, p' - s)

and for the variances dq = E / q, dq' = E / q' with one E for both,

    homogeneous    kappa = gain kappa_0,  bend = Theta gain (2 r / pi) / root,  root = sqrt(q q') sin t
                   E = gain (2 r / pi) root / 2 dK' - bend K / 2 dTheta'
    erf            kappa = (4 / pi) / root,  bend = 4 K kappa Theta / root^2,  root^2 = (1 + 2 q)(1 + 2 q') - 4 K^2
                   E = -kappa K dK' - (root^2 + 4 K^2) kappa Theta / root^2 dTheta',  with 1 + 2 q for q.

kappa_0 has a kink where root = 0: there, and at zero patches, bend is 0, the mean over both sides.

============ ======================= =============================================================================
k_ct         as `k_out` of `walk`    cotangents of the results; SUM: (b, 1, 1, 1, 1), that of the sum over all planes
theta_ct
images1_ct   (b, ch, h, w)           cotangents of the images of every pair; no channels if k_in is given
images2_ct
k_in_ct      (b, h, h, w, w)         cotangents of k_in and theta_in, zero before the call; empty if images are given
theta_in_ct
tables1_ct   (b, l, h, w)            cotangents of the variances of every pair
tables2_ct
============ ======================= =============================================================================

Promise: cpu, cuda and reference agree to a few ulp of the largest entry, times the number of layers, where no two
patches are nearly parallel; an angle t amplifies by 1 / t. The same bits for any number of threads, and whatever the
other pairs.

Source: derived by hand from the references of displacement.py.
"""

import math

import numpy as np
from numba import njit

from ._arcsine import arcsine
from ._displacement_gradient_cuda import pull as _cuda
from ._displacement_gradient_reference import pull_reference as _reference
from ._displacement_reference import Code
from ._kernel import FASTMATH, Kernel, exact, in_threads, rows_jit, shared

__all__ = ["pull"]


# --- CPU: planes in a scratch array ---------------------------------------------------------------
#
# As in displacement.py, from which some loops are repeated: Numba's cache needs them in this file. Rows of `planes`: K
# and Theta, or their cotangents; sums over rows; two for every slot; four slopes for every activation. Rows of `sums`:
# cotangents of the channels and variances of x, and of those of y, in the order of the columns of the planes.

_RUN = 64
_TASK = 2**16  # entries that a pair is worth, for `in_threads`
_row = njit(fastmath=set(FASTMATH), error_model="numpy", nogil=True)
_in = njit(fastmath=set(FASTMATH), error_model="numpy", nogil=True, inline="always")
_u = np.uint64


@exact
def _affine(scale, total, bias):
    """Without fused multiply-add, which would round where q, the same number, is not rounded."""
    return scale * total + bias


@shared
def _polynomial(high, low, x, factor):
    """Value at x, times a factor. In two loops: LLVM does not unroll one of 18 steps, and then vectorizes nothing."""
    total = factor * high[0]
    for k in range(1, len(high)):
        total = total * x + factor * high[k]
    for k in range(len(low)):
        total = total * x + factor * low[k]
    return total


@shared
def _kappa(k, q1, q2, g, slope, high, low, units):
    """Return sqrt(q1 q2) sin t and kappa_0(t) at the angle t, with g = 1 / sqrt(q1 q2)."""
    zero, one, quarter = units
    determinant = q1 * (q2 - k) + k * (q1 - k)
    root = math.sqrt(determinant if determinant > zero else zero)
    near = abs(k) > root
    small = g * (root if near else abs(k))
    share, half = small * _polynomial(high, low, small * small, slope), slope * quarter  # slope times an angle
    share = share if near else half - share
    return root, one - (share if k > zero else half + half - share)


@shared
def _homogeneous_slopes(k, theta, q1, q2, g, factor, slope, high, low, units):
    """K', and kappa, bend and both factors of E."""
    zero, one, _ = units
    half = one / (one + one)
    root, kappa_0 = _kappa(k, q1, q2, g, slope, high, low, units)
    bend = factor * slope * theta / (root if root > zero else one)
    bend = bend if root > zero else zero
    return factor * (slope * root + k * kappa_0), factor * kappa_0, bend, half * factor * slope * root, half * k * bend


@shared
def _erf_slopes(k, theta, q1, q2, factor, high, low, units):
    """The same for erf."""
    zero, one, quarter = units
    two = one + one
    square = one + two * (q1 + q2) + two * two * (q1 * (q2 - k) + k * (q1 - k))
    root = math.sqrt(square)
    g = one / math.sqrt((one + two * q1) * (one + two * q2))
    sine, cosine = two * abs(k) * g, root * g
    near = sine < cosine
    small = sine if near else cosine
    t = small * _polynomial(high, low, small * small, one)
    t = t if near else quarter - t
    kappa = factor * two / (quarter * root)
    turn = kappa * theta / square
    value = factor * (t if k > zero else -t) / quarter
    return value, kappa, two * two * k * turn, -kappa * k, (square + two * two * k * k) * turn


@_row
def _clear(planes, z, start, n):
    zero, o = planes.dtype.type(0), _u(start)
    for i in range(_u(n)):
        planes[z, o + i] = zero


@_row
def _copy(planes, z, target, start, n):
    o = _u(start)
    for i in range(_u(n)):
        planes[target, o + i] = planes[z, o + i]


@_row
def _swap(planes, z, slot, start, n):
    o = _u(start)
    for i in range(_u(n)):
        kept = planes[z, o + i]
        planes[z, o + i] = planes[slot, o + i]
        planes[slot, o + i] = kept


@_row
def _add(planes, z, slot, start, n):
    o = _u(start)
    for i in range(_u(n)):
        planes[z, o + i] += planes[slot, o + i]


@_row
def _multiply(sides, x, y, channels, a, b, planes, start, n):
    """K of the images: products of pixels, three channels at a time."""
    a, b, o = _u(a), _u(b), _u(start)
    if channels == 3:
        for i in range(_u(n)):
            planes[0, o + i] = (
                sides[x, a + i] * sides[y, b + i]
                + sides[x + 1, a + i] * sides[y + 1, b + i]
                + sides[x + 2, a + i] * sides[y + 2, b + i]
            )
        return
    for i in range(_u(n)):
        planes[0, o + i] = sides[x, a + i] * sides[y, b + i]
    for j in range(1, channels):
        for i in range(_u(n)):
            planes[0, o + i] += sides[x + j, a + i] * sides[y + j, b + i]


@_row
def _add_rows(planes, z, origin, width, size, before, n):
    """Sums of row z over `size` rows of the plane, in row z + 2."""
    o, a = _u(origin), _u(origin - before * width)
    if size == 3:
        b, c = _u(origin + (1 - before) * width), _u(origin + (2 - before) * width)
        for i in range(_u(n)):
            planes[z + 2, o + i] = planes[z, a + i] + planes[z, b + i] + planes[z, c + i]
        return
    for i in range(_u(n)):
        planes[z + 2, o + i] = planes[z, a + i]
    for s in range(1, size):
        a = _u(origin + (s - before) * width)
        for i in range(_u(n)):
            planes[z + 2, o + i] += planes[z, a + i]


@_row
def _add_columns(planes, z, origin, size, before, n):
    """Sums of row z + 2 over `size` columns, in row z."""
    o, a = _u(origin), _u(origin - before)
    for i in range(_u(n)):
        planes[z, o + i] = planes[z + 2, a + i]
    for s in range(1, size):
        a = _u(origin + s - before)
        for i in range(_u(n)):
            planes[z, o + i] += planes[z + 2, a + i]


@_row
def _scale(planes, sides, mask, a, origin, scale, bias, n):
    """K and Theta of a convolution from their window sums, zero between the halves of a plane."""
    o, a = _u(origin), _u(a)
    for i in range(_u(n)):
        k = _affine(scale, planes[0, o + i], bias)
        planes[1, o + i] = sides[mask, a + i] * (scale * planes[1, o + i] + k)
        planes[0, o + i] = sides[mask, a + i] * k


@_row
def _wrap_rows(planes, z, origin, width, rows, up, down):
    """Rows above and below a circular plane."""
    for i in range(up * width):
        planes[z, origin - up * width + i] = planes[z, origin + (rows - up) * width + i]
    for i in range(down * width):
        planes[z, origin + rows * width + i] = planes[z, origin + i]


@_row
def _wrap_columns(planes, z, origin, width, rows, w, before, after):
    """Columns left and right of a circular plane."""
    for r in range(rows):
        start = origin + r * width
        for j in range(before):
            planes[z, start - before + j] = planes[z, start + w - before + j]
        for j in range(after):
            planes[z, start + w + j] = planes[z, start + j]


@_in
def _sums(planes, op, w, rows, origin, width, circular, n):
    """Sums over the rows of the window, with the margins that the columns need."""
    _, kh, kw, top, left, _ = op
    for z in range(2):
        if circular:
            _wrap_rows(planes, z, origin, width, rows, top, kh - 1 - top)
        _add_rows(planes, z, origin, width, kh, top, n)
        if circular:
            _wrap_columns(planes, z + 2, origin, width, rows, w, left, kw - 1 - left)


@_in
def _use_slot(planes, code, slot, start, n):
    """SAVE, SWAP or ADD."""
    for z in range(2):
        if code == 3:
            _copy(planes, z, slot + z, start, n)
        elif code == 4:
            _swap(planes, z, slot + z, start, n)
        else:
            _add(planes, z, slot + z, start, n)


@_row
def _homogeneous(planes, at, sides, x, y, mask, a, b, origin, gain, slope, high, low, units, n):
    """An activation, and its slopes in the rows from `at` on."""
    o, a, b = _u(origin), _u(a), _u(b)
    for i in range(_u(n)):
        k, theta, factor = planes[0, o + i], planes[1, o + i], gain * sides[mask, a + i]
        q1, q2, g = sides[x, a + i], sides[y, b + i], sides[x + 1, a + i] * sides[y + 1, b + i]
        k, kappa, bend, by_k, by_theta = _homogeneous_slopes(k, theta, q1, q2, g, factor, slope, high, low, units)
        planes[0, o + i] = k
        planes[1, o + i] = kappa * theta
        planes[at, o + i] = kappa
        planes[at + 1, o + i] = bend
        planes[at + 2, o + i] = by_k
        planes[at + 3, o + i] = by_theta


@_row
def _three_columns(planes, at, sides, x, y, mask, a, b, origin, affine, gain, slope, high, low, units, n):
    """`_add_columns` over three columns, `_scale` and `_homogeneous` in one pass."""
    scale, bias = affine
    o, p, q, a, b = _u(origin - 1), _u(origin), _u(origin + 1), _u(a), _u(b)
    for i in range(_u(n)):
        k = _affine(scale, planes[2, o + i] + planes[2, p + i] + planes[2, q + i], bias)
        theta = scale * (planes[3, o + i] + planes[3, p + i] + planes[3, q + i]) + k
        factor = gain * sides[mask, a + i]
        q1, q2, g = sides[x, a + i], sides[y, b + i], sides[x + 1, a + i] * sides[y + 1, b + i]
        k, kappa, bend, by_k, by_theta = _homogeneous_slopes(k, theta, q1, q2, g, factor, slope, high, low, units)
        planes[0, p + i] = k
        planes[1, p + i] = kappa * theta
        planes[at, p + i] = kappa
        planes[at + 1, p + i] = bend
        planes[at + 2, p + i] = by_k
        planes[at + 3, p + i] = by_theta


@_row
def _erf_plane(planes, at, sides, x, y, mask, a, b, origin, high, low, units, n):
    o, a, b = _u(origin), _u(a), _u(b)
    for i in range(_u(n)):
        k, theta, factor = planes[0, o + i], planes[1, o + i], sides[mask, a + i]
        k, kappa, bend, by_k, by_theta = _erf_slopes(
            k, theta, sides[x, a + i], sides[y, b + i], factor, high, low, units
        )
        planes[0, o + i] = k
        planes[1, o + i] = kappa * theta
        planes[at, o + i] = kappa
        planes[at + 1, o + i] = bend
        planes[at + 2, o + i] = by_k
        planes[at + 3, o + i] = by_theta


@_in
def _run(planes, sides, program, constants, layout, place, high, low, units):
    """Take the plane through the stage up to its last activation.

    layout: rows of `sides` per side, channels, w, width, rows below, circular, first slope, operations; place: origin,
    rows, a, b.
    """
    per_side, channels, w, width, down, circular, slopes, n_ops = layout
    origin, rows, a, b = place
    used, mask = rows * width, 2 * per_side
    n = -(-used // _RUN) * _RUN
    fused = False
    for j in range(n_ops):
        if fused:  # the activation was done with the convolution before it
            fused = False
            continue
        op = program[j]
        code, index = op[0], op[5]
        if code == 0:
            _sums(planes, op, w, rows, origin, width, circular, n)
            affine = constants[j, 0], constants[j, 1]
            fused = op[2] == 3 and op[4] == 1 and j + 1 < n_ops and program[j + 1, 0] == 1
            if fused:
                index = program[j + 1, 5]
                x = channels + 2 * index
                gain, slope = constants[j + 1, 0], constants[j + 1, 1]
                _three_columns(
                    planes, slopes + 4 * index, sides, x, per_side + x, mask, a, b, origin, affine, gain, slope,
                    high, low, units, n,
                )  # fmt: skip
            else:
                _add_columns(planes, 0, origin, op[2], op[4], n)
                _add_columns(planes, 1, origin, op[2], op[4], n)
                _scale(planes, sides, mask, a, origin, affine[0], affine[1], n)
        elif code <= 2:
            x, at = channels + 2 * index, slopes + 4 * index
            y = per_side + x
            if code == 1:
                gain, slope = constants[j, 0], constants[j, 1]
                _homogeneous(planes, at, sides, x, y, mask, a, b, origin, gain, slope, high, low, units, n)
            else:
                _erf_plane(planes, at, sides, x, y, mask, a, b, origin, high, low, units, n)
        else:
            _use_slot(planes, code, 4 + 2 * index, origin, used + down * width)
        for z in range(2):
            _clear(planes, z, origin + used, n - used + down * width)
        if fused or 1 <= code <= 2:
            for z in range(slopes + 4 * index, slopes + 4 * index + 4):
                _clear(planes, z, origin + used, n - used)


@_row
def _fold(source, target, t, w, d, first, gap, width, copies):
    """Rows of an image in the order of the columns of a plane: c from `first` on, cut after w - d, zeros between."""
    cut, zero = w - d, source.dtype.type(0)
    h, shift = len(source), (first + w - d) % w
    for r in range(copies * h):
        row, start = source[r % h], r * width
        o, a, b = _u(start), _u(first), _u(shift)
        for j in range(_u(cut)):
            target[t, o + j] = row[a + j]
        o = _u(start + cut)
        for j in range(_u(gap)):
            target[t, o + j] = zero
        o = _u(start + cut + gap)
        for j in range(_u(d)):
            target[t, o + j] = row[b + j]
        o = _u(start + w + gap)
        for j in range(_u(width - w - gap)):
            target[t, o + j] = zero


@_in
def _fold_side(images, tables, sides, row, w, d, first, gap, width, copies):
    for j in range(len(images)):
        _fold(images[j], sides, row + j, w, d, first, gap, width, copies)
    for j in range(len(tables)):
        for part in range(2):
            _fold(tables[j, part], sides, row + len(images) + 2 * j + part, w, d, first, gap, width, copies)


@_row
def _write_mask(mask, w, d, gap, width):
    """One on the columns of a plane, zero in its gaps."""
    zero, one = mask.dtype.type(0), mask.dtype.type(1)
    for i in range(len(mask)):
        c = i % width
        mask[i] = one if c < w - d or w - d + gap <= c < w + gap else zero


@_row
def _load(source, planes, z, origin, width, first, dr, rows, d, gap):
    """A plane of the tensor of pairs, source[r, r', d, c]."""
    h, w = source.shape[0], source.shape[3]
    zero = planes.dtype.type(0)
    for r in range(rows):
        row, start = source[first + r, (first + r + dr) % h, d], origin + r * width
        for c in range(width):
            planes[z, start + c] = zero
        for c in range(w):
            planes[z, start + c + (gap if c >= w - d else 0)] = row[c]


@_in
def _begin(planes, sides, k_in, theta_in, pair, layout, place, geometry):
    """K and Theta of a plane at the start of the stage."""
    per_side, channels, _, width, down, _, _, _ = layout
    origin, rows, a, b = place
    dr, d, gap = geometry[6], geometry[7], geometry[2]
    used = rows * width
    n = -(-used // _RUN) * _RUN
    if channels > 0:
        _multiply(sides, 0, per_side, channels, a, b, planes, origin, n)
        _clear(planes, 1, origin, n)
    else:
        first = a // width
        _load(k_in[pair], planes, 0, origin, width, first, dr, rows, d, gap)
        _load(theta_in[pair], planes, 1, origin, width, first, dr, rows, d, gap)
    for z in range(2):
        _clear(planes, z, origin + used, n - used + down * width)


# --- CPU: backwards through the operations --------------------------------------------------------
#
# Cotangents are zero between the halves of a plane, around it and behind it.


@_row
def _pull_rows(planes, origin, width, size, before, n):
    """Sums of dK + dTheta and of dTheta over `size` rows, in rows 2 and 3."""
    o, a = _u(origin), _u(origin - before * width)
    if size == 3:
        b, c = _u(origin + (1 - before) * width), _u(origin + (2 - before) * width)
        for i in range(_u(n)):
            theta = planes[1, a + i] + planes[1, b + i] + planes[1, c + i]
            planes[2, o + i] = planes[0, a + i] + planes[0, b + i] + planes[0, c + i] + theta
            planes[3, o + i] = theta
        return
    for i in range(_u(n)):
        planes[2, o + i] = planes[0, a + i] + planes[1, a + i]
        planes[3, o + i] = planes[1, a + i]
    for s in range(1, size):
        a = _u(origin + (s - before) * width)
        for i in range(_u(n)):
            planes[2, o + i] += planes[0, a + i] + planes[1, a + i]
            planes[3, o + i] += planes[1, a + i]


@_in
def _pull_sums(planes, op, w, rows, origin, width, circular, n):
    """As `_sums`, with windows turned around."""
    _, kh, kw, top, left, _ = op
    if circular:
        for z in range(2):
            _wrap_rows(planes, z, origin, width, rows, kh - 1 - top, top)
    _pull_rows(planes, origin, width, kh, kh - 1 - top, n)
    if circular:
        for z in range(2, 4):
            _wrap_columns(planes, z, origin, width, rows, w, kw - 1 - left, left)


@_row
def _pull_scale(planes, sides, mask, a, origin, scale, n):
    o, a = _u(origin), _u(a)
    for i in range(_u(n)):
        planes[0, o + i] *= scale * sides[mask, a + i]
        planes[1, o + i] *= scale * sides[mask, a + i]


@_row
def _pull_activation(planes, at, origin, n):
    """Cotangents before an activation; E in row 2."""
    o = _u(origin)
    for i in range(_u(n)):
        k, theta = planes[0, o + i], planes[1, o + i]
        planes[2, o + i] = planes[at + 2, o + i] * k - planes[at + 3, o + i] * theta
        planes[0, o + i] = planes[at, o + i] * k + planes[at + 1, o + i] * theta
        planes[1, o + i] = planes[at, o + i] * theta


@_row
def _pull_three_columns(planes, at, origin, scale, n):
    """`_add_columns` over three columns, `_pull_scale` and `_pull_activation` in one pass; E in row 0 of the slopes."""
    o, p, q = _u(origin - 1), _u(origin), _u(origin + 1)
    for i in range(_u(n)):
        k = scale * (planes[2, o + i] + planes[2, p + i] + planes[2, q + i])
        theta = scale * (planes[3, o + i] + planes[3, p + i] + planes[3, q + i])
        kappa = planes[at, p + i]
        planes[at, p + i] = planes[at + 2, p + i] * k - planes[at + 3, p + i] * theta
        planes[0, p + i] = kappa * k + planes[at + 1, p + i] * theta
        planes[1, p + i] = kappa * theta


@_row
def _accumulate(planes, z, origin, sums, x, y, a, b, n):
    """Add a row of the planes to both sides."""
    o, a, b = _u(origin), _u(a), _u(b)
    for i in range(_u(n)):
        sums[x, a + i] += planes[z, o + i]
    for i in range(_u(n)):
        sums[y, b + i] += planes[z, o + i]


@_in
def _pull_run(planes, sides, sums, program, constants, layout, place):
    """Take cotangents back through the stage; leaves those of K and Theta at its start in rows 0 and 1."""
    per_side, channels, w, width, down, circular, slopes, _ = layout
    origin, rows, a, b = place
    used, mask, other = rows * width, 2 * per_side, len(sums) // 2
    n = -(-used // _RUN) * _RUN
    fused = False
    for j in range(len(program) - 1, -1, -1):
        if fused:
            fused = False
            continue
        op = program[j]
        code, index = op[0], op[5]
        if code == 0:
            _pull_sums(planes, op, w, rows, origin, width, circular, n)
            fused = op[2] == 3 and op[4] == 1 and j > 0 and 1 <= program[j - 1, 0] <= 2
            if fused:
                index = program[j - 1, 5]
                at = slopes + 4 * index
                _pull_three_columns(planes, at, origin, constants[j, 0], n)
                _accumulate(planes, at, origin, sums, channels + index, other + channels + index, a, b, n)
            else:
                before = op[2] - 1 - op[4]
                _add_columns(planes, 0, origin, op[2], before, n)
                _add_columns(planes, 1, origin, op[2], before, n)
                _pull_scale(planes, sides, mask, a, origin, constants[j, 0], n)
        elif code <= 2:
            _pull_activation(planes, slopes + 4 * index, origin, n)
            _accumulate(planes, 2, origin, sums, channels + index, other + channels + index, a, b, n)
        else:
            _pull_slot(planes, code, 4 + 2 * index, origin, used + down * width)
        for z in range(2):
            _clear(planes, z, origin + used, n - used + down * width)


@_in
def _pull_slot(planes, code, slot, start, n):
    """The adjoint of ADD fills the slot, that of SAVE empties it."""
    for z in range(2):
        if code == 5:
            _copy(planes, z, slot + z, start, n)
        elif code == 4:
            _swap(planes, z, slot + z, start, n)
        else:
            _add(planes, z, slot + z, start, n)


@_row
def _pull_channels(planes, sides, sums, per_side, channels, other, place, n):
    """Add dK times the pixels of the other side."""
    origin, _, a, b = place
    o, a, b = _u(origin), _u(a), _u(b)
    for j in range(channels):
        x, y, z = j, per_side + j, other + j
        for i in range(_u(n)):
            sums[x, a + i] += planes[0, o + i] * sides[y, b + i]
        for i in range(_u(n)):
            sums[z, b + i] += planes[0, o + i] * sides[x, a + i]


@_row
def _store(planes, z, geometry, out):
    """Copy a plane to the tensor of pairs."""
    origin, width, gap, circular, h, w, dr, d = geometry
    first = 0 if circular else max(0, -dr)
    for r in range(first, h if circular else h - max(0, dr)):
        row, start = out[r, (r + dr) % h, d], origin + (r - first) * width
        for c in range(w):
            row[c] = planes[z, start + c + (gap if c >= w - d else 0)]


@_row
def _collect(sums, row, out, w, d, first, gap, width, copies):
    """Add a row of `sums` to an image, and empty it: the adjoint of `_fold`."""
    cut, h = w - d, len(out)
    shift, zero = (first + cut) % w, sums.dtype.type(0)
    for r in range(copies * h):
        target, start = out[r % h], r * width
        for j in range(cut):
            target[first + j] += sums[row, start + j]
        for j in range(d):
            target[shift + j] += sums[row, start + cut + gap + j]
    for i in range(copies * h * width):
        sums[row, i] = zero


@_in
def _collect_side(sums, row, images, tables, w, d, first, gap, width, copies):
    for j in range(len(images)):
        _collect(sums, row + j, images[j], w, d, first, gap, width, copies)
    for j in range(len(tables)):
        _collect(sums, row + len(images) + j, tables[j], w, d, first, gap, width, copies)


@_row
def _divide(out, tables, program):
    """From E to cotangents of variances."""
    one = out.dtype.type(1)
    for j in range(len(program)):
        code, index = program[j, 0], program[j, 5]
        if 1 <= code <= 2:
            for r in range(out.shape[1]):
                for c in range(out.shape[2]):
                    q, g = tables[index, 0, r, c], tables[index, 1, r, c]
                    total = out[index, r, c]
                    out[index, r, c] = total * g * g if code == 1 else total / (one + q + q)


# --- CPU: cotangents of a plane from those of the results -----------------------------------------


@_row
def _half(size, displacement, second, merged):
    """Signed displacement of one half of an axis, and its first and last + 1 pixel of x."""
    if second:
        return displacement - size, size - displacement, size
    if merged:
        return displacement, 0, size - displacement
    return displacement, max(0, -displacement), size - max(0, displacement)


@_row
def _reached(displacement, lo, hi, size, stride):
    """First and last + 1 displacement within the limits of windows that read pairs at `displacement`."""
    return max(lo, -((size - 1 - displacement) // stride)), min(hi, (displacement + size - 1) // stride) + 1


@_row
def _is_wanted(displacement, lo, hi, kind, size, stride, circular, pixels):
    """Whether any result within the limits reads pairs at a signed displacement."""
    if kind == 2:
        begin, end = _reached(displacement, lo, hi, size, stride)
        return begin < end
    if kind == 3:
        if displacement % stride:
            return False
        displacement = displacement // stride
        if circular:  # a window reads a plane as a whole, all around the image
            places = pixels // stride
            return lo <= displacement <= hi or lo <= displacement - places <= hi or lo <= displacement + places <= hi
    return lo <= displacement <= hi


@_row
def _add_row(planes, z, start, target, origin, n):
    o, a = _u(origin), _u(start)
    for i in range(_u(n)):
        planes[target, o + i] += planes[z, a + i]


@_row
def _tap(size, circular, lo, hi, pixel):
    """The pixel that a tap reads, or -1 for a zero."""
    if circular:
        return pixel % size
    return pixel if lo <= pixel < hi else -1


@_row
def _fill(planes, z, value, sides, mask, a, origin, n):
    """One number on all pixels of a plane."""
    o, a = _u(origin), _u(a)
    for i in range(_u(n)):
        planes[z, o + i] = value * sides[mask, a + i]


@_row
def _load_wanted(source, planes, z, geometry, limits):
    """The pairs of a plane within the limits; the plane is zero before."""
    origin, width, gap, circular, h, w, dr, d = geometry
    first = 0 if circular else max(0, -dr)
    for r in range(first, h if circular else h - max(0, dr)):
        other, start = (r + dr) % h, origin + (r - first) * width
        for c in range(w):
            column = d - w if c >= w - d else d
            if limits[0] <= other - r <= limits[1] and limits[2] <= column <= limits[3]:
                planes[z, start + c + (gap if c >= w - d else 0)] = source[r, other, d, c]


@_row
def _spread_columns(planes, source, start, w, d, gap, limits, boundary, scale, ct):
    """Add the cotangents of means over windows, ct[d', c'], to one row."""
    kw, tw, left, places = boundary[2], boundary[4], boundary[6], len(ct)
    for second in range(2):
        displacement, lo, hi = _half(w, d, second == 1, True)
        begin, end = _reached(displacement, limits[2], limits[3], kw, tw)
        for target in range(begin, end):
            step = displacement - tw * target
            for c in range(max(0, -target), min(places, places - target)):
                value = scale * ct[target % places, c]
                for v in range(max(0, -step), min(kw, kw - step)):
                    column = tw * c + v - left
                    if lo <= column < hi:
                        planes[source, start + column + gap * second] += value


@_row
def _spread_pool(planes, geometry, limits, boundary, cts):
    """Cotangents of a plane from those of the means over windows; the plane is zero before."""
    origin, width, gap, circular, h, w, dr, d = geometry
    _, kh, kw, th, _, top, _ = boundary
    places = len(cts[0])
    scale, first = planes.dtype.type(1.0 / (kh * kw) ** 2), 0 if circular else max(0, -dr)
    for second in range(2 if circular else 1):
        displacement, lo, hi = _half(h, dr, second == 1, circular)
        begin, end = _reached(displacement, limits[0], limits[1], kh, th)
        for target in range(begin, end):
            step = displacement - th * target
            for r in range(max(0, -target), min(places, places - target)):
                for z in range(2):
                    _clear(planes, z + 2, origin, width)
                    _spread_columns(planes, z + 2, origin, w, d, gap, limits, boundary, scale, cts[z][r, r + target])
                    for u in range(max(0, -step), min(kh, kh - step)):
                        row = th * r + u - top
                        if lo <= row < hi:
                            _add_row(planes, z + 2, origin, z, origin + (row - first) * width, width)


@_row
def _spread_taps(planes, geometry, rows, columns, boundary, r, c, k, theta):
    """Add two numbers to all pixels that the taps of a window at one place read."""
    origin, width, _, circular, h, w, _, _ = geometry
    _, kh, kw, th, tw, top, left = boundary
    row_lo, row_hi, first = rows
    lo, hi, shift = columns
    for u in range(kh):
        row = _tap(h, circular, row_lo, row_hi, th * r + u - top)
        for v in range(kw):
            column = _tap(w, circular, lo, hi, tw * c + v - left)
            if row >= 0 and column >= 0:
                place = origin + (row - first) * width + column + shift
                planes[0, place] += k
                planes[1, place] += theta


@_row
def _spread_window(planes, geometry, limits, boundary, scale, cts):
    """Cotangents of a plane from those behind a convolution with stride or without padding; it is zero before."""
    _, _, gap, circular, h, w, dr, d = geometry
    k_ct, theta_ct = cts
    th, tw, places, across = boundary[3], boundary[4], len(k_ct), k_ct.shape[2]
    if dr % th:
        return
    rows = (0, h, 0) if circular else (max(0, -dr), h - max(0, dr), max(0, -dr))
    for r in range(places):
        other = r + dr // th
        if circular:
            other %= places
        if not 0 <= other < places or not limits[0] <= other - r <= limits[1]:
            continue
        for second in range(1 if circular else 2):
            displacement, lo, hi = (d, 0, w) if circular else _half(w, d, second == 1, True)
            if displacement % tw:
                continue
            for c in range(across):
                target = c + displacement // tw
                if circular:
                    target %= across
                if not 0 <= target < across or not limits[2] <= target - c <= limits[3]:
                    continue
                theta = scale * theta_ct[r, other, (target - c) % across, c]
                k = scale * k_ct[r, other, (target - c) % across, c] + theta
                _spread_taps(planes, geometry, rows, (lo, hi, gap * second), boundary, r, c, k, theta)


@_in
def _pull_finish(planes, sides, mask, geometry, place, down, limits, boundary, scale, cts):
    """Cotangents of a plane behind the last operation."""
    origin, rows, a, _ = place
    width, kind = geometry[1], boundary[0]
    used = rows * width
    n = -(-used // _RUN) * _RUN
    for z in range(2):
        if kind == 0:
            _fill(planes, z, cts[z][0, 0, 0, 0], sides, mask, a, origin, n)
            _clear(planes, z, origin + used, n - used + down * width)
        else:
            _clear(planes, z, origin, n + down * width)
        if kind == 1:
            _load_wanted(cts[z], planes, z, geometry, limits)
    if kind == 2:
        _spread_pool(planes, geometry, limits, boundary, cts)
    elif kind == 3:
        _spread_window(planes, geometry, limits, boundary, scale, cts)


# --- CPU: all displacements of all pairs ----------------------------------------------------------


def _shape(frame, h, w):
    """Columns of a plane's rows, the gap between its halves, where it starts, and lengths of rows of both arrays."""
    up, down, gap, circular = frame
    width = w + 2 * gap
    origin = -(-(up * width + 2 * gap) // _RUN) * _RUN
    length = origin + (2 * h if circular else h) * width + (down + 1) * width + 2 * _RUN
    return width, 0 if circular else gap, origin, length


@_in
def _column_wanted(d, w, wanted, limits, boundary, circular):
    """Whether a plane column d has a half that some result needs; `wanted` cuts planes, or pooled results."""
    kind, size, stride = boundary[0], boundary[2], boundary[4]
    if kind != 2 and not wanted[0] <= d < wanted[1]:
        return False
    for second in range(2 if d > 0 else 1):
        displacement = d - w if second else d
        if _is_wanted(displacement, limits[2], limits[3], kind, size, stride, circular, w):
            return True
    return False


@_in
def _row_wanted(dr, h, limits, boundary, circular):
    kind, size, stride = boundary[0], boundary[1], boundary[3]
    if _is_wanted(dr, limits[0], limits[1], kind, size, stride, circular, h):
        return True
    return circular and dr > 0 and _is_wanted(dr - h, limits[0], limits[1], kind, size, stride, circular, h)


@_in
def _pull_pair(
    images, inputs, tables, pair, scratch, program, constants, frame, shape, slopes, n_ops, limits, boundary,
    tables_of_numbers, cts, images_ct, inputs_ct, tables_ct,
):  # fmt: skip
    """All displacements of one pair of images."""
    planes, sides, sums = scratch
    high, low, units = tables_of_numbers
    channels, h, w = images[0].shape
    _, down, _, circular = frame
    width, gap, origin, _ = shape
    per_side, other, copies = channels + 2 * len(tables[0]), len(sums) // 2, 2 if circular else 1
    layout = per_side, channels, w, width, down, circular, slopes, n_ops
    for d in range(w):
        if not _column_wanted(d, w, (0, w), limits, boundary, circular):
            continue
        _fold_side(images[0], tables[0], sides, 0, w, d, 0, gap, width, 1)
        _fold_side(images[1], tables[1], sides, per_side, w, d, d, gap, width, copies)
        _write_mask(sides[2 * per_side], w, d, gap, width)
        for dr in range(0 if circular else 1 - h, h):
            if not _row_wanted(dr, h, limits, boundary, circular):
                continue
            first, rows = (0, h) if circular else (max(0, -dr), h - abs(dr))
            place = origin, rows, first * width, (first + dr) * width
            geometry = origin, width, gap, circular, h, w, dr, d
            if n_ops > 0:
                _begin(planes, sides, inputs[0], inputs[1], pair, layout, place, geometry)
                _run(planes, sides, program, constants, layout, place, high, low, units)
            scale = constants[len(program), 0]
            _pull_finish(planes, sides, 2 * per_side, geometry, place, down, limits, boundary, scale, cts)
            _pull_run(planes, sides, sums, program, constants, layout, place)
            if channels > 0:
                _pull_channels(planes, sides, sums, per_side, channels, other, place, -(-rows * width // _RUN) * _RUN)
            else:
                _store(planes, 0, geometry, inputs_ct[0][pair])
                _store(planes, 1, geometry, inputs_ct[1][pair])
        _collect_side(sums, 0, images_ct[0], tables_ct[0], w, d, 0, gap, width, 1)
        _collect_side(sums, other, images_ct[1], tables_ct[1], w, d, d, gap, width, copies)
    for side in range(2):
        _divide(tables_ct[side], tables[side], program)


@rows_jit
def _pull_pairs(
    start, stop, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits, boundary,
    shape, sizes, numbers, k_ct, theta_ct, images1_ct, images2_ct, k_in_ct, theta_in_ct, tables1_ct, tables2_ct,
):  # fmt: skip
    n_planes, n_sides, n_sums, slopes, n_ops = sizes
    scratch = (
        np.zeros((n_planes, shape[3]), constants.dtype),
        np.zeros((n_sides, shape[3]), constants.dtype),
        np.zeros((n_sums, shape[3]), constants.dtype),
    )
    for pair in range(start, stop):
        i, j = pairs[pair, 0], pairs[pair, 1]
        images1_ct[pair] = 0
        images2_ct[pair] = 0
        tables1_ct[pair] = 0
        tables2_ct[pair] = 0
        _pull_pair(
            (images1[i], images2[j]), (k_in, theta_in), (tables1[i], tables2[j]), pair, scratch, program, constants,
            frame, shape, slopes, n_ops, limits, boundary, numbers, (k_ct[pair], theta_ct[pair]),
            (images1_ct[pair], images2_ct[pair]), (k_in_ct, theta_in_ct),
            (tables1_ct[pair], tables2_ct[pair]),
        )  # fmt: skip


def _cpu(
    images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits, boundary,
    k_ct, theta_ct, images1_ct, images2_ct, k_in_ct, theta_in_ct, tables1_ct, tables2_ct,
):  # fmt: skip
    h, w = images1.shape[2:]
    up, down, gap, circular = frame
    rows = max(up, down)  # windows are turned around
    frame = rows, rows, gap, circular
    channels, layers = images1.shape[1], tables1.shape[1]
    slots = program[program[:, 0] >= Code.SAVE, 5]
    slopes = 4 + 2 * (int(slots.max()) + 1 if len(slots) else 0)
    active = np.flatnonzero((program[:, 0] == Code.HOMOGENEOUS) | (program[:, 0] == Code.ERF))
    n_ops = int(active[-1]) + 1 if len(active) else 0
    sizes = slopes + 4 * layers, 2 * (channels + 2 * layers) + 1, 2 * (channels + layers), slopes, n_ops
    numbers = *arcsine(constants.dtype), tuple(constants.dtype.type(unit) for unit in (0, 1, math.pi / 2))
    in_threads(
        _pull_pairs, len(pairs), len(pairs) * _TASK, images1, images2, k_in, theta_in, tables1, tables2, pairs, program,
        constants, frame, limits, boundary, _shape(frame, h, w), sizes, numbers, k_ct, theta_ct, images1_ct, images2_ct,
        k_in_ct, theta_in_ct, tables1_ct, tables2_ct,
    )  # fmt: skip


pull = Kernel("displacement_gradient.pull", _reference, _cpu, _cuda)
