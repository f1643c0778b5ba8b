"""Closed forms of dual kernels; the records are in activations.py.

Every function takes tables of points, of which it reads row 0, the variance. Derivatives were derived by hand from
the dual kernel (Price's theorem: dk/dq12 = kdot, dk/dq1 = E[phi''(u) phi(v)] / 2), and are checked against quadrature
and differences in the tests.
"""

import math
from types import ModuleType
from typing import Any, NamedTuple

from .._typing import Array
from ._dual import Derivatives, Diagonal, Dual

TWO_PI = 2 * math.pi


# Positively homogeneous: k = gain sqrt(q1 q2) kappa_1(t), kdot = gain kappa_0(t).


class Versines(NamedTuple):
    """1 - cos t and 1 + cos t of an angle; both, because either one alone loses the digits of the other."""

    minus: Array
    plus: Array


def fold(xp: ModuleType, angle: Versines) -> tuple[Array, Array, Array]:
    """(near, versine, t): t <= pi / 2 is the angle if `near`, pi minus it otherwise; versine = 1 - cos t."""
    near = angle.minus <= angle.plus
    versine = xp.where(near, angle.minus, angle.plus)
    return near, versine, 2 * xp.arcsin(xp.sqrt(versine / 2))


def homogeneous_layer(xp: ModuleType, angle: Versines, ratio: float) -> tuple[Versines, Array, Array]:
    """1 -+ kappa_1(t), kappa_0(t) and sin t; the formulas of kernels/recursion.py as array expressions."""
    near, versine, t = fold(xp, angle)
    sine = xp.sqrt(versine * (2 - versine))
    excess = (2 * ratio / math.pi) * (sine - t * (1 - versine))
    minus = xp.where(near, versine, 2 - 2 * ratio + (2 * ratio - 1) * versine) - excess
    plus = xp.where(near, 2 - versine, 2 * ratio - (2 * ratio - 1) * versine) + excess
    kappa_0 = xp.where(near, 1 - (2 * ratio / math.pi) * t, 1 - 2 * ratio + (2 * ratio / math.pi) * t)
    return Versines(xp.maximum(minus, 0), xp.maximum(plus, 0)), kappa_0, sine


def _reciprocal(xp: ModuleType, x: Array) -> Array:
    """1 / x, and 0 where x = 0."""
    return xp.where(x > 0, 1 / xp.where(x > 0, x, 1), 0)


def _angle(xp: ModuleType, q1: Array, q2: Array, q12: Array) -> Versines:
    cosine = xp.clip(q12 * _reciprocal(xp, xp.sqrt(q1)) * _reciprocal(xp, xp.sqrt(q2)), -1, 1)
    return Versines(1 - cosine, 1 + cosine)


def homogeneous_dual(xp: ModuleType, p1: Array, p2: Array, q12: Array, *, gain: float, ratio: float) -> Dual:
    """Dual kernel from a covariance; angles near 0 and pi lose half of the digits, unlike in the recursion."""
    q1, q2 = p1[0], p2[0]
    kappa, kappa_0, _ = homogeneous_layer(xp, _angle(xp, q1, q2, q12), ratio)
    return Dual(gain * xp.sqrt(q1) * xp.sqrt(q2) * (1 - kappa.minus), gain * kappa_0)


def homogeneous_derivatives(
    xp: ModuleType, p1: Array, p2: Array, q12: Array, *, gain: float, ratio: float
) -> Derivatives:
    """Derivatives from a covariance; see `derivatives_of_angle`."""
    q1, q2 = p1[0], p2[0]
    return derivatives_of_angle(xp, q1, q2, _angle(xp, q1, q2, q12), gain, ratio)[0]


def derivatives_of_angle(
    xp: ModuleType, q1: Array, q2: Array, angle: Versines, gain: float, ratio: float, blur: Any = 0.0
) -> tuple[Derivatives, Versines]:
    """Derivatives at an angle t, and 1 -+ cos of the angle behind the activation.

    dk/dq1 = gain (r / pi) sin t sqrt(q2 / q1); dkdot/dq12 = c / (sqrt(q1 q2) sin t) and
    dkdot/dq1 = -c cos t / (2 q1 sin t) with c = 2 gain r / pi. kdot has a kink at t = 0 and t = pi, where its
    derivative is set to 0, the mean over the two sides; so it is where q1 or q2 is 0, and where sin t is at most
    `blur`, what rounding makes of a zero.
    """
    kappa, kappa_0, sine = homogeneous_layer(xp, angle, ratio)
    s1, s2 = xp.sqrt(q1), xp.sqrt(q2)
    r1, r2 = _reciprocal(xp, s1), _reciprocal(xp, s2)
    slope = (gain * ratio / math.pi) * sine
    bend = (2 * gain * ratio / math.pi) * _reciprocal(xp, xp.where(sine > blur, sine, 0))
    turn = bend * xp.where(angle.minus <= angle.plus, 1 - angle.minus, angle.plus - 1) / 2
    values = Derivatives(
        gain * s1 * s2 * (1 - kappa.minus),
        gain * kappa_0,
        slope * s2 * r1,
        slope * s1 * r2,
        -turn * r1 * r1 * (s2 > 0),
        -turn * r2 * r2 * (s1 > 0),
        bend * r1 * r2,
    )
    return values, kappa


def homogeneous_diagonal(xp: ModuleType, q: Array, *, gain: float) -> Diagonal:
    """Variance is multiplied by the gain."""
    return Diagonal(gain * q, xp.full_like(q, gain), xp.full_like(q, gain))


# erf, gelu, gaussian: see activations.py for A, B, a, m. Here ia = 1 / A, ib = 1 / B, root = sqrt(1 / (A B)).


class _Ratio(NamedTuple):
    ia: Array
    ib: Array
    root: Array
    a: Array
    m: Array


def _ratio(xp: ModuleType, q1: Array, q2: Array, q12: Array) -> _Ratio:
    ia, ib = 1 / (1 + q1), 1 / (1 + q2)
    ra, rb = xp.sqrt(ia), xp.sqrt(ib)
    a = xp.clip(q12 * ra * rb, -1, 1)  # in this order, since A B may overflow
    m = xp.maximum((1 - a) * (1 + a), ia + (1 - ia) * ib)
    return _Ratio(ia, ib, ra * rb, a, m)


def erf_dual(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Dual:
    """Formula: k = (2 / pi) arcsin a, kdot = (4 / pi) / sqrt(A B m)."""
    _, _, root, a, m = _ratio(xp, 2 * p1[0], 2 * p2[0], 2 * q12)
    return Dual((2 / math.pi) * xp.arcsin(a), (4 / math.pi) * root / xp.sqrt(m))


def erf_derivatives(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Derivatives:
    """Derivatives of `erf_dual`."""
    ia, ib, root, a, m = _ratio(xp, 2 * p1[0], 2 * p2[0], 2 * q12)
    s = xp.sqrt(m)
    kdot = (4 / math.pi) * root / s
    slope, bend = -(2 / math.pi) * a / s, -kdot / m
    return Derivatives(
        (2 / math.pi) * xp.arcsin(a), kdot, slope * ia, slope * ib, bend * ia, bend * ib, 2 * kdot * a * root / m
    )


def erf_diagonal(xp: ModuleType, q: Array) -> Diagonal:
    """Formula: k = (2 / pi) arcsin(2 q / (1 + 2 q)), kdot = (4 / pi) / sqrt(1 + 4 q)."""
    kdot = (4 / math.pi) / xp.sqrt(1 + 4 * q)
    return Diagonal((2 / math.pi) * xp.arcsin(2 * q / (1 + 2 * q)), kdot, kdot / (1 + 2 * q))


def _gelu_moment(xp: ModuleType, q1: Array, q2: Array, ia: Array, ib: Array, m: Array) -> Array:
    """The n = (q1 / A) (q2 / B) + a^2 (1 / A + 1 / B - 1), from positive terms for small and for large variances."""
    excess = xp.where(q1 <= q2, ib - q1 * ia, ia - q2 * ib)  # ia + ib - 1 without its rounding: 1 - ia = q1 ia
    return xp.where(excess > 0, q1 * ia * (q2 * ib) + (1 - m) * excess, ia * ib - m * excess)


def gelu_dual(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Dual:
    """Formula: k = q12 E[Phi Phi] + sqrt(A B) n / (2 pi sqrt m), E[Phi Phi] = 1/4 + arcsin(a) / (2 pi)."""
    q1, q2 = p1[0], p2[0]
    ia, ib, root, a, m = _ratio(xp, q1, q2, q12)
    s = xp.sqrt(m)
    both = 0.25 + xp.arcsin(a) / TWO_PI
    n = _gelu_moment(xp, q1, q2, ia, ib, m)
    kdot = both + a * ((2 * (ia + ib) - 1) + n / m) / (TWO_PI * s)
    return Dual(q12 * both + n / (TWO_PI * root * s), kdot)


def gelu_derivatives(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Derivatives:
    """Derivatives of `gelu_dual`."""
    q1, q2 = p1[0], p2[0]
    ia, ib, root, a, m = _ratio(xp, q1, q2, q12)
    s, square = xp.sqrt(m), a * a
    n = _gelu_moment(xp, q1, q2, ia, ib, m)
    p = 2 * (ia + ib) - 1
    bend = (1 + p) + (p * square + n + 2 * square * (ia + ib - 1) + 3 * n * square / m) / m

    def slope(q: Array, i: Array, j: Array) -> Array:
        """dk/dq of the point with 1 / A = i; q and 1 / B = j belong to the other point."""
        return (q * j - square / 2 - square * i - n / (2 * m)) * root / (TWO_PI * s * j)

    def tilt(q: Array, i: Array, j: Array) -> Array:
        inner = -0.5 - 2 * i + (q * j - square * i - p / 2 - 1.5 * n / m) / m
        return a * i * inner / (TWO_PI * s)

    k, kdot = gelu_dual(xp, p1, p2, q12)
    return Derivatives(
        k, kdot, slope(q2, ia, ib), slope(q1, ib, ia), tilt(q2, ia, ib), tilt(q1, ib, ia), bend * root / (TWO_PI * s)
    )


def gelu_diagonal(xp: ModuleType, q: Array) -> Diagonal:
    """`gelu_dual` at a = q / (1 + q), m = (1 + 2 q) / (1 + q)^2; the slope is E[phi'' phi] + E[phi'^2]."""
    table = q[None]
    values = gelu_derivatives(xp, table, table, q)
    return Diagonal(values.k, values.kdot, 2 * values.k_1 + values.kdot)


def gaussian_dual(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Dual:
    """Formula: k = 1 / sqrt(A B m), kdot = a / (A B m^(3/2))."""
    _, _, root, a, m = _ratio(xp, p1[0], p2[0], q12)
    k = root / xp.sqrt(m)
    return Dual(k, a * root * k / m)


def gaussian_derivatives(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Derivatives:
    """Derivatives of `gaussian_dual`."""
    ia, ib, root, a, m = _ratio(xp, p1[0], p2[0], q12)
    k = root / xp.sqrt(m)
    kdot = a * root * k / m
    slope, bend = -0.5 * k / m, -1.5 * kdot / m
    return Derivatives(k, kdot, slope * ia, slope * ib, bend * ia, bend * ib, root * root * k / m * (1 + 3 * a * a / m))


def gaussian_diagonal(xp: ModuleType, q: Array) -> Diagonal:
    """Formula: k = (1 + 2 q)^(-1/2), kdot = q (1 + 2 q)^(-3/2)."""
    i = 1 / (1 + 2 * q)
    k = xp.sqrt(i)
    return Diagonal(k, q * i * k, -i * k)


# sin, cos, exp: with s = (q1 + q2) / 2, exponents never exceed 0 for sin and cos, since abs(q12) <= s.


def _waves(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> tuple[Array, Array]:
    """exp(-s) sinh(q12) and exp(-s) cosh(q12), free of overflow and cancellation."""
    size = xp.abs(q12)
    half = 0.5 * xp.exp(xp.minimum(size - 0.5 * (p1[0] + p2[0]), 0))
    odd = -half * xp.expm1(-2 * size)
    return xp.where(q12 < 0, -odd, odd), half * (1 + xp.exp(-2 * size))


def sin_dual(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Dual:
    """Formula: k = exp(-s) sinh(q12), kdot = exp(-s) cosh(q12)."""
    return Dual(*_waves(xp, p1, p2, q12))


def cos_dual(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Dual:
    """Formula: k = exp(-s) cosh(q12), kdot = exp(-s) sinh(q12)."""
    odd, even = _waves(xp, p1, p2, q12)
    return Dual(even, odd)


def _exponential_family(k: Array, kdot: Array, sign: float) -> Derivatives:
    """Derivatives if k and kdot carry exp(sign s) and d2k / dq12^2 = k."""
    return Derivatives(k, kdot, sign * k / 2, sign * k / 2, sign * kdot / 2, sign * kdot / 2, k)


def sin_derivatives(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Derivatives:
    """Derivatives of `sin_dual`."""
    return _exponential_family(*sin_dual(xp, p1, p2, q12), -1.0)


def cos_derivatives(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Derivatives:
    """Derivatives of `cos_dual`."""
    return _exponential_family(*cos_dual(xp, p1, p2, q12), -1.0)


def sin_diagonal(xp: ModuleType, q: Array) -> Diagonal:
    """Formula: k = (1 - exp(-2 q)) / 2, kdot = (1 + exp(-2 q)) / 2."""
    decay = xp.exp(-2 * q)
    return Diagonal(-0.5 * xp.expm1(-2 * q), 0.5 * (1 + decay), decay)


def cos_diagonal(xp: ModuleType, q: Array) -> Diagonal:
    """Formula: k = (1 + exp(-2 q)) / 2, kdot = (1 - exp(-2 q)) / 2."""
    odd, even, slope = sin_diagonal(xp, q)
    return Diagonal(even, odd, -slope)


def exp_dual(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Dual:
    """Formula: k = kdot = exp(s + q12)."""
    k = xp.exp(0.5 * (p1[0] + p2[0]) + q12)
    return Dual(k, k)


def exp_derivatives(xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Derivatives:
    """Derivatives of `exp_dual`."""
    return _exponential_family(*exp_dual(xp, p1, p2, q12), 1.0)


def exp_diagonal(xp: ModuleType, q: Array) -> Diagonal:
    """Formula: k = kdot = exp(2 q)."""
    k = xp.exp(2 * q)
    return Diagonal(k, k, 2 * k)
