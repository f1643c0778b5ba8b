"""Kernel for scikit-learn's Gaussian processes."""

import math
from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from ..._typing import Array
from ...analytic import ntk, ntk_hyperparameter_gradient

__all__ = ["NTKKernel"]


class NTKKernel(Kernel):  # type: ignore[misc]
    r"""NTK of an infinitely wide fully connected network, as a kernel of ``sklearn.gaussian_process``.

    The hyperparameters are log W_std and log b_std; both have exact gradients, so that
    ``GaussianProcessRegressor`` can maximize the marginal likelihood. It combines with other kernels by
    ``+``, ``*`` and ``**``.

    Parameters
    ----------
    depth : int, default 3
        Number of hidden layers.
    W_std : float, default sqrt(2)
        Standard deviation of the weights, greater than 0.
    b_std : float, default 0.1
        Standard deviation of the biases. 0 means none; it is then no hyperparameter.
    activation : str, default "relu"
        As in `ntkfast.analytic.ntk`.
    W_std_bounds, b_std_bounds : (float, float) or "fixed"
        Bounds of the search.

    Notes
    -----
    Error: exact up to rounding, in float64 whatever the dtype of X (a Gaussian process
    factorizes the matrix). Cost and determinism: `ntkfast.analytic.ntk`.
    Without biases and with relu, W_std only scales the kernel, by W_std^(2 depth + 2).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> X = np.linspace(-1, 1, 30)[:, None]
    >>> gp = GaussianProcessRegressor(NTKKernel(depth=1), alpha=1e-3)
    >>> gp = gp.fit(X, np.abs(X[:, 0] - 0.3))
    >>> bool(abs(gp.predict([[0.55]])[0] - 0.25) < 0.05)
    True
    """

    def __init__(
        self,
        depth: int = 3,
        W_std: float = math.sqrt(2),
        b_std: float = 0.1,
        activation: str = "relu",
        W_std_bounds: Any = (1e-1, 1e1),
        b_std_bounds: Any = (1e-3, 1e1),
    ) -> None:
        self.depth = depth
        self.W_std = W_std
        self.b_std = b_std
        self.activation = activation
        self.W_std_bounds = W_std_bounds
        self.b_std_bounds = b_std_bounds

    @property
    def hyperparameter_W_std(self) -> Hyperparameter:  # noqa: N802 (scikit-learn looks for this name)
        """Logarithm of W_std, unless its bounds are "fixed"."""
        return Hyperparameter("W_std", "numeric", self.W_std_bounds)

    @property
    def hyperparameter_b_std(self) -> Hyperparameter:
        """Logarithm of b_std, unless its bounds are "fixed" or b_std is 0, which has no logarithm."""
        return Hyperparameter("b_std", "numeric", "fixed" if self.b_std == 0 else self.b_std_bounds)

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """Kernel matrix, and its gradient with respect to ``theta``.

        Parameters
        ----------
        X : array-like, shape (n1, d)
        Y : array-like, shape (n2, d), optional
            Default `X`.
        eval_gradient : bool
            Only without `Y`.

        Returns
        -------
        ndarray, shape (n1, n2), float64
        ndarray, shape (n1, n1, n_dims), float64
            Only with `eval_gradient`: derivatives with respect to log W_std and log b_std (the free ones).

        Raises
        ------
        ValueError
            `eval_gradient` with `Y`.
        """
        x = _rows(X)
        if not eval_gradient:
            return ntk(x, None if Y is None else _rows(Y), **self._network())
        if Y is not None:
            raise ValueError("expected eval_gradient without Y, got both")
        return self._with_gradient(x)

    def _with_gradient(self, x: Array) -> tuple[Array, Array]:
        kernel, by_W_std, by_b_std = ntk_hyperparameter_gradient(x, **self._network())
        by_logarithm = {"W_std": self.W_std * by_W_std, "b_std": self.b_std * by_b_std}
        free = [by_logarithm[parameter.name] for parameter in self.hyperparameters if not parameter.fixed]
        return kernel, np.stack(free, axis=2) if free else np.empty((*kernel.shape, 0))

    def _network(self) -> dict[str, Any]:
        return {"depth": self.depth, "W_std": self.W_std, "b_std": self.b_std, "activation": self.activation}

    def diag(self, X: Any) -> Array:
        """Diagonal of the kernel matrix of `X`.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Returns
        -------
        ndarray, shape (n,), float64
        """
        return ntk(_rows(X), diagonal=True, **self._network())

    def is_stationary(self) -> bool:
        """Return False: it depends on the norms and the angle, not on x - y."""
        return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(depth={self.depth}, W_std={self.W_std:.3g}, b_std={self.b_std:.3g})"


def _rows(X: Any) -> Array:
    x = np.atleast_2d(X)
    if x.dtype.kind not in "biufO":  # a cast would drop imaginary parts, and read numbers from text
        raise TypeError(f"expected rows of real numbers, got dtype {x.dtype}")
    return np.ascontiguousarray(x, np.float64)
