"""Ridge regression on features, from normal equations gathered over blocks of rows.

    G = Phi^T Phi,   M = Phi^T Y,   weights = (G + reg I)^-1 M

With an intercept Phi and Y are centred. Blocks are merged by their means (Chan, Golub and LeVeque):
for parts a and b, with w = n_a n_b / (n_a + n_b) and delta = mean_b - mean_a,

    G = G_a + G_b + w delta delta^T,

so large means never cancel. Nothing of the size of the data is kept.
"""

from typing import Any

from .._check import check_choice, check_matrix, check_range, check_real, quiet
from .._typing import Array
from ..backends import Backend
from ._inputs import check_targets
from ._linalg import add_gram, eigh, mirror
from .dual import factorize_in_place, jitter_ladder
from .eigen import KernelSpectrum
from .ridge import Ridge
from .ridge_path import RidgePath, as_ridge

__all__ = ["NormalEquations"]

# Bytes of a widened or centred copy of rows.
_COPY_BYTES = 2**26


class NormalEquations:
    """Accumulator of the normal equations of ridge regression.

    Parameters
    ----------
    intercept : bool
        Fit an intercept, which the ridge does not penalize.
    dtype : {"float64"}, optional
        Widen float32 rows before their products; default: products and sums in the dtype of the rows.

    Attributes
    ----------
    n_rows : int
        Rows gathered.
    intercept : bool

    Notes
    -----
    Cost: m^2 + 2 m k operations per row (half a matrix product); "float64" takes about twice the time of
    float32. Memory: m^2 + m k numbers, m^2 more in `solve` without `overwrite`; 64 MB of rows at a time are
    copied with an intercept or widening.
    Accuracy: float32 sums over n rows err by about eps sqrt(n) of the largest entries of G; use "float64" for
    ridges below 1e-6 of the largest eigenvalue.
    Determinism: the same bits for the same blocks; other blocks change the rounding only.
    Backends: numpy, cupy (there with one m x m temporary).

    References
    ----------
    Chan, Golub, LeVeque. Algorithms for computing the sample variance. The American Statistician 37, 1983.

    Examples
    --------
    >>> import numpy as np
    >>> equations = NormalEquations(intercept=True)
    >>> x = np.arange(6.0)[:, None]
    >>> for rows in (slice(0, 4), slice(4, 6)):
    ...     equations.update(x[rows], 2 * x[rows, 0] + 1)
    >>> fit = equations.solve(1e-9)
    >>> np.round(fit.predict(np.array([[10.0]])), 6)
    array([21.])
    """

    def __init__(self, *, intercept: bool = False, dtype: str | None = None) -> None:
        if dtype is not None:
            check_choice(dtype, "dtype", ("float64",))
        self.intercept = bool(intercept)
        self.n_rows = 0
        self._dtype = dtype

    def update(self, phi: Array, y: Array) -> None:
        """Add rows.

        Parameters
        ----------
        phi : array, shape (b, m), float32 or float64
            Features of b rows.
        y : array, shape (b,) or (b, k), of the dtype of `phi`

        Raises
        ------
        TypeError, ValueError
            Bad arrays, or other m, k, dtype or backend than before.

        Examples
        --------
        >>> import numpy as np
        >>> equations = NormalEquations()
        >>> equations.update(np.ones((3, 2)), np.ones(3))
        >>> equations.n_rows
        3
        """
        phi, backend = check_matrix(phi, "phi")
        targets = check_targets(y, phi)
        if self.n_rows == 0:
            self._allocate(backend, phi, y, targets.shape[1])
        self._check_agreement(backend, phi.shape[1], y)
        rows = self._rows_at_once(phi)
        for start in range(0, phi.shape[0], rows):
            part = slice(start, start + rows)
            with quiet():  # overflow is told by `_matrix`
                self._add(
                    phi[part].astype(self._gram.dtype, copy=False), targets[part].astype(self._gram.dtype, copy=False)
                )

    def _allocate(self, backend: Backend, phi: Array, y: Array, k: int) -> None:
        xp, m, dtype = backend.xp, phi.shape[1], self._dtype or phi.dtype
        self._backend, self._like = backend, y[:0]
        self._gram = xp.zeros((m, m), dtype)
        self._moment = xp.zeros((m, k), dtype)
        self._phi_mean, self._y_mean = xp.zeros(m, dtype), xp.zeros(k, dtype)

    def _check_agreement(self, backend: Backend, m: int, y: Array) -> None:
        expected = (self._backend.name, self._gram.shape[0], self._like.shape[1:], self._like.dtype)
        got = (backend.name, m, y.shape[1:], y.dtype)
        if got != expected:
            raise ValueError(f"expected rows with (backend, m, outputs, dtype) as before, {expected}, got {got}")

    def _rows_at_once(self, phi: Array) -> int:
        if not self.intercept and phi.dtype == self._gram.dtype:
            return int(phi.shape[0])
        return max(1, _COPY_BYTES // int(phi.shape[1] * self._gram.dtype.itemsize))

    def _add(self, phi: Array, y: Array) -> None:
        rows = phi.shape[0]
        if self.intercept:
            phi_mean, y_mean = phi.mean(axis=0), y.mean(axis=0)
            phi, y = phi - phi_mean, y - y_mean
            self._shift(rows, phi_mean, y_mean)
        add_gram(self._backend, phi, self._gram)
        self._moment += phi.T @ y
        self.n_rows += rows

    def _shift(self, rows: int, phi_mean: Array, y_mean: Array) -> None:
        """Account for the distance between the mean so far and that of `rows` new rows."""
        total = self.n_rows + rows
        weight = (self.n_rows * rows / total) ** 0.5
        phi_delta, y_delta = phi_mean - self._phi_mean, y_mean - self._y_mean
        add_gram(self._backend, weight * phi_delta[None], self._gram)
        self._moment += (weight * weight) * phi_delta[:, None] * y_delta
        self._phi_mean += (rows / total) * phi_delta
        self._y_mean += (rows / total) * y_delta

    def merge(self, other: "NormalEquations") -> None:
        """Add what another accumulator has gathered (it is not changed).

        Parameters
        ----------
        other : NormalEquations
            With the same intercept, dtypes and shapes; it may be empty.

        Raises
        ------
        TypeError, ValueError
            Something else, or they do not agree.

        Examples
        --------
        >>> import numpy as np
        >>> a, b = NormalEquations(), NormalEquations()
        >>> a.update(np.ones((3, 2)), np.ones(3))
        >>> b.merge(a)
        >>> b.n_rows
        3
        """
        if not isinstance(other, NormalEquations):
            raise TypeError(f"expected NormalEquations, got {type(other).__name__}")
        if (self.intercept, self._dtype) != (other.intercept, other._dtype):
            raise ValueError("expected the same intercept and dtype in both normal equations")
        if other.n_rows == 0:
            return
        if self.n_rows == 0:
            self._allocate(
                other._backend, other._phi_mean[None].astype(other._like.dtype), other._like, other._moment.shape[1]
            )
        self._check_agreement(other._backend, other._gram.shape[0], other._like)
        if self.intercept:
            self._shift(other.n_rows, other._phi_mean, other._y_mean)
        self._gram += other._gram
        self._moment += other._moment
        self.n_rows += other.n_rows

    def solve(self, reg: float, *, overwrite: bool = False, max_jitter: float | None = None) -> Ridge:
        """Solve for one ridge by Cholesky factorization.

        Parameters
        ----------
        reg : float
            Ridge, absolute, >= 0.
        overwrite : bool
            Factorize in the accumulator's memory; it is empty afterwards.
        max_jitter : float, optional
            See `factorize`.

        Returns
        -------
        Ridge
            In the dtype of the rows.

        Raises
        ------
        ValueError
            No rows, negative `reg`.
        NotPositiveDefiniteError
            See `factorize`.
        OverflowError
            Sums over the rows, or the weights, have left the range of the dtype.

        Notes
        -----
        Cost: m^3 / 3 + 2 m^2 k operations.

        Examples
        --------
        >>> import numpy as np
        >>> equations = NormalEquations()
        >>> equations.update(np.eye(2), np.array([2.0, 4.0]))
        >>> equations.solve(1.0).weights
        array([1., 2.])
        """
        reg = check_real(reg, "reg", minimum=0)
        a = self._matrix(overwrite)
        factor = factorize_in_place(self._backend, a, reg, jitter_ladder(a, max_jitter))
        if overwrite:
            self.n_rows = 0
        weights = factor.solve(self._moment)
        return as_ridge(weights, self._phi_mean, self._y_mean, reg, factor.jitter, self._like)

    def decompose(self) -> RidgePath:
        """Eigendecomposition of the Gram matrix, for many ridges and leave-one-out.

        Returns
        -------
        RidgePath

        Raises
        ------
        ValueError
            No rows.

        Notes
        -----
        Cost: about 9 m^3 operations; memory: three m x m matrices.

        Examples
        --------
        >>> import numpy as np
        >>> equations = NormalEquations()
        >>> equations.update(np.eye(2), np.array([2.0, 4.0]))
        >>> equations.decompose().spectrum.eigenvalues
        array([1., 1.])
        """
        matrix = self._matrix(overwrite=False)
        values, vectors = eigh(self._backend, matrix)
        spectrum = KernelSpectrum(self._backend.xp.maximum(values, 0), vectors)
        return RidgePath(
            spectrum,
            vectors.T @ self._moment,
            self._phi_mean.copy(),
            self._y_mean.copy(),
            self.n_rows,
            self.intercept,
            self._like,
        )

    def _matrix(self, overwrite: bool) -> Any:
        """G with both triangles filled, a copy unless `overwrite`."""
        if self.n_rows == 0:
            raise ValueError("expected rows to have been gathered with update, got none")
        check_range(self._gram.diagonal(), "the sums of squared features")
        check_range(self._moment, "the sums of features times targets")
        a = self._gram if overwrite else self._gram.copy()
        mirror(self._backend, a, upper=False)
        return a
