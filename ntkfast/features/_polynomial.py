"""Polynomials with non-negative coefficients for kappa_0, kappa_1 and K^L on [-1, 1].

Only sums of powers with non-negative coefficients have features: sum_j c_j <u, v>^j is the inner
product of the vectors with blocks sqrt(c_j) times the j-th tensor power.
"""

import functools
import math
from typing import Any

import numpy as np

from ..zonal import zonal

__all__ = ["EXPANSIONS", "kappa_polynomial", "layer_polynomial", "ntk_polynomial"]

EXPANSIONS = ("fitted", "taylor")

Coefficients = tuple[float, ...]


@functools.lru_cache(maxsize=64)
def kappa_polynomial(order: int, degree: int, expansion: str) -> Coefficients:
    """Coefficients c_0, ..., c_degree of a polynomial near kappa_order.

    "taylor": the power series, cut off. It errs at 1, by 0.18 / sqrt(degree / 2) for kappa_0.
    "fitted": least squares with c_j >= 0, a third of that error at 1 and less on the whole.
    """
    if expansion == "taylor":
        return _taylor(order, degree)
    grid = _grid(400)
    return _nonnegative_fit(grid, _kappa(order, grid), np.ones_like(grid), degree)


@functools.lru_cache(maxsize=64)
def layer_polynomial(order: int, degree: int, layer: int) -> Coefficients:
    """Coefficients of a polynomial near kappa_order on [a, 1], the cosines that ReLU layer 1, 2, ... meets.

    After ReLU no cosine is below kappa_1 of the least one before; a convolution mixes pixels and may lower it again, so
    that a moves a part of the way only, as in the program of Zandieh et al.: from -1 to (2 a + kappa_1(a)) / 3 for
    order 1, to (a + kappa_1(a)) / 2 for order 0. That of order 1 is 1 at 1: ReLU keeps half of every square.
    """
    least = -1.0
    for _ in range(layer - 1):
        after = float(_kappa(1, np.array(least)))
        least = (2 * least + after) / 3 if order == 1 else (least + after) / 2
    grid = least + (1 - least) * (_grid(400) + 1) / 2
    weights = np.ones_like(grid) if order == 1 else np.linspace(0, 1, len(grid)) ** 2 + 0.5
    coefficients = _nonnegative_fit(grid, _kappa(order, grid), weights, degree)
    total = sum(coefficients) if order == 1 else 1.0
    return tuple(c / total for c in coefficients)


def _kappa(order: int, cosine: Any) -> Any:
    """Values of kappa_0 or kappa_1."""
    angle = np.arccos(cosine)
    kappa_0 = 1 - angle / math.pi
    return kappa_0 if order == 0 else cosine * kappa_0 + np.sin(angle) / math.pi


@functools.lru_cache(maxsize=64)
def ntk_polynomial(depth: int, degree: int) -> Coefficients:
    """Coefficients of the polynomial nearest to K^depth in weighted least squares, c_j >= 0.

    The weight rises from 2 / depth at -1 to 1 + 2 / depth at 1, and points are added towards 1, where
    K^depth has its knee, as in the program of Zandieh et al.
    """
    grid = _grid(15 * depth + 5 * degree)
    values = np.asarray(zonal(depth).of_cosine(grid))
    weights = np.linspace(0, 1, len(grid)) + 2 / depth
    return _nonnegative_fit(grid, values, weights, degree)


def _grid(n_near_one: int) -> Any:
    """201 equispaced points of [-1, 1] and `n_near_one` Chebyshev points of [0, 1], dense towards 1."""
    near_one = np.cos((2 * np.arange(n_near_one) + 1) * math.pi / (4 * n_near_one))
    return np.sort(np.concatenate((np.linspace(-1, 1, 201), near_one)))


def _nonnegative_fit(grid: Any, values: Any, weights: Any, degree: int) -> Coefficients:
    from scipy.optimize import nnls

    powers = grid[:, None] ** np.arange(degree + 1)
    coefficients, _ = nnls(powers * weights[:, None], values * weights)
    return tuple(float(c) for c in coefficients)


def _taylor(order: int, degree: int) -> Coefficients:
    """Power series of kappa_0 = 1/2 + arcsin / pi, or of its integral kappa_1 = 1 / pi + ..."""
    arcsin = [0.0] * (degree + 1)
    term = 1.0  # (2i)! / (4^i (i!)^2)
    for i in range((degree + 1) // 2):
        arcsin[2 * i + 1] = term / ((2 * i + 1) * math.pi)
        term *= (2 * i + 1) / (2 * i + 2)
    kappa_0 = (0.5, *arcsin[1:])
    if order == 0:
        return kappa_0
    return (1 / math.pi, *(kappa_0[j] / (j + 1) for j in range(degree)))
