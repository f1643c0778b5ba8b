"""Gradient flow of the linearized (infinitely wide) network at any training time.

Squared loss, learning rate eta, f_0 the network at initialization:

    loss="sum":   L = 1/2 sum_i |f(x_i) - y_i|^2,          df/dt = -eta K (f - y),       tau = eta t
    loss="mean":  L = 1/(2 n) sum_i |f(x_i) - y_i|^2,      df/dt = -eta K (f - y) / n,   tau = eta t / n

    f_t(x) = f_0(x) + K(x, train) K^-1 (I - exp(-tau K)) (y - f_0(train))
           = f_0(x) + K(x, train) dual_coef(t),    dual_coef(t) = Q diag((1 - exp(-tau s)) / s) Q^T (y - f_0(train)).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .._check import check_choice, check_real
from .._typing import Array
from ..backends import get_backend
from ._inputs import check_cross, check_kernel, check_like, check_targets
from .eigen import KernelSpectrum, as_spectrum

__all__ = ["Ensemble", "GradientFlow", "gradient_flow"]


class Ensemble(NamedTuple):
    """Distribution of the outputs of trained networks over their random initializations.

    Attributes
    ----------
    mean : array, shape (T, m) or (T, m, k)
    variance : array, shape (T, m)
        Of every output alike, >= 0.
    """

    mean: Array
    variance: Array


@dataclass(frozen=True, slots=True, eq=False)
class GradientFlow:
    """Training by gradient flow, solved for all times; made by `gradient_flow`.

    Attributes
    ----------
    spectrum : KernelSpectrum
    rotated : array, shape (n, k)
        Q^T (y - f_0(train)).
    shape : tuple of int
        Shape of y.
    rate : float
        tau per unit of time: eta, or eta / n for the mean loss.
    """

    spectrum: KernelSpectrum
    rotated: Array
    shape: tuple[int, ...]
    rate: float

    def dual_coef(self, times: Sequence[float]) -> Array:
        """Coefficients of K(x, train) at each time.

        Parameters
        ----------
        times : sequence of T floats >= 0, math.inf allowed

        Returns
        -------
        array, shape (T, n) or (T, n, k)
            At t = inf those of ridgeless regression (least squares, smallest norm).

        Notes
        -----
        Cost: 2 n^2 k T operations. Eigenvalues up to `KernelSpectrum.floor` are taken as 0: what lies along
        their vectors (differences between targets of repeated points) is never learned.
        1 - exp is computed by expm1, so small times keep full relative accuracy.

        Examples
        --------
        >>> import numpy as np
        >>> flow = gradient_flow(np.eye(2), np.array([1.0, 2.0]))
        >>> flow.dual_coef([0.0, math.inf])
        array([[0., 0.],
               [1., 2.]])
        """
        return self._combine(self._filters(times), self.spectrum.eigenvectors)

    def predict(self, k_test_train: Array, times: Sequence[float]) -> Array:
        """f_t - f_0 at new points; with f_0 = 0 (the default) the prediction itself.

        Parameters
        ----------
        k_test_train : array, shape (m, n)
        times : sequence of T floats >= 0, math.inf allowed

        Returns
        -------
        array, shape (T, m) or (T, m, k)

        Notes
        -----
        Cost: 2 (n + m) n k T operations.

        Examples
        --------
        >>> import numpy as np
        >>> flow = gradient_flow(np.eye(1), np.array([1.0]))
        >>> np.round(flow.predict(np.array([[1.0]]), [1.0]), 4)  # 1 - 1 / e
        array([[0.6321]])
        """
        check_cross(k_test_train, self.spectrum.eigenvectors)
        return (
            get_backend(k_test_train)
            .xp.matmul(k_test_train, self._blocks(times))
            .reshape(len(times), k_test_train.shape[0], *self.shape[1:])
        )

    def train(self, times: Sequence[float]) -> Array:
        """f_t - f_0 at the training points, (T, n) or (T, n, k), without another look at K.

        Examples
        --------
        >>> import numpy as np
        >>> gradient_flow(np.eye(1), np.array([3.0])).train([math.inf])
        array([[3.]])
        """
        return self._combine(self._filters(times) * self.spectrum.eigenvalues, self.spectrum.eigenvectors)

    def ensemble(
        self, k_test_train: Array, nngp_train: Array, nngp_test_train: Array, nngp_test: Array, times: Sequence[float]
    ) -> Ensemble:
        """Mean and variance over initializations f_0 ~ GP(0, NNGP), when all of the network is trained.

        Parameters
        ----------
        k_test_train : array, shape (m, n)
            NTK between new and training points.
        nngp_train : array, shape (n, n)
            NNGP kernel of the training points.
        nngp_test_train : array, shape (m, n)
        nngp_test : array, shape (m,)
            Diagonal of the NNGP kernel of the new points.
        times : sequence of T floats >= 0, math.inf allowed

        Returns
        -------
        Ensemble

        Raises
        ------
        TypeError, ValueError
            Shapes that do not agree.

        Notes
        -----
        With A = K(x, train) K^-1 (I - exp(-tau K)): mean A y, variance
        nngp(x, x) - 2 (A nngp(train, x))_xx + (A nngp(train, train) A^T)_xx.
        Cost: 4 n^3 + 4 m n^2 + 2 m n^2 T operations; memory n^2 + 4 m n numbers.

        References
        ----------
        Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington. Wide neural networks of any depth evolve as
        linear models under gradient descent. NeurIPS 2019, equations 14 and 15.

        Examples
        --------
        >>> import numpy as np
        >>> k = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> flow = gradient_flow(k, np.array([1.0, -1.0]))
        >>> found = flow.ensemble(k, k, k, k.diagonal(), [0.0, math.inf])  # at the training points themselves
        >>> np.round(found.variance, 6)
        array([[2., 2.],
               [0., 0.]])
        """
        vectors = self.spectrum.eigenvectors
        check_cross(k_test_train, vectors)
        for name, value, shape in (
            ("nngp_train", nngp_train, vectors.shape),
            ("nngp_test_train", nngp_test_train, k_test_train.shape),
            ("nngp_test", nngp_test, k_test_train.shape[:1]),
        ):
            check_like(value, name, vectors)
            if value.shape != shape:
                raise ValueError(f"expected {name} of shape {shape}, got {value.shape}")
        mean = self.predict(k_test_train, times)
        test, prior = k_test_train @ vectors, vectors.T @ nngp_train @ vectors
        cross = nngp_test_train @ vectors
        variance = get_backend(mean).xp.empty((len(times), k_test_train.shape[0]), mean.dtype)
        for row, filters in zip(variance, self._filters(times), strict=True):
            a = test * filters
            row[...] = nngp_test + (a * (a @ prior - 2 * cross)).sum(axis=1)
        return Ensemble(mean, get_backend(mean).xp.maximum(variance, 0))

    def _filters(self, times: Sequence[float]) -> Array:
        """(1 - exp(-tau s)) / s, shape (T, n); 0 where s is rounding error."""
        xp = get_backend(self.rotated).xp
        values = self.spectrum.eigenvalues.astype("float64")
        learned = values > self.spectrum.floor
        safe = xp.where(learned, values, 1.0)
        # Beyond 1000 / floor every learned direction has converged; the bound keeps products from overflowing.
        longest = 1e3 / (self.spectrum.floor or 1.0)
        taus = [min(self.rate * time, longest) for time in _check_times(times)]
        rows = [xp.where(learned, -xp.expm1(-tau * safe) / safe, 0.0) for tau in taus]
        return xp.stack(rows).astype(self.rotated.dtype)

    def _combine(self, filters: Array, basis: Array) -> Array:
        blocks = get_backend(basis).xp.matmul(basis, filters[:, :, None] * self.rotated)
        return blocks.reshape(filters.shape[0], *self.shape)

    def _blocks(self, times: Sequence[float]) -> Array:
        return self.dual_coef(times).reshape(len(times), self.rotated.shape[0], -1)


def _check_times(times: Any) -> list[float]:
    if isinstance(times, str) or not isinstance(times, Collection) or getattr(times, "ndim", 1) != 1 or not len(times):
        raise TypeError(f"expected times to be a sequence of at least one number, got {times!r}")
    return [t if t == math.inf else check_real(t, f"times[{i}]", minimum=0) for i, t in enumerate(times)]


def gradient_flow(
    kernel: Array | KernelSpectrum,
    y: Array,
    *,
    learning_rate: float = 1.0,
    loss: str = "sum",
    initial: Array | None = None,
) -> GradientFlow:
    """Solve training by gradient flow on the squared loss for all times at once.

    Parameters
    ----------
    kernel : array, shape (n, n), or KernelSpectrum
        NTK of the training points, or its decomposition.
    y : array, shape (n,) or (n, k)
        Targets.
    learning_rate : float
        eta > 0; time is in units of 1 / (eta * eigenvalue of K).
    loss : {"sum", "mean"}
        1/2 sum of squares, or that divided by n; see the top of this file for both equations.
    initial : array, of the shape of `y`, optional
        f_0 at the training points; default 0. Predictions are then f_t - f_0: add f_0.

    Returns
    -------
    GradientFlow

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        See `decompose`; also a learning rate that is not positive, an unknown loss, `initial` of another shape.

    Notes
    -----
    Cost, memory, determinism and backends: those of the decomposition, see `decompose`.

    References
    ----------
    Jacot, Gabriel, Hongler. Neural tangent kernel. NeurIPS 2018, section 5.
    Lee et al. NeurIPS 2019, equations 8 to 11.

    Examples
    --------
    >>> import numpy as np
    >>> flow = gradient_flow(np.diag([1.0, 4.0]), np.array([1.0, 1.0]))
    >>> np.round(flow.train([0.5]), 4)  # the larger eigenvalue is learned first
    array([[0.3935, 0.8647]])
    """
    check_choice(loss, "loss", ("sum", "mean"))
    rate = check_real(learning_rate, "learning_rate", minimum=0, strict=True)
    targets = check_targets(y, kernel.eigenvectors if isinstance(kernel, KernelSpectrum) else check_kernel(kernel)[0])
    if initial is not None:
        check_like(initial, "initial", y)
        if initial.shape != y.shape:
            raise ValueError(f"expected initial of shape {y.shape}, as y, got {initial.shape}")
        targets = targets - initial.reshape(targets.shape)
    n, spectrum = targets.shape[0], as_spectrum(kernel)
    rotated = spectrum.eigenvectors.T @ targets
    return GradientFlow(spectrum, rotated, tuple(y.shape), rate / n if loss == "mean" else rate)
