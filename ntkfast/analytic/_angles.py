"""Accurate angles between the rows of two matrices."""

from .._typing import Array
from ..backends import get_backend


def unit_rows(x: Array) -> tuple[Array, Array]:
    """Rows divided by their Euclidean norms, and the norms; no overflow, zero rows stay zero."""
    xp = get_backend(x).xp
    top = xp.abs(x).max(axis=1)
    safe = xp.where(top > 0, top, x.dtype.type(1))
    unit = x / safe[:, None]
    length = xp.sqrt((unit * unit).sum(axis=1))
    norms = length * top
    unit /= xp.where(length > 0, length, x.dtype.type(1))[:, None]
    return unit, norms


def angles(u1: Array, u2: Array | None = None) -> Array:
    """Angles between unit rows, (n1, n2), in [0, pi]; exact (chord lengths) for nearly parallel and opposite rows.

    With `u2` None the matrix is symmetric and its diagonal exactly zero.
    """
    xp = get_backend(u1).xp
    other = u1 if u2 is None else u2
    t = xp.arccos(xp.clip(u1 @ other.T, -1, 1))
    threshold = 2e-3 if u1.dtype == xp.float32 else 1e-4
    rows, columns = xp.nonzero(1 - xp.abs(xp.cos(t)) < threshold)
    for start in range(0, rows.size, 4096):
        i, j = rows[start : start + 4096], columns[start : start + 4096]
        a, b = u1[i], other[j]
        near = xp.sqrt(((a - b) ** 2).sum(axis=1))
        far = xp.sqrt(((a + b) ** 2).sum(axis=1))
        t[i, j] = xp.where(near < far, 2 * xp.arcsin(near / 2), xp.pi - 2 * xp.arcsin(far / 2))
    if u2 is None:
        xp.fill_diagonal(t, 0)
    return t
