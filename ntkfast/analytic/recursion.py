"""Layer recursion of an infinitely wide fully connected network, tile by tile.

With m inputs, a dense layer in the NTK parametrization is z = (W_std / sqrt(m)) W x + b_std b. For a pair of inputs of
width d and layers h = 0 ... depth,

    K_0       = W_std^2 <x, y> / d + b_std^2                        Theta_0     = K_0
    K_(h+1)   = W_std^2 k(K_h) + b_std^2                            Theta_(h+1) = K_(h+1) + W_std^2 kdot(K_h) Theta_h

k and kdot are the dual kernels of the activation at the variances and the covariance of layer h (activations.py). The
variances K_h(x, x) are functions of one point and are computed once, in float64, for all points (`prepare`); only the
covariances are matrices.

References
----------
Lee, Bahri, Novak, Schoenholz, Pennington, Sohl-Dickstein. Deep neural networks as Gaussian processes. ICLR 2018.
Jacot, Gabriel, Hongler. Neural tangent kernel. NeurIPS 2018, theorem 1.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .._angles import close_threshold, unit_rows
from .._check import memory_budget
from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import recursion as kernels
from ..zonal.slopes import Slopes
from ._blocks import TILE_ROWS, run_blocks, slices
from .activations import Activation

__all__ = ["Network", "Points", "gram", "input_threshold", "prepare", "prepare_pair"]

# Covariances of nearly equal points leave an error of about the variance times eps in kdot. So float32 inputs with
# larger variances than this are computed in float64, unless the activation goes through angles.
_FLOAT32_VARIANCE = 8.0

_CACHED = 2**15  # entries that go through all layers of array expressions at a time


@dataclass(frozen=True, slots=True)
class Network:
    """Hyperparameters of the network; see the module's docstring."""

    depth: int
    W_std: float
    b_std: float
    activation: Activation

    @property
    def squares(self) -> tuple[float, float]:
        """W_std^2 and b_std^2; inf, not an OverflowError, where they overflow."""
        return self.W_std * self.W_std, self.b_std * self.b_std


@dataclass(frozen=True, slots=True)
class Points:
    """What the recursion needs of one set of points.

    Attributes
    ----------
    rows : array, shape (n, d)
        Unit rows if the activation is positively homogeneous, else x W_std / sqrt(d).
    tables : list of array
        One per layer, in the dtype of x: (s, b, rho) of kernels/recursion.py for layers 0 ... depth, or the
        activation's table of points for layers 0 ... depth - 1.
    variances : list of array, shape (n,), float64
        K_h(x, x) of layers 0 ... depth.
    ntk : array, shape (n,), float64
        Theta_depth(x, x).
    """

    rows: Array
    tables: list[Array]
    variances: list[Array]
    ntk: Array


def prepare(x: Array, name: str, network: Network) -> Points:
    """Variances, diagonal and tables of the checked rows `x`.

    Raises
    ------
    ValueError
        A variance or the kernel exceeds the range of the dtype.
    """
    xp = get_backend(x).xp
    unit, norms = unit_rows(x)
    scale = network.W_std / math.sqrt(x.shape[1])
    variances, ntk = _diagonal(xp, scale * norms.astype(xp.float64), network)
    _check_range(xp, variances, ntk, x, name, network)
    slopes = network.activation.slopes
    if slopes is not None:
        tables = _shares(xp, scale * norms.astype(xp.float64), network, slopes)
        return Points(unit, [table.astype(x.dtype) for table in tables], variances, ntk)
    tables = [network.activation.points(xp, q).astype(x.dtype) for q in variances[:-1]]
    return Points(x * scale, tables, variances, ntk)


def prepare_pair(x1: Array, x2: Array | None, network: Network) -> tuple[Points, Points]:
    """`prepare` both sides, in float64 where float32 is not accurate enough; `x2` None gives the first side twice."""
    first = prepare(x1, "x1", network)
    second = first if x2 is None else prepare(x2, "x2", network)
    sides = (first,) if x2 is None else (first, second)
    largest = max(float(q.max()) for side in sides for q in side.variances)
    if str(x1.dtype) == "float64" or network.activation.slopes is not None or largest <= _FLOAT32_VARIANCE:
        return first, second
    return prepare_pair(x1.astype("float64"), None if x2 is None else x2.astype("float64"), network)


def _diagonal(xp: ModuleType, deviation: Array, network: Network) -> tuple[list[Array], Array]:
    """Variances of all layers and the diagonal of the tangent kernel, from W_std |x| / sqrt(d)."""
    weight, bias = network.squares
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported by _check_range
        variances = [deviation**2 + bias]
        ntk = variances[0]
        for _ in range(network.depth):
            k, kdot, _ = network.activation.diagonal(xp, variances[-1])
            variances.append(weight * k + bias)
            ntk = variances[-1] + weight * kdot * ntk
    return variances, ntk


def _check_range(xp: ModuleType, variances: list[Array], ntk: Array, x: Array, name: str, network: Network) -> None:
    """Refuse a kernel that the dtype cannot hold: by Cauchy and Schwarz no entry exceeds the diagonal."""
    limit = float(np.finfo(str(x.dtype)).max) / 16
    if max(network.squares) > limit:
        raise ValueError(
            f"expected W_std and b_std whose squares fit {x.dtype}, got {network.W_std} and {network.b_std}"
        )
    bad = ~(xp.stack([*variances, ntk]) <= limit).all(axis=0)
    if bool(bad.any()):
        raise ValueError(
            f"expected {name} for which the kernel fits {x.dtype}, got an overflow at row {int(bad.argmax())}; "
            f"scale {name} or W_std down"
        )


def input_threshold(unit: Array, network: Network, slopes: Slopes) -> Any:
    """1 - abs(cos) of two unit rows below which the angle is recomputed from the chord.

    At t = 0 the tangent kernel without biases has the relative slope r depth / pi, and biases only lower it.
    """
    return close_threshold(unit, slopes.ratio * network.depth / math.pi)


def _shares(xp: ModuleType, weight: Array, network: Network, slopes: Slopes) -> list[Array]:
    """Tables (s, b, rho) of all layers: rho^2 = weight^2 + b_std^2, s = weight / rho, b = b_std / rho."""
    tables = []
    for _ in range(network.depth + 1):
        rho = xp.hypot(weight, network.b_std)
        safe = xp.where(rho > 0, rho, 1)
        tables.append(xp.stack([weight / safe, network.b_std / safe, rho]))
        weight = network.W_std * math.sqrt(slopes.gain) * rho
    return tables


def gram(
    x1: Array, x2: Array | None, network: Network, *, nngp: bool, ntk: bool, max_memory: Any
) -> tuple[Array | None, Array | None]:
    """Kernel matrices (n1, n2) of checked inputs; those that are not asked for are None.

    `x2` None computes the upper triangle by row tiles, mirrors it, and takes the diagonal from `prepare`.
    """
    backend = get_backend(x1)
    first, second = prepare_pair(x1, x2, network)
    n1, n2 = len(first.rows), len(second.rows)
    results = [backend.xp.empty((n1, n2), x1.dtype) if wanted else None for wanted in (nngp, ntk)]
    arrays = 3 if network.activation.slopes is not None else 4
    row = arrays * n2 * first.rows.dtype.itemsize
    height = max(1, min(TILE_ROWS, memory_budget(max_memory, backend, smallest=row) // row))
    for rows in slices(n1, height):
        columns = slice(rows.start, n2) if x2 is None else slice(0, n2)
        tiles = _tile(backend, first, rows, second, columns, network, nngp, ntk)
        for result, tile in zip(results, tiles, strict=True):
            if result is not None:
                result[rows, columns] = tile
    if x2 is None:
        _complete(backend.xp, results, first, height)
    return results[0], results[1]


def _complete(xp: ModuleType, results: list[Array | None], points: Points, height: int) -> None:
    """Mirror upper triangles and set exact diagonals, in place."""
    for result, diagonal in zip(results, (points.variances[-1], points.ntk), strict=True):
        if result is None:
            continue
        for rows in slices(len(result), height):
            result[rows.stop :, rows] = result[rows, rows.stop :].T
            corner = result[rows, rows]
            corner[...] = xp.triu(corner) + xp.triu(corner, 1).T
        xp.fill_diagonal(result, diagonal.astype(result.dtype))


def _tile(
    backend: Backend,
    first: Points,
    rows: slice,
    second: Points,
    columns: slice,
    network: Network,
    nngp: bool,
    ntk: bool,
) -> tuple[Array | None, Array | None]:
    if network.activation.slopes is not None:
        return _homogeneous_tile(backend, first, rows, second, columns, network, network.activation.slopes, nngp, ntk)
    return _general_tile(backend, first, rows, second, columns, network)


def _homogeneous_tile(
    backend: Backend,
    first: Points,
    rows: slice,
    second: Points,
    columns: slice,
    network: Network,
    slopes: Slopes,
    nngp: bool,
    ntk: bool,
) -> tuple[Array, Array]:
    xp = backend.xp
    unit1, unit2 = first.rows[rows], second.rows[columns]
    table1 = xp.stack([table[:, rows] for table in first.tables])
    table2 = xp.stack([table[:, columns] for table in second.tables])
    cosine = unit1 @ unit2.T
    out = [xp.empty_like(cosine) if wanted else xp.empty((0, 0), cosine.dtype) for wanted in (nngp, ntk)]
    real = cosine.dtype.type
    constants = real(slopes.ratio), real(network.squares[0] * slopes.gain), input_threshold(unit1, network, slopes)
    backend.launch(kernels.walk, cosine, unit1, unit2, table1, table2, *constants, *out)
    return out[0], out[1]


def _general_tile(
    backend: Backend, first: Points, rows: slice, second: Points, columns: slice, network: Network
) -> tuple[Array, Array]:
    """One matrix product, then array expressions on blocks of rows that stay in the cache, on all threads."""
    covariance = first.rows[rows] @ second.rows[columns].T
    theta = backend.xp.empty_like(covariance)

    def work(block: slice) -> None:
        own = slice(rows.start + block.start, rows.start + block.stop)
        tables = [
            (table1[:, own, None], table2[:, None, columns])
            for table1, table2 in zip(first.tables, second.tables, strict=True)
        ]
        covariance[block], theta[block] = _layers(backend.xp, covariance[block], tables, network)

    run_blocks(backend, covariance.shape, _CACHED, work)
    return covariance, theta


def _layers(
    xp: ModuleType, products: Array, tables: list[tuple[Array, Array]], network: Network
) -> tuple[Array, Array]:
    """K_depth and Theta_depth from W_std^2 <x, y> / d."""
    weight, bias = network.squares
    covariance = products + bias
    theta = covariance
    for p1, p2 in tables:
        k, kdot = network.activation.dual(xp, p1, p2, covariance)
        covariance = weight * k + bias
        theta = covariance + weight * kdot * theta
    return covariance, theta
