"""Kernels of convolutional networks on a GPU: a block of threads takes one plane of a pair of images through a stage.

The twins of the functions in `displacement`, where letters and arrays are explained. A plane here has h w pairs of
pixels always: pixel (r, c) of x with ((r + dr) mod h, (c + d) mod w) of y. Without circular padding it holds up to four
signed displacements, dr and dr - h by d and d - w, and windows do not reach over the seams between them.

K and Theta of a plane, their sums over the rows of a window, and the slots lie in shared memory, or in global memory if
they are too large. A thread owns every BLOCK-th pixel: only a convolution, and the end of the stage, read those of others.

`record` is the same kernel on images paired with themselves, so that it rounds as `walk` does: equal patches have
q = K = q' exactly, and with it the angle 0. No atomics, and sums of a plane in an order of their own: the same bits for
any number of threads.
"""

import math

import numpy as np

from . import _kernel
from ._cuda import cuda
from ._kernel import cuda_jit, shared

__all__ = ["record", "walk"]

_CONV, _HOMOGENEOUS, _ERF, _SAVE, _SWAP, _ADD = range(6)  # `displacement.Code`
_SUM, _PLANES, _POOL, _WINDOW = range(4)  # `displacement.Boundary`
_START, _PLANE = -1, -2  # where a pass takes K and Theta from, beside _CONV
_SHARED_BYTES = 48 * 1024  # what a block gets on every device without asking
_MEMORY_BLOCKS = 512  # blocks that work at a time on planes in global memory


# --- pixels ---------------------------------------------------------------------------------------


@shared
def _stride(width):
    """A thread's first row and column, and the rows and columns from each of its pixels to the next."""
    first, step = cuda.threadIdx.x, cuda.blockDim.x
    return first // width, first % width, step // width, step % width


@shared
def _next(r, c, stride, width):
    r, c = r + stride[2], c + stride[3]
    return (r + 1, c - width) if c >= width else (r, c)


@shared
def _wrapped(p, size):
    return p - size if p >= size else p


@shared
def _span(p, q, size, kernel, before, circular):
    """First pixel that a window around p reads, and how many: those taps that are inside around p and around q."""
    if circular:
        first = p - before
        while first < 0:
            first += size
        return first, kernel
    low, high = (p, q) if p < q else (q, p)
    skip = before - low if before > low else 0
    stop = size - high + before
    return p + skip - before, (stop if stop < kernel else kernel) - skip


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
def _images(images1, images2, i, j, x, y, zero):
    """K of two pixels."""
    total = zero
    for a in range(images1.shape[1]):
        total += images1[i, a, x[0], x[1]] * images2[j, a, y[0], y[1]]
    return total


@shared
def _columns(planes, r, c, c2, w, n, op, circular, zero):
    """Sums over a window of K and Theta, from those over its rows."""
    column, count = _span(c, c2, w, op[2], op[4], circular)
    k, theta, line = zero, zero, 2 * n + r * w
    for _ in range(count):
        k += planes[line + column]
        theta += planes[line + n + column]
        column = _wrapped(column + 1, w)
    return k, theta


@shared
def _add_rows(planes, geometry, stride, op):
    """Sums of K and Theta over the rows of a window."""
    h, w, dr, _, circular = geometry
    n, zero, kernel, before = h * w, planes.dtype.type(0), op[1], op[3]
    r, c, _, _ = stride
    for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        row, count = _span(r, _wrapped(r + dr, h), h, kernel, before, circular)
        k, theta, place = zero, zero, row * w + c
        for _ in range(count):
            k += planes[place]
            theta += planes[n + place]
            place = _wrapped(place + w, n)
        planes[2 * n + i] = k
        planes[3 * n + i] = theta
        r, c = _next(r, c, stride, w)


@shared
def _slot(planes, n, code, slot):
    """Save, swap or add K and Theta."""
    for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        for place in range(i, i + 2 * n, n):
            other = place + (4 + 2 * slot) * n
            own, kept = planes[place], planes[other]
            if code == _ADD:
                planes[place] = own + kept
            else:
                planes[other] = own
            if code == _SWAP:
                planes[place] = kept


@shared
def _pass(planes, source, op, affine, activation, scales, arrays, where, geometry, stride, recording):
    """Take K and Theta of every pixel from `source`, through an activation if there is one, to the plane."""
    images1, images2, k_in, theta_in, tables1, tables2 = arrays
    pair, i, j = where
    h, w, dr, d, circular = geometry
    n, zero, one = h * w, planes.dtype.type(0), planes.dtype.type(1)
    two_over_pi = planes.dtype.type(2 / math.pi)
    code, layer = activation
    r, c, _, _ = stride
    for place in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        r2, c2 = _wrapped(r + dr, h), _wrapped(c + d, w)
        if source == _CONV:
            k, theta = _columns(planes, r, c, c2, w, n, op, circular, zero)
            k = affine[0] * k + affine[1]
            theta = affine[0] * theta + k
        elif source == _PLANE:
            k, theta = planes[place], planes[n + place]
        elif images1.shape[1] > 0:
            k, theta = _images(images1, images2, i, j, (r, c), (r2, c2), zero), zero
        else:
            k, theta = k_in[pair, r, r2, d, c], theta_in[pair, r, r2, d, c]
        if code > 0:
            if recording:
                tables1[i, layer, 0, r, c] = k
                tables1[i, layer, 1, r, c] = one / math.sqrt(k) if k > zero else zero
            q1, q2 = tables1[i, layer, 0, r, c], tables2[j, layer, 0, r2, c2]
            if code == _HOMOGENEOUS:
                k, theta = _homogeneous(k, theta, q1, q2, scales[0], scales[1], zero, one)
            else:
                k, theta = _erf(k, theta, q1, q2, one, two_over_pi)
        planes[place] = k
        planes[n + place] = theta
        r, c = _next(r, c, stride, w)


@shared
def _run(planes, program, constants, arrays, where, geometry, stride, recording):
    """Take a plane through all operations of the stage."""
    n, n_ops = geometry[0] * geometry[1], len(program)
    source, op, affine, at = _START, program[0], constants[0], 0
    running = True
    while running:
        is_active = at < n_ops and (program[at, 0] == _HOMOGENEOUS or program[at, 0] == _ERF)
        activation = (program[at, 0], program[at, 5]) if is_active else (_CONV, _CONV)
        scales = constants[at]
        _pass(planes, source, op, affine, activation, scales, arrays, where, geometry, stride, recording)
        at += 1 if is_active else 0
        while at < n_ops and program[at, 0] >= _SAVE:
            _slot(planes, n, program[at, 0], program[at, 5])
            at += 1
        running = at < n_ops
        if running:
            source = _PLANE
            if program[at, 0] == _CONV:
                source, op, affine = _CONV, program[at], constants[at]
                cuda.syncthreads()
                _add_rows(planes, geometry, stride, op)
                cuda.syncthreads()
                at += 1


# --- what becomes of a plane ----------------------------------------------------------------------


@shared
def _half(size, displacement, second):
    """Signed displacement of one half of an axis, and its first and last + 1 pixel of x."""
    if second:
        return displacement - size, size - displacement, size
    return displacement, 0, size - displacement


@shared
def _add_up(planes, first, stop, n):
    """Leave sums over some entries of K and of Theta in the first ones: halves onto halves."""
    left = stop - first
    while left > 1:
        half = (left + 1) // 2
        cuda.syncthreads()
        for i in range(first + cuda.threadIdx.x, first + left - half, cuda.blockDim.x):
            planes[i] += planes[i + half]
            planes[n + i] += planes[n + i + half]
        left = half
    cuda.syncthreads()


@shared
def _sum(planes, geometry, limits, k_out, theta_out):
    """Sums over the plane of either row displacement."""
    h, w, dr, d, circular = geometry
    for second in range(1 if circular else 2):
        displacement, first, stop = (dr, 0, h) if circular else _half(h, dr, second == 1)
        if first < stop and limits[0] <= displacement <= limits[1]:
            _add_up(planes, first * w, stop * w, h * w)
            if cuda.threadIdx.x == 0:
                k_out[displacement - limits[0], d, 0, 0] = planes[first * w]
                theta_out[displacement - limits[0], d, 0, 0] = planes[h * w + first * w]


@shared
def _store(planes, geometry, stride, limits, k_out, theta_out):
    h, w, dr, d, _ = geometry
    r, c, _, _ = stride
    for i in range(cuda.threadIdx.x, h * w, cuda.blockDim.x):
        r2, c2 = _wrapped(r + dr, h), _wrapped(c + d, w)
        if limits[0] <= r2 - r <= limits[1] and limits[2] <= c2 - c <= limits[3]:
            k_out[r, r2, d, c] = planes[i]
            theta_out[r, r2, d, c] = planes[h * w + i]
        r, c = _next(r, c, stride, w)


@shared
def _reached(displacement, lo, hi, size, stride):
    """First and last + 1 displacement within the limits of windows that read pairs at `displacement`."""
    first, stop = -((size - 1 - displacement) // stride), (displacement + size - 1) // stride + 1
    return (first if first > lo else lo), (stop if stop <= hi else hi + 1)


@shared
def _taps(pixel, step, size, lo, hi):
    """First and last + 1 tap u of a window whose first pixel is given, with u + step a tap and the pixel in reach."""
    first, stop = -step if step < 0 else 0, size - step if step > 0 else size
    return (first if first > lo - pixel else lo - pixel), (stop if stop < hi - pixel else hi - pixel)


@shared
def _pool_places(planes, geometry, boundary, rows, columns, k_out, theta_out):
    """Add one half's pairs to the means over the windows of one displacement; its own thread for every result."""
    h, w, _, _, _ = geometry
    _, kh, kw, th, tw, top, left = boundary
    row_target, row_step, row_lo, row_hi = rows
    target, step, lo, hi = columns
    places, across, zero = k_out.shape[0], k_out.shape[2], planes.dtype.type(0)
    scale = planes.dtype.type(1) / planes.dtype.type(kh * kw * kh * kw)
    stride = _stride(across)
    r, c, _, _ = stride
    for _ in range(cuda.threadIdx.x, places * across, cuda.blockDim.x):
        if 0 <= r + row_target < places and 0 <= c + target < across:
            row, column, k, theta = th * r - top, tw * c - left, zero, zero
            row_taps, taps = _taps(row, row_step, kh, row_lo, row_hi), _taps(column, step, kw, lo, hi)
            for u in range(row_taps[0], row_taps[1]):
                for v in range(taps[0], taps[1]):
                    place = (row + u) * w + column + v
                    k += planes[place]
                    theta += planes[h * w + place]
            k_out[r, r + row_target, target % across, c] += scale * k
            theta_out[r, r + row_target, target % across, c] += scale * theta
        r, c = _next(r, c, stride, across)


@shared
def _pool(planes, geometry, limits, boundary, k_out, theta_out):
    """Add what a plane gives to the means over windows."""
    h, w, dr, d, _ = geometry
    _, kh, kw, th, tw, _, _ = boundary
    for second_row in range(2 if dr > 0 else 1):
        row_displacement, row_lo, row_hi = _half(h, dr, second_row == 1)
        row_begin, row_end = _reached(row_displacement, limits[0], limits[1], kh, th)
        for row_target in range(row_begin, row_end):
            rows = row_target, row_displacement - th * row_target, row_lo, row_hi
            for second in range(2 if d > 0 else 1):
                displacement, lo, hi = _half(w, d, second == 1)
                begin, end = _reached(displacement, limits[2], limits[3], kw, tw)
                for target in range(begin, end):
                    columns = target, displacement - tw * target, lo, hi
                    _pool_places(planes, geometry, boundary, rows, columns, k_out, theta_out)


@shared
def _window_places(planes, geometry, limits, boundary, affine, rows, columns, k_out, theta_out):
    """A convolution with stride or without padding at the places of one displacement, or one around the image."""
    h, w, _, _, circular = geometry
    _, kh, kw, th, tw, top, left = boundary
    row_target, row_lo, row_hi = rows
    target, lo, hi = columns
    places, across, zero = k_out.shape[0], k_out.shape[2], planes.dtype.type(0)
    stride = _stride(across)
    r, c, _, _ = stride
    for _ in range(cuda.threadIdx.x, places * across, cuda.blockDim.x):
        r2, c2 = r + row_target, c + target
        if circular:
            r2, c2 = r2 % places, c2 % across
        inside = 0 <= r2 < places and 0 <= c2 < across
        if inside and limits[0] <= r2 - r <= limits[1] and limits[2] <= c2 - c <= limits[3]:
            k, theta = zero, zero
            for u in range(kh):
                row = th * r + u - top
                row = row % h if circular else row
                for v in range(kw):
                    column = tw * c + v - left
                    column = column % w if circular else column
                    if row_lo <= row < row_hi and lo <= column < hi:
                        k += planes[row * w + column]
                        theta += planes[h * w + row * w + column]
            k = affine[0] * k + affine[1]
            k_out[r, r2, target % across, c] = k
            theta_out[r, r2, target % across, c] = affine[0] * theta + k
        r, c = _next(r, c, stride, across)


@shared
def _window(planes, geometry, limits, boundary, affine, k_out, theta_out):
    h, w, dr, d, circular = geometry
    th, tw = boundary[3], boundary[4]
    halves = 1 if circular else 2
    for second_row in range(halves):
        row_displacement, row_lo, row_hi = (dr, 0, h) if circular else _half(h, dr, second_row == 1)
        for second in range(halves):
            displacement, lo, hi = (d, 0, w) if circular else _half(w, d, second == 1)
            if row_displacement % th == 0 and displacement % tw == 0:
                rows, columns = (row_displacement // th, row_lo, row_hi), (displacement // tw, lo, hi)
                _window_places(planes, geometry, limits, boundary, affine, rows, columns, k_out, theta_out)


@shared
def _finish(planes, geometry, stride, limits, boundary, affine, k_out, theta_out):
    kind = boundary[0]
    if kind == _SUM:
        _sum(planes, geometry, limits, k_out, theta_out)
    elif kind == _PLANES:
        _store(planes, geometry, stride, limits, k_out, theta_out)
    elif kind == _POOL:
        _pool(planes, geometry, limits, boundary, k_out, theta_out)
    else:
        _window(planes, geometry, limits, boundary, affine, k_out, theta_out)


# --- all planes of all pairs ----------------------------------------------------------------------


@shared
def _walk_planes(
    planes, images1, images2, k_in, theta_in, tables1, tables2, pairs, n_pairs, program, constants, circular, rows,
    columns, limits, boundary, recording, k_out, theta_out,
):  # fmt: skip
    """Take planes of displacements in `rows` and `columns` (first, step, number) of all pairs through the stage."""
    h, w = images1.shape[2], images1.shape[3]
    n_planes = rows[2] * columns[2]
    arrays = images1, images2, k_in, theta_in, tables1, tables1 if recording else tables2
    affine, stride = constants[len(program)], _stride(w)
    for task in range(cuda.blockIdx.x, n_pairs * n_planes, cuda.gridDim.x):
        pair, plane = task // n_planes, task % n_planes
        i, j = (pair, pair) if recording else (pairs[pair, 0], pairs[pair, 1])
        dr = (rows[0] + plane // columns[2] * rows[1]) % h
        d = (columns[0] + plane % columns[2] * columns[1]) % w
        geometry = h, w, dr, d, circular
        _run(planes, program, constants, arrays, (pair, i, j), geometry, stride, recording)
        cuda.syncthreads()
        if not recording:
            _finish(planes, geometry, stride, limits, boundary, affine, k_out[pair], theta_out[pair])
            cuda.syncthreads()


@cuda_jit
def _kernel_in_shared_memory(
    images1, images2, k_in, theta_in, tables1, tables2, pairs, n_pairs, program, constants, circular, rows, columns,
    limits, boundary, recording, k_out, theta_out,
):  # fmt: skip
    _walk_planes(
        cuda.shared.array(0, k_out.dtype), images1, images2, k_in, theta_in, tables1, tables2, pairs, n_pairs, program,
        constants, circular, rows, columns, limits, boundary, recording, k_out, theta_out,
    )  # fmt: skip


@cuda_jit
def _kernel_in_global_memory(
    memory, images1, images2, k_in, theta_in, tables1, tables2, pairs, n_pairs, program, constants, circular, rows,
    columns, limits, boundary, recording, k_out, theta_out,
):  # fmt: skip
    _walk_planes(
        memory[cuda.blockIdx.x], images1, images2, k_in, theta_in, tables1, tables2, pairs, n_pairs, program,
        constants, circular, rows, columns, limits, boundary, recording, k_out, theta_out,
    )  # fmt: skip


# --- launches -------------------------------------------------------------------------------------


def _displacements(size, lo, hi, kernel, stride, kind):
    """First, step and number, modulo `size`, of the displacements that results within the limits are made of."""
    if kind == _POOL:
        lo, hi = max(stride * lo - kernel + 1, 1 - size), min(stride * hi + kernel - 1, size - 1)
    step = stride if kind == _WINDOW else 1
    if kind == _WINDOW:
        reach = (size - 1) // stride
        lo, hi = max(lo, -reach), min(hi, reach)
    period = size // math.gcd(size, step)
    return lo * step % size, step % size, max(0, min(hi - lo + 1, period))


def _classes(displacements, kernel):
    """Cut displacements into classes whose planes share no result of a pooling.

    Planes share results if their displacements, around the circle, are less than 2 kernel - 1 apart. Steps of that many
    or more keep them apart up to the last whole step; the rest is one by one.
    """
    first, _, count = displacements
    if count == 0:
        return []
    step = min(range(min(2 * kernel - 1, count), count + 1), key=lambda step: step + count % step)
    whole = count - count % step
    return [(first + a, step, count // step) for a in range(step)] + [(first + a, 1, 1) for a in range(whole, count)]


def _on_host(program):
    """The operations, which are few; arrays of NumPy come from tests that only look at launches."""
    return program if isinstance(program, np.ndarray) else program.copy_to_host()


def _launch(rows, columns, n_pairs, frame, limits, boundary, recording, arrays, program, constants, results, stream):
    """Launch one class of displacements of all pairs."""
    images, (*sides, pairs) = arrays[0], arrays
    entries = _n_planes(_on_host(program)) * images.shape[2] * images.shape[3]
    n_blocks = n_pairs * rows[2] * columns[2]
    scalars = bool(frame[3]), rows, columns, limits, boundary, recording
    n_bytes = entries * constants.dtype.itemsize
    if n_bytes <= _SHARED_BYTES:
        geometry = max(1, min(n_blocks, 2**31 - 1)), _kernel.BLOCK, stream, n_bytes
        _kernel_in_shared_memory[geometry](*sides, pairs, n_pairs, program, constants, *scalars, *results)
    else:
        blocks = max(1, min(n_blocks, _MEMORY_BLOCKS))
        memory = _empty_like(results[0], (blocks, entries), stream)
        _kernel_in_global_memory[blocks, _kernel.BLOCK, stream](
            memory, *sides, pairs, n_pairs, program, constants, *scalars, *results
        )


def _n_planes(program):
    """Planes that a block works on: K and Theta, their sums over rows, and the slots."""
    slots = program[program[:, 0] >= _SAVE, 5]
    return 4 + 2 * (int(slots.max()) + 1 if len(slots) else 0)


def _empty_like(result, shape, stream):
    if isinstance(result, np.ndarray):
        return np.empty(shape, result.dtype)
    return cuda.device_array(shape, result.dtype, stream=stream)


def walk(
    images1, images2, k_in, theta_in, tables1, tables2, pairs, program, constants, frame, limits, boundary, k_out, theta_out,
    stream=0,
):  # fmt: skip
    """Take all pairs through a stage; see the module's docstring."""
    limits, (kind, *window) = tuple(map(int, limits)), map(int, boundary)
    arrays = images1, images2, k_in, theta_in, tables1, tables2, pairs
    rows, columns = (
        _displacements(images1.shape[2 + a], *limits[2 * a : 2 * a + 2], window[a], window[2 + a], kind) for a in (0, 1)
    )
    is_pool = kind == _POOL
    for some_rows in _classes(rows, window[0]) if is_pool else [rows]:
        for some_columns in _classes(columns, window[1]) if is_pool else [columns]:
            _launch(
                some_rows, some_columns, len(pairs), frame, limits, (kind, *window), False, arrays, program, constants,
                (k_out, theta_out), stream,
            )  # fmt: skip


def record(images, k_in, program, constants, frame, tables, stream=0):
    """Fill `tables` with the variance before every activation, and one over its root."""
    arrays = images, images, k_in, k_in, tables, k_in, program
    _launch(
        (0, 1, 1), (0, 1, 1), len(tables), frame, (0,) * 4, (_SUM, *(0,) * 6), True, arrays, program, constants,
        (k_in, k_in), stream,
    )  # fmt: skip
