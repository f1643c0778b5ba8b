"""What regression needs of projected gradients: their Gram matrix, and the ridge regression on them.

With phi(x) of shape (k, m), phi(x) = S J(x) for a sketch S, the projected NTK is

    full      Theta[n, l, p, q] = <phi(x_n)[p], phi(x_l)[q]>
    diagonal  Theta[n, l, p]    = <phi(x_n)[p], phi(x_l)[p]>
    trace     Theta[n, l]       = sum_p <phi(x_n)[p], phi(x_l)[p]> / k,

and kernel regression with it is linear regression on phi: one weight vector for all outputs with the full kernel, one
for every target, over all outputs' features, with the trace.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .._check import (
    array_backend,
    check_choice,
    check_dtype,
    check_finite,
    check_range,
    check_real,
    memory_budget,
    quiet,
)
from .._typing import Array
from ..backends import Backend
from ..empirical._inputs import check_like
from ..empirical.ntk import OUTPUTS
from ..empirical.sums import ntk_sum
from ..empirical.terms import Product
from ..regression import NormalEquations, kernel_ridge
from ..regression._linalg import mirror

__all__ = ["ProjectedRegression", "check_features", "projected_ntk", "projected_regression"]

Blocks: TypeAlias = Iterable[tuple[Array, Array]]


def check_features(phi: Any, name: str, *, ndims: tuple[int, ...] = (2, 3)) -> Backend:
    """Check projected gradients, (n, m) or (n, k, m), without a copy; return their backend."""
    backend = array_backend(phi, name)
    check_dtype(phi, name)
    if phi.ndim not in ndims or phi.size == 0:
        shapes = " or ".join({2: "(n, m)", 3: "(n, k, m)"}[ndim] for ndim in ndims)
        raise ValueError(f"expected {name} of shape {shapes}, not empty, got {phi.shape}")
    check_finite(phi, name)
    return backend


def _check_fitting(phi: Any, name: str, shape: tuple[int, ...], like: Array) -> Array:
    """Check projected gradients (n, *shape) in the dtype and on the backend of `like`; return them C-contiguous."""
    array_backend(phi, name)
    if phi.shape[1:] != shape or phi.size == 0:
        wanted = ", ".join(map(str, ("n", *shape)))
        raise ValueError(f"expected {name} of shape ({wanted}), not empty, got {phi.shape}")
    return check_like(phi, name, phi.shape, like)


def projected_ntk(phi1: Array, phi2: Array | None = None, *, output: str = "trace") -> Array:
    """Empirical NTK of projected gradients, in the conventions of `ntkfast.empirical.empirical_ntk`.

    Parameters
    ----------
    phi1 : array, shape (n1, k, m) or (n1, m), float32 or float64
        Projected gradients of k outputs; without the axis, of one.
    phi2 : array, shape (n2, k, m) or (n2, m), optional
        Default: `phi1`, at half the work on CPUs.
    output : {"trace", "diagonal", "full"}
        "full": all pairs of outputs. "diagonal": equal ones. "trace": the mean over equal ones.

    Returns
    -------
    array, shape (n1, n2), (n1, n2, k) or (n1, n2, k, k); dtype and backend of `phi1`

    Raises
    ------
    TypeError, ValueError
        Arrays that do not fit each other, empty, NaN or inf.
    MixedBackendError
        NumPy and CuPy arrays in one call.
    OverflowError
        The kernel leaves the range of its dtype.

    Notes
    -----
    Error: that of the sketch. The expectation over its seed is the empirical NTK.
    Cost: n1 n2 k m multiply-adds ("full": k times that). Memory beside the result: none ("diagonal": one output's
    kernel; "full": tiles of 1280 by 320).
    Determinism: that of BLAS. With `phi2` None the result is symmetric to the bit.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> phi = np.array([[[1.0, 0.0], [0.0, 2.0]]])  # one sample, two outputs
    >>> projected_ntk(phi)
    array([[2.5]])
    >>> projected_ntk(phi, output="full")[0, 0]
    array([[1., 0.],
           [0., 4.]])
    """
    check_choice(output, "output", OUTPUTS)
    backend = check_features(phi1, "phi1")
    first = second = _by_output(phi1)
    if phi2 is not None:
        second = _by_output(_check_fitting(phi2, "phi2", phi1.shape[1:], phi1))
    with quiet():
        if output == "trace":
            kernel = _gram(backend, _flat(first), None if phi2 is None else _flat(second))
            kernel /= first.shape[1]
        else:
            n1, n2, k = len(first), len(second), first.shape[1]
            total = ntk_sum(output, backend, (n1, k), (n2, k), first.dtype, phi2 is None)
            total.add(Product(first, second))
            kernel = total.result()
    return check_range(kernel, "the projected NTK")


def _by_output(phi: Array) -> Array:
    return phi.reshape(len(phi), -1, phi.shape[-1])


def _flat(phi: Array) -> Array:
    return phi.reshape(len(phi), -1)


def _gram(backend: Backend, left: Array, right: Array | None = None) -> Array:
    """The matrix left right^T; with `right` None, symmetric to the bit."""
    if right is not None:
        return left @ right.T
    gram = left @ left.T
    mirror(backend, gram, upper=False)
    return gram


@dataclass(frozen=True, slots=True, eq=False)
class ProjectedRegression:
    """A linear function of projected gradients, made by `projected_regression`.

    Attributes
    ----------
    weights : array
        w of f(x) = <phi(x), w>. With features (n, m): shape (m,) or, for c targets, (m, c). With features (n, k, m):
        (m,) for "full", (k, m) or (k, m, c) for "trace".
    shape : tuple of int
        Of one sample's features, (m,) or (k, m).
    output : str
        "trace" or "full".
    reg : float
        The ridge asked for.
    jitter : float
        What had to be added to it to solve; 0 almost always.
    """

    weights: Array = field(repr=False)
    shape: tuple[int, ...]
    output: str
    reg: float
    jitter: float

    def predict(self, phi: Array) -> Array:
        """Predictions from projected gradients of new samples.

        Parameters
        ----------
        phi : array, shape (n, m) or (n, k, m), as those of the fit
            By the same sketch, at the same parameters.

        Returns
        -------
        array
            Shape (n,) or (n, c) as the targets; (n, k) for "full" with features (n, k, m).

        Raises
        ------
        TypeError, ValueError, MixedBackendError
            `phi` is not such an array, or has NaN or inf.
        OverflowError
            The predictions leave the range of their dtype.

        Examples
        --------
        >>> import numpy as np
        >>> fit = projected_regression(np.eye(2), np.array([2.0, 4.0]), reg=1.0)
        >>> fit.predict(np.array([[1.0, 1.0]]))
        array([3.])
        """
        phi = _check_fitting(phi, "phi", self.shape, self.weights)
        with quiet():
            if self.output == "full":
                prediction = phi @ self.weights
            else:
                prediction = _flat(phi) @ self.weights.reshape(-1, *self.weights.shape[len(self.shape) :])
        return check_range(prediction, "the prediction")


def projected_regression(
    phi: Array | Blocks,
    y: Array | None = None,
    *,
    reg: float,
    output: str = "trace",
    max_memory: int | None = None,
) -> ProjectedRegression:
    """Ridge regression on projected gradients: kernel regression with `projected_ntk`, in feature space.

    Parameters
    ----------
    phi : array, shape (n, m) or (n, k, m), float32 or float64
        Projected gradients; or, with `y` None, an iterable of pairs (phi, y) of consecutive samples, read once.
    y : array, of the dtype of `phi`
        Targets, shape (n,) or (n, c), fitted side by side; (n, k) for "full" with features (n, k, m). To continue from
        the network as `ntkfast.empirical.linearize` does, give y - f(x) and add f(x) to the predictions.
    reg : float
        Ridge, absolute, >= 0, as in ``kernel_ridge(projected_ntk(phi, output=output), y, reg=reg)``.
    output : {"trace", "full"}
        "trace": one kernel, the mean over the outputs, for all targets. "full": the kernel between all pairs of
        samples and outputs, as `LinearizedModel.fit`; all outputs share one weight per column of the sketch. The same
        for features (n, m).
    max_memory : int, optional
        Bytes that the matrix that is solved may take; default no limit.

    Returns
    -------
    ProjectedRegression
        With `predict`.

    Raises
    ------
    TypeError, ValueError
        Arrays that do not fit each other, NaN or inf, negative `reg`, no blocks.
    MixedBackendError
        NumPy and CuPy arrays in one call.
    MemoryBudgetError
        `max_memory` is below the matrix; the message has its size.
    NotPositiveDefiniteError
        See `ntkfast.regression.factorize`.
    OverflowError
        Sums or solution leave the range of their dtype.

    Notes
    -----
    Solves for r rows (n, or n k for "full") and d columns (m, or k m for "trace"): from the d x d normal equations if
    d <= r, else from the r x r Gram matrix. Cost: r d min(r, d) + min(r, d)^3 / 3 multiply-adds. Memory: one matrix of
    that size (three with CuPy). Blocks are always gathered in normal equations, and not kept.
    Accuracy: in the dtype of `phi`; relative error about eps times the condition number of the matrix plus ridge.
    With float32, ridges below 1e-6 of the largest eigenvalue need ``phi.astype("float64")``.
    Determinism: that of LAPACK and BLAS; blocks change the rounding only.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> phi, new = rng.standard_normal((30, 2, 50)), rng.standard_normal((4, 2, 50))
    >>> y = rng.standard_normal((30, 3))
    >>> fit = projected_regression(phi, y, reg=0.1)
    >>> from ntkfast.regression import kernel_ridge
    >>> kernel = kernel_ridge(projected_ntk(phi), y, reg=0.1)
    >>> bool(np.allclose(fit.predict(new), kernel.predict(projected_ntk(new, phi))))
    True
    """
    check_choice(output, "output", ("trace", "full"))
    reg = check_real(reg, "reg", minimum=0)
    if y is None:
        return _fit_blocks(phi, reg, output, max_memory)
    design = _Design.of(phi, y, output)
    return _fitted(design, reg, *_solve(design, reg, max_memory))


@dataclass(frozen=True, slots=True, eq=False)
class _Design:
    """A linear least-squares problem: rows of features, and their targets."""

    backend: Backend
    rows: Array
    targets: Array
    shape: tuple[int, ...]
    output: str

    @classmethod
    def of(cls, phi: Any, y: Any, output: str, name: str = "") -> "_Design":
        backend = check_features(phi, f"{name}phi")
        shared = output == "full" and phi.ndim == 3
        targets = phi.shape[1:2] if shared else getattr(y, "shape", ())[1:2]
        y = check_like(y, f"{name}y", (len(phi), *targets), phi)
        if y.size == 0:
            raise ValueError(f"expected {name}y with at least one target, got shape {y.shape}")
        rows, y = (phi.reshape(-1, phi.shape[-1]), y.reshape(-1)) if shared else (_flat(phi), y)
        return cls(backend, rows, y, phi.shape[1:], output)

    @property
    def scale(self) -> int:
        """What multiplies the ridge: a mean over k outputs with the ridge reg is a sum with k reg."""
        return self.shape[0] if self.output == "trace" and len(self.shape) == 2 else 1


def _solve(design: _Design, reg: float, max_memory: int | None) -> tuple[Array, float]:
    """Weights and jitter."""
    n, d = design.rows.shape
    _check_room(design, min(n, d), max_memory)
    if d <= n:
        equations = NormalEquations()
        equations.update(design.rows, design.targets)
        ridge = equations.solve(design.scale * reg, overwrite=True)
        return ridge.weights, ridge.jitter
    with quiet():
        gram = check_range(_gram(design.backend, design.rows), "the Gram matrix")
        dual = kernel_ridge(gram, design.targets, reg=design.scale * reg, overwrite=True)
        return check_range(design.rows.T @ dual.dual_coef, "the weights"), dual.jitter


def _fit_blocks(blocks: Any, reg: float, output: str, max_memory: int | None) -> ProjectedRegression:
    if hasattr(blocks, "dtype") or not isinstance(blocks, Iterable):
        raise TypeError("expected y with an array of features, or an iterable of pairs (phi, y) without")
    equations, design = NormalEquations(), None
    for i, pair in enumerate(blocks):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"expected blocks[{i}] to be a pair (phi, y), got {type(pair).__name__}")
        shape = None if design is None else design.shape
        design = _Design.of(pair[0], pair[1], output, f"blocks[{i}]: ")
        if shape is None:
            _check_room(design, design.rows.shape[1], max_memory)
        elif design.shape != shape:
            raise ValueError(f"expected features of shape {shape} per sample in blocks[{i}], got {design.shape}")
        equations.update(design.rows, design.targets)
    if design is None:
        raise ValueError("expected at least one pair (phi, y), got none")
    ridge = equations.solve(design.scale * reg, overwrite=True)
    return _fitted(design, reg, ridge.weights, ridge.jitter)


def _check_room(design: _Design, side: int, max_memory: int | None) -> None:
    matrices = 3 if design.backend.name == "cupy" else 1  # products and factors are new arrays there
    memory_budget(max_memory, design.backend, smallest=matrices * side * side * int(design.rows.dtype.itemsize))


def _fitted(design: _Design, reg: float, weights: Array, jitter: float) -> ProjectedRegression:
    shape = design.shape if design.output == "trace" else design.shape[-1:]
    weights = weights.reshape(*shape, *weights.shape[1:])
    return ProjectedRegression(weights, design.shape, design.output, reg, jitter / design.scale)
