"""Stochastic Lanczos quadrature: spectral densities and log-determinants from products with vectors.

k steps of Lanczos from a unit vector v give a tridiagonal matrix T = U diag(theta) U^T, and with it Gauss's quadrature
of v's spectral measure,

    v^T f(A) v ~ sum_j U[0, j]^2 f(theta_j),

exact for polynomials f up to degree 2 k - 1. With v = z / sqrt(n), z of random signs, its expectation is tr f(A) / n.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._check import check_dtype, check_finite, check_int, check_range, check_real, check_seed, memory_budget, quiet
from .._streams import Stream
from .._typing import Array
from ..backends import get_backend
from ..errors import NotPositiveDefiniteError
from ..kernels import philox
from ._operator import LinearOperator, Products, adopt, rademacher
from .estimators import Estimate, mean_of

__all__ = ["SpectralDensity", "log_determinant", "spectral_density"]

# Default width of the smoothing, relative to the range of the nodes, and margin of the default grid in widths.
_WIDTH, _MARGIN, _GRID = 0.01, 4.0, 512

# A recursion ends at a coupling of this many rounding errors: earlier steps have amplified them. Going on with such a
# vector would cost products, and change no weight by more than the square of its size.
_BREAKDOWN = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class SpectralDensity:
    """The spectrum of an n x n matrix as a sum of point masses, one set per test vector.

    Attributes
    ----------
    nodes : numpy.ndarray, shape (n_vectors, steps), float64
        Ritz values, ascending in every row; a row that ended early repeats its last one.
    weights : numpy.ndarray, shape (n_vectors, steps), float64
        >= 0, each row summing to 1; 0 for repeated nodes.
    n : int
        Size of the matrix.
    n_products : int
        Products of the operator with one vector that were spent.
    rounding : float
        Nodes this close to each other, or to 0, are the same up to rounding.
    """

    nodes: Any
    weights: Any
    n: int
    n_products: int
    rounding: float

    def trace(self, function: Callable[[Any], Any]) -> Estimate:
        """Estimate tr f(A), the sum of f over all eigenvalues.

        Parameters
        ----------
        function : callable
            f, from an array of nodes to an array of its shape. It is called at all nodes, which lie between the
            smallest and the largest eigenvalue up to rounding.

        Returns
        -------
        Estimate
            The standard error is that of the random vectors; the error of the quadrature comes on top.

        Raises
        ------
        TypeError, ValueError
            No function, one that is not finite at a node, or values of another shape.
        OverflowError
            The sum leaves the range of float64.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.spectrum import spectral_density
        >>> density = spectral_density(np.diag([1.0, 2.0, 3.0]), n_vectors=4, steps=3, seed=0)
        >>> round(density.trace(np.exp).value, 6) == round(float(np.exp([1.0, 2.0, 3.0]).sum()), 6)
        True
        """
        if not callable(function):
            raise TypeError(f"expected function to be callable, got {function!r}")
        values = np.asarray(function(self.nodes), np.float64)
        if values.shape != self.nodes.shape:
            raise ValueError(f"expected function(nodes) of shape {self.nodes.shape}, got {values.shape}")
        if not np.isfinite(values).all():
            worst = float(self.nodes[~np.isfinite(values)][0])
            raise ValueError(f"expected a function that is finite at all nodes, got NaN or inf at {worst:g}")
        with quiet():
            traces = self.n * (self.weights * values).sum(axis=1)
        return mean_of(check_range(traces, "the traces of the function"), self.n_products)

    def density(self, grid: Any = None, *, width: float | None = None) -> tuple[Any, Any]:
        """Smooth the point masses with a Gaussian.

        Parameters
        ----------
        grid : numpy.ndarray, shape (g,), float32 or float64, optional
            Where to evaluate; default 512 points over all nodes and four widths beyond.
        width : float, optional
            Standard deviation of the Gaussian, > 0, in the units of the eigenvalues; default a hundredth of the
            range of the nodes, or of the largest where they are all equal.

        Returns
        -------
        grid, values : numpy.ndarray, shape (g,), float64
            The density has integral 1 over the real line.

        Raises
        ------
        TypeError, ValueError
            A grid that is not a finite array of one axis, or a width that is not positive.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.spectrum import spectral_density
        >>> grid, values = spectral_density(np.diag([1.0, 2.0]), n_vectors=2, steps=2, seed=0).density()
        >>> bool(abs(values.sum() * (grid[1] - grid[0]) - 1) < 1e-3)
        True
        """
        low, high = float(self.nodes.min()), float(self.nodes.max())
        if width is None:
            spread = high - low if high - low > self.rounding else max(abs(high), abs(low))
            width = _WIDTH * spread or _WIDTH
        width = check_real(width, "width", minimum=0, strict=True)
        if grid is None:
            grid = np.linspace(low - _MARGIN * width, high + _MARGIN * width, _GRID)
        grid = _check_grid(grid)
        values = np.zeros(grid.shape)
        for node, weight in zip(self.nodes.ravel(), self.weights.ravel() / len(self.nodes), strict=True):
            values += weight * np.exp(-(((grid - node) / width) ** 2) / 2)
        return grid, values / (width * math.sqrt(2 * math.pi))


def _check_grid(grid: Any) -> Any:
    """Check a host array of one axis, and return it in float64."""
    if not hasattr(grid, "dtype") or get_backend(grid).name != "numpy":
        raise TypeError(f"expected grid to be a NumPy array, got {type(grid).__name__}")
    check_dtype(grid, "grid")
    if grid.ndim != 1 or grid.size == 0:
        raise ValueError(f"expected grid of shape (g,), not empty, got {grid.shape}")
    check_finite(grid, "grid")
    return grid.astype(np.float64)


def spectral_density(
    operator: LinearOperator,
    *,
    n_vectors: int = 16,
    steps: int = 64,
    seed: int,
    max_memory: int | None = None,
) -> SpectralDensity:
    """Estimate the spectrum of a symmetric matrix by stochastic Lanczos quadrature.

    Parameters
    ----------
    operator : array or linear operator, shape (n, n)
        A, real and symmetric (checked for arrays). Anything with a shape and ``operator @ v`` for v of shape (n, m).
    n_vectors : int
        m >= 2 vectors of random signs.
    steps : int
        k >= 1 steps of Lanczos from each; at most n are made.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.
    max_memory : int, optional
        Bytes for the bases, 8 n k per vector; default a quarter of what is free. It decides how many vectors
        advance together, and changes the result by rounding only.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    TypeError, ValueError
        Not a square operator, an array that is not symmetric, complex, NaN or inf in it or in products, bad numbers.
    OverflowError
        The squares of a product leave the range of float64.
    MemoryBudgetError
        `max_memory` is below one basis.

    Notes
    -----
    Error of tr f(A) / n: a standard error of at most sqrt(2 sum_i f(lambda_i)^2 / m) / n from the vectors, and that of
    Gauss's quadrature, which falls like rho^(-2 k) for f analytic in the ellipse of parameter rho around the
    spectrum: rho = (sqrt(c) + 1) / (sqrt(c) - 1) for the logarithm and condition number c (Ubaru, Chen, Saad).
    Every vector is made orthogonal to all earlier ones twice, so no eigenvalue is found twice. A recursion ends where
    the next vector is rounding error: A has no more distinct eigenvalues than that under this vector.
    Cost: k products with blocks of up to m vectors, and 8 n k^2 m operations.
    Products are in the operator's dtype (float64 if it has none), everything else in float64.
    Determinism: a function of (operator, n_vectors, steps, seed), up to rounding.
    Backends: numpy, cupy (the k x k eigenproblems run on the host).

    References
    ----------
    Ubaru, Chen, Saad. Fast estimation of tr(f(A)) via stochastic Lanczos quadrature. SIAM Journal on Matrix Analysis
    and Applications 38, 2017.
    Golub, Meurant. Matrices, moments and quadrature with applications. Princeton, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import spectral_density
    >>> density = spectral_density(2.0 * np.eye(50), n_vectors=2, steps=8, seed=0)
    >>> np.unique(density.nodes)
    array([2.])
    """
    products, m = adopt(operator, symmetric=True), check_int(n_vectors, "n_vectors", minimum=2)
    steps = min(check_int(steps, "steps", minimum=1), products.n)
    key = philox.derive_key(check_seed(seed), Stream.LANCZOS)
    per_vector = 8 * products.n * steps
    together = min(m, memory_budget(max_memory, products.backend, smallest=per_vector) // per_vector)
    parts = []
    for start in range(0, m, together):
        z = rademacher(products, key, start, min(together, m - start))
        parts.append(_lanczos(products, z / math.sqrt(products.n), steps))
    diagonal, off_diagonal, lengths = (np.concatenate(part) for part in zip(*parts, strict=True))
    nodes, weights = _gauss(diagonal, off_diagonal, lengths)
    rounding = _rounding(products) * float(np.abs(nodes).max())
    return SpectralDensity(nodes, weights, products.n, int(lengths.sum()), rounding)


def _rounding(products: Products) -> float:
    """What rounding leaves of a product that should vanish, relative to the norm of the matrix."""
    return products.eps * math.sqrt(products.n)


def _lanczos(products: Products, start: Array, steps: int) -> tuple[Any, Any, Any]:
    """Lanczos with full reorthogonalization from unit columns (n, b).

    Returns the diagonals (b, steps), the off-diagonals (b, steps) and how many steps each vector made, (b,).
    """
    xp, to_numpy = products.backend.xp, products.backend.to_numpy
    v = xp.ascontiguousarray(start.T)
    b, n = v.shape
    basis = xp.zeros((b, steps, n), "float64")
    diagonal, off_diagonal = np.zeros((b, steps)), np.zeros((b, steps))
    lengths, scale, alive = np.zeros(b, np.int64), np.zeros(b), np.ones(b, bool)
    for j in range(steps):
        basis[:, j] = v
        w = products(xp.ascontiguousarray(v.T)).T
        diagonal[:, j] = to_numpy((w * v).sum(axis=1))
        w = _orthogonal(xp, w, basis[:, : j + 1])
        off_diagonal[:, j] = to_numpy(_lengths(xp, w))
        lengths += alive
        scale = np.maximum(scale, np.abs(diagonal[:, j]) + off_diagonal[:, j])
        alive &= off_diagonal[:, j] > _BREAKDOWN * _rounding(products) * scale
        if not alive.any():
            break
        inverse = np.where(alive, 1 / np.where(alive, off_diagonal[:, j], 1), 0.0)
        v = w * xp.asarray(inverse)[:, None]
    return diagonal, off_diagonal, lengths


def _orthogonal(xp: Any, w: Array, basis: Array) -> Array:
    """The rows of w (b, n) without their parts along the rows of basis (b, j, n); twice is enough."""
    for _ in range(2):
        coefficients = xp.matmul(basis, w[:, :, None])
        w = w - xp.matmul(coefficients.transpose(0, 2, 1), basis)[:, 0]
    return w


def _lengths(xp: Any, w: Array) -> Array:
    """Euclidean norms of the rows; those of very small ones, too."""
    size = xp.abs(w).max(axis=1)
    size = xp.where(size > 0, size, 1.0)
    scaled = w / size[:, None]
    return size * (scaled * scaled).sum(axis=1) ** 0.5


def _gauss(diagonal: Any, off_diagonal: Any, lengths: Any) -> tuple[Any, Any]:
    """Nodes and weights of every tridiagonal matrix, padded by nodes of weight 0."""
    from scipy.linalg import eigh_tridiagonal

    nodes, weights = np.zeros((len(lengths), int(lengths.max()))), np.zeros((len(lengths), int(lengths.max())))
    for i, k in enumerate(lengths):
        values, vectors = eigh_tridiagonal(diagonal[i, :k], off_diagonal[i, : k - 1])
        nodes[i, :k], nodes[i, k:], weights[i, :k] = values, values[-1], vectors[0] ** 2
    return nodes, weights / weights.sum(axis=1, keepdims=True)


def log_determinant(
    operator: LinearOperator,
    *,
    reg: float = 0.0,
    n_vectors: int = 16,
    steps: int = 64,
    seed: int,
    max_memory: int | None = None,
) -> Estimate:
    """Estimate log det(A + reg I) of a symmetric positive definite matrix.

    Parameters
    ----------
    operator : array or linear operator, shape (n, n)
        A, real and symmetric (checked for arrays). Anything with a shape and ``operator @ v`` for v of shape (n, m).
    reg : float
        Ridge, >= 0.
    n_vectors : int
        m >= 2 vectors of random signs.
    steps : int
        k >= 1 steps of Lanczos from each.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.
    max_memory : int, optional
        As in `spectral_density`.

    Returns
    -------
    Estimate
        The standard error is that of the random vectors; the quadrature's error comes on top: double `steps` to see it.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryBudgetError
        As `spectral_density`.
    NotPositiveDefiniteError
        A Ritz value of A + reg I is negative or indistinguishable from 0.

    Notes
    -----
    Standard error: at most sqrt(2 sum_i log(lambda_i + reg)^2 / m). Quadrature: the error of tr f(A) in
    `spectral_density` for f = log, about n rho^(-2 k) with rho = 1 + 2 / sqrt(c) for a large condition number c of
    A + reg I: k of the order of sqrt(c) is enough.
    Cost, determinism, backends: as `spectral_density`.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import log_determinant
    >>> estimate = log_determinant(3.0 * np.eye(10), reg=1.0, seed=0)
    >>> bool(np.isclose(estimate.value, 10 * np.log(4.0)))
    True
    """
    reg = check_real(reg, "reg", minimum=0)
    density = spectral_density(operator, n_vectors=n_vectors, steps=steps, seed=seed, max_memory=max_memory)
    smallest = float(density.nodes.min()) + reg
    if smallest <= density.rounding:
        raise NotPositiveDefiniteError(
            f"expected A + reg I to be positive definite, got a Ritz value of {smallest:.3g}, and rounding errors of "
            f"{density.rounding:.3g}; use a larger reg"
        )
    return density.trace(lambda nodes: np.log(nodes + reg))
