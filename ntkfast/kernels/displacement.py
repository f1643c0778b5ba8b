r"""Kernels of infinitely wide convolutional networks, one displacement between pixels at a time.

For images x, y and pixels p of x, p' of y, a convolution with zero or circular padding is, in the limit of infinitely
many channels,

    K(p, p')     <-  scale sum_s K(p + s, p' + s) + bias           scale = W_std^2 / (kh kw), bias = b_std^2
    Theta(p, p') <-  K(p, p') + scale sum_s Theta(p + s, p' + s)

and an activation phi takes (K, Theta) to (E[phi phi], E[phi' phi'] Theta), pixel pair by pixel pair. Both leave the
displacement p' - p alone. So all pairs with one displacement form a small image, a *plane*, which goes through all
layers of a *stage* while it stays in the cache; the tensor of all pairs is never in memory. What changes the
displacement (pooling, stride) ends a stage.

Letters: h, w rows and columns; r, c row and column of p, r', c' of p'; dr = r' - r from 1 - h to h - 1 (0 to h - 1 if
circular); d = (c' - c) mod w, so that a plane holds the columns of the two displacements d and d - w side by side, with
``gap`` columns of zeros behind each; planes are stored in this order, [pair, r, r', d, c]. l activations of a stage.

========= ========================= ==========================================================================
images1   (n1, ch, h, w)            divided by sqrt(ch): K_0(p, p') = <x_p, y_p'>. Empty if k_in is given
images2   (n2, ch, h, w)
k_in      (b, h, h, w, w)           K of every pair at the start of the stage. Empty if images are given
theta_in  (b, h, h, w, w)           Theta, likewise
tables1   (n1, l, 2, h, w)          per activation: variance q = K(p, p) of x before it, and 1 / sqrt(q), 0 where q = 0
tables2   (n2, l, 2, h, w)
pairs     (b, 2) int32              which image of either side
program   (ops, 6) int32            code, kh, kw, rows before, columns before, and activation or slot; see `Code`
constants (ops + 1, 2)              scale and bias, or gain and 2 r / pi; the last row is the boundary's
frame     (up, down, gap, circular) rows of zeros above and below a plane, columns of zeros behind each half
limits    (lo, hi, lo, hi)          signed row and column displacements that the result needs
boundary  7 ints                    kind (see `Boundary`), window kh, kw, stride th, tw, rows and columns before
k_out     see below                 results
theta_out
========= ========================= ==========================================================================

Results: SUM (b, rows, columns, 1, 1): sums over each plane, dr from limits[0] on, d from 0 on. PLANES (b, h, h, w, w):
the planes. POOL, WINDOW (b, h', h', w', w'): mean over windows (of both pixels), or a convolution with stride or
without padding; before the call zero, and the bias. `record` writes the tables of a stage, q being K of an image with
itself at displacement 0.

Angles: with 1 - rho^2 = (q (q' - K) + K (q - K)) / (q q'), equal patches, whose K and q are sums of equal terms in
equal order, have the angle 0 exactly.

Promise: cpu, cuda and reference agree to a few ulp of the largest variance, times the number of layers, where no two
patches are nearly parallel; there the angle has an error of sqrt(eps). The same bits for any number of threads.

References
----------
Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.
Cho, Saul. Kernel methods for deep learning. NIPS 2009. Williams. Computing with infinite networks. NIPS 1996 (erf).
"""

import math

import numpy as np
from numba import get_num_threads, njit

from ._arcsine import arcsine
from ._displacement_cuda import record as _record_cuda
from ._displacement_cuda import walk as _cuda
from ._displacement_reference import Boundary, Code
from ._displacement_reference import record_reference as _record_reference
from ._displacement_reference import walk_reference as _reference
from ._kernel import FASTMATH, Kernel, exact, in_threads, rows_jit, shared

__all__ = ["Boundary", "Code", "record", "walk"]


# --- CPU: planes in a scratch array ---------------------------------------------------------------
#
# Rows of `planes`: K and Theta, their sums over rows, then two for every slot. Rows of `sides`: the channels and tables
# of x, those of y, and the mask. A plane is one run of numbers, rows of w + 2 gap one after the other from `origin` on:
# so every loop is long and reads shifted copies of itself. It overshoots to a multiple of _RUN, so that LLVM's
# unrolled loops leave no scalar rest; what they write behind the plane is cleared. Offsets are unsigned, because a
# signed index may count from the end, which no loop with vectors can.

_RUN = 64
_TASK = 2**14  # entries that a task is worth, for `in_threads`
# Without the wrappers that Python would call them through, which take a fifth of the time to compile.
_OPTIONS = {"error_model": "numpy", "nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_row = njit(fastmath=set(FASTMATH), **_OPTIONS)
_in = njit(fastmath=set(FASTMATH), inline="always", **_OPTIONS)
_reordered = njit(fastmath={*FASTMATH, "reassoc"}, **_OPTIONS)
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
def _erf(k, q1, q2, high, low, units):
    """Return E[phi phi] pi / 2 = arcsin(2 k / sqrt((1 + 2 q1)(1 + 2 q2))), and E[phi' phi'] pi / 4."""
    zero, one, quarter = units
    two = one + one
    root = math.sqrt(one + two * (q1 + q2) + two * two * (q1 * (q2 - k) + k * (q1 - k)))
    g = one / math.sqrt((one + two * q1) * (one + two * q2))
    sine, cosine = two * abs(k) * g, root * g
    near = sine < cosine
    small = sine if near else cosine
    t = small * _polynomial(high, low, small * small, one)
    t = t if near else quarter - t
    return (t if k > zero else -t), one / root


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


@_reordered
def _total(planes, z, start, n, zero):
    total, o = zero, _u(start)
    for i in range(_u(n)):
        total += planes[z, o + i]
    return total


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
def _homogeneous(planes, sides, x, y, a, b, origin, gain, slope, high, low, units, n):
    o, a, b = _u(origin), _u(a), _u(b)
    for i in range(_u(n)):
        k, g = planes[0, o + i], sides[x + 1, a + i] * sides[y + 1, b + i]
        root, kappa_0 = _kappa(k, sides[x, a + i], sides[y, b + i], g, slope, high, low, units)
        planes[0, o + i] = gain * (slope * root + k * kappa_0)
        planes[1, o + i] = gain * (planes[1, o + i] * kappa_0)


@_row
def _three_columns(planes, sides, x, y, mask, a, b, origin, affine, gain, slope, high, low, units, n):
    """`_add_columns` over three columns, `_scale` and `_homogeneous` in one pass."""
    scale, bias = affine
    o, p, q, a, b = _u(origin - 1), _u(origin), _u(origin + 1), _u(a), _u(b)
    for i in range(_u(n)):
        k = _affine(scale, planes[2, o + i] + planes[2, p + i] + planes[2, q + i], bias)
        theta = scale * (planes[3, o + i] + planes[3, p + i] + planes[3, q + i]) + k
        g, factor = sides[x + 1, a + i] * sides[y + 1, b + i], gain * sides[mask, a + i]
        root, kappa_0 = _kappa(k, sides[x, a + i], sides[y, b + i], g, slope, high, low, units)
        planes[0, p + i] = factor * (slope * root + k * kappa_0)
        planes[1, p + i] = factor * (theta * kappa_0)


@_row
def _erf_plane(planes, sides, x, y, a, b, origin, high, low, units, n):
    o, a, b = _u(origin), _u(a), _u(b)
    two_over_pi = units[1] / units[2]
    for i in range(_u(n)):
        t, slope = _erf(planes[0, o + i], sides[x, a + i], sides[y, b + i], high, low, units)
        planes[0, o + i] = two_over_pi * t
        planes[1, o + i] = (two_over_pi + two_over_pi) * slope * planes[1, o + i]


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


@_row
def _record_variance(planes, sides, x, y, start, n):
    """K of an image with itself as the table of both sides."""
    zero, one = planes.dtype.type(0), planes.dtype.type(1)
    for i in range(n):
        q = planes[0, start + i]
        sides[x, i] = q
        sides[y, i] = q
        sides[x + 1, i] = one / math.sqrt(q) if q > zero else zero
        sides[y + 1, i] = sides[x + 1, i]


@_row
def _sums(planes, op, w, rows, origin, width, circular, n):
    """Sums over the rows of the window, with the margins that the columns need."""
    _, kh, kw, top, left, _ = op
    for z in range(2):
        if circular:
            _wrap_rows(planes, z, origin, width, rows, top, kh - 1 - top)
        _add_rows(planes, z, origin, width, kh, top, n)
        if circular:
            _wrap_columns(planes, z + 2, origin, width, rows, w, left, kw - 1 - left)


@_row
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
def _run(planes, sides, program, constants, layout, place, high, low, units, recording):
    """Take the plane through all operations of the stage.

    layout: rows of `sides` per side, channels, w, width, down, circular; place: origin, rows, a, b.
    """
    per_side, channels, w, width, down, circular = layout
    origin, rows, a, b = place
    used, mask = rows * width, 2 * per_side
    n = -(-used // _RUN) * _RUN
    last, fused = len(program) - 1, False
    for j in range(len(program)):
        if fused:  # the activation was done with the convolution before it
            fused = False
            continue
        op = program[j]
        code = op[0]
        if code == 0:
            _sums(planes, op, w, rows, origin, width, circular, n)
            scale, bias = constants[j, 0], constants[j, 1]
            fused = op[2] == 3 and op[4] == 1 and j < last and program[j + 1, 0] == 1 and not recording
            if fused:
                x = channels + 2 * program[j + 1, 5]
                gain, slope = constants[j + 1, 0], constants[j + 1, 1]
                _three_columns(
                    planes, sides, x, per_side + x, mask, a, b, origin, (scale, bias), gain, slope, high, low, units, n
                )
            else:
                _add_columns(planes, 0, origin, op[2], op[4], n)
                _add_columns(planes, 1, origin, op[2], op[4], n)
                _scale(planes, sides, mask, a, origin, scale, bias, n)
        elif code <= 2:
            x = channels + 2 * op[5]
            y = per_side + x
            if recording:
                _record_variance(planes, sides, x, y, origin, used)
            if code == 1:
                gain, slope = constants[j, 0], constants[j, 1]
                _homogeneous(planes, sides, x, y, a, b, origin, gain, slope, high, low, units, n)
            else:
                _erf_plane(planes, sides, x, y, a, b, origin, high, low, units, n)
        else:
            _use_slot(planes, code, 4 + 2 * op[5], origin, used + down * width)
        for z in range(2):
            _clear(planes, z, origin + used, n - used + down * width)


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


# --- CPU: what becomes of a plane -----------------------------------------------------------------
#
# Results are indexed by signed displacements. A plane holds those of d and d - w side by side; of rows, dr and dr - h
# if it is circular, and dr alone otherwise.


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
def _pool_columns(planes, source, start, w, d, gap, wanted, limits, boundary, scale, out):
    """Add one row's window sums to out[d', c'], for d' from wanted[0] to wanted[1] - 1."""
    kw, tw, left, places = boundary[2], boundary[4], boundary[6], len(out)
    for second in range(2):
        displacement, lo, hi = _half(w, d, second == 1, True)
        begin, end = _reached(displacement, limits[2], limits[3], kw, tw)
        for target in range(begin, end):
            index, step = target % places, displacement - tw * target
            if not wanted[0] <= index < wanted[1]:
                continue
            for c in range(max(0, -target), min(places, places - target)):
                total = out[index, c]
                for v in range(max(0, -step), min(kw, kw - step)):
                    column = tw * c + v - left
                    if lo <= column < hi:
                        total += scale * planes[source, start + column + gap * second]
                out[index, c] = total


@_row
def _pool(planes, geometry, wanted, limits, boundary, k_out, theta_out):
    """Add what a plane gives to the means over windows."""
    origin, width, gap, circular, h, w, dr, d = geometry
    _, kh, kw, th, _, top, _ = boundary
    scale, first = planes.dtype.type(1.0 / (kh * kw) ** 2), 0 if circular else max(0, -dr)
    for second in range(2 if circular else 1):
        displacement, lo, hi = _half(h, dr, second == 1, circular)
        begin, end = _reached(displacement, limits[0], limits[1], kh, th)
        for target in range(begin, end):
            step = displacement - th * target
            for r in range(max(0, -target), min(len(k_out), len(k_out) - target)):
                for z in range(2):
                    _clear(planes, z + 2, origin, width)
                    for u in range(max(0, -step), min(kh, kh - step)):
                        row = th * r + u - top
                        if lo <= row < hi:
                            _add_row(planes, z, origin + (row - first) * width, z + 2, origin, width)
                _pool_columns(planes, 2, origin, w, d, gap, wanted, limits, boundary, scale, k_out[r, r + target])
                _pool_columns(planes, 3, origin, w, d, gap, wanted, limits, boundary, scale, theta_out[r, r + target])


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
def _window_sum(planes, z, geometry, rows, columns, boundary, r, c):
    """Sum over the taps of a window at one place, of row z of `planes`."""
    origin, width, _, circular, h, w, _, _ = geometry
    _, kh, kw, th, tw, top, left = boundary
    row_lo, row_hi, first = rows
    lo, hi, shift = columns
    total = planes[z, origin] * planes.dtype.type(0)
    for u in range(kh):
        row = _tap(h, circular, row_lo, row_hi, th * r + u - top)
        for v in range(kw):
            column = _tap(w, circular, lo, hi, tw * c + v - left)
            if row >= 0 and column >= 0:
                total += planes[z, origin + (row - first) * width + column + shift]
    return total


@_row
def _window(planes, geometry, limits, boundary, scale, bias, k_out, theta_out):
    """A convolution with stride or without padding: one plane of the results per plane."""
    _, _, gap, circular, h, w, dr, d = geometry
    th, tw, places, across = boundary[3], boundary[4], len(k_out), k_out.shape[2]
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
                columns = lo, hi, gap * second
                k = _affine(scale, _window_sum(planes, 0, geometry, rows, columns, boundary, r, c), bias)
                theta = _window_sum(planes, 1, geometry, rows, columns, boundary, r, c)
                k_out[r, other, (target - c) % across, c] = k
                theta_out[r, other, (target - c) % across, c] = scale * theta + k


@_row
def _store(planes, geometry, limits, k_out, theta_out):
    """Copy a plane to the tensor of pairs."""
    origin, width, gap, circular, h, w, dr, d = geometry
    first = 0 if circular else max(0, -dr)
    for r in range(first, h if circular else h - max(0, dr)):
        other, start = (r + dr) % h, origin + (r - first) * width
        for c in range(w):
            column = d - w if c >= w - d else d
            if limits[0] <= other - r <= limits[1] and limits[2] <= column <= limits[3]:
                place = start + c + (gap if c >= w - d else 0)
                k_out[r, other, d, c] = planes[0, place]
                theta_out[r, other, d, c] = planes[1, place]


@_in
def _finish(planes, geometry, used, wanted, limits, boundary, affine, k_out, theta_out):
    origin, dr, d = geometry[0], geometry[6], geometry[7]
    zero, kind = planes.dtype.type(0), boundary[0]
    if kind == 0:
        n = -(-used // _RUN) * _RUN
        k_out[dr - limits[0], d, 0, 0] = _total(planes, 0, origin, n, zero)
        theta_out[dr - limits[0], d, 0, 0] = _total(planes, 1, origin, n, zero)
    elif kind == 1:
        _store(planes, geometry, limits, k_out, theta_out)
    elif kind == 2:
        _pool(planes, geometry, wanted, limits, boundary, k_out, theta_out)
    else:
        _window(planes, geometry, limits, boundary, affine[0], affine[1], k_out, theta_out)


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
def _begin(planes, sides, k_in, theta_in, pair, layout, place, geometry):
    """K and Theta of a plane at the start of the stage."""
    per_side, channels, _, width, down, _ = layout
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


@_in
def _unfold(sides, tables, channels, width):
    """Tables of an image from the rows of its side."""
    for j in range(tables.shape[0]):
        for part in range(2):
            for r in range(tables.shape[2]):
                for c in range(tables.shape[3]):
                    tables[j, part, r, c] = sides[channels + 2 * j + part, r * width + c]


@_in
def _walk_pair(
    images1, images2, k_in, theta_in, tables1, tables2, pair, planes, sides, program, constants, frame, shape,
    wanted, limits, boundary, high, low, units, recording, k_out, theta_out,
):  # fmt: skip
    """All displacements of one pair of images; to record, displacement 0 of an image with itself."""
    channels, h, w = images1.shape
    _, down, _, circular = frame
    width, gap, origin, _ = shape
    per_side = channels + 2 * len(tables1)
    layout = per_side, channels, w, width, down, circular
    affine = constants[len(program), 0], constants[len(program), 1]
    for d in range(w):
        if not _column_wanted(d, w, wanted, limits, boundary, circular):
            continue
        _fold_side(images1, tables1, sides, 0, w, d, 0, gap, width, 1)
        _fold_side(images2, tables2, sides, per_side, w, d, d, gap, width, 2 if circular else 1)
        _write_mask(sides[2 * per_side], w, d, gap, width)
        for dr in range(0 if circular else 1 - h, h):
            if not _row_wanted(dr, h, limits, boundary, circular):
                continue
            first, rows = (0, h) if circular else (max(0, -dr), h - abs(dr))
            place = origin, rows, first * width, (first + dr) * width
            geometry = origin, width, gap, circular, h, w, dr, d
            _begin(planes, sides, k_in, theta_in, pair, layout, place, geometry)
            _run(planes, sides, program, constants, layout, place, high, low, units, recording)
            if recording:
                _unfold(sides, tables1, channels, width)
            else:
                _finish(planes, geometry, rows * width, wanted, limits, boundary, affine, k_out, theta_out)


@rows_jit
def _walk_rows(
    start, stop, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits, boundary,
    sizes, shape, high, low, units, recording, k_out, theta_out,
):  # fmt: skip
    n_chunks, across, rows, n_sides = sizes
    planes = np.zeros((rows, shape[3]), constants.dtype)
    sides = np.zeros((n_sides, shape[3]), constants.dtype)
    for task in range(start, stop):
        pair, chunk = task // n_chunks, task % n_chunks
        i, j = pairs[pair, 0], pairs[pair, 1]
        wanted = across * chunk // n_chunks, across * (chunk + 1) // n_chunks
        _walk_pair(
            images1[i], images2[j], k_in, theta_in, tables1[i], tables2[j], pair, planes, sides, program, constants,
            frame, shape, wanted, limits, boundary, high, low, units, recording, k_out[pair], theta_out[pair],
        )  # fmt: skip


def _cpu(
    images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits, boundary,
    k_out, theta_out,
):  # fmt: skip
    across = k_out.shape[3] if boundary[0] == Boundary.POOL else images1.shape[3]
    n_chunks = max(1, min(across, 4 * get_num_threads() // max(1, len(pairs))))
    _launch(
        len(pairs) * n_chunks, (n_chunks, across), images1, images2, k_in, theta_in, tables1, tables2, pairs, program,
        constants, frame, limits, boundary, False, k_out, theta_out,
    )  # fmt: skip


def _record_cpu(images, k_in, program, constants, frame, tables):
    pairs = np.repeat(np.arange(len(tables), dtype=np.int32)[:, None], 2, axis=1)
    zeros, result = (0, 0, 0, 0), np.zeros((len(tables), 0, 0, 0, 0), constants.dtype)
    _launch(
        len(tables), (1, images.shape[3]), images, images, k_in, k_in, tables, tables, pairs, program,
        constants, frame, zeros, (0, 0, 0, 1, 1, 0, 0), True, result, result,
    )  # fmt: skip


def _launch(
    n_tasks, chunks, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits,
    boundary, recording, k_out, theta_out,
):  # fmt: skip
    """All tasks on all threads. Walking and recording are one function, which takes seconds to compile."""
    h, w = images1.shape[2:]
    slots = program[program[:, 0] >= Code.SAVE, 5]
    rows = 4 + 2 * (int(slots.max()) + 1 if len(slots) else 0)
    sizes = *chunks, rows, 2 * (images1.shape[1] + 2 * tables1.shape[1]) + 1
    units = tuple(constants.dtype.type(unit) for unit in (0, 1, math.pi / 2))
    in_threads(
        _walk_rows, n_tasks, n_tasks * _TASK, images1, images2, k_in, theta_in, tables1, tables2, pairs, program,
        constants, frame, limits, boundary, sizes, _shape(frame, h, w), *arcsine(constants.dtype), units,
        recording, k_out, theta_out,
    )  # fmt: skip


walk = Kernel("displacement.walk", _reference, _cpu, _cuda)
record = Kernel("displacement.record", _record_reference, _record_cpu, _record_cuda)
