"""Plain NumPy definitions of displacement.py, on tensors of all pairs of pixels [b, r, c, r', c'].

Letters and layouts as there.
"""

import enum
import math

import numpy as np

__all__ = ["Boundary", "Code", "record_reference", "walk_reference"]


class Code(enum.IntEnum):
    """Operations on a plane."""

    CONV = 0
    HOMOGENEOUS = 1  # phi(z) = p z + q abs(z); constants gain = p^2 + q^2 and 2 r / pi, r = q^2 / gain
    ERF = 2
    SAVE = 3  # the plane into a slot
    SWAP = 4  # plane and slot
    ADD = 5  # the slot to the plane


class Boundary(enum.IntEnum):
    """What becomes of the planes at the end of a stage."""

    SUM = 0
    PLANES = 1
    POOL = 2
    WINDOW = 3


def _natural(planes):
    """From [b, r, r', d, c] to [b, r, c, r', c']."""
    w = planes.shape[-1]
    c = np.arange(w)[:, None]
    return planes[:, :, :, (np.arange(w) - c) % w, c].transpose(0, 1, 3, 2, 4)


def _as_planes(tensor):
    """From [b, r, c, r', c'] to [b, r, r', d, c]."""
    w = tensor.shape[-1]
    d = np.arange(w)[:, None]
    return tensor.transpose(0, 1, 3, 4, 2)[:, :, :, (np.arange(w) + d) % w, np.arange(w)]


def _window_reference(a, op, size, circular, stride=(1, 1)):
    """Sum over taps s of a(t p + s, t p' + s), [b, r, c, r', c'] at `size` places; zeros outside of the image."""
    _, kh, kw, top, left = (int(v) for v in op[:5])
    (h, w), out = a.shape[1:3], 0.0
    for s in range(kh):
        for t in range(kw):
            rows, inside = _reads(size[0], stride[0], s - top, h, circular)
            columns, within = _reads(size[1], stride[1], t - left, w, circular)
            mask = inside[:, None] & within
            part = a[:, rows[:, None], columns][:, :, :, rows[:, None], columns]
            out = out + part * (mask[..., None, None] & mask)
    return out


def _reads(places, stride, offset, size, circular):
    index = np.arange(places) * stride + offset
    inside = np.full(places, circular) | ((index >= 0) & (index < size))
    return index % size, inside


def _activate_reference(code, k, theta, q1, q2, constants):
    q1, q2 = q1[:, :, :, None, None], q2[:, None, None]
    if code == Code.ERF:
        root = np.sqrt(1 + 2 * (q1 + q2) + 4 * (q1 * (q2 - k) + k * (q1 - k)))
        return 2 / math.pi * np.arctan2(2 * k, root), 4 / math.pi * theta / root
    gain, slope = constants
    root = np.sqrt(np.maximum(q1 * (q2 - k) + k * (q1 - k), 0))
    kappa_0 = 1 - slope * np.arctan2(root, k)
    return gain * (slope * root + k * kappa_0), gain * theta * kappa_0


def _run_reference(k, theta, tables, program, constants, circular):
    """The operations of a stage; `tables` are (q1, q2) per activation, or a list to record q in if theta is None."""
    slots = {}
    recording = theta is None
    theta = k * 0 if recording else theta
    for op, constant in zip(program, constants, strict=False):
        code, slot = int(op[0]), int(op[5])
        if code == Code.CONV:
            k = constant[0] * _window_reference(k, op, k.shape[1:3], circular) + constant[1]
            theta = k + constant[0] * _window_reference(theta, op, k.shape[1:3], circular)
        elif code == Code.SAVE:
            slots[slot] = k, theta
        elif code == Code.SWAP:
            (k, theta), slots[slot] = slots[slot], (k, theta)
        elif code == Code.ADD:
            k, theta = k + slots[slot][0], theta + slots[slot][1]
        else:
            if recording:
                tables.append(np.einsum("brcrc->brc", k).copy())
            q1, q2 = (tables[slot],) * 2 if recording else tables[slot]
            k, theta = _activate_reference(code, k, theta, q1, q2, constant)
    return k, theta


def _start(images1, images2, k_in, theta_in, pairs):
    if len(k_in):
        return _natural(k_in), _natural(theta_in)
    k = np.einsum("bcij,bckl->bijkl", images1[pairs[:, 0]], images2[pairs[:, 1]])
    return k, np.zeros_like(k)


def walk_reference(
    images1,
    images2,
    k_in,
    theta_in,
    tables1,
    tables2,
    pairs,
    program,
    constants,
    frame,
    limits,
    boundary,
    k_out,
    theta_out,
):
    """Take all pairs through a stage; see the module's docstring."""
    k, theta = _start(images1, images2, k_in, theta_in, pairs)
    tables = [(tables1[pairs[:, 0], a, 0], tables2[pairs[:, 1], a, 0]) for a in range(tables1.shape[1])]
    k, theta = _run_reference(k, theta, tables, program, constants, bool(frame[3]))
    kind, *window = boundary
    if kind == Boundary.SUM:
        k_out[..., 0, 0], theta_out[..., 0, 0] = (
            _plane_sums(_as_planes(a), frame, limits, k_out.shape) for a in (k, theta)
        )
        return
    if kind == Boundary.POOL:
        k, theta = _pool_reference(k, window, k_out.shape), _pool_reference(theta, window, k_out.shape)
    if kind == Boundary.WINDOW:
        size, op = (k_out.shape[1], k_out.shape[3]), (0, *window[:2], *window[4:])
        stride, circular = window[2:4], bool(frame[3])
        k = constants[-1, 0] * _window_reference(k, op, size, circular, stride) + constants[-1, 1]
        theta = k + constants[-1, 0] * _window_reference(theta, op, size, circular, stride)
    wanted = _wanted(k_out.shape, limits, boundary)
    k_out[...], theta_out[...] = _as_planes(k) * wanted, _as_planes(theta) * wanted


def _plane_sums(planes, frame, limits, shape):
    """Sums over the planes of all displacements within the limits."""
    h = planes.shape[1]
    out = np.zeros(shape[:3], planes.dtype)
    for row in range(shape[1]):
        dr = row + limits[0]
        r = np.arange(h) if frame[3] else np.arange(max(0, -dr), h - max(0, dr))
        out[:, row] = planes[:, r, (r + dr) % h, : shape[2]].sum(axis=(1, 3))
    return out


def _pool_reference(a, window, shape):
    kh, kw, th, tw, top, left = window
    rows = _mean_matrix(shape[1], a.shape[1], kh, th, top, a.dtype)
    columns = _mean_matrix(shape[3], a.shape[2], kw, tw, left, a.dtype)
    return np.einsum("Ii,Jj,bijkl,Kk,Ll->bIJKL", rows, columns, a, rows, columns, optimize=True)


def _mean_matrix(places, size, kernel, stride, before, dtype):
    offset = np.arange(size) - (np.arange(places) * stride - before)[:, None]
    return ((offset >= 0) & (offset < kernel)).astype(dtype) / dtype.type(kernel)


def _wanted(shape, limits, boundary):
    """Mask of the results whose displacements lie within the limits, which are those of the stage's input."""
    (_, h, other, _, w), (row_lo, row_hi, lo, hi) = shape, limits
    rows = np.arange(other) - np.arange(h)[:, None]
    d, c = np.arange(w)[:, None], np.arange(w)
    columns = np.where(c + d < w, d, d - w)
    inside = (columns >= lo) & (columns <= hi)
    return ((rows >= row_lo) & (rows <= row_hi))[:, :, None, None] & inside


def record_reference(images, k_in, program, constants, frame, tables):
    """Fill `tables` with the variance before every activation, and one over its root."""
    index = np.repeat(np.arange(len(images) or len(k_in))[:, None], 2, axis=1)
    k, _ = _start(images, images, k_in, k_in, index)
    found = []
    _run_reference(k, None, found, program, constants, bool(frame[3]))
    for a, q in enumerate(found):
        tables[:, a, 0] = q
        tables[:, a, 1] = np.where(q > 0, 1 / np.sqrt(np.where(q > 0, q, 1)), 0)
