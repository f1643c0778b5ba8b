"""A fitted ridge regression on features."""

from dataclasses import dataclass

from .._typing import Array
from ._inputs import check_cross

__all__ = ["Ridge"]


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """A linear function of m features, fitted with a ridge.

    Attributes
    ----------
    weights : array, shape (m,) or (m, k)
    intercept : array, shape () or (k,)
        0 where none was fitted.
    reg : float
        The ridge asked for.
    jitter : float
        What had to be added to it to factorize; 0 almost always.
    """

    weights: Array
    intercept: Array
    reg: float
    jitter: float = 0.0

    def predict(self, phi: Array) -> Array:
        """Predictions from features.

        Parameters
        ----------
        phi : array, shape (n, m)
            Of the dtype of `weights`.

        Returns
        -------
        array, shape (n,) or (n, k)

        Examples
        --------
        >>> import numpy as np
        >>> Ridge(np.array([1.0, 2.0]), np.array(0.5), reg=0.0).predict(np.array([[1.0, 1.0]]))
        array([3.5])
        """
        check_cross(phi, self.weights, "phi")
        return phi @ self.weights + self.intercept
