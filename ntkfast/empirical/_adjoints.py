"""Adjoints of one block of the NTK, with respect to the factors of both sides.

    S = sum over n, m, a, b of C[n, m, a, b] sum_p J1[n, a, p] J2[m, b, p]     a, b: outputs, p: the block's parameters

C is stored as (h, n, r, m, r), which serves all three outputs of the NTK alike: h counts outputs that only meet
themselves (the diagonal), r those that meet all (the full kernel); the trace has h = r = 1, and its outputs join p.

Two orders. A dense layer on vectors keeps the kernel's product form, with Grams of acts and cotangents:

    Theta = s^2 (act1 act2^T) o (delta1 delta2^T),    dS/d delta1 = s^2 (C o act1 act2^T) delta2,    and so on.

All else goes through the directions V[n, a, p] = sum over m, b of C[n, m, a, b] J2[m, b, p], one per sample and output:

    dS/d delta1[n, t, a, o] = s sum_i act1[n, t, i] V[n, a, i, o],
    dS/d act1[n, t, i] = s sum over a, o of delta1[n, t, a, o] V[n, a, i, o].
"""

from typing import NamedTuple

from .._typing import Array
from ..backends import get_backend
from ..layers.factors import JacobianFactors

__all__ = ["Adjoint", "arrange", "block_adjoints"]


class Adjoint(NamedTuple):
    """Adjoints of the factors of one parameter.

    Attributes
    ----------
    delta : array, shape (n, t, k, g o)
    act : array, shape (n, t, g i), or None for a bias
    """

    delta: Array
    act: Array | None


def arrange(ct: Array, output: str, k: int) -> Array:
    """The cotangent of a kernel, shape (h, n, r, m, r)."""
    if output == "trace":
        return ct[None, :, None, :, None] / k
    if output == "diagonal":
        return ct.transpose(2, 0, 1)[:, :, None, :, None]
    return ct.transpose(0, 2, 1, 3)[None]


def block_adjoints(
    f1: JacobianFactors, f2: JacobianFactors, weights: Array, both: bool
) -> tuple[Adjoint, Adjoint | None]:
    """Adjoints of the factors of the first side, and of the second if `both`."""
    if f1.act is not None and f1.positions == f1.groups == 1:
        return _of_grams(f1, f2, weights, both)
    return _of_directions(f1, f2, weights, both)


def _of_grams(f1: JacobianFactors, f2: JacobianFactors, weights: Array, both: bool) -> tuple[Adjoint, Adjoint | None]:
    h, n, r, m, _ = weights.shape
    assert f1.act is not None
    assert f2.act is not None
    act1, act2 = f1.act[0:n].reshape(n, -1), f2.act[0:m].reshape(m, -1)
    rows1, rows2 = _rows(f1.delta[:, 0], h, r), _rows(f2.delta[:, 0], h, r)
    weights = f1.scale * f2.scale * weights
    gated = (weights * (act1 @ act2.T)[None, :, None, :, None]).reshape(h, n * r, m * r)
    pairs = (weights * (rows1 @ rows2.transpose(0, 2, 1)).reshape(h, n, r, m, r)).sum(axis=(0, 2, 4))
    first = Adjoint(_samples(gated @ rows2, n, f1.k)[:, None], (pairs @ act2)[:, None])
    if not both:
        return first, None
    return first, Adjoint(_samples(gated.transpose(0, 2, 1) @ rows1, m, f2.k)[:, None], (pairs.T @ act1)[:, None])


def _of_directions(
    f1: JacobianFactors, f2: JacobianFactors, weights: Array, both: bool
) -> tuple[Adjoint, Adjoint | None]:
    h, n, r, m, _ = weights.shape
    matrix = weights.reshape(h, n * r, m * r)
    v1 = _samples(matrix @ _rows(f2.jacobian(), h, r), n, f1.k)
    first = _direction_adjoint(f1, v1)
    if not both:
        return first, None
    v2 = _samples(matrix.transpose(0, 2, 1) @ _rows(f1.jacobian(), h, r), m, f2.k)
    return first, _direction_adjoint(f2, v2)


def _direction_adjoint(f: JacobianFactors, v: Array) -> Adjoint:
    """Adjoints of the factors in sum over n, a, p of J[n, a, p] V[n, a, p], V of shape (n, k, p)."""
    n, t, k, g = f.n, f.positions, f.k, f.groups
    v = f.scale * v
    if f.act is None:
        xp = get_backend(v).xp
        return Adjoint(xp.zeros((n, t, k, f.out_width), v.dtype) + v.reshape(n, 1, k, -1), None)
    act = f.act[0:n].reshape(n, t, g, -1).transpose(0, 2, 1, 3)  # (n, g, t, i)
    i = act.shape[3]
    v = v.reshape(n, k, i, g, -1).transpose(0, 3, 2, 1, 4).reshape(n, g, i, -1)  # (n, g, i, k o)
    moved = (act @ v).reshape(n, g, t, k, -1).transpose(0, 2, 3, 1, 4).reshape(n, t, k, -1)
    delta = f.delta.reshape(n, t, k, g, -1).transpose(0, 3, 1, 2, 4).reshape(n, g, t, -1)  # (n, g, t, k o)
    pulled = (delta @ v.transpose(0, 1, 3, 2)).transpose(0, 2, 1, 3).reshape(n, t, g * i)
    return Adjoint(moved, pulled)


def _rows(x: Array, h: int, r: int) -> Array:
    """(n, k, ...) as the h matrices whose n r rows `arrange` weighs."""
    x = x.reshape(x.shape[0], x.shape[1], -1)
    return x.transpose(1, 0, 2) if h > 1 else x.reshape(1, x.shape[0] * r, -1)


def _samples(rows: Array, n: int, k: int) -> Array:
    """The inverse of `_rows`, with what follows k as one axis."""
    return rows.transpose(1, 0, 2) if rows.shape[0] > 1 else rows.reshape(n, k, -1)
