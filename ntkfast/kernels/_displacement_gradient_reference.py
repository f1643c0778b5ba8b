"""Plain NumPy definition of displacement_gradient.py: adjoints on the tensor of all pairs of pixels, [b, r, c, r', c'].

Letters and layouts as in displacement.py.
"""

import math
from typing import NamedTuple

import numpy as np

from ._displacement_reference import (
    Boundary,
    Code,
    _activate_reference,
    _as_planes,
    _mean_matrix,
    _natural,
    _reads,
    _start,
    _wanted,
    _window_reference,
)

__all__ = ["pull_reference"]


class _Slopes(NamedTuple):
    """Derivatives of an activation's results (K', Theta'); `by_variances` without the divisors of the two sides."""

    kappa: np.ndarray  # K' by K, and Theta' by Theta
    bend: np.ndarray  # Theta' by K
    k_by_variances: np.ndarray
    theta_by_variances: np.ndarray
    divisors: tuple[np.ndarray, np.ndarray]


def _slopes(code, k, theta, q1, q2, constants):
    q1, q2 = q1[:, :, :, None, None], q2[:, None, None]
    if code == Code.ERF:
        root = np.sqrt(1 + 2 * (q1 + q2) + 4 * (q1 * (q2 - k) + k * (q1 - k)))
        kappa = 4 / math.pi / root
        turn = kappa * theta / root**2
        return _Slopes(kappa, 4 * k * turn, -kappa * k, -(root**2 + 4 * k * k) * turn, (1 + 2 * q1, 1 + 2 * q2))
    gain, slope = constants
    root = np.sqrt(np.maximum(q1 * (q2 - k) + k * (q1 - k), 0))
    angle = np.where((root > 0) | (k != 0), np.arctan2(root, k), math.pi / 2)  # of zero patches: the mean of both sides
    kappa = gain * (1 - slope * angle)
    bend = np.where(root > 0, gain * slope * theta / np.where(root > 0, root, 1), 0)
    divisors = tuple(np.where(q > 0, q, np.inf) for q in (q1, q2))
    return _Slopes(kappa, bend, gain * slope * root / 2, -bend * k / 2, divisors)


def _forward(k, theta, tables, program, constants, circular):
    """Take the tensors through the stage; return them, and the slopes of every activation."""
    slots, found = {}, []
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
            found.append(_slopes(code, k, theta, *tables[slot], constant))
            k, theta = _activate_reference(code, k, theta, *tables[slot], constant)
    return found


def _backward(k, theta, found, program, constants, circular, tables1_ct, tables2_ct):
    """Adjoints of K and Theta at the start of the stage."""
    slots = {}
    for op, constant in reversed(list(zip(program, constants, strict=False))):
        code, slot = int(op[0]), int(op[5])
        if code == Code.CONV:
            k = constant[0] * _window_adjoint(k + theta, op, k.shape[1:3], circular)
            theta = constant[0] * _window_adjoint(theta, op, k.shape[1:3], circular)
        elif code == Code.SAVE:
            k, theta = k + slots[slot][0], theta + slots[slot][1]
        elif code == Code.SWAP:
            (k, theta), slots[slot] = slots[slot], (k, theta)
        elif code == Code.ADD:
            slots[slot] = k, theta
        else:
            slopes = found[slot]
            both = slopes.k_by_variances * k + slopes.theta_by_variances * theta
            tables1_ct[:, slot] = (both / slopes.divisors[0]).sum(axis=(3, 4))
            tables2_ct[:, slot] = (both / slopes.divisors[1]).sum(axis=(1, 2))
            k, theta = slopes.kappa * k + slopes.bend * theta, slopes.kappa * theta
    return k, theta


def _window_adjoint(ct, op, size, circular, stride=(1, 1)):
    """Adjoint of `_window_reference`, for images of `size`."""
    _, kh, kw, top, left = (int(v) for v in op[:5])
    places, out = ct.shape[1:3], 0.0
    for s in range(kh):
        rows = _tap_matrix(places[0], stride[0], s - top, size[0], circular, ct.dtype)
        for t in range(kw):
            columns = _tap_matrix(places[1], stride[1], t - left, size[1], circular, ct.dtype)
            out = out + np.einsum("Ii,Jj,bIJKL,Kk,Ll->bijkl", rows, columns, ct, rows, columns, optimize=True)
    return out


def _tap_matrix(places, stride, offset, size, circular, dtype):
    """One where the tap of a window at a place reads a pixel, (places, size)."""
    index, inside = _reads(places, stride, offset, size, circular)
    return ((index[:, None] == np.arange(size)) & inside[:, None]).astype(dtype)


def _finish(k_ct, theta_ct, size, constants, frame, limits, boundary):
    """Adjoints of K and Theta behind the last operation, from those of the results."""
    kind, *window = boundary
    circular = bool(frame[3])
    if kind == Boundary.SUM:
        mask = _summed(size, limits, circular)
        return tuple(ct * mask.astype(ct.dtype) for ct in (k_ct, theta_ct))
    wanted = _wanted(k_ct.shape, limits, boundary)
    k, theta = (_natural(ct * wanted) for ct in (k_ct, theta_ct))
    if kind == Boundary.POOL:
        kh, kw, th, tw, top, left = window
        rows = _mean_matrix(k.shape[1], size[0], kh, th, top, k.dtype)
        columns = _mean_matrix(k.shape[2], size[1], kw, tw, left, k.dtype)
        k, theta = (
            np.einsum("Ii,Jj,bIJKL,Kk,Ll->bijkl", rows, columns, a, rows, columns, optimize=True) for a in (k, theta)
        )
    if kind == Boundary.WINDOW:
        op, scale = (0, *window[:2], *window[4:]), constants[-1, 0]
        k, theta = (scale * _window_adjoint(a, op, size, circular, window[2:4]) for a in (k + theta, theta))
    return k, theta


def _summed(size, limits, circular):
    """Pairs of pixels [r, c, r', c'] whose displacements lie within the limits of a sum."""
    h, w = size
    rows, columns = (np.arange(n) - np.arange(n)[:, None] for n in (h, w))
    rows = rows % h if circular else rows
    inside = (rows >= limits[0]) & (rows <= limits[1])
    within = (columns >= limits[2]) & (columns <= limits[3])
    return inside[:, None, :, None] & within[None, :, None, :]


def pull_reference(
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
    k_ct,
    theta_ct,
    images1_ct,
    images2_ct,
    k_in_ct,
    theta_in_ct,
    tables1_ct,
    tables2_ct,
):
    """Adjoints of a stage; see the docstring of displacement_gradient.py."""
    k, theta = _start(images1, images2, k_in, theta_in, pairs)
    tables = [(tables1[pairs[:, 0], a, 0], tables2[pairs[:, 1], a, 0]) for a in range(tables1.shape[1])]
    circular = bool(frame[3])
    found = _forward(k, theta, tables, program, constants, circular)
    k, theta = _finish(k_ct, theta_ct, images1.shape[2:], constants, frame, limits, boundary)
    k, theta = _backward(k, theta, found, program, constants, circular, tables1_ct, tables2_ct)
    if len(k_in):
        k_in_ct[...], theta_in_ct[...] = _as_planes(k), _as_planes(theta)
        return
    images1_ct[...] = np.einsum("bijkl,bckl->bcij", k, images2[pairs[:, 1]])
    images2_ct[...] = np.einsum("bijkl,bcij->bckl", k, images1[pairs[:, 0]])
