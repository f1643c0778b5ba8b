"""Gradients of the kernels of convolutional networks on a GPU: a block of threads takes all planes of a pair of images.

The twin of `displacement_gradient`, where letters and arrays are explained; planes and pixels as in
`_displacement_cuda`, whose functions take K and Theta forward. Each plane goes forward to its last activation, which
leaves four slopes per pixel and activation in global memory, and back.

A thread owns every BLOCK-th pixel of x, and in each plane the pixels of y opposite to them. The sums over all planes
lie in the results; planes follow each other behind a barrier. So nothing is added to by two threads at a time, always
in one order: no atomics, and the same bits for any number of threads.
"""

import math

import numpy as np

from . import _kernel
from ._cuda import cuda
from ._displacement_cuda import _displacements, _images, _n_planes, _rows
from ._displacement_cuda_plane import (
    _span,
    _total,
    add_rows,
    begin,
    count,
    finish,
    following,
    own,
    slot,
    stride,
    wrapped,
)
from ._displacement_cuda_results import _entry
from ._displacement_reference import Boundary, Code
from ._kernel import cuda_jit, shared

__all__ = ["pull"]

_CONV, _HOMOGENEOUS, _ERF, _SAVE, _SWAP, _ADD = map(int, Code)
_SUM, _PLANES, _POOL, _WINDOW = map(int, Boundary)
_SHARED_BYTES = 48 * 1024  # what a block gets on every device without asking
_BLOCKS = 1024  # how many work at a time, each with its slopes in global memory
_i, _u = np.int32, np.uint32


# --- forward --------------------------------------------------------------------------------------


@shared
def _homogeneous(k, theta, q1, q2, gain, slope, zero, one):
    """K', and kappa, bend and both factors of E."""
    determinant = q1 * (q2 - k) + k * (q1 - k)
    root = math.sqrt(determinant if determinant > zero else zero)
    above = root if root > zero or k != zero else one  # zero patches: the angle pi / 2, the mean of both sides
    kappa_0, half = one - slope * math.atan2(above, k), one / (one + one)
    bend = gain * slope * theta / root if root > zero else zero
    return gain * (slope * root + k * kappa_0), gain * kappa_0, bend, half * gain * slope * root, half * k * bend


@shared
def _erf(k, theta, q1, q2, one, two_over_pi):
    two = one + one
    square = one + two * (q1 + q2) + two * two * (q1 * (q2 - k) + k * (q1 - k))
    root = math.sqrt(square)
    kappa = two * two_over_pi / root
    turn = kappa * theta / square
    value = two_over_pi * math.atan2(two * k, root)
    return value, kappa, two * two * k * turn, -kappa * k, (square + two * two * k * k) * turn


@shared
def _activate(planes, slopes, first, code, scales, layer, tables1, tables2, plane, lane):
    """An activation, and its slopes from `first` on."""
    h, w, dr, d, _ = plane
    n, zero, one, r, c = _i(h * w), planes.dtype.type(0), planes.dtype.type(1), lane[2], lane[3]
    for i in own(n, lane):
        other = _u(wrapped(count(r + dr), h) * w + wrapped(count(c + d), w))
        k, theta, q1, q2 = planes[_u(i)], planes[_u(n + i)], tables1[layer, _u(i)], tables2[layer, other]
        if code == _HOMOGENEOUS:
            k, kappa, bend, by_k, by_theta = _homogeneous(k, theta, q1, q2, scales[0], scales[1], zero, one)
        else:
            k, kappa, bend, by_k, by_theta = _erf(k, theta, q1, q2, one, planes.dtype.type(2 / math.pi))
        planes[_u(i)] = k
        planes[_u(n + i)] = kappa * theta
        slopes[_u(first + i)] = kappa
        slopes[_u(first + n + i)] = bend
        slopes[_u(first + 2 * n + i)] = by_k
        slopes[_u(first + 3 * n + i)] = by_theta
        r, c = following(r, c, lane, w)


@shared
def _run(planes, slopes, program, constants, n_ops, tables1, tables2, plane, lane):
    """Take a plane through the stage up to its last activation."""
    n = _i(plane[0] * plane[1])
    for at in range(n_ops):
        code, number, scales = program[at, 0], program[at, 5], (constants[at, 0], constants[at, 1])
        if code >= _SAVE:
            slot(planes, n, code, number, lane)
        elif code == _CONV:
            taps = program[at, 2], program[at, 4]
            cuda.syncthreads()
            add_rows(planes, plane, lane, program[at, 1], program[at, 3])
            cuda.syncthreads()
            finish(planes, True, taps, scales, _i(0), scales, _i(0), tables1, tables2, plane, lane, False)
        else:
            first = _i(4 * number * n)
            _activate(planes, slopes, first, code, scales, 2 * number, tables1, tables2, plane, lane)


# --- backward -------------------------------------------------------------------------------------


@shared
def _pull_scale(planes, scale, n, lane):
    """From cotangents behind a convolution to those of its sums."""
    for i in own(n, lane):
        theta = scale * planes[_u(n + i)]
        planes[_u(i)] = scale * planes[_u(i)] + theta
        planes[_u(n + i)] = theta


@shared
def _add_columns(planes, plane, lane, kernel, before):
    """Sums of both over the columns of a window, from those over its rows."""
    h, w, _, d, circular = plane
    n, zero, r, c = _i(h * w), planes.dtype.type(0), lane[2], lane[3]
    for i in own(n, lane):
        column, n_taps = _span(c, wrapped(count(c + d), w), w, kernel, before, circular)
        k, theta = _total(planes, count(2 * n + r * w), count(1), n_taps, column, w, n, zero)
        planes[_u(i)] = k
        planes[_u(n + i)] = theta
        r, c = following(r, c, lane, w)


@shared
def _pull_activation(planes, slopes, first, layer, plane, lane, tables1_ct, tables2_ct):
    """Cotangents before an activation; E is added to the variances of both pixels."""
    h, w, dr, d, _ = plane
    n, r, c = _i(h * w), lane[2], lane[3]
    for i in own(n, lane):
        other = _u(wrapped(count(r + dr), h) * w + wrapped(count(c + d), w))
        k, theta, kappa = planes[_u(i)], planes[_u(n + i)], slopes[_u(first + i)]
        both = slopes[_u(first + 2 * n + i)] * k - slopes[_u(first + 3 * n + i)] * theta
        tables1_ct[layer, _u(i)] += both
        tables2_ct[layer, other] += both
        planes[_u(i)] = kappa * k + slopes[_u(first + n + i)] * theta
        planes[_u(n + i)] = kappa * theta
        r, c = following(r, c, lane, w)


@shared
def _pull_slot(planes, n, code, number, lane):
    """The adjoint of ADD fills the slot, that of SAVE empties it."""
    adjoint = _SAVE if code == _ADD else _ADD if code == _SAVE else _SWAP
    slot(planes, n, adjoint, number, lane)


@shared
def _pull_run(planes, slopes, program, constants, plane, lane, tables1_ct, tables2_ct):
    """Take cotangents back through the stage."""
    n = _i(plane[0] * plane[1])
    for step in range(len(program)):
        at = len(program) - 1 - step
        code, number = program[at, 0], program[at, 5]
        if code >= _SAVE:
            _pull_slot(planes, n, code, number, lane)
        elif code == _CONV:
            kh, kw = program[at, 1], program[at, 2]
            _pull_scale(planes, constants[at, 0], n, lane)
            cuda.syncthreads()
            add_rows(planes, plane, lane, kh, _i(kh - 1 - program[at, 3]))
            cuda.syncthreads()
            _add_columns(planes, plane, lane, kw, _i(kw - 1 - program[at, 4]))
        else:
            _pull_activation(planes, slopes, _i(4 * number * n), number, plane, lane, tables1_ct, tables2_ct)


@shared
def _pull_begin(planes, images1, images2, pair, plane, lane, images1_ct, images2_ct, k_in_ct, theta_in_ct):
    """Cotangents at the start of the stage: added to the images, or written to the tensors of all pairs."""
    h, w, dr, d, _ = plane
    n, r, c = _i(h * w), lane[2], lane[3]
    for i in own(n, lane):
        r2, c2 = wrapped(count(r + dr), h), wrapped(count(c + d), w)
        k, other = planes[_u(i)], _u(r2 * w + c2)
        for a in range(len(images1)):
            images1_ct[a, _u(i)] += k * images2[a, other]
            images2_ct[a, other] += k * images1[a, _u(i)]
        if len(images1) == 0:
            entry = np.uint64(((r * h + r2) * w + d) * w + c)
            k_in_ct[pair, entry] = k
            theta_in_ct[pair, entry] = planes[_u(n + i)]
        r, c = following(r, c, lane, w)


# --- cotangents of a plane from those of the results ----------------------------------------------


@shared
def _inside(r, r2, c, c2, limits):
    return limits[0] <= r2 - r <= limits[1] and limits[2] <= c2 - c <= limits[3]


@shared
def _windows(pixel, size, kernel, step, before):
    """First and last + 1 place whose window holds a pixel."""
    first, last = count((pixel + before - kernel + step) // step), count((pixel + before) // step)
    return count(first if first > 0 else 0), count((last if last < size - 1 else size - 1) + 1)


@shared
def _pooled(r, r2, c, c2, limits, boundary, out, k_ct, theta_ct, zero):
    """Sums of the cotangents of all pairs of windows that hold a pair of pixels."""
    _, kh, kw, th, tw, top, left = boundary
    rows, others = _windows(r, out[0], kh, th, top), _windows(r2, out[0], kh, th, top)
    columns, opposite = _windows(c, out[1], kw, tw, left), _windows(c2, out[1], kw, tw, left)
    k, theta = zero, zero
    for row in range(rows[0], rows[1]):
        for row2 in range(others[0], others[1]):
            for column in range(columns[0], columns[1]):
                for column2 in range(opposite[0], opposite[1]):
                    if _inside(row, row2, column, column2, limits):
                        entry = _entry(out, row, row2, column2 - column, column)
                        k += k_ct[entry]
                        theta += theta_ct[entry]
    return k, theta


@shared
def _place(pixel, tap, before, step, size, places, circular):
    """The place whose window reads a pixel with a tap, or -1."""
    first = count(pixel + before - tap)
    if circular:
        first = count(first % size)
    return count(first // step if first >= 0 and first % step == 0 and first < places * step else -1)


@shared
def _windowed(r, r2, c, c2, plane, limits, boundary, out, k_ct, theta_ct, zero):
    """Sums of the cotangents of all results whose windows read a pair of pixels with one tap."""
    h, w, _, _, circular = plane
    _, kh, kw, th, tw, top, left = boundary
    k, theta = zero, zero
    for u in range(kh):
        row, row2 = _place(r, u, top, th, h, out[0], circular), _place(r2, u, top, th, h, out[0], circular)
        if row >= 0 and row2 >= 0:
            for v in range(kw):
                column = _place(c, v, left, tw, w, out[1], circular)
                column2 = _place(c2, v, left, tw, w, out[1], circular)
                if column >= 0 and column2 >= 0 and _inside(row, row2, column, column2, limits):
                    entry = _entry(out, row, row2, column2 - column, column)
                    k += k_ct[entry]
                    theta += theta_ct[entry]
    return k, theta


@shared
def _pull_end(planes, plane, lane, limits, boundary, scale, out, k_ct, theta_ct):
    """Cotangents of a plane behind the last operation."""
    h, w, dr, d, circular = plane
    kind, zero, one = boundary[0], planes.dtype.type(0), planes.dtype.type(1)
    n, r, c = _i(h * w), lane[2], lane[3]
    mean = one / planes.dtype.type(boundary[1] * boundary[2] * boundary[1] * boundary[2])
    for i in own(n, lane):
        r2, c2 = wrapped(count(r + dr), h), wrapped(count(c + d), w)
        k, theta = zero, zero
        if kind == _POOL:
            k, theta = _pooled(r, r2, c, c2, limits, boundary, out, k_ct, theta_ct, zero)
            k, theta = mean * k, mean * theta
        elif kind == _WINDOW:
            k, theta = _windowed(r, r2, c, c2, plane, limits, boundary, out, k_ct, theta_ct, zero)
            k, theta = scale * (k + theta), scale * theta
        elif kind == _SUM:
            if _inside(count(0), dr if circular else count(r2 - r), c, c2, limits):
                k, theta = k_ct[0], theta_ct[0]
        elif _inside(r, r2, c, c2, limits):
            entry = _entry(out, r, r2, c2 - c, c)
            k, theta = k_ct[entry], theta_ct[entry]
        planes[_u(i)] = k
        planes[_u(n + i)] = theta
        r, c = following(r, c, lane, w)


# --- all planes of all pairs ----------------------------------------------------------------------


@shared
def _clear(array, n, lane):
    """Zeros in the rows of an array, pixel by pixel."""
    zero = array.dtype.type(0)
    for a in range(len(array)):
        for i in own(n, lane):
            array[a, _u(i)] = zero


@shared
def _divide(out, tables, program, n, lane):
    """From E to cotangents of variances."""
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for at in range(len(program)):
        code, layer = program[at, 0], program[at, 5]
        if _CONV < code < _SAVE:
            for i in own(n, lane):
                q, both = tables[2 * layer, _u(i)], out[layer, _u(i)]
                divisor = q if code == _HOMOGENEOUS else one + q + q
                out[layer, _u(i)] = both / divisor if divisor > zero else zero


@shared
def _pull_pairs(
    planes, slopes, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, sizes, circular,
    rows, columns, limits, boundary, k_ct, theta_ct, images1_ct, images2_ct, k_in_ct, theta_in_ct, tables1_ct,
    tables2_ct,
):  # fmt: skip
    """All planes of displacements in `rows` and `columns` (first, step, number), pair by pair."""
    n_pairs, h, w, n_ops = sizes[0], _i(sizes[1]), _i(sizes[2]), sizes[5]
    n, out, lane = _i(h * w), (_i(sizes[3]), _i(sizes[4])), stride(cuda.threadIdx.x, cuda.blockDim.x, w)
    scale = constants[len(program), 0]
    for pair in range(cuda.blockIdx.x, n_pairs, cuda.gridDim.x):
        i, j = pairs[pair, 0], pairs[pair, 1]
        _clear(images1_ct[pair], n, lane)
        _clear(images2_ct[pair], n, lane)
        _clear(tables1_ct[pair], n, lane)
        _clear(tables2_ct[pair], n, lane)
        cuda.syncthreads()
        for at in range(rows[2] * columns[2]):
            dr = _i((rows[0] + at // columns[2] * rows[1]) % h)
            d = _i((columns[0] + at % columns[2] * columns[1]) % w)
            plane = h, w, dr, d, circular
            if n_ops > 0:
                begin(planes, images1[i], images2[j], k_in, theta_in, pair, plane, lane)
                _run(planes, slopes, program, constants, n_ops, tables1[i], tables2[j], plane, lane)
            _pull_end(planes, plane, lane, limits, boundary, scale, out, k_ct[pair], theta_ct[pair])
            _pull_run(planes, slopes, program, constants, plane, lane, tables1_ct[pair], tables2_ct[pair])
            _pull_begin(
                planes, images1[i], images2[j], pair, plane, lane, images1_ct[pair], images2_ct[pair], k_in_ct,
                theta_in_ct,
            )  # fmt: skip
            cuda.syncthreads()
        _divide(tables1_ct[pair], tables1[i], program, n, lane)
        _divide(tables2_ct[pair], tables2[j], program, n, lane)


@cuda_jit
def _in_shared_memory(
    memory, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, sizes, circular, rows,
    columns, limits, boundary, k_ct, theta_ct, images1_ct, images2_ct, k_in_ct, theta_in_ct, tables1_ct, tables2_ct,
):  # fmt: skip
    _pull_pairs(
        cuda.shared.array(0, k_ct.dtype), memory[cuda.blockIdx.x], images1, images2, k_in, theta_in, tables1, tables2,
        pairs, program, constants, sizes, circular, rows, columns, limits, boundary, k_ct, theta_ct, images1_ct,
        images2_ct, k_in_ct, theta_in_ct, tables1_ct, tables2_ct,
    )  # fmt: skip


@cuda_jit
def _in_global_memory(
    memory, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, sizes, circular, rows,
    columns, limits, boundary, k_ct, theta_ct, images1_ct, images2_ct, k_in_ct, theta_in_ct, tables1_ct, tables2_ct,
):  # fmt: skip
    own_memory = memory[cuda.blockIdx.x]
    n_slopes = 2 * tables1.shape[1] * tables1.shape[2]
    _pull_pairs(
        own_memory[n_slopes:], own_memory, images1, images2, k_in, theta_in, tables1, tables2, pairs, program,
        constants, sizes, circular, rows, columns, limits, boundary, k_ct, theta_ct, images1_ct, images2_ct, k_in_ct,
        theta_in_ct, tables1_ct, tables2_ct,
    )  # fmt: skip


# --- launch ---------------------------------------------------------------------------------------


def _n_ops(program):
    """Operations up to the last activation."""
    if not isinstance(program, np.ndarray):
        program = program.copy_to_host()
    active = np.flatnonzero((program[:, 0] > _CONV) & (program[:, 0] < _SAVE))
    return int(active[-1]) + 1 if len(active) else 0


def _scratch(shape, like, stream):
    is_numpy = isinstance(like, np.ndarray)  # in the simulator, or where launches are only looked at
    return np.empty(shape, like.dtype) if is_numpy else cuda.device_array(shape, like.dtype, stream=stream)


def pull(
    images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits, boundary, k_ct,
    theta_ct, images1_ct, images2_ct, k_in_ct, theta_in_ct, tables1_ct, tables2_ct, stream=0,
):  # fmt: skip
    """Cotangents of all pairs of a stage; see `displacement_gradient`."""
    limits, boundary, size = tuple(map(int, limits)), tuple(map(int, boundary)), images1.shape[2:]
    n_pairs, kind = len(pairs), boundary[0]
    if n_pairs == 0:
        return
    arrays = *map(_images, (images1, images2)), *map(_rows, (k_in, theta_in)), *map(_images, (tables1, tables2))
    arrays += pairs, program, constants
    results = *map(_images, (images1_ct, images2_ct)), *map(_rows, (k_in_ct, theta_in_ct))
    results += tuple(map(_images, (tables1_ct, tables2_ct)))
    sizes = n_pairs, *size, k_ct.shape[1], k_ct.shape[3], _n_ops(program)
    rows, columns = (
        _displacements(size[a], *limits[2 * a : 2 * a + 2], boundary[1 + a], boundary[3 + a], kind) for a in range(2)
    )
    scalars = sizes, bool(frame[3]), rows, columns, limits, boundary
    entries, n_slopes = _n_planes(program) * math.prod(size), 4 * tables1.shape[1] * math.prod(size)
    n_blocks, n_bytes = min(n_pairs, _BLOCKS), entries * k_ct.dtype.itemsize
    cts = *map(_rows, (k_ct, theta_ct)), *results
    if n_bytes <= _SHARED_BYTES:
        memory = _scratch((n_blocks, max(1, n_slopes)), k_ct, stream)
        _in_shared_memory[n_blocks, _kernel.BLOCK, stream, n_bytes](memory, *arrays, *scalars, *cts)
        return
    memory = _scratch((n_blocks, n_slopes + entries), k_ct, stream)
    _in_global_memory[n_blocks, _kernel.BLOCK, stream](memory, *arrays, *scalars, *cts)
