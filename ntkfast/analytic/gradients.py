"""Gradients of the kernels with respect to the inputs, W_std and b_std, derived by hand.

An entry of the kernel depends on its two points through <x, x> / d, <y, y> / d and <x, y> / d alone. `ntk_vjp` runs the
recursion of these three numbers backwards, `ntk_hyperparameter_gradient` forwards (_derivatives.py). Neither forms an
array larger than a tile beside its results.

Where kdot has a kink (positively homogeneous activations at the angles 0 and pi, zero vectors), its derivative with
respect to the angle is taken as 0, the mean over both sides. So gradients are finite everywhere, and right for the
diagonal of a symmetric kernel, along which the angle stays 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from .._check import check_choice, check_cotangent, check_pair, check_range, memory_budget, quiet
from .._typing import Array
from ..backends import Backend, get_backend
from ._blocks import TILE_ROWS, run_blocks, slices
from ._derivatives import (
    Layers,
    Side,
    backward,
    both_sides,
    forward,
    pull_variances,
    push,
    push_variances,
    turns_sharply,
)
from .activations import Activation
from .mlp import check_network
from .recursion import Network, Points

__all__ = ["HyperparameterGradient", "KernelGradient", "ntk_hyperparameter_gradient", "ntk_vjp"]

_CACHED = 2**14  # entries that go through all layers at a time


class KernelGradient(NamedTuple):
    """Gradient of sum_ij ct_ij K(x1_i, x2_j).

    Attributes
    ----------
    x1 : array, shape (n1, d)
        In a symmetric call the sum over both roles of x1.
    x2 : array, shape (n2, d), or None in a symmetric call
    W_std, b_std : float
    """

    x1: Array
    x2: Array | None
    W_std: float
    b_std: float


class HyperparameterGradient(NamedTuple):
    """A kernel matrix and its derivatives, each of shape (n1, n2)."""

    K: Array
    dK_dW_std: Array  # noqa: N815
    dK_db_std: Array  # noqa: N815


def ntk_vjp(
    x1: Array,
    x2: Array | None,
    ct: Array,
    *,
    depth: int,
    W_std: float = math.sqrt(2),
    b_std: float = 0.0,
    activation: str | Activation | Callable[[Array], Array] = "relu",
    kind: str = "ntk",
    max_memory: int | None = None,
) -> KernelGradient:
    """Vector-Jacobian product of a kernel matrix: gradient of sum_ij ct_ij K(x1_i, x2_j).

    Parameters
    ----------
    x1 : array, shape (n1, d), float32 or float64
    x2 : array, shape (n2, d), or None
        None means `x1` in both roles; its gradient is then the sum of both.
    ct : array, shape (n1, n2)
        Cotangent of the kernel matrix, in the dtype of `x1`.
    depth, W_std, b_std, activation
        As for `ntk`.
    kind : {"ntk", "nngp"}
    max_memory : int, optional
        Bytes that tiles may take, beside the result and copies of the inputs.

    Returns
    -------
    KernelGradient

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError
        As for `ntk`; a cotangent of another shape or dtype.
    OverflowError
        A gradient leaves the range of its dtype.

    Notes
    -----
    Error: exact up to rounding, amplified by 1 / t for the share of pairs at a small angle t (or pi - t) in the NTK of
    positively homogeneous activations, whose gradient turns there; 0 is used for its direction at t = 0 and t = pi.
    Cost: three matrix products (two if symmetric), and about 60 array operations per entry and layer.
    Memory: about 64 bytes times `depth` per entry of a block of 2^14 entries and thread.
    Determinism: across runs and thread counts; to rounding across `max_memory` and backends.
    Backends: numpy, cupy.

    References
    ----------
    The recursion is that of Jacot, Gabriel, Hongler. Neural tangent kernel. NeurIPS 2018; its derivatives are
    documented in `ntkfast.analytic.activations`.

    Examples
    --------
    >>> import numpy as np
    >>> gradient = ntk_vjp(np.array([[3.0, 4.0]]), None, np.ones((1, 1)), depth=1)  # K(x, x) = 2 |x|^2
    >>> gradient.x1.round(10)
    array([[12., 16.]])
    >>> round(gradient.W_std / (4 * 50 / 2**0.5), 10)  # K is proportional to W_std^4
    1.0
    """
    network, x1, x2, backend = _checked(x1, x2, depth, W_std, b_std, activation, kind)
    ct = check_cotangent(ct, "ct", (len(x1), len(x1 if x2 is None else x2)), x1)
    sides = both_sides(x1, x2, network)
    total = _Adjoint.zeros(backend.xp, sides)
    with quiet():
        for rows in _tiles(backend, sides, network, max_memory):
            _pull_tile(backend, sides, rows, ct[rows], network, kind, total)
        return _finish(backend.xp, x1, x2, sides, network, total)


def ntk_hyperparameter_gradient(
    x1: Array,
    x2: Array | None = None,
    *,
    depth: int,
    W_std: float = math.sqrt(2),
    b_std: float = 0.0,
    activation: str | Activation | Callable[[Array], Array] = "relu",
    kind: str = "ntk",
    max_memory: int | None = None,
) -> HyperparameterGradient:
    """Kernel matrix with its derivatives by W_std and b_std, which all layers share.

    Parameters
    ----------
    x1, x2, depth, W_std, b_std, activation
        As for `ntk`.
    kind : {"ntk", "nngp"}
    max_memory : int, optional
        Bytes that tiles may take, beside the result and copies of the inputs.

    Returns
    -------
    HyperparameterGradient
        Matrices (n1, n2) in the dtype of `x1`. dK_db_std is 0 where b_std is 0.

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError
        As for `ntk`.

    Notes
    -----
    Error, memory, determinism: as for `ntk_vjp`. Cost: one matrix product, and about 70 array operations per entry and
    layer.

    Examples
    --------
    >>> import numpy as np
    >>> K, by_weight, by_bias = ntk_hyperparameter_gradient(np.eye(2), depth=0, W_std=2.0, b_std=0.5)
    >>> K
    array([[2.25, 0.25],
           [0.25, 2.25]])
    >>> by_weight
    array([[2., 0.],
           [0., 2.]])
    >>> by_bias
    array([[1., 1.],
           [1., 1.]])
    """
    network, x1, x2, backend = _checked(x1, x2, depth, W_std, b_std, activation, kind)
    sides = both_sides(x1, x2, network)
    shape = (len(x1), len(x1 if x2 is None else x2))
    result = HyperparameterGradient(*(backend.xp.empty(shape, x1.dtype) for _ in range(3)))
    for rows in _tiles(backend, sides, network, max_memory):
        _push_tile(backend, sides, rows, network, kind, HyperparameterGradient(*(a[rows] for a in result)))
    return result


def _checked(
    x1: Array, x2: Array | None, depth: Any, W_std: Any, b_std: Any, activation: Any, kind: Any
) -> tuple[Network, Array, Array | None, Backend]:
    check_choice(kind, "kind", ("nngp", "ntk"))
    network = check_network(depth, W_std, b_std, activation)
    return network, *check_pair(x1, x2)


def _tiles(backend: Backend, sides: tuple[Side, Side], network: Network, max_memory: Any) -> list[slice]:
    """Row tiles; a tile's products, its adjoint, and its blocks in flight fit the budget."""
    n1, n2 = (len(side.points.rows) for side in sides)
    row = (2 + 10 + 8 * network.depth) * n2 * sides[0].points.rows.dtype.itemsize
    budget = memory_budget(max_memory, backend, smallest=row)
    return slices(n1, max(1, min(TILE_ROWS, budget // row)))


# Backwards.


@dataclass(slots=True)
class _Adjoint:
    """Accumulated adjoints: of W_std^2 and b_std^2, of the variances of both sides, of the inputs."""

    weight: float
    bias: float
    variances: tuple[Array, Array]  # (depth, n1), (depth, n2), float64
    own_variances: tuple[Array, Array]  # the same, of those blocks whose share in W_std^2 and b_std^2 they still hold
    inputs: tuple[Array, Array]

    @classmethod
    def zeros(cls, xp: ModuleType, sides: tuple[Side, Side]) -> "_Adjoint":
        shapes = [(len(side.diagonals), len(side.points.rows)) for side in sides]
        variances, own_variances = ((xp.zeros(shapes[0]), xp.zeros(shapes[1])) for _ in range(2))
        inputs = tuple(xp.zeros_like(side.points.rows) for side in sides)
        return cls(0.0, 0.0, variances, own_variances, (inputs[0], inputs[1]))

    def add(self, first: int, weight: float, bias: float, *found: tuple[Array, Array]) -> int:
        """Add a block of rows from `first` on: scalars, `variances` and `own_variances`; return the row after it."""
        last = first + int(found[0][0].shape[1])
        self.weight += weight
        self.bias += bias
        for sums, (variances1, variances2) in zip((self.variances, self.own_variances), found, strict=True):
            sums[0][:, first:last] += variances1
            sums[1][...] += variances2
        return last


def _pull_tile(
    backend: Backend,
    sides: tuple[Side, Side],
    rows: slice,
    ct: Array,
    network: Network,
    kind: str,
    total: _Adjoint,
) -> None:
    """Add the adjoints of one tile; those of the products go into the inputs by two matrix products."""
    xp = backend.xp
    points1, points2 = sides[0].points, sides[1].points
    cosines = points1.rows[rows] @ points2.rows.T
    products = xp.empty_like(cosines)

    def work(block: slice) -> tuple[float, float, tuple[Array, Array], tuple[Array, Array]]:
        own = slice(rows.start + block.start, rows.start + block.stop)
        layers = forward(xp, sides, own, cosines[block], network)
        with quiet():  # large cotangents; NumPy keeps this per thread
            products[block], weight, bias, *variances = backward(xp, layers, ct[block], network, kind)
        own_variances = variances
        if turns_sharply(layers, network):
            weight, bias = _contract(sides, own, layers, ct[block], network, kind)
            own_variances = [xp.zeros_like(a) for a in variances]
        return weight, bias, (variances[0], variances[1]), (own_variances[0], own_variances[1])

    first = rows.start
    for found in run_blocks(backend, cosines.shape, _CACHED, work):
        first = total.add(first, *found)
    radius1, radius2 = _radii(points1, network), _radii(points2, network)
    total.inputs[0][rows] += (products * radius2) @ points2.rows
    total.inputs[1][...] += (products * radius1[rows, None]).T @ points1.rows[rows]


def _contract(
    sides: tuple[Side, Side], own: slice, layers: Layers, ct: Array, network: Network, kind: str
) -> tuple[float, float]:
    """Adjoints of W_std^2 and b_std^2, variances included, from the tangents of the kernel."""
    found = []
    for tangent in ((1.0, 0.0), (0.0, 1.0)):
        first, second = (push_variances(side, network, *tangent) for side in sides)
        q1 = [q[own, None].astype(ct.dtype) for q in first]
        q2 = [q.astype(ct.dtype) for q in second]
        covariance, theta = push(layers, tangent, q1, q2, network.squares[0])
        found.append(float((ct * (theta if kind == "ntk" else covariance)).sum(dtype="float64")))
    return found[0], found[1]


def _radii(points: Points, network: Network) -> Array:
    """Factors that make W_std x / sqrt(d) of `Points.rows`."""
    if network.activation.slopes is None:
        return get_backend(points.rows).xp.ones(len(points.rows), points.rows.dtype)
    return points.tables[0][0] * points.tables[0][2]


def _finish(
    xp: ModuleType, x1: Array, x2: Array | None, sides: tuple[Side, Side], network: Network, total: _Adjoint
) -> KernelGradient:
    """Pull the variances' adjoints back to the inputs, and go from squares to W_std and b_std."""
    scale = network.W_std / math.sqrt(x1.shape[1])
    gradients = []
    for x, side, products, variances, own_variances in zip(
        (x1, x1 if x2 is None else x2), sides, total.inputs, total.variances, total.own_variances, strict=True
    ):
        adjoint, _, _ = pull_variances(xp, side, variances, network)
        _, by_weight, by_bias = pull_variances(xp, side, own_variances, network)
        total.weight += by_weight
        total.bias += by_bias
        own = ((2 * scale * scale) * adjoint).astype(products.dtype)
        gradients.append((scale * products + own[:, None] * x).astype(x.dtype))
    by_W_std, by_b_std = 2 * network.W_std * total.weight, 2 * network.b_std * total.bias
    if not (math.isfinite(by_W_std) and math.isfinite(by_b_std)):
        raise OverflowError(f"expected gradients by W_std and b_std within float64, got {by_W_std} and {by_b_std}")
    if x2 is None:
        return KernelGradient(check_range(gradients[0] + gradients[1], "the gradient"), None, by_W_std, by_b_std)
    first, second = (check_range(gradient, "the gradient") for gradient in gradients)
    return KernelGradient(first, second, by_W_std, by_b_std)


# Forwards.


def _push_tile(
    backend: Backend,
    sides: tuple[Side, Side],
    rows: slice,
    network: Network,
    kind: str,
    out: HyperparameterGradient,
) -> None:
    points1, points2 = sides[0].points, sides[1].points
    cosines = points1.rows[rows] @ points2.rows.T
    weight, _ = network.squares
    # (dW_std^2, db_std^2) by W_std and by b_std
    tangents = [(2 * network.W_std, 0.0), (0.0, 2 * network.b_std)]
    variances = [[push_variances(side, network, *tangent) for side in sides] for tangent in tangents]

    def work(block: slice) -> None:
        own = slice(rows.start + block.start, rows.start + block.stop)
        layers = forward(backend.xp, sides, own, cosines[block], network)
        out.K[block] = layers.thetas[-1] if kind == "ntk" else layers.covariances[-1]
        for result, tangent, (first, second) in zip(out[1:], tangents, variances, strict=True):
            q1 = [q[own, None].astype(cosines.dtype) for q in first]
            q2 = [q.astype(cosines.dtype) for q in second]
            covariance, theta = push(layers, tangent, q1, q2, weight)
            result[block] = theta if kind == "ntk" else covariance

    run_blocks(backend, cosines.shape, _CACHED, work)
