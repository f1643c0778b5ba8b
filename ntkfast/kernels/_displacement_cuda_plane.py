"""One plane on a GPU, pixel by pixel: what the threads of a block do between two barriers.

Called by the kernels of `_displacement_cuda`, where the arrangement is explained. ``planes`` holds, one after the
other, K, Theta, their sums over the rows of a window, and two more planes for every slot, of n = h w pixels each.
``plane`` is (h, w, dr, d, whether windows go around the image); ``lane`` tells a thread its pixels, see `stride`.

Numbers of pixels are cast to 32 bits after every operation: Numba widens them, and a GPU has no 64-bit integers.
Indices are unsigned: a signed one may count from the end, which costs a comparison. Loops over all pixels say `while`,
for a `range` divides to count its steps, of which a thread has few.
"""

import math

import numpy as np

from ._displacement_reference import Code
from ._kernel import shared

__all__ = ["add_rows", "begin", "count", "finish", "following", "own", "slot", "stride", "wrapped"]

count = np.int32
_u = np.uint32
_HOMOGENEOUS, _SWAP, _ADD = int(Code.HOMOGENEOUS), int(Code.SWAP), int(Code.ADD)


# --- the pixels of a thread -----------------------------------------------------------------------


@shared
def stride(thread, threads, width):
    """A thread's first place and their distance, and both in rows and columns of a given width."""
    first, step, width = _u(thread), _u(threads), _u(width)
    row, column = count(first // width), count(first % width)
    return count(thread), count(threads), row, column, count(step // width), count(step % width)


@shared
def own(n, lane):
    """A thread's places among n."""
    return range(lane[0], count(n), lane[1])


@shared
def following(r, c, lane, width):
    """Row and column of a thread's next place."""
    r, c = count(r + lane[4]), count(c + lane[5])
    over = c >= width
    return count(r + 1 if over else r), count(c - width if over else c)


@shared
def wrapped(p, size):
    """A pixel less than `size` behind the end, around the image."""
    return count(p - size if p >= size else p)


# --- windows --------------------------------------------------------------------------------------


@shared
def _span(p, q, size, kernel, before, circular):
    """First pixel that a window around p reads, and how many: those taps that are inside around p and around q."""
    if circular:
        first = count(p - before)
        while first < 0:
            first = count(first + size)
        return first, count(kernel)
    low, high = (p, q) if p < q else (q, p)
    skip = count(before - low if before > low else 0)
    stop = count(size - high + before)
    return count(p + skip - before), count((stop if stop < kernel else kernel) - skip)


@shared
def _total(planes, start, step, n_taps, place, end, n, zero):
    """Sums of K and Theta at start + place, start + place + step, ..., where place begins anew at `end`."""
    k, theta = zero, zero
    for _ in range(n_taps):
        k += planes[_u(start + place)]
        theta += planes[_u(start + n + place)]
        place = wrapped(count(place + step), end)
    return k, theta


@shared
def _three(planes, start, step, p, q, size, circular, n, zero):
    """Sums of K and Theta over the neighbors of pixel p on one axis and itself; `_total` without its loop."""
    low, high = (p, q) if p < q else (q, p)
    place, last = count(start + p * step), count(size - 1)
    k, theta = zero, zero
    if circular or low > 0:
        other = count(place - step if p > 0 else place + last * step)
        k, theta = planes[_u(other)], planes[_u(n + other)]
    k += planes[_u(place)]
    theta += planes[_u(n + place)]
    if circular or high < last:
        other = count(place + step if p < last else start)
        k += planes[_u(other)]
        theta += planes[_u(n + other)]
    return k, theta


@shared
def _along(planes, start, step, p, q, size, kernel, before, circular, n, zero):
    """Sums of K and Theta over a window along one axis, whose first pixel is at `start`."""
    if kernel == 3 and before == 1:
        return _three(planes, start, step, p, q, size, circular, n, zero)
    first, n_taps = _span(p, q, size, kernel, before, circular)
    return _total(planes, start, step, n_taps, count(first * step), count(size * step), n, zero)


@shared
def add_rows(planes, plane, lane, kernel, before):
    """Sums of K and Theta over the rows of a window, behind Theta."""
    h, w, dr, _, circular = plane
    n, zero, r, c = count(h * w), planes.dtype.type(0), lane[2], lane[3]
    i = lane[0]
    while i < n:
        r2 = wrapped(count(r + dr), h)
        k, theta = _along(planes, c, w, r, r2, h, kernel, before, circular, n, zero)
        planes[_u(2 * n + i)] = k
        planes[_u(3 * n + i)] = theta
        i, (r, c) = count(i + lane[1]), following(r, c, lane, w)


# --- operations -----------------------------------------------------------------------------------


@shared
def _homogeneous(k, theta, q1, q2, gain, slope, zero, one):
    determinant = q1 * (q2 - k) + k * (q1 - k)
    root = math.sqrt(determinant if determinant > zero else zero)
    kappa_0 = one - slope * math.atan2(root, k)
    return gain * (slope * root + k * kappa_0), gain * (theta * kappa_0)


@shared
def _erf(k, theta, q1, q2, one, two_over_pi):
    two = one + one
    root = math.sqrt(one + two * (q1 + q2) + two * two * (q1 * (q2 - k) + k * (q1 - k)))
    return two_over_pi * math.atan2(two * k, root), two * two_over_pi * theta / root


@shared
def begin(planes, images1, images2, k_in, theta_in, pair, plane, lane):
    """K and Theta at the start of a stage; images (channels, n), or the tensors of all pairs."""
    h, w, dr, d, _ = plane
    n, zero, r, c = count(h * w), planes.dtype.type(0), lane[2], lane[3]
    i = lane[0]
    while i < n:
        r2, c2 = wrapped(count(r + dr), h), wrapped(count(c + d), w)
        k, theta = zero, zero
        if len(images1):
            other = _u(r2 * w + c2)
            for a in range(len(images1)):
                k += images1[a, _u(i)] * images2[a, other]
        else:
            entry = _u(((r * h + r2) * w + d) * w + c)  # a pair of 2^32 entries would take 32 GB
            k, theta = k_in[pair, entry], theta_in[pair, entry]
        planes[_u(i)] = k
        planes[_u(n + i)] = theta
        i, (r, c) = count(i + lane[1]), following(r, c, lane, w)


@shared
def finish(planes, convolves, window, affine, activation, scales, layer, tables1, tables2, plane, lane, recording):
    """Take K and Theta through the columns of a convolution, an activation, or both.

    Variances are those of the tables, (2 l, n) per image; or `recording` writes them to those of x, which is y.
    """
    h, w, dr, d, circular = plane
    n, zero, one, r, c = count(h * w), planes.dtype.type(0), planes.dtype.type(1), lane[2], lane[3]
    i = lane[0]
    while i < n:
        c2 = wrapped(count(c + d), w)
        k, theta = planes[_u(i)], planes[_u(n + i)]
        if convolves:
            row = count(2 * n + r * w)
            k, theta = _along(planes, row, count(1), c, c2, w, window[0], window[1], circular, n, zero)
            k = affine[0] * k + affine[1]
            theta = affine[0] * theta + k
        if activation > 0:
            q1 = q2 = k
            if recording:
                tables1[_u(layer), _u(i)] = k
                tables1[_u(layer + 1), _u(i)] = one / math.sqrt(k) if k > zero else zero
            else:
                q1, q2 = tables1[_u(layer), _u(i)], tables2[_u(layer), _u(wrapped(count(r + dr), h) * w + c2)]
            if activation == _HOMOGENEOUS:
                k, theta = _homogeneous(k, theta, q1, q2, scales[0], scales[1], zero, one)
            else:
                k, theta = _erf(k, theta, q1, q2, one, planes.dtype.type(2 / math.pi))
        planes[_u(i)] = k
        planes[_u(n + i)] = theta
        i, (r, c) = count(i + lane[1]), following(r, c, lane, w)


@shared
def slot(planes, n, code, number, lane):
    """Save, swap or add K and Theta."""
    for i in own(n, lane):
        for place in range(i, count(i + 2 * n), n):
            other = _u(place + (4 + 2 * number) * n)
            mine, kept = planes[_u(place)], planes[other]
            if code == _ADD:
                planes[_u(place)] = mine + kept
            else:
                planes[other] = mine
            if code == _SWAP:
                planes[_u(place)] = kept
