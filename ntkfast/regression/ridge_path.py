"""Ridge regression on features for many ridges, from one eigendecomposition of the Gram matrix.

Leave-one-out needs a second pass over the rows: with z = Q^T (phi - mean) in the basis of
G = Q diag(s) Q^T, the leverage of a row is h = sum_j z_j^2 / (s_j + reg) (+ 1 / n with an intercept),
and its held-out residual is (y - prediction) / (1 - h).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .._check import check_real
from .._typing import Array
from ..backends import get_backend
from ._inputs import check_cross, check_targets, check_values, eps
from .choice import RidgeChoice, best, check_scoring
from .eigen import KernelSpectrum
from .ridge import Ridge

__all__ = ["RidgePath"]


@dataclass(frozen=True, slots=True, eq=False)
class RidgePath:
    """Normal equations in the eigenbasis of their Gram matrix; made by `NormalEquations.decompose`.

    Attributes
    ----------
    spectrum : KernelSpectrum
        Of G, (m, m).
    rotated : array, shape (m, k)
        Q^T M.
    phi_mean, y_mean : array, shape (m,) and (k,)
        What was subtracted; zeros without an intercept.
    n_rows : int
    intercept : bool
    like : array
        Empty, (0,) or (0, k): dtype and shape of results.
    """

    spectrum: KernelSpectrum
    rotated: Array
    phi_mean: Array
    y_mean: Array
    n_rows: int
    intercept: bool
    like: Array

    def solve(self, reg: float) -> Ridge:
        """Ridge regression for one more ridge; 2 m^2 k operations.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.regression import NormalEquations
        >>> equations = NormalEquations()
        >>> equations.update(np.eye(2), np.array([2.0, 4.0]))
        >>> equations.decompose().solve(1.0).weights
        array([1., 2.])
        """
        reg = check_real(reg, "reg", minimum=0)
        weights = self.spectrum.eigenvectors @ (self.spectrum.inverse(reg)[:, None] * self.rotated)
        return as_ridge(weights, self.phi_mean, self.y_mean, reg, 0.0, self.like)

    def leave_one_out(self, blocks: Iterable[tuple[Array, Array]], *, regs: Any, scoring: str = "mse") -> RidgeChoice:
        """Choose the ridge by leave-one-out, in a second pass over the rows.

        Parameters
        ----------
        blocks : iterable of (phi, y)
            All rows that were gathered, in blocks of any size, once.
        regs : sequence of float
            Ridges to compare, >= 0.
        scoring : {"mse", "accuracy"}
            As in `leave_one_out` of kernels.

        Returns
        -------
        RidgeChoice
            Without `held_out`.

        Raises
        ------
        TypeError, ValueError
            Bad blocks, or not as many rows as were gathered.

        Notes
        -----
        Cost: n m (2 m + 2 k R) operations for R ridges; memory 3 blocks.
        Accuracy: where 1 - h is rounding error (reg = 0 and m >= n) it is taken as 8 eps.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.regression import NormalEquations
        >>> phi, y = np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 2.0, 3.0])
        >>> equations = NormalEquations()
        >>> equations.update(phi, y)
        >>> equations.decompose().leave_one_out([(phi, y)], regs=[0.1, 1.0]).reg
        0.1
        """
        values = check_values(regs, "regs")
        check_scoring(scoring, self.rotated)
        xp = get_backend(self.rotated).xp
        inverses = xp.stack([self.spectrum.inverse(reg) for reg in values], axis=1)
        totals, rows = [0.0] * len(values), 0
        for phi, y in blocks:
            rows += self._add(phi, y, inverses, scoring, totals)
        if rows != self.n_rows:
            raise ValueError(f"expected the {self.n_rows} rows that were gathered, got {rows}")
        count = rows * (self.rotated.shape[1] if scoring == "mse" else 1)
        scores = tuple(total / count for total in totals)
        index = best(scoring, values, scores)
        return RidgeChoice(values[index], values, scores, scoring, self.solve(values[index]))

    def _add(self, phi: Array, y: Array, inverses: Array, scoring: str, totals: list[float]) -> int:
        """Add the scores of one block to `totals`, and return its number of rows."""
        check_cross(phi, self._like_features(), "phi")
        targets = check_targets(y, phi)
        if y.shape[1:] != self.like.shape[1:]:
            raise ValueError(f"expected y with outputs {self.like.shape[1:]}, as gathered, got {y.shape[1:]}")
        dtype = self.rotated.dtype
        z = (phi.astype(dtype, copy=False) - self.phi_mean) @ self.spectrum.eigenvectors
        centred = targets.astype(dtype, copy=False) - self.y_mean
        leverages = (z * z) @ inverses + (1 / self.n_rows if self.intercept else 0)
        for index in range(len(totals)):
            free = (1 - leverages[:, index, None]).clip(8 * eps(z))
            errors = (centred - z @ (inverses[:, index, None] * self.rotated)) / free
            totals[index] += _total(scoring, centred + self.y_mean, errors)
        return int(phi.shape[0])

    def _like_features(self) -> Array:
        """Empty (m, 0) array of the dtype of the rows."""
        return self.phi_mean[:, None][:, :0].astype(self.like.dtype)


def _total(scoring: str, targets: Array, errors: Array) -> float:
    if scoring == "accuracy":
        return float(((targets - errors).argmax(axis=1) == targets.argmax(axis=1)).sum())
    return float((errors * errors).sum(dtype="float64"))


def as_ridge(weights: Array, phi_mean: Array, y_mean: Array, reg: float, jitter: float, like: Array) -> Ridge:
    """A `Ridge` from weights (m, k) for centred features, in the dtype and shape of `like`.

    Examples
    --------
    >>> import numpy as np
    >>> as_ridge(np.ones((2, 1)), np.ones(2), np.full(1, 5.0), 0.1, 0.0, np.empty(0)).intercept
    array(3.)
    """
    shape = like.shape[1:]
    intercept = (y_mean - phi_mean @ weights).reshape(shape).astype(like.dtype)
    return Ridge(weights.reshape(weights.shape[0], *shape).astype(like.dtype), intercept, reg, jitter)
