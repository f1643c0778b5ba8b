"""Expansions of a zonal function: Chebyshev in the half chord, power series in the cosine, spherical harmonics."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._typing import Array
from ._recursion import complex_kernels

Function = Callable[[Array], Array]

# The table runs over s = sin(t / 2) up to a right angle, and beyond it over s = sin((pi - t) / 2).
HALF_RANGE = math.sqrt(0.5)
# The compute kernel sums the Chebyshev terms in chunks of this many.
CHUNK = 8
MAX_TERMS = 4096


def chebyshev_table(function: Function, error: float) -> Any:
    """Coefficients (2, n_terms) of Q with k = k(end) + (1 + y) Q(y) on both sides, |truncation| about `error`.

    Interpolates at n_terms Chebyshev nodes; n_terms comes from the decay of k's own coefficients. The division by
    1 + y amplifies the rounding of k only near y = -1, where the factor 1 + y takes it back.
    """
    n_terms = max(_terms_needed(function, side, error) for side in (0, 1))
    rows = [_deflated(function, side, n_terms) for side in (0, 1)]
    return np.stack(rows)


def _terms_needed(function: Function, side: int, error: float) -> int:
    """Smallest multiple of CHUNK after which the Chebyshev coefficients of k stay below `error`."""
    n_nodes = 64
    while True:
        y = _nodes(n_nodes)
        coefficients = _interpolate(function(_angle(y, side)))
        large = np.flatnonzero(np.abs(coefficients) > 0.5 * error)
        last = int(large[-1]) if large.size else 0
        if last < n_nodes // 2 or n_nodes >= MAX_TERMS:
            # k has one degree more than Q.
            return CHUNK * -(-max(last, 1) // CHUNK)
        n_nodes *= 2


def _deflated(function: Function, side: int, n_terms: int) -> Any:
    y = _nodes(n_terms)
    end = function(np.array([0.0 if side == 0 else math.pi]))[0]
    return _interpolate((function(_angle(y, side)) - end) / (1.0 + y))


def _nodes(n_nodes: int) -> Any:
    return np.cos(math.pi * (np.arange(n_nodes) + 0.5) / n_nodes)


def _angle(y: Any, side: int) -> Any:
    t = 2.0 * np.arcsin(0.5 * HALF_RANGE * (1.0 + y))
    return t if side == 0 else math.pi - t


def _interpolate(values: Any) -> Any:
    """Chebyshev coefficients of the interpolant through `values` at `_nodes`: a cosine transform."""
    from scipy.fft import dct

    coefficients = dct(values, type=2) / values.size
    coefficients[0] *= 0.5
    return coefficients


def power_series(depth: int, r: float, which: int, n_terms: int) -> Any:
    """Coefficients of s^j, by Cauchy's formula on a circle inside the unit disc."""
    size = 1 << max(10, (16 * n_terms - 1).bit_length())
    radius = float(np.finfo(np.float64).eps) ** (1.0 / size)
    s = radius * np.exp(2j * math.pi * np.arange(size // 2 + 1) / size)
    # k is real on the real axis, so half the circle suffices.
    values = np.conj(complex_kernels(s, depth, r)[which])
    coefficients = np.fft.irfft(values, size)[:n_terms] * radius ** -np.arange(n_terms, dtype=np.float64)
    # Rounding may leave -1e-17 in place of an exact zero.
    return np.maximum(coefficients, 0.0)


def funk_hecke_quadrature(function: Function, dim: int, n_terms: int) -> Any:
    """mu_l = integral of k(t) P_l(cos t) sin(t)^(dim - 2), normalized, by Gauss-Legendre nodes in the angle."""
    from scipy.special import roots_legendre

    nodes, weights = roots_legendre(128 + 2 * n_terms)
    t = 0.5 * math.pi * (nodes + 1.0)
    weights = weights * np.sin(t) ** (dim - 2)
    weighted = function(t) * weights / weights.sum()
    s = np.cos(t)
    before, now = np.zeros_like(s), np.ones_like(s)
    mu = np.empty(n_terms)
    for degree in range(n_terms):
        mu[degree] = weighted @ now
        # (l + dim - 2) P_{l+1} = (2 l + dim - 2) s P_l - l P_{l-1}; dim = 2 starts with P_1 = s.
        step = max(degree + dim - 2, 1)
        before, now = now, ((step + degree) * s * now - degree * before) / step
    return np.maximum(mu, 0.0)


def funk_hecke_series(series: Any, dim: int, n_terms: int) -> Any:
    """mu_l = sum_m c_m E[s^m P_l(s)].

    With m - l = 2 j even,

        E[s^m P_l(s)] = m! Gamma(dim / 2) Gamma(j + 1/2) / (2^l (2 j)! sqrt(pi) Gamma(j + l + dim / 2)),

    and 0 for m < l or m - l odd.
    """
    from scipy.special import gammaln

    mu = np.empty(n_terms)
    for degree in range(n_terms):
        m = np.arange(degree, series.size, 2)
        j = 0.5 * (m - degree)
        log_moment = gammaln(m + 1.0) - gammaln(2.0 * j + 1.0) - degree * math.log(2.0) - 0.5 * math.log(math.pi)
        log_moment += gammaln(0.5 * dim) + gammaln(j + 0.5) - gammaln(j + degree + 0.5 * dim)
        mu[degree] = series[m] @ np.exp(log_moment)
    return mu
