"""Kernels of convolutional networks on a GPU: a block of threads takes one plane of a pair of images through a stage.

The twins of the functions in `displacement`, where letters and arrays are explained. A plane here has h w pairs of
pixels always: pixel (r, c) of x with ((r + dr) mod h, (c + d) mod w) of y. Without circular padding it holds up to four
signed displacements, dr and dr - h by d and d - w, and windows do not reach over the seams between them.

K and Theta of a plane, their sums over the rows of a window, and the slots lie in shared memory, or in global memory if
they are too large. A thread owns every BLOCK-th pixel: only a convolution, and the end of the stage, read those of
others.

`record` is the same kernel on images paired with themselves, so that it rounds as `walk` does: equal patches have
q = K = q' exactly, and with it the angle 0. No atomics, and sums of a plane in an order of their own: the same bits for
any number of threads.
"""

import itertools
import math

import numpy as np

from . import _kernel
from ._cuda import cuda
from ._displacement_cuda_plane import add_rows, begin, finish, own, slot, stride
from ._displacement_cuda_results import half, pool, store, window
from ._displacement_reference import Boundary, Code
from ._kernel import cuda_jit, shared

__all__ = ["record", "walk"]

_CONV, _SAVE = int(Code.CONV), int(Code.SAVE)  # activations lie between, and what uses a slot from _SAVE on
_SUM, _PLANES, _POOL, _WINDOW = map(int, Boundary)
_SHARED_BYTES = 48 * 1024  # what a block gets on every device without asking
_BLOCKS = 512  # how many work at a time on planes in global memory
_i, _u = np.int32, np.uint32


@shared
def _run(planes, program, constants, tables1, tables2, plane, lane, recording):
    """Take a plane through all operations of the stage; an activation behind a convolution in one pass with it."""
    at, n_ops = 0, len(program)
    while at < n_ops:
        op, affine = program[_u(at)], (constants[_u(at), 0], constants[_u(at), 1])
        code, taps = op[0], (op[2], op[4])
        if code >= _SAVE:
            slot(planes, _i(plane[0] * plane[1]), code, op[5], lane)
            at += 1
            continue
        if code == _CONV:
            cuda.syncthreads()
            add_rows(planes, plane, lane, op[1], op[3])
            cuda.syncthreads()
            at += 1
        activation, layer, scales = _i(0), _i(0), affine
        if at < n_ops and _CONV < program[_u(at), 0] < _SAVE:
            activation, layer = program[_u(at), 0], program[_u(at), 5]
            scales = constants[_u(at), 0], constants[_u(at), 1]
            at += 1
        finish(
            planes, code == _CONV, taps, affine, activation, scales, 2 * layer, tables1, tables2, plane, lane, recording
        )


@shared
def _add_up(planes, first, stop, n, lane):
    """Leave sums over some entries of K and of Theta in the first ones: halves onto halves."""
    left = _i(stop - first)
    while left > 1:
        kept = _i((left + 1) >> 1)
        cuda.syncthreads()
        for i in own(left - kept, lane):
            place, other = np.uint32(first + i), np.uint32(first + i + kept)
            planes[place] += planes[other]
            planes[n + place] += planes[n + other]
        left = kept
    cuda.syncthreads()


@shared
def _sum(planes, plane, lane, limits, out, k_out, theta_out):
    """Sums over the plane of either row displacement."""
    h, w, dr, d, circular = plane
    for second in range(1 if circular else 2):
        displacement, first, stop = (dr, _i(0), h) if circular else half(h, dr, second == 1)
        if first < stop and limits[0] <= displacement <= limits[1]:
            _add_up(planes, _i(first * w), _i(stop * w), np.uint32(h * w), lane)
            if lane[0] == 0:
                entry, place = (displacement - limits[0]) * out[1] + d, np.uint32(first * w)
                k_out[entry] = planes[place]
                theta_out[entry] = planes[np.uint32(h * w) + place]


@shared
def _end(planes, plane, lane, limits, boundary, affine, out, k_out, theta_out):
    kind = boundary[0]
    if kind == _SUM:
        _sum(planes, plane, lane, limits, out, k_out, theta_out)
    elif kind == _PLANES:
        store(planes, plane, lane, limits, out, k_out, theta_out)
    elif kind == _POOL:
        pool(planes, plane, lane, limits, boundary, out, k_out, theta_out)
    else:
        window(planes, plane, lane, limits, boundary, affine, out, k_out, theta_out)


@shared
def _walk_planes(
    planes, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, sizes, circular, recording,
    rows, columns, limits, boundary, k_out, theta_out,
):  # fmt: skip
    """Take planes of displacements in `rows` and `columns` (first, step, number) of all pairs through the stage."""
    n_pairs, h, w = sizes[0], _i(sizes[1]), _i(sizes[2])
    out, lane = (_i(sizes[3]), _i(sizes[4])), stride(cuda.threadIdx.x, cuda.blockDim.x, w)
    n_planes = rows[2] * columns[2]
    for task in range(cuda.blockIdx.x, n_pairs * n_planes, cuda.gridDim.x):
        pair, at = task // n_planes, task % n_planes
        i, j = (pair, pair) if recording else (pairs[pair, 0], pairs[pair, 1])
        dr = _i((rows[0] + at // columns[2] * rows[1]) % h)
        d = _i((columns[0] + at % columns[2] * columns[1]) % w)
        plane = h, w, dr, d, circular
        begin(planes, images1[i], images2[j], k_in, theta_in, pair, plane, lane)
        _run(planes, program, constants, tables1[i], tables2[j], plane, lane, recording)
        cuda.syncthreads()
        if not recording:
            affine = constants[len(program), 0], constants[len(program), 1]
            _end(planes, plane, lane, limits, boundary, affine, out, k_out[pair], theta_out[pair])
            cuda.syncthreads()


@cuda_jit
def _in_shared_memory(
    images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, sizes, circular, recording, rows,
    columns, limits, boundary, k_out, theta_out,
):  # fmt: skip
    _walk_planes(
        cuda.shared.array(0, k_out.dtype), images1, images2, k_in, theta_in, tables1, tables2, pairs, program,
        constants, sizes, circular, recording, rows, columns, limits, boundary, k_out, theta_out,
    )  # fmt: skip


@cuda_jit
def _in_global_memory(
    memory, images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, sizes, circular, recording,
    rows, columns, limits, boundary, k_out, theta_out,
):  # fmt: skip
    _walk_planes(
        memory[cuda.blockIdx.x], images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, sizes,
        circular, recording, rows, columns, limits, boundary, k_out, theta_out,
    )  # fmt: skip


# --- launches -------------------------------------------------------------------------------------


def _displacements(size, lo, hi, kernel, step, kind):
    """First, step and number, modulo `size`, of the displacements that results within the limits are made of."""
    if kind == _POOL:
        lo, hi, step = max(step * lo - kernel + 1, 1 - size), min(step * hi + kernel - 1, size - 1), 1
    elif kind == _WINDOW:
        reach = (size - 1) // step
        lo, hi = max(lo, -reach), min(hi, reach)
    else:
        step = 1
    return lo * step % size, step % size, max(0, min(hi - lo + 1, size // math.gcd(size, step)))


def _classes(displacements, kernel, kind):
    """Cut displacements into classes that are walked one after the other, as planes may not add to one result at once.

    Planes meet in a result of a pooling if their displacements, around the circle, are less than 2 kernel - 1 apart.
    Steps of that many or more keep them apart up to the last whole step; the rest is one by one.
    """
    first, _, n = displacements
    if kind != _POOL or n == 0:
        return [displacements]
    step = min(range(min(2 * kernel - 1, n), n + 1), key=lambda step: step + n % step)
    whole = n - n % step
    return [(first + a, step, n // step) for a in range(step)] + [(first + a, 1, 1) for a in range(whole, n)]


def _n_planes(program):
    """Planes that a block works on: K and Theta, their sums over rows, and two for every slot."""
    if not isinstance(program, np.ndarray):
        program = program.copy_to_host()
    slots = program[program[:, 0] >= _SAVE, 5]
    return 4 + 2 * (int(slots.max()) + 1 if len(slots) else 0)


def _images(array):
    """All images and tables of one side as (n, rows, pixels); the array may be NumPy's or Numba's."""
    return array.reshape(array.shape[0], math.prod(array.shape[1:-2]), math.prod(array.shape[-2:]))


def _rows(array):
    """Numbers per pair as (pairs, numbers)."""
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def _launch(n_blocks, entries, arrays, scalars, k_out, theta_out, stream):
    """Launch so many blocks with planes of so many entries, which lie in shared memory if they fit."""
    dtype, n_bytes = k_out.dtype, entries * k_out.dtype.itemsize
    if n_blocks == 0:
        return
    if n_bytes <= _SHARED_BYTES:
        geometry = min(n_blocks, 2**31 - 1), _kernel.BLOCK, stream, n_bytes
        _in_shared_memory[geometry](*arrays, *scalars, k_out, theta_out)
        return
    shape = min(n_blocks, _BLOCKS), entries
    is_numpy = isinstance(k_out, np.ndarray)  # in the simulator, or where launches are only looked at
    memory = np.empty(shape, dtype) if is_numpy else cuda.device_array(shape, dtype, stream=stream)
    _in_global_memory[shape[0], _kernel.BLOCK, stream](memory, *arrays, *scalars, k_out, theta_out)


def walk(
    images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits, boundary, k_out,
    theta_out, stream=0,
):  # fmt: skip
    """Take all pairs through a stage; see `displacement`."""
    limits, boundary, size = tuple(map(int, limits)), tuple(map(int, boundary)), images1.shape[2:]
    kind, taps, steps = boundary[0], boundary[1:3], boundary[3:5]
    arrays = *map(_images, (images1, images2)), *map(_rows, (k_in, theta_in)), *map(_images, (tables1, tables2))
    arrays += pairs, program, constants
    sizes = len(pairs), *size, k_out.shape[1], k_out.shape[2 if kind == _SUM else 3]
    entries = _n_planes(program) * math.prod(size)
    rows, columns = (
        _classes(_displacements(size[a], *limits[2 * a : 2 * a + 2], taps[a], steps[a], kind), taps[a], kind)
        for a in range(2)
    )
    for some, others in itertools.product(rows, columns):
        scalars = sizes, bool(frame[3]), False, some, others, limits, boundary
        n_blocks = len(pairs) * some[2] * others[2]
        _launch(n_blocks, entries, arrays, scalars, _rows(k_out), _rows(theta_out), stream)


def record(images, k_in, program, constants, frame, tables, stream=0):
    """Fill `tables` with the variance before every activation, and one over its root."""
    n, _, _, h, w = tables.shape
    images, k_in = _images(images), _rows(k_in)  # also in the place of what is not used
    arrays = images, images, k_in, k_in, _images(tables), images, program, program, constants
    scalars = (n, h, w, h, w), bool(frame[3]), True, (0, 1, 1), (0, 1, 1), (0,) * 4, (_SUM, *(0,) * 6)
    _launch(n, _n_planes(program) * h * w, arrays, scalars, k_in, k_in, stream)
