"""Gradients of losses by the outputs of a network: the cotangents of per-sample loss gradients.

Letters: n samples, k outputs, y (n, k) the outputs, c the right class. One output is the logit of class 1 against a
logit 0 of class 0, so that two classes need no second output.
"""

import math
from dataclasses import dataclass
from typing import Any

from .._check import array_backend, check_dtype, check_finite, check_matrix, check_range, quiet
from .._typing import Array
from ..backends import Backend, get_backend

__all__ = ["CrossEntropy", "Margin", "SquaredError", "cross_entropy", "margin", "squared_error"]


def cross_entropy(labels: Array) -> "CrossEntropy":
    """Gradient of the softmax cross entropy by the outputs: probabilities minus the one-hot vector of the label.

    Parameters
    ----------
    labels : array of int, shape (n,)
        Right classes, 0 <= label < k. With one output, its logistic loss: labels 0 and 1, where the output is the
        logit of class 1.

    Returns
    -------
    CrossEntropy
        A function of outputs (n, k), for the argument `cotangents` of `project_jacobian`.

    Raises
    ------
    TypeError, ValueError
        `labels` are not a vector of integers. When called: labels that do not fit the outputs.
    MixedBackendError
        When called: labels and outputs of different backends.

    Notes
    -----
    The entry of the right class is the negative sum of the others, so that it keeps its digits where the network is
    sure.
    Error: rounding. Nothing overflows, whatever finite outputs.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> cross_entropy(np.array([0, 1]))(np.zeros((2, 4)))
    array([[-0.75,  0.25,  0.25,  0.25],
           [ 0.25, -0.75,  0.25,  0.25]])
    """
    return CrossEntropy(_check_labels(labels))


def margin(labels: Array) -> "Margin":
    """Gradient of log(p / (1 - p)) by the outputs, p the softmax probability of the right class: TRAK's model output.

    The margin is f = y[c] - log sum_{j != c} exp(y[j]), and its gradient 1 at c and minus the softmax of the others.

    Parameters
    ----------
    labels : array of int, shape (n,)
        Right classes, 0 <= label < k. With one output, the logit of class 1: labels 0 and 1, f is -y or y.

    Returns
    -------
    Margin
        A function of outputs (n, k), for the argument `cotangents` of `project_jacobian`; ``.value(y)`` is f and
        ``.weights(y)`` is 1 - p, both (n,).

    Raises
    ------
    TypeError, ValueError
        `labels` are not a vector of integers. When called: labels that do not fit the outputs.
    MixedBackendError
        When called: labels and outputs of different backends.

    Notes
    -----
    Unlike that of the loss, this gradient does not vanish where the network is sure; the weights 1 - p bring that back.
    Error: rounding, also where p is next to 1. Nothing overflows, whatever finite outputs.
    Backends: numpy, cupy.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc, Madry. TRAK: attributing model behavior at scale. ICML 2023, arXiv 2303.14186,
    equation 5.

    Examples
    --------
    >>> import numpy as np
    >>> right = margin(np.array([0, 1]))
    >>> right(np.zeros((2, 3)))
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5]])
    >>> right.weights(np.zeros((2, 4)))
    array([0.75, 0.75])
    """
    return Margin(_check_labels(labels))


def squared_error(targets: Array) -> "SquaredError":
    """Gradient of |y - t|^2 / 2 by the outputs: the residual y - t.

    Parameters
    ----------
    targets : array, shape (n, k), float32 or float64
        In the dtype of the outputs.

    Returns
    -------
    SquaredError
        A function of outputs (n, k), for the argument `cotangents` of `project_jacobian`.

    Raises
    ------
    TypeError, ValueError
        `targets` are not a finite float matrix. When called: targets that do not fit the outputs.
    MixedBackendError
        When called: targets and outputs of different backends.
    OverflowError
        When called: the residual leaves the range of its dtype.

    Notes
    -----
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> squared_error(np.ones((1, 2)))(np.array([[1.0, 3.0]]))
    array([[0., 2.]])
    """
    targets, _ = check_matrix(targets, "targets")
    return SquaredError(targets.copy())


@dataclass(frozen=True, slots=True, eq=False)
class CrossEntropy:
    """See `cross_entropy`."""

    labels: Array

    def __call__(self, y: Array) -> Array:
        """Cotangents (n, k)."""
        y, backend = _check_outputs(y, self.labels)
        if y.shape[1] == 1:
            side = _sides(self.labels, y)
            return -side * _sigmoid(-side * y, backend)
        ct = _softmax(y, backend)
        place = _places(self.labels, backend)
        ct[place] = 0
        ct[place] = -ct.sum(axis=1)
        return ct

    def rows(self, rows: slice) -> "CrossEntropy":
        """The same for some samples."""
        return CrossEntropy(self.labels[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Margin:
    """See `margin`."""

    labels: Array

    def __call__(self, y: Array) -> Array:
        """Cotangents (n, k)."""
        y, backend = _check_outputs(y, self.labels)
        if y.shape[1] == 1:
            return _sides(self.labels, y)
        ct = -_softmax(self._others(y, backend), backend)
        ct[_places(self.labels, backend)] = 1
        return ct

    def value(self, y: Array) -> Array:
        """The margin f itself, (n,); OverflowError where it leaves the range of its dtype."""
        y, backend = _check_outputs(y, self.labels)
        return check_range(self._value(y, backend), "the margin")

    def weights(self, y: Array) -> Array:
        """Probabilities 1 - p of the wrong classes together, (n,): the weights of TRAK's scores."""
        y, backend = _check_outputs(y, self.labels)
        return _sigmoid(-self._value(y, backend), backend)

    def rows(self, rows: slice) -> "Margin":
        """The same for some samples."""
        return Margin(self.labels[rows])

    def _others(self, y: Array, backend: Backend) -> Array:
        """Outputs with -inf at the right class."""
        others = y.copy()
        others[_places(self.labels, backend)] = -math.inf
        return others

    def _value(self, y: Array, backend: Backend) -> Array:
        if y.shape[1] == 1:
            return (_sides(self.labels, y) * y)[:, 0]
        xp, others = backend.xp, self._others(y, backend)
        top = others.max(axis=1)
        with quiet():
            total = xp.exp(others - top[:, None]).sum(axis=1)
            return (y[_places(self.labels, backend)] - top) - xp.log(total)


@dataclass(frozen=True, slots=True, eq=False)
class SquaredError:
    """See `squared_error`."""

    targets: Array

    def __call__(self, y: Array) -> Array:
        """Cotangents (n, k)."""
        check_matrix(y, "y")
        get_backend(y, self.targets)
        if y.shape != self.targets.shape:
            raise ValueError(f"expected targets of the outputs' shape {y.shape}, got {self.targets.shape}")
        if y.dtype != self.targets.dtype:
            raise TypeError(f"expected targets of the outputs' dtype {y.dtype}, got {self.targets.dtype}")
        with quiet():
            return check_range(y - self.targets, "the residual of squared_error")

    def rows(self, rows: slice) -> "SquaredError":
        """The same for some samples."""
        return SquaredError(self.targets[rows])


# --- checks -------------------------------------------------------------------------------------


def _check_labels(labels: Any) -> Array:
    """A copy of a vector of classes."""
    array_backend(labels, "labels")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"expected labels of an integer dtype, got {labels.dtype}; use labels.astype(int)")
    if labels.ndim != 1 or not labels.size:
        raise ValueError(f"expected labels of shape (n,), not empty, got {labels.shape}")
    if int(labels.min()) < 0:
        raise ValueError(f"expected labels of at least 0, got {int(labels.min())} at index {int(labels.argmin())}")
    return labels.copy()


def _check_outputs(y: Array, labels: Array) -> tuple[Array, Backend]:
    """Outputs that fit the labels."""
    array_backend(y, "y")
    check_dtype(y, "y")
    backend = get_backend(y, labels)
    if y.ndim != 2 or y.size == 0:
        raise ValueError(f"expected outputs y of shape (n, k), not empty, got {y.shape}")
    check_finite(y, "y")
    if len(labels) != len(y):
        raise ValueError(f"expected a label for each of {len(y)} samples, got {len(labels)} labels")
    n_classes = max(2, y.shape[1])
    if int(labels.max()) >= n_classes:
        where = int(labels.argmax())
        raise ValueError(f"expected labels below {n_classes}, got {int(labels[where])} at index {where}")
    return y, backend


# --- the two functions that all of them need ----------------------------------------------------


def _places(labels: Array, backend: Backend) -> tuple[Array, Array]:
    """Indices of the right classes in (n, k)."""
    return backend.xp.arange(len(labels)), labels


def _sides(labels: Array, y: Array) -> Array:
    """Sign (n, 1) of a single output in the margin: 1 for class 1 and -1 for class 0."""
    return (labels[:, None] * 2.0 - 1.0).astype(y.dtype)


def _softmax(y: Array, backend: Backend) -> Array:
    """Softmax of rows, some entries of which may be -inf."""
    with quiet():  # differences beyond the range are -inf, and their exponentials 0, as they should be
        weights = backend.xp.exp(y - y.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _sigmoid(z: Array, backend: Backend) -> Array:
    """1 / (1 + exp(-z)), with all digits at both ends."""
    small = backend.xp.exp(-abs(z))
    return backend.xp.where(z >= 0, z.dtype.type(1), small) / (1 + small)
