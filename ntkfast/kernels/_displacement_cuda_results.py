"""What becomes of a plane on a GPU: its pairs of pixels in the tensors of results, one thread for every result.

Called by the kernels of `_displacement_cuda`. Results of a pair are (h', h', w', w') in one row of numbers, `out` being
(h', w'); other arguments as in `_displacement_cuda_plane`. Displacements of results are signed, and a plane holds those
of dr and dr - h by d and d - w.
"""

import numpy as np

from ._displacement_cuda_plane import count, following, own, stride, wrapped
from ._kernel import shared

__all__ = ["half", "pool", "store", "window"]

_u = np.uint32


@shared
def half(size, displacement, second):
    """Signed displacement of one half of an axis, and its first and last + 1 pixel of x."""
    rest = count(size - displacement)
    return (count(displacement - size), rest, size) if second else (displacement, count(0), rest)


@shared
def _entry(out, r, r2, d, c):
    """Place of a result; d is signed."""
    d = d if d >= 0 else d + out[1]
    return _u(((r * out[0] + r2) * out[1] + d) * out[1] + c)


@shared
def store(planes, plane, lane, limits, out, k_out, theta_out):
    """Copy a plane to the tensors of all pairs of pixels."""
    h, w, dr, d, _ = plane
    n, r, c = count(h * w), lane[2], lane[3]
    for i in own(n, lane):
        r2, c2 = wrapped(count(r + dr), h), wrapped(count(c + d), w)
        if limits[0] <= r2 - r <= limits[1] and limits[2] <= c2 - c <= limits[3]:
            entry = _entry(out, r, r2, d, c)
            k_out[entry] = planes[_u(i)]
            theta_out[entry] = planes[_u(n + i)]
        r, c = following(r, c, lane, w)


# --- means over windows ---------------------------------------------------------------------------


@shared
def _reached(displacement, lo, hi, size, step):
    """First and last + 1 displacement within the limits of windows that read pairs at `displacement`."""
    first, last = -count((size - 1 - displacement) // step), count((displacement + size - 1) // step)
    return count(first if first > lo else lo), count((last if last < hi else hi) + 1)


@shared
def _taps(pixel, shift, size, lo, hi):
    """First and last + 1 tap u, with u + shift a tap, of a window from `pixel` on, that reads from lo to hi - 1."""
    first, stop = -shift if shift < 0 else 0, size - shift if shift > 0 else size
    return count(first if first > lo - pixel else lo - pixel), count(stop if stop < hi - pixel else hi - pixel)


@shared
def _pool_places(planes, plane, lane, boundary, out, rows, columns, k_out, theta_out):
    """Add some pairs of the plane to the means over windows with one displacement."""
    w, n = plane[1], count(plane[0] * plane[1])
    _, kh, kw, th, tw, top, left = boundary
    (places, across), zero, one = out, planes.dtype.type(0), planes.dtype.type(1)
    scale = one / planes.dtype.type(kh * kw * kh * kw)
    lane = stride(lane[0], lane[1], across)
    r, c = lane[2], lane[3]
    for _ in own(places * across, lane):
        r2, c2 = r + rows[0], c + columns[0]
        if 0 <= r2 < places and 0 <= c2 < across:
            row, column, k, theta = count(th * r - top), count(tw * c - left), zero, zero
            begin, end = _taps(column, columns[1], kw, columns[2], columns[3])
            first, stop = _taps(row, rows[1], kh, rows[2], rows[3])
            for u in range(first, stop):
                start = count((row + u) * w + column)
                for v in range(begin, end):
                    k += planes[_u(start + v)]
                    theta += planes[_u(n + start + v)]
            entry = _entry(out, r, r2, columns[0], c)
            k_out[entry] += scale * k
            theta_out[entry] += scale * theta
        r, c = following(r, c, lane, across)


@shared
def pool(planes, plane, lane, limits, boundary, out, k_out, theta_out):
    """Add what a plane gives to the means over windows."""
    h, w, dr, d, _ = plane
    _, kh, kw, th, tw, _, _ = boundary
    for second_row in range(2 if dr > 0 else 1):
        row_displacement, row_lo, row_hi = half(h, dr, second_row == 1)
        row_begin, row_end = _reached(row_displacement, limits[0], limits[1], kh, th)
        for row_target in range(row_begin, row_end):
            rows = row_target, count(row_displacement - th * row_target), row_lo, row_hi
            for second in range(2 if d > 0 else 1):
                displacement, lo, hi = half(w, d, second == 1)
                begin, end = _reached(displacement, limits[2], limits[3], kw, tw)
                for target in range(begin, end):
                    columns = target, count(displacement - tw * target), lo, hi
                    _pool_places(planes, plane, lane, boundary, out, rows, columns, k_out, theta_out)


# --- convolutions with stride or without padding --------------------------------------------------


@shared
def _tap(pixel, size, lo, hi, circular):
    """The pixel that a tap reads, or -1 for a zero."""
    if circular:
        return count(pixel % size)
    return count(pixel if lo <= pixel < hi else -1)


@shared
def _window_places(planes, plane, lane, limits, boundary, affine, out, rows, columns, k_out, theta_out):
    """Windows at all places with one displacement, or with both modulo the places where they go around the image."""
    h, w, _, _, circular = plane
    _, kh, kw, th, tw, top, left = boundary
    (places, across), zero, n = out, planes.dtype.type(0), count(h * w)
    lane = stride(lane[0], lane[1], across)
    r, c = lane[2], lane[3]
    for _ in own(places * across, lane):
        r2, c2 = count(r + rows[0]), count(c + columns[0])
        if circular:
            r2, c2 = wrapped(r2, places), wrapped(c2, across)
        inside = 0 <= r2 < places and 0 <= c2 < across
        if inside and limits[0] <= r2 - r <= limits[1] and limits[2] <= c2 - c <= limits[3]:
            k, theta = zero, zero
            for u in range(kh):
                row = _tap(count(th * r + u - top), h, rows[1], rows[2], circular)
                for v in range(kw):
                    column = _tap(count(tw * c + v - left), w, columns[1], columns[2], circular)
                    if row >= 0 and column >= 0:
                        k += planes[_u(row * w + column)]
                        theta += planes[_u(n + row * w + column)]
            k = affine[0] * k + affine[1]
            entry = _entry(out, r, r2, columns[0], c)
            k_out[entry] = k
            theta_out[entry] = affine[0] * theta + k
        r, c = following(r, c, lane, across)


@shared
def window(planes, plane, lane, limits, boundary, affine, out, k_out, theta_out):
    """A convolution with stride or without padding: one plane of the results per plane."""
    h, w, dr, d, circular = plane
    th, tw = boundary[3], boundary[4]
    for second_row in range(1 if circular else 2):
        row_displacement, row_lo, row_hi = (dr, count(0), h) if circular else half(h, dr, second_row == 1)
        for second in range(1 if circular else 2):
            displacement, lo, hi = (d, count(0), w) if circular else half(w, d, second == 1)
            if row_displacement % th == 0 and displacement % tw == 0:
                rows, columns = (count(row_displacement // th), row_lo, row_hi), (count(displacement // tw), lo, hi)
                _window_places(planes, plane, lane, limits, boundary, affine, out, rows, columns, k_out, theta_out)
