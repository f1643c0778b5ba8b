"""Kernel ridge regression by Cholesky factorization.

    dual_coef = (K + reg I)^-1 y,   prediction(x) = K(x, train) dual_coef

The ridge is absolute: nothing is divided by n or by the kernel's scale.
"""

import math
from dataclasses import dataclass

from .._check import check_range, check_real, quiet
from .._typing import Array
from ..backends import Backend, get_backend
from ..errors import NotPositiveDefiniteError
from ._inputs import check_cross, check_kernel, check_like, check_targets, eps, fill_diagonal, max_jitter, own
from ._linalg import cholesky, mirror, solve_cholesky

__all__ = ["CholeskyFactor", "KernelRidge", "factorize", "factorize_in_place", "jitter_ladder", "kernel_ridge"]

# Each rung costs at most one factorization more, and failing ones usually stop early.
_RUNG = 100.0
_LOWEST_RUNG = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True, slots=True, eq=False)
class KernelRidge:
    """A fitted kernel ridge regression.

    Attributes
    ----------
    dual_coef : array, shape (n,) or (n, k)
        (K + (reg + jitter) I)^-1 y, in the shape of y.
    reg : float
        The ridge asked for.
    jitter : float
        What had to be added to it to factorize; 0 almost always.
    """

    dual_coef: Array
    reg: float
    jitter: float = 0.0

    def predict(self, k_test_train: Array) -> Array:
        """Predictions at new points.

        Parameters
        ----------
        k_test_train : array, shape (m, n)
            Kernel between the new and the training points, of the dtype of `dual_coef`.

        Returns
        -------
        array, shape (m,) or (m, k)

        Notes
        -----
        Cost: one product, 2 m n k operations.

        Examples
        --------
        >>> import numpy as np
        >>> KernelRidge(np.array([1.0, -1.0]), reg=0.1).predict(np.array([[2.0, 1.0]]))
        array([1.])
        """
        check_cross(k_test_train, self.dual_coef)
        return k_test_train @ self.dual_coef


@dataclass(frozen=True, slots=True, eq=False)
class CholeskyFactor:
    """K + (reg + jitter) I = L L^T.

    Attributes
    ----------
    lower : array, shape (n, n)
        L in the lower triangle; what stands above the diagonal has no meaning.
    reg, jitter : float
    """

    lower: Array
    reg: float
    jitter: float

    def solve(self, b: Array) -> Array:
        """(K + (reg + jitter) I)^-1 b for b of shape (n,) or (n, k); 2 n^2 k operations.

        Examples
        --------
        >>> import numpy as np
        >>> factorize(np.eye(2), reg=1.0).solve(np.array([2.0, 4.0]))
        array([1., 2.])
        """
        check_like(b, "b", self.lower)
        check_targets(b, self.lower, "b")
        return check_range(solve_cholesky(get_backend(b), self.lower, b), "the solution")

    def log_determinant(self) -> float:
        """Logarithm of det(K + (reg + jitter) I), summed in float64.

        Examples
        --------
        >>> import numpy as np
        >>> round(factorize(np.eye(2), reg=1.0).log_determinant(), 6)
        1.386294
        """
        diagonal = self.lower.diagonal().astype("float64")
        return 2.0 * float(get_backend(self.lower).xp.log(diagonal).sum())


def factorize(
    k_train: Array, *, reg: float, overwrite: bool = False, max_jitter: float | None = None
) -> CholeskyFactor:
    """Cholesky factor of K + reg I, with the smallest jitter that lets it exist.

    Parameters
    ----------
    k_train : array, shape (n, n), float32 or float64
        Symmetric positive semidefinite kernel matrix; the lower triangle is read.
    reg : float
        Ridge added to the diagonal, >= 0.
    overwrite : bool
        Factorize in the memory of `k_train`, whose contents are lost (NumPy; CuPy's factorization
        always takes new memory).
    max_jitter : float, optional
        Largest jitter, relative to the mean of the diagonal; default 1e-6 in float64, 1e-3 in
        float32. 0 allows none.

    Returns
    -------
    CholeskyFactor

    Raises
    ------
    TypeError, ValueError
        Not a symmetric matrix, NaN or inf, negative `reg`, a read-only matrix with `overwrite`.
    NotPositiveDefiniteError
        Even the largest jitter was not enough, or a negative diagonal entry.
    OverflowError
        K + reg I leaves the range of the dtype.

    Notes
    -----
    A factorization counts as failed not only when a pivot is negative, but already when a pivot has
    fallen below 4 eps sqrt(n) of its diagonal entry: it then consists of rounding errors. So repeated
    points with reg=0 lead to a jitter instead of to huge coefficients.
    Cost: n^3 / 3 operations. Memory: one n x n matrix; none with `overwrite` (nor for a second try:
    the strict upper triangle keeps what the first one destroyed).
    Determinism: that of LAPACK; the same bits for the same library and thread count.

    Examples
    --------
    >>> import numpy as np
    >>> factor = factorize(np.ones((3, 3)), reg=0.0)
    >>> 0 < factor.jitter < 1e-5
    True
    """
    k, backend = check_kernel(k_train)
    reg = check_real(reg, "reg", minimum=0)
    ladder = jitter_ladder(k, max_jitter)
    return factorize_in_place(backend, own(backend, k, k_train, overwrite), reg, ladder)


def factorize_in_place(backend: Backend, a: Array, reg: float, ladder: tuple[float, ...]) -> CholeskyFactor:
    """Factorize in the memory of the symmetric matrix `a`, climbing the ladder of jitters.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([[4.0, 2.0], [2.0, 5.0]])
    >>> factorize_in_place(get_backend(a), a, 0.0, jitter_ladder(a, None)).lower[1]
    array([1., 2.])
    """
    diagonal = a.diagonal().copy()
    scale = float((diagonal.astype("float64") / len(diagonal)).sum())  # in this order, since sums may overflow
    for step, relative in enumerate(ladder):
        if step:
            mirror(backend, a, upper=True)
        shift = reg + relative * scale
        with quiet():
            shifted = diagonal + diagonal.dtype.type(shift)
        fill_diagonal(a, check_range(shifted, "the diagonal of K + reg I"))
        lower = cholesky(backend, a)
        if lower is not None and _pivots_hold(lower, diagonal, shift):
            return CholeskyFactor(lower, reg, relative * scale)
    raise NotPositiveDefiniteError(_failure(ladder, reg, scale))


def jitter_ladder(k: Array, largest: float | None) -> tuple[float, ...]:
    """Relative jitters to try: 0, the lowest rung, and so on up to `largest`, itself included.

    Examples
    --------
    >>> import numpy as np
    >>> jitter_ladder(np.eye(1), 0.0)
    (0.0,)
    """
    top = max_jitter(k) if largest is None else check_real(largest, "max_jitter", minimum=0)
    rungs = [0.0]
    rung = _LOWEST_RUNG[str(k.dtype)]
    while rung < top * 0.99:
        rungs.append(rung)
        rung *= _RUNG
    return (*rungs, top) if top > 0 else tuple(rungs)


def _pivots_hold(lower: Array, diagonal: Array, shift: float) -> bool:
    pivots = lower.diagonal() ** 2
    allowed = 4 * eps(lower) * math.sqrt(lower.shape[0])
    # written so that a NaN pivot fails as well
    return bool((pivots > allowed * (diagonal + shift)).all())


def _failure(ladder: tuple[float, ...], reg: float, scale: float) -> str:
    tried = ", ".join(f"{relative * scale:.3g}" for relative in ladder)
    return (
        f"expected a positive semidefinite kernel matrix, but K + (reg + jitter) I has no Cholesky factor for "
        f"reg = {reg:g} and jitter in ({tried}); mean of the diagonal {scale:.3g}. Use a larger reg or float64"
    )


def kernel_ridge(
    k_train: Array,
    y: Array,
    *,
    reg: float,
    overwrite: bool = False,
    max_jitter: float | None = None,
) -> KernelRidge:
    """Kernel ridge regression on a kernel matrix.

    Parameters
    ----------
    k_train : array, shape (n, n), float32 or float64
        Symmetric positive semidefinite kernel matrix of the training points.
    y : array, shape (n,) or (n, k), of the dtype of `k_train`
        Targets; k outputs are fitted with one factorization.
    reg : float
        Ridge, absolute, >= 0.
    overwrite : bool
        Factorize in the memory of `k_train`; see `factorize`.
    max_jitter : float, optional
        See `factorize`.

    Returns
    -------
    KernelRidge

    Raises
    ------
    TypeError, ValueError
        Wrong shapes or dtypes, NaN or inf, negative `reg`.
    NotPositiveDefiniteError
        See `factorize`.
    OverflowError
        K + reg I or the coefficients leave the range of the dtype.

    Notes
    -----
    Cost: n^3 / 3 + 2 n^2 k operations. Memory: see `factorize`.
    Accuracy: relative error about eps times the condition number of K + reg I.
    Determinism: that of LAPACK and BLAS; the same bits for the same library and thread count.
    Backends: numpy, cupy.

    References
    ----------
    Saunders, Gammerman, Vovk. Ridge regression learning algorithm in dual variables. ICML 1998.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 9)[:, None]
    >>> fit = kernel_ridge(x @ x.T, 3 * x[:, 0], reg=1e-8)
    >>> np.round(fit.predict(np.array([[2.0]]) @ x.T), 6)
    array([6.])
    """
    k, backend = check_kernel(k_train)
    check_targets(y, k)
    reg = check_real(reg, "reg", minimum=0)
    ladder = jitter_ladder(k, max_jitter)
    factor = factorize_in_place(backend, own(backend, k, k_train, overwrite), reg, ladder)
    return KernelRidge(factor.solve(y), reg, factor.jitter)
