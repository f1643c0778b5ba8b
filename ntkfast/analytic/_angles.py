"""Unit rows, and angles between them that keep their digits where rows nearly coincide or oppose each other."""

import math

import numpy as np

from .._typing import Array
from ..backends import get_backend
from ..kernels import zonal as kernel

__all__ = ["angles", "close_threshold", "pair_angles", "unit_rows"]

# What the products may cost: the deviation of a kernel value that is accepted from them.
ACCEPTED = {"float32": 5e-6, "float64": 2e-14}


def unit_rows(x: Array) -> tuple[Array, Array]:
    """Rows divided by their Euclidean norms, and the norms.

    Parameters
    ----------
    x : array, shape (n, d)
        C-contiguous and finite.

    Returns
    -------
    unit : array, shape (n, d)
        A zero row stays zero.
    norm : array, shape (n,)
        Without intermediate overflow or underflow; inf only where the norm itself is beyond the dtype.
    """
    backend = get_backend(x)
    unit, norm = backend.xp.empty_like(x), backend.xp.empty(x.shape[0], x.dtype)
    floor = x.dtype.type(math.sqrt(np.finfo(str(x.dtype)).tiny))
    backend.launch(kernel.normalize, x, floor, unit, norm)
    return unit, norm


def close_threshold(x: Array, slope: float) -> float:
    """Return the gap 1 - |c| below which a product c of unit rows is not accurate enough.

    An error e of c moves the angle by e / sin t, about e / sqrt(2 gap), and a kernel by `slope` = |dk/dt| / k times
    that. The error of a dot product of nearly parallel unit rows of length d is the random walk of the rounding of
    its growing partial sums, about u sqrt(d / 3), u = eps / 2, plus the rounding of the rows themselves:
    e = eps (1 + sqrt(d) / 4) bounds it amply. So the deviation stays below ACCEPTED where

        gap > (slope e / ACCEPTED)^2 / 2,

    in float32 with d = 784 and slope 1/2 (three layers of relu) 0.005, an angle of 6 degrees; in float64, 6e-4. At
    least 8 e, so that coincident rows are always found; at most 0.02, so that data in a narrow cone stay cheap.
    """
    eps = float(np.finfo(str(x.dtype)).eps)
    error = eps * (1.0 + 0.25 * math.sqrt(x.shape[1]))
    wanted = 0.5 * (slope * error / ACCEPTED[str(x.dtype)]) ** 2
    return x.dtype.type(min(max(wanted, 8.0 * error), 0.02))


def pair_angles(u1: Array, u2: Array) -> Array:
    """Angles of the pairs of unit rows (u1[i], u2[i]), shape (n,), from the shorter of the two chords |u1 -+ u2|.

    A pair with a zero row has an angle in [0, pi] without meaning.
    """
    xp = get_backend(u1).xp
    near = 0.5 * xp.sqrt(((u1 - u2) ** 2).sum(axis=1))
    far = 0.5 * xp.sqrt(((u1 + u2) ** 2).sum(axis=1))
    t = 2.0 * xp.arcsin(xp.minimum(xp.minimum(near, far), 1.0))
    return xp.where(near <= far, t, math.pi - t)


def angles(u1: Array, u2: Array | None = None) -> Array:
    """Angles between unit rows, (n1, n2), in [0, pi]; exact (chord lengths) for nearly parallel and opposite rows.

    With `u2` None the matrix is symmetric and its diagonal exactly zero.
    """
    xp = get_backend(u1).xp
    other = u1 if u2 is None else u2
    t = xp.arccos(xp.clip(u1 @ other.T, -1, 1))
    rows, columns = xp.nonzero(1 - xp.abs(xp.cos(t)) < close_threshold(u1, 1.0))
    for start in range(0, rows.size, 4096):
        i, j = rows[start : start + 4096], columns[start : start + 4096]
        t[i, j] = pair_angles(u1[i], other[j])
    if u2 is None:
        xp.fill_diagonal(t, 0)
    return t
