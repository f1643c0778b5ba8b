"""Patches of images, and their transpose: what turns a convolution into a matrix product.

    im2col:  out[i, r, s, g, a, b, c] = x[i, y, z, g, c]          zero where (y, z) is outside of the image
    col2im:  out[i, y, z, g, c] = sum of col[i, r, s, g, a, b, c]
             y = r stride[0] + a dilation[0] - before[0],   z = s stride[1] + b dilation[1] - before[1]

Letters: i one of n images, (y, z) a pixel, (r, s) a place of the window, (a, b) a tap of the kernel, c channels in
each of g groups that do not meet in a patch: groups of a convolution, or cotangents. x (n, h, w, groups, channels),
out (n, rows, columns, groups, kernel height, kernel width, channels); ``stride``, ``dilation`` and ``before`` are pairs
of integers. ``before``, the rows and columns of padding ahead of the image, may be negative: the windows then begin
within it, which is how a few rows of the result are made at a time. ``out`` is overwritten.

Promise: bitwise on every target and for any cut of the images. im2col copies; col2im gathers: every pixel adds the
taps that reach it one by one in ascending (a, b), without atomics.
"""

import numpy as np

from ._cuda import cuda
from ._kernel import Kernel, cuda_jit, grid, in_threads, rows_jit, shared

__all__ = ["col2im", "im2col"]


# --- reference ----------------------------------------------------------------------------------


def _places(size, taps, stride, dilation, before):
    """Pixel (size, taps) of every tap of every window along one axis."""
    return np.arange(size)[:, None] * stride + np.arange(taps) * dilation - before


def _im2col_reference(x, stride, dilation, before, out):
    """Patches; x (n, h, w, g, c), out (n, rows, columns, g, kernel height, kernel width, c)."""
    _, h, w, _, _ = x.shape
    _, rows, columns, _, kh, kw, _ = out.shape
    y = _places(rows, kh, stride[0], dilation[0], before[0])[:, None, :, None]
    z = _places(columns, kw, stride[1], dilation[1], before[1])[None, :, None, :]
    inside = (y >= 0) & (y < h) & (z >= 0) & (z < w)
    found = x[:, y.clip(0, h - 1), z.clip(0, w - 1)]  # (n, rows, columns, kh, kw, g, c)
    out[:] = np.where(inside[..., None, None], found, 0).transpose(0, 1, 2, 5, 3, 4, 6)


def _col2im_reference(col, stride, dilation, before, out):
    """Transpose of `im2col`; col (n, rows, columns, g, kernel height, kernel width, c), out (n, h, w, g, c)."""
    _, h, w, _, _ = out.shape
    _, rows, columns, _, kh, kw, _ = col.shape
    y = _places(rows, kh, stride[0], dilation[0], before[0])
    z = _places(columns, kw, stride[1], dilation[1], before[1])
    out[:] = 0
    for a in range(kh):
        r = np.flatnonzero((y[:, a] >= 0) & (y[:, a] < h))
        for b in range(kw):
            s = np.flatnonzero((z[:, b] >= 0) & (z[:, b] < w))
            out[:, y[r, a][:, None], z[s, b]] += col[..., a, b, :][:, r[:, None], s]


# --- CPU ----------------------------------------------------------------------------------------
# Flat arrays with unsigned indices: an index that may wrap would not vectorize.


@shared
def _copy(source, start, size, target, place):
    i, j = np.uint64(start), np.uint64(place)
    for t in range(size):
        target[j + np.uint64(t)] = source[i + np.uint64(t)]


@shared
def _clear(size, target, place):
    j = np.uint64(place)
    for t in range(size):
        target[j + np.uint64(t)] = 0


@shared
def _add(source, start, size, target, place):
    i, j = np.uint64(start), np.uint64(place)
    for t in range(size):
        target[j + np.uint64(t)] += source[i + np.uint64(t)]


@shared
def _deal(source, start, size, target, place, step):
    """Copy to every step-th entry."""
    i, j, step = np.uint64(start), np.uint64(place), np.uint64(step)
    for t in range(size):
        target[j + step * np.uint64(t)] = source[i + np.uint64(t)]


@shared
def _collect(source, start, step, size, target, place):
    """Add every step-th entry."""
    i, j, step = np.uint64(start), np.uint64(place), np.uint64(step)
    for t in range(size):
        target[j + np.uint64(t)] += source[i + step * np.uint64(t)]


@shared
def _copy_neighbors(source, line, z, width, taps, channels, target, place):
    """Taps z, z + 1, ... of one row of an image, whose channels lie one after the other, in one run."""
    low = min(max(-z, 0), taps)
    high = max(min(width - z, taps), low)
    _clear(low * channels, target, place)
    if low < high:
        _copy(source, line + (z + low) * channels, (high - low) * channels, target, place + low * channels)
    _clear((taps - high) * channels, target, place + high * channels)


@shared
def _deal_patch(source, i, corner, size, dilation, kernel, groups, target, place):
    """A patch of a depthwise convolution, tap by tap: the long axis is that of the groups."""
    taps = kernel[0] * kernel[1]
    patch = place * groups * taps
    _clear(groups * taps, target, patch)
    for tap in range(taps):
        y = corner[0] + tap // kernel[1] * dilation[0]
        z = corner[1] + tap % kernel[1] * dilation[1]
        if 0 <= y < size[0] and 0 <= z < size[1]:
            _deal(source, ((i * size[0] + y) * size[1] + z) * groups, groups, target, patch + tap, taps)


@rows_jit
def _im2col_rows(start, stop, x, stride, dilation, before, out):
    _, h, w, groups, channels = x.shape
    _, rows, columns, _, kh, kw, _ = out.shape
    source, target = x.reshape(-1), out.reshape(-1)
    in_one_run = groups == 1 and dilation[1] == 1
    for line in range(start, stop):
        i, r = line // rows, line % rows
        for s in range(columns):
            first = s * stride[1] - before[1]
            for g in range(groups):
                for a in range(kh):
                    y = r * stride[0] + a * dilation[0] - before[0]
                    place = (((line * columns + s) * groups + g) * kh + a) * kw * channels
                    pixel = (i * h + y) * w
                    if y < 0 or y >= h:
                        _clear(kw * channels, target, place)
                    elif in_one_run:
                        _copy_neighbors(source, pixel * channels, first, w, kw, channels, target, place)
                    else:
                        for b in range(kw):
                            z = first + b * dilation[1]
                            if 0 <= z < w:
                                entry = ((pixel + z) * groups + g) * channels
                                _copy(source, entry, channels, target, place + b * channels)
                            else:
                                _clear(channels, target, place + b * channels)


@rows_jit
def _im2col_depthwise_rows(start, stop, x, stride, dilation, before, out):
    _, h, w, groups, _ = x.shape
    _, rows, columns, _, kh, kw, _ = out.shape
    source, target = x.reshape(-1), out.reshape(-1)
    for line in range(start, stop):
        i, r = line // rows, line % rows
        for s in range(columns):
            corner = (r * stride[0] - before[0], s * stride[1] - before[1])
            _deal_patch(source, i, corner, (h, w), dilation, (kh, kw), groups, target, line * columns + s)


def _im2col_cpu(x, stride, dilation, before, out):
    is_depthwise = x.shape[4] == 1 and x.shape[3] > 1
    rows = _im2col_depthwise_rows if is_depthwise else _im2col_rows
    in_threads(rows, out.shape[0] * out.shape[1], out.size, x, stride, dilation, before, out)


@shared
def _window_at(pixel, tap, stride, dilation, before, size):
    """The window whose tap is at a pixel, or -1."""
    reach = pixel + before - tap * dilation
    place = reach if stride == 1 else reach // stride
    if reach < 0 or place >= size or place * stride != reach:
        return -1
    return place


@rows_jit
def _col2im_rows(start, stop, col, stride, dilation, before, out):
    _, h, w, groups, channels = out.shape
    _, rows, columns, _, kh, kw, _ = col.shape
    source, target = col.reshape(-1), out.reshape(-1)
    step = kh * kw * channels
    for line in range(start, stop):
        i, y = line // h, line % h
        for z in range(w):
            place = (line * w + z) * groups * channels
            _clear(groups * channels, target, place)
            for a in range(kh):
                r = _window_at(y, a, stride[0], dilation[0], before[0], rows)
                if r < 0:
                    continue
                for b in range(kw):
                    s = _window_at(z, b, stride[1], dilation[1], before[1], columns)
                    if s < 0:
                        continue
                    entry = ((i * rows + r) * columns + s) * groups * step + (a * kw + b) * channels
                    if channels == 1:  # depthwise: the long axis is that of the groups
                        _collect(source, entry, step, groups, target, place)
                        continue
                    for g in range(groups):
                        _add(source, entry + g * step, channels, target, place + g * channels)


def _col2im_cpu(col, stride, dilation, before, out):
    in_threads(_col2im_rows, out.shape[0] * out.shape[1], col.size, col, stride, dilation, before, out)


# --- CUDA -----------------------------------------------------------------------------------------
# Divisions of indices are what a GPU is slow at: a thread of im2col finds its place once and writes all taps of it.
# Neighbouring threads have neighbouring channels.


@cuda_jit
def _im2col_kernel(x, stride_y, stride_z, dilation_y, dilation_z, before_y, before_z, out):
    _, h, w, _, _ = x.shape
    n, rows, columns, groups, kh, kw, channels = out.shape
    for entry in range(cuda.grid(1), n * rows * columns * groups * channels, cuda.gridsize(1)):
        c, rest = entry % channels, entry // channels
        g, rest = rest % groups, rest // groups
        s, rest = rest % columns, rest // columns
        r, i = rest % rows, rest // rows
        y = r * stride_y - before_y
        for a in range(kh):
            z = s * stride_z - before_z
            for b in range(kw):
                value = out.dtype.type(0)
                if 0 <= y < h and 0 <= z < w:
                    value = x[i, y, z, g, c]
                out[i, r, s, g, a, b, c] = value
                z += dilation_z
            y += dilation_y


def _im2col_cuda(x, stride, dilation, before, out, stream=0):
    taps = out.shape[4] * out.shape[5]
    _im2col_kernel[(*grid(out.size // taps), stream)](x, *stride, *dilation, *before, out)


@cuda_jit
def _col2im_kernel(col, stride_y, stride_z, dilation_y, dilation_z, before_y, before_z, out):
    _, rows, columns, _, kh, kw, _ = col.shape
    _, h, w, groups, channels = out.shape
    for entry in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        c, rest = entry % channels, entry // channels
        g, rest = rest % groups, rest // groups
        z, rest = rest % w, rest // w
        y, i = rest % h, rest // h
        total = out.dtype.type(0)
        for a in range(kh):
            r = _window_at(y, a, stride_y, dilation_y, before_y, rows)
            if r < 0:
                continue
            for b in range(kw):
                s = _window_at(z, b, stride_z, dilation_z, before_z, columns)
                if s >= 0:
                    total += col[i, r, s, g, a, b, c]
        out[i, y, z, g, c] = total


def _col2im_cuda(col, stride, dilation, before, out, stream=0):
    _col2im_kernel[(*grid(out.size), stream)](col, *stride, *dilation, *before, out)


im2col = Kernel("patches.im2col", _im2col_reference, _im2col_cpu, _im2col_cuda)
col2im = Kernel("patches.col2im", _col2im_reference, _col2im_cpu, _col2im_cuda)
