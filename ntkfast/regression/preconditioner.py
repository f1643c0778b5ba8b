"""Preconditioner of K + reg I from a partial Cholesky factor, K ~ F F^T.

    M = F F^T + shift I,   shift = reg + trace(K - F F^T) / n.

The second term of the shift stands for the eigenvalues that F misses. With reg alone, those would
be spread over [1, (reg + missed) / reg] while the found ones sit at 1, far off for a small reg.
"""

from dataclasses import dataclass

from .._check import check_matrix, check_real
from .._typing import Array
from ..backends import get_backend
from ..errors import NotPositiveDefiniteError
from ._inputs import check_array, fill_diagonal
from ._linalg import add_gram, cholesky, solve_cholesky
from .operators import KernelOperator

__all__ = ["LowRankPreconditioner", "low_rank_preconditioner", "random_preconditioner"]


@dataclass(frozen=True, slots=True, eq=False)
class LowRankPreconditioner:
    """M = F F^T + shift I.

    Attributes
    ----------
    factor : array, shape (n, r), float64
        F.
    inner : array, shape (r, r), float64
        Lower Cholesky factor of F^T F + shift I.
    shift : float
    """

    factor: Array
    inner: Array
    shift: float

    def apply(self, v: Array) -> Array:
        """Compute shift M^-1 v by the Woodbury identity, v of shape (n, k); 4 n r k operations.

        Raises
        ------
        TypeError, ValueError
            `v` is not a matrix of n rows of floats, or has NaN or inf.

        Examples
        --------
        >>> import numpy as np
        >>> m = low_rank_preconditioner(np.ones((2, 1)), np.ones(2), reg=0.5)  # K = ones: M = K + I / 2
        >>> m.apply(np.array([[2.5], [2.5]])) / m.shift
        array([[1.],
               [1.]])
        """
        v, backend = check_matrix(v, "v")
        if v.shape[0] != self.factor.shape[0]:
            raise ValueError(f"expected v of shape ({self.factor.shape[0]}, k), got {v.shape}")
        inner = solve_cholesky(backend, self.inner, self.factor.T @ v)
        return v - self.factor @ inner


def low_rank_preconditioner(factor: Array, diagonal: Array, *, reg: float) -> LowRankPreconditioner:
    """Preconditioner from a factor F with K ~ F F^T.

    Parameters
    ----------
    factor : array, shape (n, r)
        F, for example of `random_pivoted_cholesky` or a Nystroem feature matrix.
    diagonal : array, shape (n,)
        Diagonal of K.
    reg : float
        Ridge of the system, >= 0.

    Returns
    -------
    LowRankPreconditioner

    Raises
    ------
    TypeError, ValueError
        Bad arrays, shapes that do not agree, negative `reg`.
    NotPositiveDefiniteError
        K + reg I = 0.

    Notes
    -----
    Cost: n r^2 operations; memory n r + r^2 numbers in float64, whatever the dtype of `factor`: the
    two terms of the Woodbury identity cancel to reg / (largest eigenvalue), beyond float32.
    Determinism: that of LAPACK and BLAS; the same bits for the same library and thread count.
    Backends: numpy, cupy.

    References
    ----------
    Woodbury. Inverting modified matrices. Memorandum report 42, Statistical Research Group, Princeton 1950.

    Examples
    --------
    >>> import numpy as np
    >>> low_rank_preconditioner(np.ones((2, 1)), np.array([1.0, 3.0]), reg=0.5).shift
    1.5
    """
    check_array(factor, "factor", 2)
    check_array(diagonal, "diagonal", 1)
    backend = get_backend(factor, diagonal)
    if diagonal.shape != factor.shape[:1] or diagonal.size == 0:
        raise ValueError(f"expected factor (n, r) and diagonal (n,), got {factor.shape} and {diagonal.shape}")
    if factor.shape[1] == 0:  # K = 0; BLAS takes no empty matrices
        factor = backend.xp.zeros((factor.shape[0], 1))
    reg = check_real(reg, "reg", minimum=0)
    factor = backend.xp.ascontiguousarray(factor, dtype="float64")
    missed = float(diagonal.astype("float64").sum()) - float(factor.reshape(-1) @ factor.reshape(-1))
    shift = reg + max(missed, 0.0) / factor.shape[0]
    inner = backend.xp.zeros((factor.shape[1], factor.shape[1]))
    add_gram(backend, factor, inner)
    # F^T F is exact to rounding, so a shift below that could leave it indefinite.
    floor = float(inner.diagonal().sum()) * 1e-14
    fill_diagonal(inner, inner.diagonal() + max(shift, floor))
    lower = cholesky(backend, inner)
    if lower is None:
        raise NotPositiveDefiniteError("expected K + reg I to be positive definite, got a preconditioner of zeros")
    return LowRankPreconditioner(factor, lower, max(shift, floor))


def random_preconditioner(operator: KernelOperator, *, reg: float, rank: int, seed: int) -> LowRankPreconditioner:
    """Preconditioner from randomly pivoted Cholesky columns of a kernel operator.

    Parameters
    ----------
    operator : KernelOperator
    reg : float
        Ridge, >= 0.
    rank : int
        Columns r; a few hundred to a few thousand. More save iterations, n r^2 operations pay for them.
    seed : int
        Key of the random stream.

    Returns
    -------
    LowRankPreconditioner

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        See `random_pivoted_cholesky` and `low_rank_preconditioner`.

    Notes
    -----
    Cost: n r kernel entries and 3 n r^2 operations. Memory: n r numbers of the tiles' dtype while it
    is built, and n r in float64.
    Determinism: the columns depend on K, rank and seed, and, rarely, on rounding; see `random_pivoted_cholesky`.
    Another preconditioner changes the number of iterations, not what they converge to.
    Backends: numpy, cupy.

    References
    ----------
    Díaz, Epperly, Frangella, Tropp, Webber. Robust, randomized preconditioning for kernel ridge
    regression. 2023 (arXiv 2304.12465).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((50, 4))
    >>> m = random_preconditioner(KernelOperator(x @ x.T), reg=1e-3, rank=10, seed=0)
    >>> m.factor.shape
    (50, 4)
    """
    # The feature maps are the larger part of the library; solvers alone do not load them.
    from ..features.pivoted_cholesky import random_pivoted_cholesky

    diagonal = operator.diagonal()
    factor = random_pivoted_cholesky(operator.block, rank, diagonal=diagonal, seed=seed).factor
    return low_rank_preconditioner(factor, diagonal, reg=reg)
