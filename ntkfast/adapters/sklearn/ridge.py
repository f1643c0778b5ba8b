"""Regressor and classifier: ridge regression with a neural tangent kernel, exact or by features."""

import math
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ..._check import check_choice, check_real
from ..._typing import Array
from ...analytic import ntk
from ...features import OnePassFeatures
from ...regression import KernelOperator
from ._seed import seed_of
from ._solvers import RELATIVE_RIDGES, feature_blocks, solve_exact, solve_features, solve_iteratively

__all__ = ["EXACT_LIMIT", "RELATIVE_RIDGES", "NTKClassifier", "NTKRegressor"]

DTYPES = (np.float64, np.float32)

SOLVERS = ("auto", "exact", "features", "pcg")

# Up to this many points "auto" factorizes the kernel matrix: 0.8 GB and 3e11 operations in float64.
EXACT_LIMIT = 10_000


class _NTKRidge(BaseEstimator):  # type: ignore[misc]
    """Kernel ridge regression on targets whose mean has been subtracted."""

    def __init__(
        self,
        alpha: float | str = 1.0,
        *,
        depth: int = 3,
        W_std: float = math.sqrt(2),
        b_std: float = 0.0,
        activation: Any = "relu",
        solver: str = "auto",
        n_components: int = 4096,
        random_state: Any = None,
    ) -> None:
        self.alpha = alpha
        self.depth = depth
        self.W_std = W_std
        self.b_std = b_std
        self.activation = activation
        self.solver = solver
        self.n_components = n_components
        self.random_state = random_state

    def _kernel(self, x1: Array, x2: Array | None = None) -> Array:
        return ntk(x1, x2, depth=self.depth, W_std=self.W_std, b_std=self.b_std, activation=self.activation)

    def _fit(self, x: Array, y: Array) -> None:
        """Fit targets (n,) or (n, k)."""
        self.alpha_: float
        alpha, self.solver_ = self._check_parameters(len(x))
        mean = y.mean(axis=0, dtype=np.float64)
        self.intercept_ = mean.astype(x.dtype)
        centred = (y - mean).astype(x.dtype)  # after the difference, or float32 would lose it for large means
        if self.solver_ == "features":
            self.feature_map_ = self._features(x.shape[1])
            if alpha is not None:
                alpha += self._missing(x)
            self.coef_, self.alpha_ = solve_features(self.feature_map_, x, centred, alpha)
            return
        self.X_fit_ = x
        if self.solver_ == "exact":
            self.dual_coef_, self.alpha_ = solve_exact(self._kernel, x, centred, alpha)
        else:
            assert alpha is not None, "refused by _check_parameters"
            seed = seed_of(self.random_state)
            self.dual_coef_, self.n_iter_ = solve_iteratively(self._kernel, x, centred, alpha, seed=seed)
            self.alpha_ = alpha

    def _check_parameters(self, n: int) -> tuple[float | None, str]:
        """Return alpha (None for "loo") and the solver."""
        solver = check_choice(self.solver, "solver", SOLVERS)
        if solver == "auto":
            solver = "exact" if n <= EXACT_LIMIT else "pcg"
        if not isinstance(self.alpha, str):
            return check_real(self.alpha, "alpha", minimum=0), solver
        if self.alpha != "loo":
            raise ValueError(f'expected alpha to be a number or "loo", got {self.alpha!r}')
        if n < 2:
            raise ValueError('expected at least 2 samples for alpha="loo", got 1 sample')
        if solver == "pcg":
            raise ValueError(f'expected alpha to be a number with solver "pcg" ({n} samples), got "loo"')
        return None, solver

    def _features(self, in_dim: int) -> OnePassFeatures:
        if self.b_std != 0:
            raise ValueError(f'expected b_std = 0 with solver "features", got {self.b_std}')
        return OnePassFeatures(
            in_dim,
            self.n_components,
            depth=self.depth,
            W_std=self.W_std,
            activation=self.activation,
            seed=seed_of(self.random_state),
        )

    def _missing(self, x: Array) -> float:
        """What the features' Gram matrix lacks of the kernel's diagonal, on average: a ridge makes up for it."""
        return self.feature_map_.nugget * float(np.einsum("ij,ij->", x, x, dtype=np.float64)) / len(x)

    def _decide(self, X: Any) -> Array:
        """Predictions of the ridge regression, in the dtype of the training samples."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=DTYPES, order="C", reset=False)
        x = x.astype(self.intercept_.dtype, copy=False)
        if self.solver_ == "features":
            blocks = [features @ self.coef_ for _, features in feature_blocks(self.feature_map_, x)]
            return np.concatenate(blocks) + self.intercept_
        return KernelOperator(self._kernel, self.X_fit_).predict(x, self.dual_coef_) + self.intercept_


class NTKRegressor(MultiOutputMixin, RegressorMixin, _NTKRidge):  # type: ignore[misc]
    """Ridge regression with the neural tangent kernel of a fully connected network.

    The prediction is that of an infinitely wide network trained to convergence (alpha = 0) on squared loss, up to the
    network's random initial function; y is centred by its mean.

    Parameters
    ----------
    alpha : float or "loo", default 1.0
        Ridge, absolute: added to the diagonal of the kernel matrix, whose entries are of the size of
        2 (depth + 1) |x|^2 / d. "loo" chooses it by leave-one-out (not with "pcg").
    depth : int, default 3
        Number of hidden layers.
    W_std, b_std : float, default sqrt(2) and 0
        Standard deviations of the weights and the biases.
    activation : str or callable, default "relu"
        As in `ntkfast.analytic.ntk`.
    solver : {"auto", "exact", "pcg", "features"}, default "auto"
        "exact" factorizes the kernel matrix; "pcg" iterates with tiles of it; "features" replaces it by that of
        one-pass features (no biases). "auto" is "exact" up to 10,000 samples and "pcg" above.
    n_components : int, default 4096
        Number of features, for "features".
    random_state : int, RandomState or None, default None
        For "features" (the map) and "pcg" (the preconditioner, which changes rounding only).

    Attributes
    ----------
    dual_coef_, X_fit_ : ndarray, shape (n,) or (n, k), and (n, d)
        Solvers "exact" and "pcg".
    coef_, feature_map_ : ndarray, shape (n_components,) or (n_components, k), and OnePassFeatures
        Solver "features".
    intercept_ : ndarray, shape () or (k,)
        Mean of y.
    alpha_ : float
        The ridge used. With "features", a given alpha plus what the features lack of the kernel's diagonal (see
        `OnePassFeatures`), so that all solvers approximate the same regression.
    solver_ : str
        "exact", "pcg" or "features".
    n_iter_ : int
        Iterations of "pcg".
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Notes
    -----
    Cost: "exact" n^3 / 3 operations and 8 n^2 bytes (float64), about 30 times the operations with "loo"; "pcg"
    2 n^2 k operations per iteration and half the kernel matrix, as far as memory allows; "features" n m min(n, m).
    Determinism: equal integers in `random_state` give equal maps and preconditioners; BLAS decides on rounding.
    float32 stays float32; other dtypes become float64.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = NTKRegressor("loo", depth=2, b_std=0.1).fit(X[:300], y[:300])
    >>> bool(model.score(X[300:], y[300:]) > 0.4)
    True
    """

    def fit(self, X: Any, y: Any) -> "NTKRegressor":
        """Fit.

        Parameters
        ----------
        X : array-like, shape (n, d)
        y : array-like, shape (n,) or (n, k)

        Returns
        -------
        NTKRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            Bad arrays or parameters.
        NotPositiveDefiniteError, ConvergenceError
            alpha is too small for the dtype.
        """
        X, y = validate_data(self, X, y, dtype=DTYPES, order="C", multi_output=True, y_numeric=True)
        self._fit(X, y)
        return self

    def predict(self, X: Any) -> Array:
        """Predict targets.

        Parameters
        ----------
        X : array-like, shape (m, d)

        Returns
        -------
        ndarray, shape (m,) or (m, k), as y was
        """
        return self._decide(X)


class NTKClassifier(ClassifierMixin, _NTKRidge):  # type: ignore[misc]
    """Classification by ridge regression on one-hot labels, with a neural tangent kernel.

    Two classes are fitted as one target of -1 and 1, more as one-hot columns, all centred by their mean. There is
    no ``predict_proba``: a regression on labels does not estimate probabilities that could be trusted.

    Parameters
    ----------
    alpha, depth, W_std, b_std, activation, solver, n_components, random_state
        As in `NTKRegressor`.

    Attributes
    ----------
    classes_ : ndarray, shape (k,)
    dual_coef_, X_fit_, coef_, feature_map_, intercept_, alpha_, solver_, n_iter_
        As in `NTKRegressor`.

    Notes
    -----
    Cost, determinism and dtypes: as in `NTKRegressor`, with k targets (1 for two classes).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = NTKClassifier("loo").fit(X[:1000] / 16, y[:1000])
    >>> bool(model.score(X[1000:] / 16, y[1000:]) > 0.93)
    True
    """

    def fit(self, X: Any, y: Any) -> "NTKClassifier":
        """Fit.

        Parameters
        ----------
        X : array-like, shape (n, d)
        y : array-like, shape (n,)
            At least two classes.

        Returns
        -------
        NTKClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            Bad arrays or parameters, a single class.
        NotPositiveDefiniteError, ConvergenceError
            alpha is too small for the dtype.
        """
        X, y = validate_data(self, X, y, dtype=DTYPES, order="C")
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected at least 2 classes, got 1 class: {self.classes_[0]!r}")
        self._fit(X, _targets(numbers, len(self.classes_)))
        return self

    def decision_function(self, X: Any) -> Array:
        """Regression outputs; the largest one, or the sign of the only one, decides.

        Parameters
        ----------
        X : array-like, shape (m, d)

        Returns
        -------
        ndarray, shape (m,) for two classes (positive means ``classes_[1]``), else (m, k)
        """
        return self._decide(X)

    def predict(self, X: Any) -> Array:
        """Predict classes.

        Parameters
        ----------
        X : array-like, shape (m, d)

        Returns
        -------
        ndarray, shape (m,), dtype of ``classes_``
        """
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]


def _targets(numbers: Array, n_classes: int) -> Array:
    if n_classes == 2:
        return 2.0 * numbers - 1.0
    return np.eye(n_classes)[numbers]
