"""Gaussian process regression: posterior mean, variance, covariance and marginal likelihood.

With f ~ GP(0, K), y = f(x) + noise of variance reg, and K + reg I = L L^T:

    mean(x*)  = k* (K + reg I)^-1 y,          cov(x*, x*') = k(x*, x*') - v(x*)^T v(x*'),   L v = k*^T,
    log p(y)  = -1/2 y^T (K + reg I)^-1 y - 1/2 log det(K + reg I) - n/2 log(2 pi).
"""

import math
from dataclasses import dataclass

from .._check import check_real
from .._typing import Array
from ..backends import get_backend
from ._inputs import check_cross, check_kernel, check_like, check_targets
from ._linalg import solve_lower
from .dual import CholeskyFactor, KernelRidge, factorize

__all__ = ["GaussianProcess", "gaussian_process"]

# Test points per triangular solve: the workspace is n times this.
_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class GaussianProcess:
    """A Gaussian process conditioned on data; made by `gaussian_process`.

    Attributes
    ----------
    factor : CholeskyFactor
    fit : KernelRidge
        Its `predict` is the posterior mean.
    log_marginal_likelihood : tuple of float
        One per output.
    """

    factor: CholeskyFactor
    fit: KernelRidge
    log_marginal_likelihood: tuple[float, ...]

    def mean(self, k_test_train: Array) -> Array:
        """Posterior mean at m new points from their kernel (m, n) with the training points: (m,) or (m, k).

        Examples
        --------
        >>> import numpy as np
        >>> gaussian_process(np.eye(1), np.array([1.0]), reg=1.0).mean(np.array([[1.0]]))
        array([0.5])
        """
        return self.fit.predict(k_test_train)

    def variance(self, k_test_train: Array, k_test: Array) -> Array:
        """Posterior variance of the noise-free function at new points, the same for every output.

        Parameters
        ----------
        k_test_train : array, shape (m, n)
        k_test : array, shape (m,)
            Diagonal of the kernel of the new points.

        Returns
        -------
        array, shape (m,)
            In [0, k_test]: rounding below 0 is cut off. Add reg for the variance of an observation.

        Notes
        -----
        Cost: m n^2 operations; memory n x 1024 numbers, twice.

        Examples
        --------
        >>> import numpy as np
        >>> process = gaussian_process(np.eye(1), np.array([1.0]), reg=1.0)
        >>> process.variance(np.array([[1.0], [0.0]]), np.array([1.0, 1.0]))
        array([0.5, 1. ])
        """
        m = self._check(k_test_train, k_test, 1)
        backend = get_backend(k_test)
        out = backend.xp.empty(m, k_test.dtype)
        for start in range(0, m, _ROWS):
            rows = slice(start, start + _ROWS)
            half = solve_lower(backend, self.factor.lower, k_test_train[rows].T)
            out[rows] = k_test[rows] - (half * half).sum(axis=0)
        return backend.xp.maximum(out, 0)

    def covariance(self, k_test_train: Array, k_test: Array) -> Array:
        """Posterior covariance of the noise-free function between new points.

        Parameters
        ----------
        k_test_train : array, shape (m, n)
        k_test : array, shape (m, m)
            Kernel between the new points.

        Returns
        -------
        array, shape (m, m)
            Symmetric; negative rounding on the diagonal is cut off.

        Notes
        -----
        Cost: m n^2 + m^2 n operations; memory 2 n m + 2 m^2 numbers.

        Examples
        --------
        >>> import numpy as np
        >>> process = gaussian_process(np.eye(1), np.array([1.0]), reg=1.0)
        >>> process.covariance(np.array([[1.0], [0.0]]), np.eye(2))
        array([[0.5, 0. ],
               [0. , 1. ]])
        """
        self._check(k_test_train, k_test, 2)
        backend = get_backend(k_test)
        half = solve_lower(backend, self.factor.lower, k_test_train.T)
        out = k_test - half.T @ half
        out = (out + out.T) / 2
        index = backend.xp.arange(out.shape[0])
        out[index, index] = backend.xp.maximum(out[index, index], 0)
        return out

    def _check(self, k_test_train: Array, k_test: Array, ndim: int) -> int:
        check_cross(k_test_train, self.factor.lower)
        check_like(k_test, "k_test", self.factor.lower)
        m = int(k_test_train.shape[0])
        if k_test.shape != (m,) * ndim:
            raise ValueError(f"expected k_test of shape {(m,) * ndim}, got {k_test.shape}")
        return m


def gaussian_process(
    k_train: Array, y: Array, *, reg: float, overwrite: bool = False, max_jitter: float | None = None
) -> GaussianProcess:
    """Condition a Gaussian process with zero mean on noisy observations.

    Parameters
    ----------
    k_train : array, shape (n, n), float32 or float64
        Covariance (kernel matrix) of the training points.
    y : array, shape (n,) or (n, k), of the dtype of `k_train`
        Observations; k outputs are independent and share the covariance.
    reg : float
        Variance of the noise, >= 0; a jitter, if one is needed, counts as noise.
    overwrite, max_jitter
        See `factorize`.

    Returns
    -------
    GaussianProcess

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        See `factorize`.

    Notes
    -----
    Cost: n^3 / 3 + 2 n^2 k operations. Memory: the factor, n^2 numbers; none new with `overwrite`.
    Determinism: that of LAPACK and BLAS; the same bits for the same library and thread count.
    Backends: numpy, cupy.
    The infinitely wide network itself is the process with the NNGP kernel; for the distribution after
    training by gradient flow see `GradientFlow.ensemble`.

    References
    ----------
    Rasmussen, Williams. Gaussian processes for machine learning. MIT Press 2006, Algorithm 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> process = gaussian_process(np.eye(1), np.array([2.0]), reg=1.0)
    >>> round(process.log_marginal_likelihood[0], 6)  # log of the density of N(0, 2) at 2
    -2.265512
    """
    k, _ = check_kernel(k_train)
    targets = check_targets(y, k)
    check_real(reg, "reg", minimum=0)
    factor = factorize(k_train, reg=reg, overwrite=overwrite, max_jitter=max_jitter)
    fit = KernelRidge(factor.solve(y), factor.reg, factor.jitter)
    fits = (targets.astype("float64") * fit.dual_coef.reshape(targets.shape)).sum(axis=0)
    constant = factor.log_determinant() + targets.shape[0] * math.log(2 * math.pi)
    return GaussianProcess(factor, fit, tuple(-0.5 * (float(value) + constant) for value in fits))
