"""Trace and diagonal of a matrix known by its products only: Hutchinson's estimators.

They average z^T A z and z * (A z) over random vectors z with E z z^T = I.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._check import check_choice, check_int, check_seed
from .._streams import Stream
from .._typing import Array
from ..kernels import philox
from ._operator import LinearOperator, adopt, gaussian, rademacher

__all__ = ["Estimate", "hutchinson_diagonal", "hutchinson_trace", "mean_of"]

# Vectors per product of Hutchinson's estimators.
_BLOCK = 64


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A random estimate and its standard error.

    Attributes
    ----------
    value : float, or array of shape (n,)
    standard_error : float, or array of shape (n,)
        Estimated from the spread over the test vectors: by itself a random number, good to about
        1 / sqrt(2 n_vectors) of itself. 0 where the value is exact up to rounding.
    n_products : int
        Products of the operator with one vector that were spent.
    """

    value: Any
    standard_error: Any
    n_products: int


def mean_of(samples: Any, n_products: int) -> Estimate:
    """Mean of host samples (m,), m >= 2, with its standard error."""
    size = float(np.abs(samples).max()) or 1.0  # squares of very small or large samples leave the range
    scaled = samples / size
    return Estimate(size * float(scaled.mean()), size * float(scaled.std(ddof=1)) / math.sqrt(samples.size), n_products)


def hutchinson_trace(
    operator: LinearOperator, n_vectors: int = 100, *, distribution: str = "rademacher", seed: int
) -> Estimate:
    """Estimate a trace by the mean of z^T A z over random vectors z.

    Parameters
    ----------
    operator : array or linear operator, shape (n, n)
        A, real, symmetric or not. Anything with a shape and ``operator @ v`` for v of shape (n, m).
    n_vectors : int
        m >= 2.
    distribution : {"rademacher", "gaussian"}
        Of the entries of z: signs, or standard normal numbers.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Returns
    -------
    Estimate

    Raises
    ------
    TypeError, ValueError
        Not a square operator, complex, NaN or inf in it or in its products, bad numbers.
    OverflowError
        The squares of a product leave the range of float64.

    Notes
    -----
    Unbiased. With B = (A + A^T) / 2 the variance is 2 (|B|_F^2 - sum_i b_ii^2) / m for signs and 2 |B|_F^2 / m for
    normal numbers: signs are never worse, and exact for diagonal matrices. `xtrace` is better where eigenvalues fall.
    Cost: m products, 64 at a time in one block; memory: three blocks (n, 64).
    Products are in the operator's dtype (float64 if it has none), sums in float64.
    Determinism: a function of (operator, n_vectors, distribution, seed); the first vectors of a larger `n_vectors` are
    those of a smaller one.
    Backends: numpy, cupy.

    References
    ----------
    Hutchinson. A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines.
    Communications in Statistics 18, 1989.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import hutchinson_trace
    >>> hutchinson_trace(np.diag([1.0, 2.0, 3.0]), 10, seed=0)
    Estimate(value=6.0, standard_error=0.0, n_products=10)
    """
    products, m = adopt(operator), check_int(n_vectors, "n_vectors", minimum=2)
    draw = {"rademacher": rademacher, "gaussian": gaussian}[
        check_choice(distribution, "distribution", ("rademacher", "gaussian"))
    ]
    key = philox.derive_key(check_seed(seed), Stream.HUTCHINSON_TRACE)
    samples = np.empty(m)
    for start in range(0, m, _BLOCK):
        z = draw(products, key, start, min(_BLOCK, m - start))
        samples[start : start + _BLOCK] = products.backend.to_numpy((z * products(z)).sum(axis=0))
    return mean_of(samples, m)


def hutchinson_diagonal(operator: LinearOperator, n_vectors: int = 100, *, seed: int) -> Estimate:
    """Estimate a diagonal by the mean of z * (A z) over vectors z of random signs.

    Parameters
    ----------
    operator : array or linear operator, shape (n, n)
        A, real, symmetric or not. Anything with a shape and ``operator @ v`` for v of shape (n, m).
    n_vectors : int
        m >= 2.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Returns
    -------
    Estimate
        Arrays of shape (n,), float64.

    Raises
    ------
    TypeError, ValueError
        Not a square operator, complex, NaN or inf in it or in its products, bad numbers.
    OverflowError
        The squares of a product leave the range of float64.

    Notes
    -----
    Unbiased; the variance of entry i is (sum over j != i of a_ij^2) / m. (For signs the denominators sum z * z of
    Bekas, Kokiopoulou and Saad are the number m.)
    Cost: m products, 64 at a time in one block; memory: three blocks (n, 64).
    Products are in the operator's dtype (float64 if it has none), sums in float64.
    Determinism: a function of (operator, n_vectors, seed).
    Backends: numpy, cupy.

    References
    ----------
    Bekas, Kokiopoulou, Saad. An estimator for the diagonal of a matrix. Applied Numerical Mathematics 57, 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import hutchinson_diagonal
    >>> hutchinson_diagonal(np.diag([1.0, 2.0, 3.0]), 10, seed=0).value
    array([1., 2., 3.])
    """
    products, m = adopt(operator), check_int(n_vectors, "n_vectors", minimum=2)
    key = philox.derive_key(check_seed(seed), Stream.HUTCHINSON_DIAGONAL)
    mean = products.backend.xp.zeros(products.n, "float64")
    squares = mean.copy()
    for start in range(0, m, _BLOCK):
        z = rademacher(products, key, start, min(_BLOCK, m - start))
        mean, squares = _merge(mean, squares, start, z * products(z))
    return Estimate(mean, (squares / (m * (m - 1))) ** 0.5, m)


def _merge(mean: Array, squares: Array, count: int, block: Array) -> tuple[Array, Array]:
    """Mean and sum of squared deviations of `count` columns and of those of a block (Chan, Golub and LeVeque)."""
    size = block.shape[1]
    own = block.sum(axis=1) / size
    inner = ((block - own[:, None]) ** 2).sum(axis=1)
    shift, total = own - mean, count + size
    return mean + shift * (size / total), squares + inner + shift * shift * (count * size / total)
