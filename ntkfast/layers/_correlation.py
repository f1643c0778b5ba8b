"""Products of an image's patches with a matrix, in chunks that stay in cache.

Letters: n images, (h, w) pixels, places (rows, columns) of a window, taps of the kernel, i and o channels of one of g
groups. An image is (n, h, w, groups i), where `groups` is a multiple of g: k tangents are k times the groups, and meet
the same matrices (g, taps i, o). The result is (n, rows, columns, groups o).
"""

import math
from collections.abc import Iterator

import numpy as np

from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import patches, winograd
from ._geometry import Window

__all__ = [
    "correlate",
    "correlate_linear",
    "make_patches",
    "multiply_groups",
    "sample_chunks",
    "scatter",
    "suits_winograd",
]

# Bytes of patches at a time: a few images' worth in the caches of a CPU; enough to fill a GPU.
_CHUNK_BYTES = {"numpy": 2**23, "cupy": 2**28}
_LEAST_CHANNELS, _LEAST_TILES = 16, 128  # where Winograd's tiles begin to pay


def correlate(x: Array, found: Window, matrices: Array, groups: int, out: Array, bias: Array | None = None) -> None:
    """Patches of x times the matrices, plus a bias (g o,), into `out`.

    A result whose inputs are all 0 is exactly 0, on which the derivatives of activations with a kink depend.
    """
    backend = get_backend(x)
    x = x.reshape(x.shape[0], *found.size, groups, -1)
    g, step, o = matrices.shape
    out = out.reshape(x.shape[0], *found.places, groups * o)
    bytes_per_row = found.places[1] * groups * step * x.itemsize
    for samples, rows in _chunks(x.shape[0], found.places[0], bytes_per_row, backend):
        part = make_patches(x[samples], found.rows(rows.start, rows.stop)).reshape(-1, g, step)
        target = out[samples, rows].reshape(-1, g, o)
        multiply_groups(part, matrices, target)
        if bias is not None:
            target += bias.reshape(g, o)


def correlate_linear(x: Array, found: Window, matrices: Array, groups: int, out: Array) -> None:
    """`correlate` without a bias, for derivatives, where a rounding error in place of a zero does no harm."""
    g, step, o = matrices.shape
    if g == 1 and suits_winograd(found, step // found.taps, o, x.shape[0] * groups):
        _correlate_tiles(x, found, matrices, groups, out)
    else:
        correlate(x, found, matrices, groups, out)


def suits_winograd(found: Window, i: int, o: int, count: int) -> bool:
    """Whether tiles of 2 x 2 results are clearly faster than patches for `count` images with i channels.

    They take memory traffic in place of products: for tiles, which few channels or odd sizes do not pay for, and for
    the transformed weights, which few tiles do not pay for.
    """
    if found.kernel != (3, 3) or found.stride != (1, 1) or found.dilation != (1, 1) or min(i, o) < _LEAST_CHANNELS:
        return False
    tiles = math.prod(-(-places // 2) for places in found.places)
    return count * tiles >= _LEAST_TILES and 4 * 16 * tiles <= 3 * 9 * math.prod(found.places)


def _correlate_tiles(x: Array, found: Window, matrices: Array, groups: int, out: Array) -> None:
    """`correlate` by Winograd's tiles: see kernels/winograd.py."""
    backend = get_backend(x)
    xp, n = backend.xp, x.shape[0]
    x = xp.ascontiguousarray(x).reshape(n, *found.size, -1)
    i, o = x.shape[3] // groups, matrices.shape[2]
    weights = _transformed(matrices.reshape(9, i, o))
    out = out.reshape(n, *found.places, groups * o)
    rows, columns = (-(-places // 2) for places in found.places)
    for samples, part in _chunks(n, rows, 16 * columns * groups * (i + o) * x.itemsize, backend):
        target = out[samples, 2 * part.start : 2 * part.stop]
        tiles = (4, 4, samples.stop - samples.start, part.stop - part.start, columns)
        image, here = _unrolled(x[samples], found.rows(2 * part.start, 2 * part.start + target.shape[1]))
        read, made = xp.empty((*tiles, groups * i), x.dtype), xp.empty((*tiles, groups * o), x.dtype)
        backend.launch(winograd.tiles, image, here.before, read)
        xp.matmul(read.reshape(16, -1, i), weights, out=made.reshape(16, -1, o))
        backend.launch(winograd.results, made, target)


def _transformed(weights: Array) -> Array:
    """G w G^T of weights (9, i, o): (16, i, o)."""
    xp = get_backend(weights).xp
    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    both = xp.asarray(np.kron(g, g).astype(weights.dtype))
    return xp.matmul(both, weights.reshape(9, -1)).reshape(16, *weights.shape[1:])


def multiply_groups(rows: Array, matrices: Array, out: Array) -> None:
    """Products of rows (m, g, i) with the matrices (g, i, o) of their groups, into `out` (m, g, o)."""
    xp = get_backend(rows).xp
    if len(matrices) == 1:
        xp.matmul(rows[:, 0], matrices[0], out=out[:, 0])
    else:
        xp.matmul(rows.transpose(1, 0, 2), matrices, out=out.transpose(1, 0, 2))


def make_patches(x: Array, found: Window) -> Array:
    """Patches of (n, h, w, groups, i): (n, rows, columns, groups, *kernel, i)."""
    backend = get_backend(x)
    x, found = _unrolled(backend.xp.ascontiguousarray(x), found)
    if found.is_pointwise:
        return x
    out = backend.xp.empty((x.shape[0], *found.places, x.shape[3], *found.kernel, x.shape[4]), x.dtype)
    backend.launch(patches.im2col, x, found.stride, found.dilation, found.before, out)
    return out


def scatter(col: Array, found: Window, groups: int, out: Array) -> None:
    """Add patches (n, t, groups taps i) where they overlap, into `out` (n, h, w, groups i)."""
    backend, n = get_backend(col), out.shape[0]
    channels = math.prod(out.shape[1:]) // (math.prod(found.size) * groups)
    col = backend.xp.ascontiguousarray(col).reshape(n, *found.places, groups, *found.kernel, channels)
    out = out.reshape(n, *found.size, groups, channels)
    if not found.is_circular:
        backend.launch(patches.col2im, col, found.stride, found.dilation, found.before, out)
        return
    flat = found.unrolled()
    image = backend.xp.empty((n, *flat.size, groups, channels), out.dtype)
    backend.launch(patches.col2im, col, flat.stride, flat.dilation, flat.before, image)
    out[:] = 0
    for pixels, places in found.blocks():
        out[(slice(None), *pixels)] += image[(slice(None), *places)]


def _unrolled(x: Array, found: Window) -> tuple[Array, Window]:
    """Images (n, h, w, ...) and a window without wrapping, which makes the same patches."""
    if not found.is_circular:
        return x, found
    flat = found.unrolled()
    out = get_backend(x).xp.empty((x.shape[0], *flat.size, *x.shape[3:]), x.dtype)
    for pixels, places in found.blocks():
        out[(slice(None), *places)] = x[(slice(None), *pixels)]
    return out, flat


def sample_chunks(n: int, bytes_per_sample: int, backend: Backend) -> Iterator[slice]:
    """Slices of samples that are worked on together."""
    step = max(1, _CHUNK_BYTES[backend.name] // max(bytes_per_sample, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _chunks(n: int, rows: int, bytes_per_row: int, backend: Backend) -> Iterator[tuple[slice, slice]]:
    """Samples and rows of the output that are made together: many samples, or some rows of one."""
    if bytes_per_row * rows <= _CHUNK_BYTES[backend.name]:
        for samples in sample_chunks(n, bytes_per_row * rows, backend):
            yield samples, slice(0, rows)
        return
    step = max(1, _CHUNK_BYTES[backend.name] // bytes_per_row)
    for i in range(n):
        for start in range(0, rows, step):
            yield slice(i, i + 1), slice(start, min(start + step, rows))
