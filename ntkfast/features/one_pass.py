"""One-pass features of the infinite-width NTK: one matrix product and one tabulated function, for any depth."""

import functools
import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from .._angles import homogeneous_vjp, unit_rows
from .._check import check_choice, check_int, check_seed, set_checked
from .._memo import memoised
from .._typing import Array
from ..analytic import nngp, ntk
from ..backends import Backend
from ..kernels import table as kernel
from ..zonal import Zonal, zonal
from ._base import FeatureMap, check_scale
from ._harmonics import masses, nonlinearity
from ._projections import Projection

__all__ = ["OnePassFeatures"]

PROJECTIONS = ("auto", "gaussian", "orthogonal", "hadamard")

# Widest input for which "auto" makes Haar matrices: a factorization costs O(D^3) once, 0.4 s at D = 2048.
MAX_HAAR = 2048

# A further exact degree is taken where it lowers the predicted error by this factor: the prediction is for orthogonal
# points and flatters higher degrees a little.
EXACT_GAIN = 1.25


class _Plan(NamedTuple):
    """How the columns are spent."""

    exact: tuple[float, ...]  # squared factors of the monomials of degree 0, 1, 2 in s that are carried exactly
    projection: Projection | None  # None where the exact columns are all there is
    table: Any  # (q, n_cells, 4), G / sqrt(p)
    reach: float
    n_random: int
    nugget: float


@dataclass(frozen=True, slots=True)
class OnePassFeatures(FeatureMap):
    r"""Random features of the NTK (or NNGP) of a bias-free network of any depth, in one pass.

    The kernel is scale |x| |y| k(s), s the cosine, with a zonal k of non-negative harmonic masses a_l. Degrees
    l <= e (e = 0, 1 or 2, whichever predicts the smallest error for the width) are carried exactly,
    by a constant, by x / |x| and by its products; the degrees above, up to `max_degree`, by

        G(w_i . x / |x|) / sqrt(p),    i = 1 .. p,    G = sum_l sigma_l sqrt(a_l) p_l,

    with directions w_i uniform on the sphere and orthogonal in blocks, p_l orthonormal Gegenbauer polynomials and G
    one or two tabulated functions (`ntkfast.features._harmonics` has the choice of signs sigma_l). All columns are
    multiplied by |x| sqrt(scale).

    Parameters
    ----------
    in_dim : int
        Width d of the input.
    n_features : int
        Number m of features, at least 1. Where two functions share a direction and their columns do not fill m,
        the last column is zero.
    depth : int
        Number L of hidden layers, at least 0.
    W_std : float
        Standard deviation of the weights, as in `ntkfast.analytic.ntk`.
    activation : {"relu", "leaky_relu", "abs"}
    kind : {"ntk", "nngp"}
    projection : {"auto", "gaussian", "orthogonal", "hadamard"}
        Directions: independent, Haar-orthogonal blocks, or Hadamard blocks (no matrix; for wide inputs). "auto" is
        "orthogonal" up to d = 2048 and "hadamard" beyond.
    max_degree : int
        Last degree of the random columns, at least 2.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument is out of its range.

    Notes
    -----
    Error: with k_r(1) = sum_{l > e} a_l, an entry of unit rows has bias of at most the tail below, and
    standard deviation scale k_r(1) sqrt(v(s) / m) with v(0) about 1 and v(s) at most about 1.5 for independent
    directions. Orthogonal blocks lower the Gram error of images at depth 3 by an eighth (Fashion-MNIST) to a fifth
    (digits), and do nothing for random points. `gram_error` measures it.

    Tail: degrees above `max_degree` are left out. Between points at an angle t their kernel is of
    order exp(-max_degree t^2 / 2), so that only near-duplicates and the diagonal miss it; phi(x).phi(x) lacks
    `nugget` |x|^2 on average (depth 3, d = 784: 5 % of the diagonal; depth 10: 15 %). Carried by m columns the same
    mass would be noise on all entries. For regression, add it to the ridge. For d > 20 the table ends at 4.5 standard
    deviations of a projection, which takes less than 0.3 % from the diagonal.

    Cost: n p d multiply-adds (p = m / 2 where two functions share a direction; "hadamard": n p log d), and about 1 ns
    per feature on two cores. Setting up: p d^2 operations for "orthogonal", once, memoised.

    Determinism: directions are made on the host in float64 from counters, so a seed means the same map on every backend
    and dtype, up to the rounding of a QR factorization; results do not depend on the rows' blocks beyond
    the rounding of the matrix product.

    References
    ----------
    Schoenberg. Positive definite functions on spheres. Duke Mathematical Journal 9, 1942.
    Rahimi, Recht. Random features for large-scale kernel machines. NIPS 2007.
    Yu, Suresh, Choromanski, Holtmann-Rice, Kumar. Orthogonal random features. NIPS 2016.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3) + 0.5
    >>> phi = OnePassFeatures(3, 2000, depth=3, seed=0)
    >>> z = phi(x)
    >>> z.shape
    (3, 2000)
    >>> error = np.linalg.norm(z @ z.T - phi.kernel(x)) / np.linalg.norm(phi.kernel(x))
    >>> bool(error < 0.03)
    True
    """

    in_dim: int
    n_features: int
    _: KW_ONLY
    depth: int
    W_std: float = math.sqrt(2)
    activation: str = "relu"
    kind: str = "ntk"
    projection: str = "auto"
    max_degree: int = 64
    seed: int

    def __post_init__(self) -> None:
        set_checked(self, in_dim=check_int(self.in_dim, "in_dim", minimum=1))
        set_checked(self, n_features=check_int(self.n_features, "n_features", minimum=1))
        set_checked(self, depth=self._zonal.depth)
        set_checked(self, W_std=check_scale(self.W_std, self._zonal.slopes, self.depth, self.in_dim))
        check_choice(self.projection, "projection", PROJECTIONS)
        set_checked(self, max_degree=check_int(self.max_degree, "max_degree", minimum=2, maximum=1000))
        set_checked(self, seed=check_seed(self.seed))

    @property
    def nugget(self) -> float:
        """What phi(x).phi(x) / |x|^2 lacks on average: the mass of the degrees left out, times the scale."""
        return self._scale * _plan(self).nugget

    @property
    def n_directions(self) -> int:
        """Random directions p: phi multiplies rows by a matrix of this many columns; 0 where all columns are exact."""
        projection = _plan(self).projection
        return 0 if projection is None else projection.n_directions

    @property
    def _scale(self) -> float:
        """kernel(x, x) / (|x|^2 k(1))."""
        return self._zonal.slopes.scale(self.depth, self.W_std, self.in_dim)

    @property
    def _zonal(self) -> Zonal:
        """The function k; making it checks its fields."""
        return zonal(self.depth, activation=self.activation, kind=self.kind)

    def _kernel(self, x1: Array, x2: Array | None) -> Array:
        function = ntk if self.kind == "ntk" else nngp
        return function(x1, x2, depth=self.depth, W_std=self.W_std, activation=self.activation)

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        plan = _plan(self)
        unit, norms = unit_rows(x)
        factor = norms * norms.dtype.type(math.sqrt(self._scale))
        first = _write_exact(backend.xp, plan.exact, unit, factor, out)
        if plan.projection is not None:
            u = plan.projection.apply(backend, unit)
            backend.launch(kernel.evaluate, u, factor, self._table(backend, x.dtype), plan.reach, first, out)
            first += plan.n_random
        out[:, first:] = 0

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        plan, xp = _plan(self), backend.xp
        unit, norms = unit_rows(x)
        gradient, value = xp.zeros_like(x), xp.zeros(x.shape[0], x.dtype)
        first = _pull_exact(plan.exact, unit, ct, gradient, value)
        if plan.projection is not None:
            ones = xp.ones(x.shape[0], x.dtype)
            u = plan.projection.apply(backend, unit)
            slope, random = xp.empty_like(u), xp.empty_like(value)
            table = self._table(backend, x.dtype)
            backend.launch(kernel.pullback, u, ct, ones, table, plan.reach, first, slope, random)
            gradient += plan.projection.adjoint(backend, slope)
            value += random
        return homogeneous_vjp(unit, norms, gradient, value) * x.dtype.type(math.sqrt(self._scale))

    def _table(self, backend: Backend, dtype: Any) -> Array:
        return memoised(self, _copy_table, backend, dtype)[0]

    def _row_bytes(self, itemsize: int) -> int:
        plan = _plan(self)
        entries = 6 * self.in_dim + 8
        if plan.projection is not None:
            entries += 3 * plan.projection.n_directions + plan.projection.row_entries()
        return entries * itemsize


@functools.lru_cache(maxsize=64)
def _plan(phi: OnePassFeatures) -> _Plan:
    """Spend the columns: the exact degree with the smallest predicted error, the rest on random ones."""
    kind = phi.projection
    if kind == "auto":
        kind = "orthogonal" if phi.in_dim <= MAX_HAAR else "hadamard"
    # The sphere of R^1 has two points and no harmonics beyond degree 1: use the circle around it.
    dim = max(2, phi.in_dim if kind != "hadamard" else 1 << (phi.in_dim - 1).bit_length())
    function = phi._zonal
    mass = masses(function, dim, phi.max_degree + 1)
    degree = _exact_degree(mass, phi.in_dim, phi.n_features, dim)
    rest = (0.0,) * (degree + 1) + mass[degree + 1 :]
    return _fill(phi, kind, dim, _monomials(mass, degree, dim), rest, function.peak - sum(mass))


def _copy_table(phi: OnePassFeatures, backend: Backend, dtype: Any) -> tuple[Array]:
    return (backend.xp.asarray(_plan(phi).table.astype(str(dtype))),)


def _fill(
    phi: OnePassFeatures, kind: str, dim: int, exact: tuple[float, ...], rest: tuple[float, ...], nugget: float
) -> _Plan:
    random = sum(rest)
    free = phi.n_features - _n_exact(phi.in_dim, len(exact) - 1)
    table, reach = nonlinearity(rest, dim)
    if random == 0 or free < len(table):
        return _Plan(exact, None, None, reach, 0, nugget + random)
    count = free // len(table)
    projection = Projection(kind, phi.in_dim, dim, count, phi.seed)
    return _Plan(exact, projection, table / math.sqrt(count), reach, count * len(table), nugget)


def _n_exact(d: int, degree: int) -> int:
    """Columns of the exact degrees 0 .. degree."""
    return sum((1, d, d * (d + 1) // 2)[: degree + 1])


def _exact_degree(mass: tuple[float, ...], d: int, n_features: int, dim: int) -> int:
    """Last exact degree, by the standard deviation at orthogonal points; without random columns, by what is missing."""
    best, least = 0, math.inf
    for degree in range(3):
        free = n_features - _n_exact(d, degree)
        rest = sum(mass[degree + 1 :])
        if free < 0 or (degree == 2 and min(_monomials(mass, 2, dim)) < 0):
            break
        error = rest / math.sqrt(max(free, 1))
        if error * EXACT_GAIN < least or error == 0 < least:
            best, least = degree, error
    return best


def _monomials(mass: tuple[float, ...], degree: int, dim: int) -> tuple[float, ...]:
    """Coefficients of 1, s, s^2 in sum_{l <= degree} a_l P_l, with P_2 = (D s^2 - 1) / (D - 1)."""
    exact = list(mass[: degree + 1])
    if degree == 2:
        exact[0] -= exact[2] / (dim - 1)
        exact[2] *= dim / (dim - 1)
    return tuple(exact)


def _write_exact(xp: Any, exact: tuple[float, ...], unit: Array, factor: Array, out: Array) -> int:
    """Columns with products factor factor' (exact[0] + exact[1] s + exact[2] s^2); returns their number."""
    d = unit.shape[1]
    out[:, 0] = math.sqrt(exact[0]) * factor
    if len(exact) > 1:
        xp.multiply(unit, (math.sqrt(exact[1]) * factor)[:, None], out=out[:, 1 : 1 + d])
    if len(exact) > 2:
        for i, column, factors in _products(exact[2], d):
            run = out[:, column : column + d - i]
            xp.multiply(unit[:, i:], (factors[1] * factor * unit[:, i])[:, None], out=run)
            run[:, 0] *= factors[0] / factors[1]
    return _n_exact(d, len(exact) - 1)


def _products(coefficient: float, d: int) -> list[tuple[int, int, tuple[float, float]]]:
    """Runs of columns x_i x_j, j = i .. d - 1: (i, first column, factors of x_i^2 and of x_i x_j)."""
    factors = (math.sqrt(coefficient), math.sqrt(2 * coefficient))
    return [(i, 1 + d + i * d - i * (i - 1) // 2, factors) for i in range(d)]


def _pull_exact(exact: tuple[float, ...], unit: Array, ct: Array, gradient: Array, value: Array) -> int:
    """Add the gradient with respect to `unit`, and the value, of ct . (exact columns); returns their number."""
    d = unit.shape[1]
    value += math.sqrt(exact[0]) * ct[:, 0]
    if len(exact) > 1:
        linear = math.sqrt(exact[1]) * ct[:, 1 : 1 + d]
        gradient += linear
        value += (linear * unit).sum(axis=1)
    if len(exact) > 2:
        for i, column, factors in _products(exact[2], d):
            run = ct[:, column : column + d - i] * factors[1]
            run[:, 0] = ct[:, column] * factors[0]
            along = (run * unit[:, i:]).sum(axis=1)
            gradient[:, i] += along
            gradient[:, i:] += run * unit[:, i : i + 1]
            value += along * unit[:, i]
    return _n_exact(d, len(exact) - 1)
