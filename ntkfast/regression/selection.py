"""Choice of the ridge by leave-one-out or k-fold, every ridge from one eigendecomposition.

With C = (K + reg I)^-1 and alpha = C y, the residuals of the points F, predicted by a fit without
them, are C[F, F]^-1 alpha[F]; for one point, alpha_i / C_ii.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._check import check_int
from .._typing import Array
from ..backends import get_backend
from ._inputs import check_kernel, check_targets, check_values
from .choice import RidgeChoice, best, check_scoring, score
from .eigen import KernelSpectrum, as_spectrum

__all__ = ["k_fold", "leave_one_out"]

# Rows of Q squared at a time, so that no n x n temporary appears.
_ROWS = 512


def leave_one_out(kernel: Array | KernelSpectrum, y: Array, *, regs: Any, scoring: str = "mse") -> RidgeChoice:
    """Choose the ridge by leave-one-out, exactly and without refitting.

    Parameters
    ----------
    kernel : array, shape (n, n), or KernelSpectrum
        Kernel matrix of the training points, or its decomposition if it is at hand. n >= 2.
    y : array, shape (n,) or (n, k)
        Targets.
    regs : sequence of float
        Ridges to compare, absolute, >= 0.
    scoring : {"mse", "accuracy"}
        "accuracy" compares the largest output with the largest target; k >= 2.

    Returns
    -------
    RidgeChoice

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        See `decompose`; also n = 1, no ridge, a negative ridge, an unknown scoring.

    Notes
    -----
    Cost: the decomposition (see `decompose`), then n^2 (2 + 4 k) operations per ridge.
    Ridges below `KernelSpectrum.floor` act as if they were that large.
    Memory: beyond the decomposition n (k + 1) numbers per ridge.
    Determinism: that of LAPACK and BLAS; the same bits for the same library and thread count.
    Backends: numpy, cupy.

    References
    ----------
    Rifkin, Lippert. Notes on regularized least squares. MIT-CSAIL-TR-2007-025, 2007.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 1, 20)
    >>> k = np.exp(-8 * (x[:, None] - x) ** 2)
    >>> leave_one_out(k, np.sin(6 * x), regs=[1e-6, 1e-2, 1.0]).reg
    1e-06
    """
    spectrum, targets, values = _check(kernel, y, regs, scoring)
    inverses = [spectrum.inverse(reg) for reg in values]
    diagonals = _diagonals(spectrum, get_backend(y).xp.stack(inverses, axis=1))

    def residuals(index: int, alpha: Array) -> Array:
        return alpha / diagonals[:, index, None]

    return _choose(spectrum, y, targets, values, scoring, residuals)


def k_fold(kernel: Array | KernelSpectrum, y: Array, *, regs: Any, folds: Any, scoring: str = "mse") -> RidgeChoice:
    """Choose the ridge by k-fold cross-validation, exactly and without refitting.

    Parameters
    ----------
    kernel, y, regs, scoring
        As in `leave_one_out`.
    folds : int or integer array, shape (n,)
        A number of folds f, 2 <= f <= n: row i belongs to fold i mod f. Or the fold of every row, in a
        NumPy array (for groups, time series or shuffled rows).

    Returns
    -------
    RidgeChoice

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        As `leave_one_out`; also fewer than two folds.

    Notes
    -----
    Cost: the decomposition, then about 2 n^3 / f operations per ridge for f equal folds.
    Memory: beyond the decomposition, 2 n^2 / f numbers for the rows of one fold.
    Determinism and backends: as `leave_one_out`. No fold is drawn at random.

    References
    ----------
    Rad, Maleki. A scalable estimate of the out-of-sample prediction error via approximate
    leave-one-out cross-validation. J. R. Stat. Soc. B 82, 2020 (the block inverse, exact for ridge).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 1, 20)
    >>> k = np.exp(-8 * (x[:, None] - x) ** 2)
    >>> k_fold(k, np.sin(6 * x), regs=[1e-6, 1e-2, 1.0], folds=5).reg
    1e-06
    """
    spectrum, targets, values = _check(kernel, y, regs, scoring)
    xp = get_backend(targets).xp
    parts = [xp.asarray(part) for part in _folds(folds, targets.shape[0])]
    inverses = [spectrum.inverse(reg) for reg in values]

    def residuals(index: int, alpha: Array) -> Array:
        out = alpha.copy()
        for part in parts:
            rows = spectrum.eigenvectors[part]
            out[part] = xp.linalg.solve((rows * inverses[index]) @ rows.T, alpha[part])
        return out

    return _choose(spectrum, y, targets, values, scoring, residuals)


def _check(
    kernel: Array | KernelSpectrum, y: Array, regs: Any, scoring: str
) -> tuple[KernelSpectrum, Array, tuple[float, ...]]:
    values = check_values(regs, "regs")
    like = kernel.eigenvectors if isinstance(kernel, KernelSpectrum) else check_kernel(kernel, "kernel")[0]
    targets = check_targets(y, like)
    check_scoring(scoring, targets)
    if like.shape[0] < 2:
        raise ValueError("expected at least 2 training points to hold one out, got 1")
    return as_spectrum(kernel), targets, values


def _folds(folds: Any, n: int) -> list[Any]:
    """Rows of every fold, ascending."""
    if getattr(folds, "ndim", 0) > 0:
        if not isinstance(folds, np.ndarray) or folds.shape != (n,) or folds.dtype.kind not in "iu":
            raise ValueError(f"expected folds to be a number or an integer NumPy array of shape ({n},), got {folds!r}")
        parts = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    else:
        count = check_int(folds, "folds", minimum=2, maximum=n)
        parts = [np.arange(first, n, count) for first in range(count)]
    if len(parts) < 2:
        raise ValueError("expected at least 2 folds, got 1")
    return parts


def _diagonals(spectrum: KernelSpectrum, inverses: Array) -> Array:
    """Diagonals of (K + reg I)^-1, one column per column of `inverses`."""
    vectors = spectrum.eigenvectors
    out = get_backend(vectors).xp.empty((vectors.shape[0], inverses.shape[1]), vectors.dtype)
    for start in range(0, vectors.shape[0], _ROWS):
        rows = vectors[start : start + _ROWS]
        out[start : start + _ROWS] = (rows * rows) @ inverses
    return out


def _choose(
    spectrum: KernelSpectrum,
    y: Array,
    targets: Array,
    values: tuple[float, ...],
    scoring: str,
    residuals: Callable[[int, Array], Array],
) -> RidgeChoice:
    """Score every ridge, and fit again at the best."""
    rotated = spectrum.eigenvectors.T @ targets

    def held_out(index: int) -> Array:
        alpha = spectrum.eigenvectors @ (spectrum.inverse(values[index])[:, None] * rotated)
        return targets - residuals(index, alpha)

    scores = [score(scoring, targets, held_out(index)) for index in range(len(values))]
    index = best(scoring, values, scores)
    fit = spectrum.solve(y, values[index])
    return RidgeChoice(values[index], values, tuple(scores), scoring, fit, held_out(index).reshape(y.shape))
