"""Tiles of Winograd's convolution F(2x2, 3x3): 16 products per 4 results, where the plain sum has 36.

    tiles:    out[a, b, i, r, s, c] = (B^T d B)[a, b],  d[e, f] = x[i, 2 r + e - before[0], 2 s + f - before[1], c]
    results:  out[i, 2 r + e, 2 s + f, c] = (A^T m A)[e, f],  m[a, b] = x[a, b, i, r, s, c]

    B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1]    A^T = [1 1 1 0; 0 1 -1 -1]    G = [2 0 0; 1 1 1; 1 -1 1; 0 0 2] / 2

Letters: i one of n images, (r, s) a tile, c channels; x of `tiles` (n, h, w, c), zeros outside of the image, its out
(4, 4, n, rows, columns, c); `results` goes from (4, 4, n, rows, columns, c) to (n, h, w, c), where h is 2 rows or one
less, and so is w. ``before`` is a pair and may be negative. Between the two, every pair (a, b) is a matrix product over
the channels, with the weights (G w G^T)[a, b]. ``out`` is overwritten.

Promise: bitwise on every target and for any cut of the images: first sums along rows, then along columns, in the order
of the formulas; products are with +-1. (The whole convolution differs from the plain sum by rounding: its terms are a
few times larger, and a result that is 0 because all of its inputs are may come out as a rounding error.)

References
----------
Lavin, Gray. Fast algorithms for convolutional neural networks. CVPR 2016.
"""

import numpy as np

from ._cuda import cuda
from ._kernel import Kernel, cuda_jit, grid, in_threads, rows_jit, shared

__all__ = ["results", "tiles"]

_STRIP = 128  # channels that a CPU thread takes at a time, so that its rows stay in the second-level cache


@shared
def _pair(a):
    """The two entries whose sum or difference is entry a of B^T d: (first, second)."""
    if a == 0:
        return 0, 2
    if a == 1:
        return 1, 2
    if a == 2:
        return 2, 1
    return 1, 3


# --- reference ----------------------------------------------------------------------------------


def _tiles_reference(x, before, out):
    """Transformed tiles; x (n, h, w, c), before a pair, out (4, 4, n, rows, columns, c)."""
    _, _, _, rows, columns, _ = out.shape
    d = np.stack([_shifted(x, 1, e - before[0], rows) for e in range(4)])
    d = np.stack([d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]])
    d = np.stack([_shifted(d, 3, f - before[1], columns) for f in range(4)], axis=1)
    out[:] = np.stack([d[:, 0] - d[:, 2], d[:, 1] + d[:, 2], d[:, 2] - d[:, 1], d[:, 1] - d[:, 3]], axis=1)


def _shifted(x, axis, first, size):
    """Entries first, first + 2, ... along an axis, zeros outside."""
    places = first + 2 * np.arange(size)
    inside = (places >= 0) & (places < x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = size
    return np.where(inside.reshape(shape), x.take(places.clip(0, x.shape[axis] - 1), axis), 0)


def _results_reference(x, out):
    """Results of tiles; x (4, 4, n, rows, columns, c), out (n, h, w, c)."""
    m = np.stack([x[0] + x[1] + x[2], x[1] - x[2] - x[3]])
    m = np.stack([m[:, 0] + m[:, 1] + m[:, 2], m[:, 1] - m[:, 2] - m[:, 3]], axis=1)
    for e in range(2):
        for f in range(2):
            part = out[:, e::2, f::2]
            part[:] = m[e, f, :, : part.shape[1], : part.shape[2]]


# --- CPU: a thread owns a row of tiles ------------------------------------------------------------
# Flat arrays with unsigned indices: an index that may wrap would not vectorize.


@shared
def _load_row(x, line, width, channels, first, size, before, row, place, pixels):
    """Copy a strip of channels of one row of an image, between its padding; a negative line is all padding."""
    for z in range(pixels):
        source = z - before
        target = np.uint64(place + z * size)
        if line < 0 or source < 0 or source >= width:
            for c in range(size):
                row[target + np.uint64(c)] = 0
        else:
            start = np.uint64((line * width + source) * channels + first)
            for c in range(size):
                row[target + np.uint64(c)] = x[start + np.uint64(c)]


@shared
def _combine(x, p, q, sign, size, out, place):
    p, q, place = np.uint64(p), np.uint64(q), np.uint64(place)
    for c in range(size):
        t = np.uint64(c)
        out[place + t] = x[p + t] + sign * x[q + t]


@rows_jit
def _tiles_rows(start, stop, x, before, out):
    n, h, w, channels = x.shape
    _, _, _, rows, columns, _ = out.shape
    source, target = x.reshape(-1), out.reshape(-1)
    pixels = 2 * columns + 2
    one = x.dtype.type(1)
    step = n * rows * columns * channels  # from a pair (a, b) to the next
    for line in range(start, stop):
        i, r = line // rows, line % rows
        loaded = np.empty(4 * pixels * _STRIP, x.dtype)
        summed = np.empty(4 * pixels * _STRIP, x.dtype)
        for first in range(0, channels, _STRIP):
            size = min(_STRIP, channels - first)
            stride = pixels * size
            for e in range(4):
                y = 2 * r + e - before[0]
                pixel = i * h + y if 0 <= y < h else -1
                _load_row(source, pixel, w, channels, first, size, before[1], loaded, e * stride, pixels)
            for a in range(4):
                p, q = _pair(a)
                _combine(loaded, p * stride, q * stride, one if a == 1 else -one, stride, summed, a * stride)
            for s in range(columns):
                place = (line * columns + s) * channels + first
                for a in range(4):
                    tile = a * stride + 2 * s * size
                    for b in range(4):
                        p, q = _pair(b)
                        sign = one if b == 1 else -one
                        _combine(
                            summed, tile + p * size, tile + q * size, sign, size, target, place + (4 * a + b) * step
                        )


def _tiles_cpu(x, before, out):
    in_threads(_tiles_rows, out.shape[2] * out.shape[3], out.size, x, before, out)


@shared
def _combine_three(x, start, step, sign, size, out, place):
    p, q, r = np.uint64(start), np.uint64(start + step), np.uint64(start + 2 * step)
    place = np.uint64(place)
    for c in range(size):
        t = np.uint64(c)
        out[place + t] = x[p + t] + sign * x[q + t] + sign * x[r + t]


@rows_jit
def _results_rows(start, stop, x, out):
    n, h, w, channels = out.shape
    _, _, _, rows, columns, _ = x.shape
    source, target = x.reshape(-1), out.reshape(-1)
    one = x.dtype.type(1)
    step = n * rows * columns * channels  # from a pair (a, b) to the next
    for line in range(start, stop):
        i, r = line // rows, line % rows
        summed = np.empty(4 * _STRIP, x.dtype)
        for s in range(columns):
            for first in range(0, channels, _STRIP):
                size = min(_STRIP, channels - first)
                tile = (line * columns + s) * channels + first
                for e in range(min(2, h - 2 * r)):
                    sign = one if e == 0 else -one
                    for b in range(4):
                        _combine_three(source, tile + (4 * e + b) * step, 4 * step, sign, size, summed, b * size)
                    for f in range(min(2, w - 2 * s)):
                        place = ((i * h + 2 * r + e) * w + 2 * s + f) * channels + first
                        _combine_three(summed, f * size, size, one if f == 0 else -one, size, target, place)


def _results_cpu(x, out):
    in_threads(_results_rows, x.shape[2] * x.shape[3], x.size, x, out)


# --- CUDA: a thread per tile and channel, whose 16 numbers stay in registers -----------------------


@shared
def _pixel(x, i, y, z, c):
    if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
        return x[i, y, z, c]
    return x.dtype.type(0)


@shared
def _spread(a, b, c, d):
    """B^T (a, b, c, d)."""
    return a - c, b + c, c - b, b - d


@shared
def _column(x, i, y, z, c):
    """B^T times four pixels below each other."""
    return _spread(
        _pixel(x, i, y, z, c), _pixel(x, i, y + 1, z, c), _pixel(x, i, y + 2, z, c), _pixel(x, i, y + 3, z, c)
    )


@cuda_jit
def _tiles_kernel(x, before_y, before_z, out):
    _, _, n, rows, columns, channels = out.shape
    for entry in range(cuda.grid(1), n * rows * columns * channels, cuda.gridsize(1)):
        c, rest = entry % channels, entry // channels
        s, rest = rest % columns, rest // columns
        r, i = rest % rows, rest // rows
        y, z = 2 * r - before_y, 2 * s - before_z
        d, e = _column(x, i, y, z, c), _column(x, i, y, z + 1, c)
        f, g = _column(x, i, y, z + 2, c), _column(x, i, y, z + 3, c)
        _store_row(_spread(d[0], e[0], f[0], g[0]), out, 0, i, r, s, c)
        _store_row(_spread(d[1], e[1], f[1], g[1]), out, 1, i, r, s, c)
        _store_row(_spread(d[2], e[2], f[2], g[2]), out, 2, i, r, s, c)
        _store_row(_spread(d[3], e[3], f[3], g[3]), out, 3, i, r, s, c)


@shared
def _store_row(row, out, a, i, r, s, c):
    out[a, 0, i, r, s, c] = row[0]
    out[a, 1, i, r, s, c] = row[1]
    out[a, 2, i, r, s, c] = row[2]
    out[a, 3, i, r, s, c] = row[3]


def _tiles_cuda(x, before, out, stream=0):
    _tiles_kernel[(*grid(out.size // 16), stream)](x, *before, out)


@shared
def _gather(a, b, c, d):
    """A^T (a, b, c, d)."""
    return a + b + c, b - c - d


@shared
def _load_column(x, b, i, r, s, c):
    """A^T times column b of a tile."""
    return _gather(x[0, b, i, r, s, c], x[1, b, i, r, s, c], x[2, b, i, r, s, c], x[3, b, i, r, s, c])


@cuda_jit
def _results_kernel(x, out):
    _, h, _, channels = out.shape
    _, _, n, rows, columns, _ = x.shape
    for entry in range(cuda.grid(1), n * rows * columns * channels, cuda.gridsize(1)):
        c, rest = entry % channels, entry // channels
        s, rest = rest % columns, rest // columns
        r, i = rest % rows, rest // rows
        d, e = _load_column(x, 0, i, r, s, c), _load_column(x, 1, i, r, s, c)
        f, g = _load_column(x, 2, i, r, s, c), _load_column(x, 3, i, r, s, c)
        y, z = 2 * r, 2 * s
        _store_pair(_gather(d[0], e[0], f[0], g[0]), out, i, y, z, c)
        if y + 1 < h:
            _store_pair(_gather(d[1], e[1], f[1], g[1]), out, i, y + 1, z, c)


@shared
def _store_pair(pair, out, i, y, z, c):
    out[i, y, z, c] = pair[0]
    if z + 1 < out.shape[2]:
        out[i, y, z + 1, c] = pair[1]


def _results_cuda(x, out, stream=0):
    _results_kernel[(*grid(x.size // 16), stream)](x, out)


tiles = Kernel("winograd.tiles", _tiles_reference, _tiles_cpu, _tiles_cuda)
results = Kernel("winograd.results", _results_reference, _results_cpu, _results_cuda)
