"""Transformer: random features of a neural tangent kernel."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..._check import check_choice
from ..._typing import Array
from ...features import (
    FeatureMap,
    NTKPolynomialSketch,
    NTKRandomFeatures,
    NTKSketch,
    OnePassFeatures,
    nystroem,
)
from ._seed import seed_of

__all__ = ["NTKFeatures"]

DTYPES = (np.float64, np.float32)

# The maps that need no data; "nystroem" is the one that does.
MAPS: dict[str, Callable[..., FeatureMap]] = {
    "one_pass": OnePassFeatures,
    "polynomial_sketch": NTKPolynomialSketch,
    "random_features": NTKRandomFeatures,
    "sketch": NTKSketch,
}


class NTKFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Features whose dot products approximate the NTK of a fully connected ReLU network without biases.

    Parameters
    ----------
    n_components : int, default 1024
        Number of features; "nystroem" has fewer where fewer samples reproduce the kernel.
    method : {"one_pass", "random_features", "sketch", "polynomial_sketch", "nystroem"}, default "one_pass"
        Which map of `ntkfast.features`: `OnePassFeatures`, `NTKRandomFeatures`, `NTKSketch`,
        `NTKPolynomialSketch`, or `nystroem` (which learns landmarks from the data of `fit`).
    depth : int, default 3
        Number of hidden layers.
    W_std : float, default sqrt(2)
        Standard deviation of the weights.
    random_state : int, RandomState or None, default None
        An integer is the seed of the map itself; see ``seed_``.

    Attributes
    ----------
    feature_map_ : ntkfast.features.FeatureMap
        The fitted map.
    seed_ : int
        Its seed.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X has column names.

    Notes
    -----
    Error: that of the map; see its class. Cost: that of the map.
    Determinism: equal integers in `random_state` give equal maps, on every machine.
    float32 stays float32; other dtypes become float64. Sparse matrices are refused.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> X, y = load_digits(return_X_y=True)
    >>> model = make_pipeline(NTKFeatures(512, random_state=0), RidgeClassifier())
    >>> bool(model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.9)
    True
    """

    def __init__(
        self,
        n_components: int = 1024,
        *,
        method: str = "one_pass",
        depth: int = 3,
        W_std: float = math.sqrt(2),
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.method = method
        self.depth = depth
        self.W_std = W_std
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "NTKFeatures":
        """Draw the map for the width of `X`.

        Parameters
        ----------
        X : array-like, shape (n, d)
            Only "nystroem" looks at more than its shape.
        y : None
            Ignored.

        Returns
        -------
        NTKFeatures
            Itself.

        Raises
        ------
        TypeError, ValueError
            Parameters that the map refuses, NaN, inf, or not a matrix.
        """
        X = validate_data(self, X, dtype=DTYPES, order="C")
        check_choice(self.method, "method", {"nystroem", *MAPS})
        self.seed_ = seed_of(self.random_state)
        self.feature_map_: FeatureMap = self._map(X)
        return self

    def _map(self, x: Array) -> FeatureMap:
        settings: dict[str, Any] = {"depth": self.depth, "W_std": self.W_std, "seed": self.seed_}
        if self.method == "nystroem":
            return nystroem(x, min(self.n_components, len(x)), **settings)
        return MAPS[self.method](x.shape[1], self.n_components, **settings)

    def transform(self, X: Any) -> Array:
        """Features of the rows of `X`.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Returns
        -------
        ndarray, shape (n, n_components), float32 if `X` is, else float64
            A data frame after ``set_output``.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, order="C", reset=False)
        return self.feature_map_(X)

    @property
    def _n_features_out(self) -> int:
        """Number of columns, for ``get_feature_names_out``."""
        return self.feature_map_.n_features

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
