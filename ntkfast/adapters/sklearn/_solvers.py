"""The solvers behind the estimators: from samples and centred targets to coefficients."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from ..._typing import Array
from ...features import FeatureMap
from ...regression import (
    KernelOperator,
    NormalEquations,
    conjugate_gradient,
    kernel_ridge,
    leave_one_out,
    random_preconditioner,
)

__all__ = ["RELATIVE_RIDGES", "feature_blocks", "solve_exact", "solve_features", "solve_iteratively"]

Tile: TypeAlias = Callable[..., Array]

# Columns of the preconditioner of conjugate gradients: n RANK^2 operations, no more than a few iterations cost.
RANK = 1000

# Relative residual at which conjugate gradients stop: below statistical errors, within reach of the dtype.
TOLERANCE = {"float32": 1e-5, "float64": 1e-8}

# Candidates of alpha="loo", relative to the mean of the kernel's diagonal.
RELATIVE_RIDGES = np.logspace(-7, 1, 25)

# Rows whose features are held at a time.
ROWS = 4096


def solve_exact(kernel: Tile, x: Array, y: Array, alpha: float | None) -> tuple[Array, float]:
    """Dual coefficients by a factorization of the kernel matrix.

    Parameters
    ----------
    kernel : callable
        ``kernel(x)`` returning the (n, n) matrix.
    x : ndarray, shape (n, d)
    y : ndarray, shape (n,) or (n, k)
    alpha : float or None
        Absolute ridge; None chooses it by leave-one-out.

    Returns
    -------
    ndarray of the shape of `y`, float
        Coefficients and ridge.
    """
    return _solve_matrix(kernel(x), y, alpha)


def _solve_matrix(matrix: Array, y: Array, alpha: float | None) -> tuple[Array, float]:
    if alpha is not None:
        return kernel_ridge(matrix, y, reg=alpha, overwrite=True).dual_coef, alpha
    choice = leave_one_out(matrix, y, regs=_candidates(float(matrix.diagonal().mean(dtype=np.float64))))
    assert hasattr(choice.fit, "dual_coef")
    return choice.fit.dual_coef, choice.reg


def _candidates(scale: float) -> Array:
    # a kernel of zeros (samples of zeros) has no scale; any positive ridges do for it
    return RELATIVE_RIDGES * (scale or 1.0)


def solve_iteratively(kernel: Tile, x: Array, y: Array, alpha: float, *, seed: int) -> tuple[Array, int]:
    """Dual coefficients by preconditioned conjugate gradients, without the whole kernel matrix.

    Parameters
    ----------
    kernel : callable
        ``kernel(x1, x2)`` returning tiles.
    x : ndarray, shape (n, d)
    y : ndarray, shape (n,) or (n, k)
    alpha : float
        Absolute ridge.
    seed : int
        Of the preconditioner's pivots.

    Returns
    -------
    ndarray of the shape of `y`, int
        Coefficients and number of iterations.

    Raises
    ------
    ConvergenceError
        Too ill-conditioned: a larger ridge is needed.
    """
    operator = KernelOperator(kernel, x)
    preconditioner = random_preconditioner(operator, reg=alpha, rank=min(RANK, len(x)), seed=seed)
    rtol = TOLERANCE[str(x.dtype)]
    solution = conjugate_gradient(operator, y, reg=alpha, preconditioner=preconditioner, rtol=rtol)
    return solution.dual_coef, solution.iterations


def solve_features(phi: FeatureMap, x: Array, y: Array, alpha: float | None) -> tuple[Array, float]:
    """Weights of a ridge regression on features.

    Parameters
    ----------
    phi : FeatureMap
    x : ndarray, shape (n, d)
    y : ndarray, shape (n,) or (n, k)
    alpha : float or None
        Absolute ridge; None chooses it by leave-one-out.

    Returns
    -------
    ndarray, shape (n_features,) or (n_features, k), float
        Weights and ridge.

    Notes
    -----
    Cost: with m features, n m min(n, m) operations and a factorization of the smaller Gram matrix. Memory: that
    matrix and 4,096 rows of features; all n rows where n <= m.
    """
    if len(x) <= phi.n_features:
        features = phi(x)
        dual_coef, reg = _solve_matrix(features @ features.T, y, alpha)
        return features.T @ dual_coef, reg
    equations = NormalEquations()
    for rows, features in feature_blocks(phi, x):
        equations.update(features, y[rows])
    if alpha is not None:
        return equations.solve(alpha, overwrite=True).weights, alpha
    path = equations.decompose()
    regs = _candidates(float(path.spectrum.eigenvalues.sum(dtype=np.float64)) / len(x))
    choice = path.leave_one_out(((features, y[rows]) for rows, features in feature_blocks(phi, x)), regs=regs)
    assert hasattr(choice.fit, "weights")
    return choice.fit.weights, choice.reg


def feature_blocks(phi: FeatureMap, x: Array) -> Iterator[tuple[slice, Array]]:
    """Rows of `x` and their features, some at a time.

    Parameters
    ----------
    phi : FeatureMap
    x : ndarray, shape (n, d)

    Yields
    ------
    slice, ndarray of shape (b, n_features)
    """
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, phi(x[rows])
