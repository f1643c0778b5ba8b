"""Block preconditioned conjugate gradients for (K + reg I) X = Y, all columns of Y in one Krylov space.

With A = K + reg I, residual block R = Q C kept as a basis Q, orthonormal in the inner product of
M^-1 (Q^T Z = I, Z = M^-1 Q), times its coefficients C:

    X += P S C,   Q' = Q - A P S,   S = (P^T A P)^-1
    Q rho = Q'  (basis again),  C = rho C,  P = Z + P rho^T.

Numerically dependent directions of Q' are left out of the basis. So columns of Y that depend on
each other, as centred one-hot labels do, or that have converged, do not break the recursion.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .._check import check_dtype, check_finite, check_int, check_real
from .._typing import Array
from ..backends import get_backend
from ..errors import ConvergenceError, MixedBackendError, NotPositiveDefiniteError
from .operators import KernelOperator

__all__ = ["IterativeSolution", "Preconditioner", "conjugate_gradient"]

# A direction of the new residual basis this much shorter than the longest one is rounding error:
# the Gram matrix it is read from has entries exact to 1e-16 and holds squared lengths.
_DEPENDENT = 1e-14

# The recursion's residual drifts from the true one; aim a little below the tolerance.
_MARGIN = 0.7

# What one recursion with products in float32 can gain; then it is restarted on a float64 residual.
_SINGLE_GAIN = 1e-3


class Preconditioner(Protocol):
    """Anything with ``apply(v)`` = c M^-1 v for (n, k) float64 blocks, M symmetric positive definite, c > 0."""

    def apply(self, v: Array) -> Array:
        """Solve M z = c v for the block z."""


@dataclass(frozen=True, slots=True, eq=False)
class IterativeSolution:
    """Result of `conjugate_gradient`.

    Attributes
    ----------
    dual_coef : array, shape (n,) or (n, k)
    reg : float
    residuals : tuple of float
        |y - (K + reg I) dual_coef| / |y| per column, computed anew in float64, before the solution is
        rounded to the dtype of y.
    iterations : int
        Products with K, the one or more that checked the residual not counted.
    history : tuple of float
        Largest relative residual of the recursion after each iteration.
    converged : bool
        All residuals are at most the tolerance.
    """

    dual_coef: Array
    reg: float
    residuals: tuple[float, ...]
    iterations: int
    history: tuple[float, ...]
    converged: bool


def conjugate_gradient(
    operator: KernelOperator,
    y: Array,
    *,
    reg: float,
    preconditioner: Preconditioner | None = None,
    rtol: float = 1e-6,
    max_iterations: int = 500,
    start: Array | None = None,
    progress: Callable[[int, float], None] | None = None,
    strict: bool = True,
) -> IterativeSolution:
    """Solve (K + reg I) X = Y by block preconditioned conjugate gradients.

    Parameters
    ----------
    operator : KernelOperator
        K, n x n.
    y : array, shape (n,) or (n, k), float32 or float64
        Right-hand sides.
    reg : float
        Ridge, absolute, >= 0.
    preconditioner : Preconditioner, optional
        For example `random_preconditioner`; without one, many more iterations are needed.
    rtol : float
        Wanted relative residual of every column, > 0.
    max_iterations : int
    start : array, optional
        First guess, of the shape of `y` (a solution for a nearby ridge saves iterations).
    progress : callable, optional
        ``progress(iteration, largest relative residual)``.
    strict : bool
        Raise if the tolerance is not reached; else return what there is, with `converged` False.

    Returns
    -------
    IterativeSolution
        `dual_coef` in the dtype and shape of `y`.

    Raises
    ------
    TypeError, ValueError
        Bad arrays or numbers.
    ConvergenceError
        `strict`, and the limit was reached, or rounding stopped the progress.
    NotPositiveDefiniteError
        A direction p with p^T (K + reg I) p <= 0 was met.

    Notes
    -----
    Cost per iteration: one product with K (2 n^2 k operations), one application of the preconditioner, and
    6 n k^2. Memory: about 8 blocks of n x k in float64.
    The recursion's products with K use the precision of the tiles, everything else float64. When it ends, or
    has gained a factor of 1000 in float32, the residual is computed anew in float64 and the recursion
    restarted on it: float32 tiles also lead to residuals of 1e-12 (of K rounded to float32).
    Determinism: no random numbers; the same bits for the same BLAS and thread count.
    Backends: numpy, cupy.

    References
    ----------
    O'Leary. The block conjugate gradient algorithm and related methods. Linear Algebra Appl. 29, 1980.
    Dubrulle. Retooling the method of block conjugate gradients. ETNA 12, 2001 (algorithm BCGrQ).

    Examples
    --------
    >>> import numpy as np
    >>> k = np.diag([1.0, 2.0, 3.0])
    >>> solution = conjugate_gradient(KernelOperator(k), np.array([2.0, 3.0, 4.0]), reg=1.0, rtol=1e-12)
    >>> solution.dual_coef
    array([1., 1., 1.])
    >>> solution.iterations
    3
    """
    block, reg = _check(operator, y, "y"), check_real(reg, "reg", minimum=0)
    rtol = check_real(rtol, "rtol", minimum=0, strict=True)
    limit = check_int(max_iterations, "max_iterations", minimum=1)
    guess = None
    if start is not None:
        guess = _check(operator, start, "start")
        if start.shape != y.shape:
            raise ValueError(f"expected start of shape {y.shape}, as y, got {start.shape}")
    system = _System(operator, reg, preconditioner)
    # Columns of magnitude 1, so that neither squares nor float32 tiles overflow.
    size = abs(block).max(axis=0)
    size[size == 0] = 1
    x, residuals, history = _solve(system, block / size, None if guess is None else guess / size, rtol, limit, progress)
    converged = max(residuals) <= rtol
    if strict and not converged:
        raise ConvergenceError(
            f"expected a relative residual of {rtol:g}, got {max(residuals):.3g} after {len(history)} iterations; "
            "use a larger rank, reg or max_iterations, or strict=False"
        )
    x = (x * size).reshape(y.shape).astype(y.dtype)
    return IterativeSolution(x, reg, residuals, len(history), history, converged)


def _check(operator: KernelOperator, y: Array, name: str) -> Array:
    """Check a block of n rows and return it as (n, k) float64."""
    n = operator.shape[0]
    if not hasattr(y, "dtype"):
        raise TypeError(f"expected {name} to be a NumPy or CuPy array, got {type(y).__name__}")
    backend = get_backend(y)
    if backend is not operator.backend:
        raise MixedBackendError(f"expected {name} on {operator.backend.name}, as the operator, got {backend.name}")
    check_dtype(y, name)
    if y.ndim not in (1, 2) or y.shape[0] != n or y.size == 0:
        raise ValueError(f"expected {name} of shape ({n},) or ({n}, k), got {y.shape}")
    check_finite(y, name)
    return y.reshape(n, -1).astype("float64")


class _System(NamedTuple):
    """A = K + reg I and M^-1."""

    operator: KernelOperator
    reg: float
    preconditioner: Preconditioner | None

    def product(self, v: Array) -> Array:
        """Compute A v, with the products in the tiles' dtype."""
        return (self.operator @ v.astype(self.operator.dtype)).astype("float64") + self.reg * v

    def residual(self, y: Array, x: Array) -> Array:
        """Compute y - A x, all in float64."""
        return y - self.operator @ x - self.reg * x

    def precondition(self, v: Array) -> Array:
        return v if self.preconditioner is None else self.preconditioner.apply(v)


def _solve(
    system: _System, y: Array, x: Array | None, rtol: float, limit: int, progress: Any
) -> tuple[Array, tuple[float, ...], tuple[float, ...]]:
    """Recursions, restarted on the true residual as long as that halves it."""
    xp = system.operator.backend.xp
    scale = _lengths(y)
    scale[scale == 0] = 1
    history: list[float] = []
    residual = y if x is None else system.residual(y, x)
    x = xp.zeros_like(y) if x is None else x
    before, worst = math.inf, float((_lengths(residual) / scale).max())
    gain = _SINGLE_GAIN if str(system.operator.dtype) == "float32" else 0.0
    while worst > rtol and worst < before / 2 and len(history) < limit:
        target = max(_MARGIN * rtol, gain * worst)
        x = x + _recursion(system, residual, scale, target, limit, history, progress)
        residual = system.residual(y, x)
        before, worst = worst, float((_lengths(residual) / scale).max())
    relative = _lengths(residual) / scale
    return x, tuple(float(r) for r in relative), tuple(history)


def _recursion(
    system: _System, residual: Array, scale: Array, rtol: float, limit: int, history: list[float], progress: Any
) -> Array:
    """BCGrQ from zero for the right-hand side `residual`, until all columns are below rtol * scale."""
    xp = system.operator.backend.xp
    lengths = _lengths(residual)
    lengths[lengths == 0] = 1
    q, z, rho = _orthonormalize(system, residual / lengths)
    coefficient, p, x = rho * lengths, z, xp.zeros_like(residual)
    while q.shape[1] and len(history) < limit:
        product = system.product(p)
        step = _inverse(xp, p.T @ product)
        x += p @ (step @ coefficient)
        q, z, rho = _orthonormalize(system, q - product @ step)
        coefficient = rho @ coefficient
        history.append(float((_lengths(q @ coefficient) / scale).max()))
        if progress is not None:
            progress(len(history), history[-1])
        if history[-1] <= rtol:
            break
        p = z + p @ rho.T
    return x


def _orthonormalize(system: _System, w: Array) -> tuple[Array, Array, Array]:
    """Q, Z = M^-1 Q and rho with Q^T Z = I and Q rho = w, up to dependent directions of w."""
    xp = system.operator.backend.xp
    z = system.precondition(w)
    gram = w.T @ z
    squares, vectors = xp.linalg.eigh((gram + gram.T) / 2)
    kept = squares > max(_DEPENDENT * float(squares[-1]), 0.0)
    lengths, vectors = xp.sqrt(squares[kept]), vectors[:, kept]
    basis = vectors / lengths
    return w @ basis, z @ basis, lengths[:, None] * vectors.T


def _inverse(xp: Any, matrix: Array) -> Array:
    """Inverse of the small matrix P^T A P, by its eigenvalues: they prove that it is positive."""
    values, vectors = xp.linalg.eigh((matrix + matrix.T) / 2)
    if float(values[0]) <= 0:
        raise NotPositiveDefiniteError(
            f"expected K + reg I to be positive definite, got a direction of curvature {float(values[0]):.3g}; "
            "use a larger reg, or float64 tiles"
        )
    return (vectors / values) @ vectors.T


def _lengths(block: Array) -> Array:
    """Euclidean norms of the columns."""
    return (block * block).sum(axis=0) ** 0.5
