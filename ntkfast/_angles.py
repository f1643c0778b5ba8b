"""Unit rows, and angles between them that keep their digits where rows nearly coincide or oppose each other."""

import math
from typing import Any

import numpy as np

from ._typing import Array
from .backends import get_backend
from .kernels import arccos, zonal

__all__ = ["angles", "close_threshold", "homogeneous_vjp", "unit_rows"]

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
    backend.launch(zonal.normalize, x, floor, unit, norm)
    return unit, norm


def homogeneous_vjp(unit: Array, norm: Array, ct_unit: Array, radial: Array) -> Array:
    """Gradient with respect to x of ct . (|x| f(x / |x|)).

    Parameters
    ----------
    unit, norm : arrays, shapes (n, d) and (n,)
        Of `unit_rows`.
    ct_unit : array, shape (n, d)
        ct pulled back through f; overwritten.
    radial : array, shape (n,)
        ct . f(x / |x|).

    Returns
    -------
    array, shape (n, d)
        The part of `ct_unit` tangential to the sphere, and `radial` along the row: d(x / |x|) = (I - u u^T) dx / |x|
        and d|x| = u . dx, so that no norm is left. Rows of norm 0 get 0.
    """
    ct_unit += (radial - (unit * ct_unit).sum(axis=1))[:, None] * unit
    ct_unit[norm == 0] = 0
    return ct_unit


def close_threshold(x: Array, slope: float) -> Any:
    """Return the gap 1 - |c| below which a product c of unit rows is not accurate enough.

    An error e of c moves the angle by e / sin t, about e / sqrt(2 gap), and a kernel by `slope` = |dk/dt| / k times
    that. The error of a dot product of nearly parallel unit rows of length d is the random walk of the rounding of
    its growing partial sums, about u sqrt(d / 3), u = eps / 2, plus the rounding of the rows themselves:
    e = eps (1 + sqrt(d) / 4) bounds it amply. So the deviation stays below ACCEPTED where

        gap > (slope e / ACCEPTED)^2 / 2,

    in float32 with d = 784 and slope 1/2 (three layers of relu) 0.005, an angle of 6 degrees; in float64, 0.001. At
    least 8 e, so that coincident rows are always found; at most 0.02, so that data in a narrow cone stay cheap.
    """
    eps = float(np.finfo(str(x.dtype)).eps)
    error = eps * (1.0 + 0.25 * math.sqrt(x.shape[1]))
    wanted = 0.5 * (slope * error / ACCEPTED[str(x.dtype)]) ** 2
    return x.dtype.type(min(max(wanted, 8.0 * error), 0.02))


def angles(u1: Array, u2: Array | None = None, *, slope: float = 1.0) -> Array:
    """Angles between unit rows, accurate also where rows nearly coincide or oppose each other.

    Parameters
    ----------
    u1 : array, shape (n1, d)
        Unit rows, of `unit_rows`.
    u2 : array, shape (n2, d), optional
        None is u1 itself: the result is exactly symmetric, its diagonal exactly 0.
    slope : float
        Relative slope of what will be computed from the angles, for `close_threshold`.

    Returns
    -------
    array, shape (n1, n2)
        In [0, pi]. A zero row has the angle pi / 2 to all others.

    Notes
    -----
    Cost: a matrix product, about 1 ns per entry, and O(d) for every pair that is too close for its product.
    """
    backend = get_backend(u1)
    other = u1 if u2 is None else u2
    out = backend.xp.matmul(u1, other.T)
    backend.launch(arccos.angle, u1, other, close_threshold(u1, slope), 0, 0, int(u2 is None), out)
    return out
