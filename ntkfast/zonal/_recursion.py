"""The layer recursion of a zonal function: in the angle, its derivative, and at complex cosines."""

import math
from typing import Any

import numpy as np

from .._typing import Array


def kernels(xp: Any, t: Array, depth: int, r: float) -> tuple[Array, Array]:
    """(Sigma^depth, K^depth) at the angles t."""
    nngp = ntk = xp.cos(t)
    for _ in range(depth):
        ntk = ntk * kappa_0(t, r)
        t = next_angle(xp, t, r)
        nngp = xp.cos(t)
        ntk = ntk + nngp
    return nngp, ntk


def derivative(xp: Any, t: Array, depth: int, r: float) -> tuple[Array, Array]:
    """(d Sigma^depth / dt, d K^depth / dt) at the angles t.

    Carries dt_h / dt beside the recursion: cos t_h = kappa_1(t_{h-1}) gives
    dt_h = dt_{h-1} kappa_0(t_{h-1}) sin(t_{h-1}) / sin(t_h), with the ratio of sines 1 where both vanish.
    """
    ntk = xp.cos(t)
    d_t = xp.ones_like(t)
    d_nngp = d_ntk = -xp.sin(t)
    for _ in range(depth):
        weight, after = kappa_0(t, r), next_angle(xp, t, r)
        d_ntk = d_ntk * weight - (2.0 * r / math.pi) * ntk * d_t
        sine = xp.sin(after)
        d_t = d_t * weight * xp.where(sine > 0.0, xp.sin(t) / xp.where(sine > 0.0, sine, 1.0), 1.0)
        d_nngp = -sine * d_t
        ntk, d_ntk, t = ntk * weight + xp.cos(after), d_ntk + d_nngp, after
    return d_nngp, d_ntk


def complex_kernels(s: Any, depth: int, r: float) -> tuple[Any, Any]:
    """(Sigma^depth, K^depth) at complex cosines inside the unit disc, which kappa_1 maps into itself."""
    nngp = ntk = s
    for _ in range(depth):
        angle = np.arccos(nngp)
        ntk = ntk * kappa_0(angle, r)
        nngp = nngp + (2.0 * r / math.pi) * (np.sqrt(1.0 - nngp * nngp) - nngp * angle)
        ntk = ntk + nngp
    return nngp, ntk


def kappa_0(t: Array, r: float) -> Array:
    """Return 1 - 2 r t / pi."""
    return 1.0 - (2.0 * r / math.pi) * t


def next_angle(xp: Any, t: Array, r: float) -> Array:
    """Next angle t', with cos t' = kappa_1(t), from 1 - kappa_1, so that small angles keep their digits.

    Beyond a right angle, 1 - kappa_1 = 2 (1 - r) + (2 r - 1) (1 - cos u) - (2 r / pi) (sin u - u cos u) with
    u = pi - t: for abs (r = 1) opposite points coincide after one layer, and this too is free of cancellation.
    """
    far = t > math.pi / 2
    u = xp.where(far, math.pi - t, t)
    versine = 2.0 * xp.sin(0.5 * u) ** 2
    lost = xp.where(far, 2.0 * (1.0 - r) + (2.0 * r - 1.0) * versine, versine) - (2.0 * r / math.pi) * sine_gap(xp, u)
    return 2.0 * xp.arcsin(xp.sqrt(xp.clip(0.5 * lost, 0.0, 1.0)))


def sine_gap(xp: Any, u: Array) -> Array:
    """Return sin u - u cos u, by its series u^3/3 - u^5/30 + ... below 1/2."""
    z = u * u
    total = xp.zeros_like(u)
    for k in range(8, 0, -1):
        total = total * z + (-1) ** (k + 1) * 2.0 * k / math.factorial(2 * k + 1)
    return xp.where(u < 0.5, total * z * u, xp.sin(u) - u * xp.cos(u))
