"""Derivatives of the layer recursion for a block of entries: backwards for inputs, forwards for hyperparameters.

Per entry, layer h has the covariance K_h and the tangent kernel Theta_h; per point, the variance q_h:

    K_(h+1)     = w k(q_h, q_h', K_h) + c,      q_(h+1) = w k(q_h, q_h, q_h) + c,
    Theta_(h+1) = K_(h+1) + w kdot(q_h, q_h', K_h) Theta_h

with w = W_std^2, c = b_std^2, K_0 = p + c, Theta_0 = K_0 and the product p = W_std^2 <x, y> / d. Backwards, every
entry carries the adjoints of K_h and Theta_h, and sums those of q_h and q_h' over its row and column; these are pulled
through the recursion of the variances once per point, at the end. Forwards, every entry carries the tangents of K_h
and Theta_h.
"""

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from ..backends import get_backend
from ..zonal.slopes import Slopes
from ._closed_forms import Versines, derivatives_of_angle
from ._dual import Derivatives, Diagonal
from .recursion import Network, Points, input_threshold, prepare_pair

__all__ = [
    "Layers",
    "Side",
    "backward",
    "both_sides",
    "forward",
    "pull_variances",
    "push",
    "push_variances",
    "turns_sharply",
]


# Both sides of the kernel matrix, with the variances' own recursion.


class Side(NamedTuple):
    points: Points
    diagonals: list[Diagonal]  # k, kdot and dk/dq of the variance of layers 0 ... depth - 1, float64


def both_sides(x1: Array, x2: Array | None, network: Network) -> tuple[Side, Side]:
    """Both sides of the kernel matrix; `x2` None gives the first one twice."""
    xp = get_backend(x1).xp
    first, second = prepare_pair(x1, x2, network)

    def side(points: Points) -> Side:
        return Side(points, [network.activation.diagonal(xp, q) for q in points.variances[:-1]])

    own = side(first)
    return own, own if x2 is None else side(second)


# Layers of a block: products W_std^2 <x, y> / d, and the derivatives of every activation.


class Layers(NamedTuple):
    products: Array
    covariances: list[Array]
    thetas: list[Array]
    duals: list[Derivatives]


def forward(xp: ModuleType, sides: tuple[Side, Side], rows: slice, cosines: Array, network: Network) -> Layers:
    """All layers of the pairs (rows, every second point); `cosines` is the product of their `Points.rows`."""
    slopes = network.activation.slopes
    if slopes is None:
        products, duals = _general_duals(xp, sides, rows, cosines, network)
    else:
        products, duals = _homogeneous_duals(xp, sides, rows, cosines, network, slopes)
    weight, bias = network.squares
    covariances, thetas = [products + bias], [products + bias]
    for dual in duals:
        covariances.append(weight * dual.k + bias)
        thetas.append(covariances[-1] + weight * dual.kdot * thetas[-1])
    return Layers(products, covariances, thetas, duals)


def _general_duals(
    xp: ModuleType, sides: tuple[Side, Side], rows: slice, products: Array, network: Network
) -> tuple[Array, list[Derivatives]]:
    weight, bias = network.squares
    covariance, duals = products + bias, []
    for table1, table2 in zip(sides[0].points.tables, sides[1].points.tables, strict=True):
        duals.append(network.activation.derivatives(xp, table1[:, rows, None], table2[:, None, :], covariance))
        covariance = weight * duals[-1].k + bias
    return products, duals


def _homogeneous_duals(
    xp: ModuleType, sides: tuple[Side, Side], rows: slice, cosines: Array, network: Network, slopes: Slopes
) -> tuple[Array, list[Derivatives]]:
    """Through 1 -+ cos of the angles, as in kernels/recursion.py."""
    unit1, unit2 = sides[0].points.rows[rows], sides[1].points.rows
    angle = _input_angle(xp, unit1, unit2, cosines, input_threshold(unit1, network, slopes))
    duals = []
    # Relative rounding of the inputs, and how little of it biases leave in the angle of a layer.
    blur: Any = 8 * float(np.finfo(str(cosines.dtype)).eps)
    for table1, table2 in zip(sides[0].points.tables[:-1], sides[1].points.tables[:-1], strict=True):
        (s1, b1, rho1), (s2, b2, rho2) = table1[:, rows, None], table2[:, None, :]
        share, both = (s1 - s2) ** 2, s1 * s2
        blur = blur * both
        angle = Versines(
            (share + (b1 - b2) ** 2) / 2 + both * angle.minus, (share + (b1 + b2) ** 2) / 2 + both * angle.plus
        )
        dual, angle = derivatives_of_angle(xp, rho1**2, rho2**2, angle, slopes.gain, slopes.ratio, blur)
        duals.append(dual)
    table1, table2 = sides[0].points.tables[0], sides[1].points.tables[0]
    weights = (table1[0] * table1[2])[rows, None] * (table2[0] * table2[2])
    return weights * cosines, duals


def _input_angle(xp: ModuleType, unit1: Array, unit2: Array, cosines: Array, threshold: Any) -> Versines:
    """1 -+ cos of the angles of unit rows, from their chords where the cosine is not accurate enough."""
    minus, plus = xp.maximum(1 - cosines, 0), xp.maximum(1 + cosines, 0)
    for small, other, sign in ((minus, plus, -1), (plus, minus, 1)):
        i, j = xp.nonzero(small < threshold)
        for start in range(0, len(i), 4096):
            p, q = i[start : start + 4096], j[start : start + 4096]
            small[p, q] = ((unit1[p] + sign * unit2[q]) ** 2).sum(axis=1) / 2
            other[p, q] = 2 - small[p, q]
    return Versines(minus, plus)


def turns_sharply(layers: Layers, network: Network) -> bool:
    """Whether some angle is so small, but not 0, that adjoints of W_std and b_std would be rounding errors.

    kdot turns by about 1 / sin t times a difference that is of the order of t for a change of W_std or b_std:
    backwards, where both parts of it are summed before they meet, an error of eps / sin t is left. In `push` they
    meet at once.
    """
    slopes = network.activation.slopes
    if slopes is None or slopes.ratio == 0:
        return False
    # dk/dq1 dk/dq2 = (gain (r / pi) sin t)^2
    close = float(np.finfo(str(layers.products.dtype)).eps) * (slopes.gain * slopes.ratio / math.pi) ** 2
    return any(bool(((dual.k_1 * dual.k_2 < close) & (dual.kdot_12 != 0)).any()) for dual in layers.duals)


# Backwards.


def backward(
    xp: ModuleType, layers: Layers, ct: Array, network: Network, kind: str
) -> tuple[Array, float, float, Array, Array]:
    """Adjoints of the products (per entry), of W_std^2, of b_std^2, and of the variances of both sides."""
    weight, _ = network.squares
    by_weight, by_bias = 0.0, 0.0
    rows1, rows2 = [], []
    covariance, theta = ct, ct if kind == "ntk" else xp.zeros_like(ct)
    for dual, below in zip(reversed(layers.duals), reversed(layers.thetas[:-1]), strict=True):
        by_weight += _sum(covariance * dual.k + theta * dual.kdot * below)
        by_bias += _sum(covariance)
        k, kdot = weight * covariance, weight * theta * below
        rows1.append((k * dual.k_1 + kdot * dual.kdot_1).sum(axis=1, dtype="float64"))
        rows2.append((k * dual.k_2 + kdot * dual.kdot_2).sum(axis=0, dtype="float64"))
        theta = weight * dual.kdot * theta
        covariance = k * dual.kdot + kdot * dual.kdot_12 + theta
    by_weight += _sum(covariance * layers.products) / weight
    by_bias += _sum(covariance)
    return covariance, by_weight, by_bias, _stack(xp, rows1, len(ct)), _stack(xp, rows2, ct.shape[1])


def _sum(x: Array) -> float:
    return float(x.sum(dtype="float64"))


def _stack(xp: ModuleType, rows: list[Array], n: int) -> Array:
    """Rows of the last layer first, turned to the order of the layers."""
    return xp.stack(rows[::-1]) if rows else xp.zeros((0, n))


def pull_variances(xp: ModuleType, side: Side, adjoints: Array, network: Network) -> tuple[Array, float, float]:
    """Adjoint of W_std^2 <x, x> / d of every point, and of W_std^2 and b_std^2, through q' = W_std^2 k(q) + b_std^2."""
    weight, bias = network.squares
    carry = xp.zeros(adjoints.shape[1])
    by_weight, by_bias = 0.0, 0.0
    for h in range(len(adjoints) - 1, -1, -1):
        carry = adjoints[h] + weight * side.diagonals[h].slope * carry
        below = side.diagonals[h - 1].k if h > 0 else (side.points.variances[0] - bias) / weight
        by_weight += _sum(carry * below)
        by_bias += _sum(carry)
    return carry, by_weight, by_bias


# Forwards.


def push_variances(side: Side, network: Network, by_weight: float, by_bias: float) -> list[Array]:
    """Tangents of the variances of layers 0 ... depth - 1."""
    weight, bias = network.squares
    tangent = by_weight * ((side.points.variances[0] - bias) / weight) + by_bias
    tangents = []
    for diagonal in side.diagonals:
        tangents.append(tangent)
        tangent = by_weight * diagonal.k + weight * diagonal.slope * tangent + by_bias
    return tangents


def push(
    layers: Layers, tangent: tuple[float, float], q1: list[Array], q2: list[Array], weight: float
) -> tuple[Array, Array]:
    """Tangents of K_depth and Theta_depth."""
    by_weight, by_bias = tangent
    covariance = (by_weight / weight) * layers.products + by_bias
    theta = covariance
    for dual, below, dq1, dq2 in zip(layers.duals, layers.thetas[:-1], q1, q2, strict=True):
        k = dual.k_1 * dq1 + dual.k_2 * dq2 + dual.kdot * covariance
        kdot = _sum_of_turns(dual.kdot_1 * dq1, dual.kdot_2 * dq2, dual.kdot_12 * covariance)
        covariance = by_weight * dual.k + weight * k + by_bias
        theta = covariance + (by_weight * dual.kdot + weight * kdot) * below + weight * dual.kdot * theta
    return covariance, theta


def _sum_of_turns(first: Array, second: Array, both: Array) -> Array:
    """Sum of three terms of the order of 1 / sin t that cancel to the order of t; 0 where only rounding is left."""
    total = first + second + both
    rounding = 16 * float(np.finfo(str(total.dtype)).eps) * (abs(first) + abs(second) + abs(both))
    return total * (abs(total) > rounding)
