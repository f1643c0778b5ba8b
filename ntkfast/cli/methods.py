"""The methods that the demo compares, each fitted, timed and scored in the same way.

The ridge of every method is chosen by leave-one-out on its training points, among 25 values from 1e-7 to
10 times the mean of the kernel's diagonal (for the linear model: of its Gram matrix X X^T).
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .._typing import Array
from ..adapters.sklearn import NTKClassifier, NTKRegressor
from ..adapters.sklearn.ridge import RELATIVE_RIDGES
from ..regression import NormalEquations, leave_one_out
from .data import Dataset
from .report import Method

__all__ = ["fit_exact", "fit_features", "fit_linear", "fit_rbf"]

# Bandwidths of the RBF kernel, relative to the median distance, and the points on which one is chosen.
RELATIVE_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
BANDWIDTH_POINTS = 1000

# Training inputs and targets, test inputs -> outputs at the test inputs, and the ridge.
Outputs = Callable[[Array, Array, Array], tuple[Array, float]]


def fit_exact(data: Dataset, rows: Array, *, depth: int) -> Method:
    """Exact NTK regression.

    Parameters
    ----------
    data : Dataset
    rows : ndarray of int
        Training points to use.
    depth : int

    Returns
    -------
    Method
    """
    method = _fit_ntk(data, rows, depth=depth, solver="exact")
    return _method("exact NTK", "exact", rows, None, method, gram_error=0.0)


def fit_features(data: Dataset, rows: Array, width: int, *, depth: int, seed: int) -> Method:
    """Ridge regression on one-pass NTK features.

    Parameters
    ----------
    data : Dataset
    rows : ndarray of int
        Training points to use.
    width : int
        Number of features.
    depth, seed : int

    Returns
    -------
    Method
        Its `gram_error` is left open.
    """
    method = _fit_ntk(data, rows, depth=depth, solver="features", n_components=width, random_state=seed)
    return _method(f"NTK features, {width}", "features", rows, width, method)


def fit_rbf(data: Dataset, rows: Array) -> Method:
    """Kernel ridge regression with a Gaussian (RBF) kernel; its bandwidth is chosen by leave-one-out as well.

    Parameters
    ----------
    data : Dataset
    rows : ndarray of int
        Training points to use.

    Returns
    -------
    Method
    """
    return _method("RBF kernel ridge", "rbf", rows, None, _fit_baseline(data, rows, _rbf))


def fit_linear(data: Dataset, rows: Array) -> Method:
    """Linear ridge regression with an intercept.

    Parameters
    ----------
    data : Dataset
    rows : ndarray of int
        Training points to use.

    Returns
    -------
    Method
    """
    width = data.x_train.shape[1]
    return _method("linear ridge", "linear", rows, width, _fit_baseline(data, rows, _linear))


def _method(
    name: str,
    family: Literal["exact", "features", "rbf", "linear"],
    rows: Array,
    width: int | None,
    found: tuple[float, float, float],
    gram_error: float | None = None,
) -> Method:
    ridge, seconds, score = found
    return Method(name, family, len(rows), width, ridge, seconds, gram_error, score)


def _fit_ntk(data: Dataset, rows: Array, **parameters: Any) -> tuple[float, float, float]:
    """Ridge, seconds and score of an estimator of `ntkfast.adapters.sklearn`."""
    estimator = NTKClassifier if data.task == "classification" else NTKRegressor
    model: Any = estimator("loo", **parameters)
    start = time.perf_counter()
    prediction = model.fit(data.x_train[rows], data.y_train[rows]).predict(data.x_test)
    seconds = time.perf_counter() - start
    return model.alpha_, seconds, _score(data, prediction)


def _fit_baseline(data: Dataset, rows: Array, outputs: Outputs) -> tuple[float, float, float]:
    """Ridge, seconds and score of a regression on centred targets (one-hot labels for classes)."""
    start = time.perf_counter()
    x, y = data.x_train[rows], data.y_train[rows]
    targets = np.eye(len(data.classes))[y] if data.task == "classification" else y[:, None]
    mean = targets.mean(axis=0)
    found, ridge = outputs(x, (targets - mean).astype(x.dtype), data.x_test)
    found = found + mean
    prediction = found.argmax(axis=1) if data.task == "classification" else found[:, 0]
    seconds = time.perf_counter() - start
    return ridge, seconds, _score(data, prediction)


def _score(data: Dataset, prediction: Array) -> float:
    if data.task == "classification":
        return float((prediction == data.y_test).mean())
    return float(np.sqrt(((prediction - data.y_test) ** 2).mean()))


def _rbf(x: Array, y: Array, x_test: Array) -> tuple[Array, float]:
    from sklearn.metrics.pairwise import rbf_kernel

    gamma = _bandwidth(x[:BANDWIDTH_POINTS], y[:BANDWIDTH_POINTS])
    choice = leave_one_out(rbf_kernel(x, gamma=gamma), y, regs=RELATIVE_RIDGES)
    return choice.fit.predict(rbf_kernel(x_test, x, gamma=gamma)), choice.reg


def _bandwidth(x: Array, y: Array) -> float:
    """1 / (2 s^2) of the bandwidth s with the smallest leave-one-out error."""
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

    distances = euclidean_distances(x)
    median = float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0
    gammas = [0.5 / (relative * median) ** 2 for relative in RELATIVE_BANDWIDTHS]
    errors = [min(leave_one_out(rbf_kernel(x, gamma=gamma), y, regs=RELATIVE_RIDGES).scores) for gamma in gammas]
    return gammas[int(np.argmin(errors))]


def _linear(x: Array, y: Array, x_test: Array) -> tuple[Array, float]:
    equations = NormalEquations(intercept=True, dtype="float64")
    equations.update(x, y)
    path = equations.decompose()
    scale = float(path.spectrum.eigenvalues.sum()) / len(x)
    choice = path.leave_one_out([(x, y)], regs=RELATIVE_RIDGES * scale)
    return choice.fit.predict(x_test), choice.reg
