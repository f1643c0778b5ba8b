"""Labels, targets and other cotangents that do not fit, and what is told before a network runs."""

import numpy as np
import pytest
from empirical.bad_calls import NET, PARAMS, SKETCH, X
from projection.calls import LABELS, projected

from ntkfast.layers import Dense, Sequential, Tanh
from ntkfast.projection import (
    TensorProjection,
    allocate_dims,
    cross_entropy,
    margin,
    project_jacobian,
    projection_error,
    squared_error,
)
from ntkfast.sketch import SparseJL


@pytest.mark.parametrize("function", [cross_entropy, margin])
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, TypeError, "expected labels to be a NumPy or CuPy array, got NoneType"),
        ([0, 1, 1], TypeError, "expected labels to be a NumPy or CuPy array, got list"),
        ("012", TypeError, "got str"),
        (LABELS * 1.0, TypeError, "expected labels of an integer dtype, got float64"),
        (LABELS > 0, TypeError, "integer dtype, got bool"),
        (LABELS.astype(object), TypeError, "integer dtype, got object"),
        (LABELS[:, None], ValueError, r"expected labels of shape \(n,\), not empty, got \(3, 1\)"),
        (np.array(1), ValueError, r"got \(\)"),
        (LABELS[:0], ValueError, r"got \(0,\)"),
        (LABELS[:2], ValueError, "expected a label for each of 3 samples, got 2 labels"),
        (np.tile(LABELS, 2), ValueError, "expected a label for each of 3 samples, got 6 labels"),
        (LABELS - 1, ValueError, "expected labels of at least 0, got -1 at index 0"),
        (LABELS + 1, ValueError, "expected labels below 2, got 2 at index 1"),
        (np.full(3, 2**63, np.uint64), ValueError, "expected labels below 2, got 9223372036854775808"),
    ],
)
def test_bad_labels(function, labels, error, message):
    with pytest.raises(error, match=message):
        projected(function(labels))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
@pytest.mark.parametrize("function", [cross_entropy, margin])
def test_labels_of_every_integer_dtype(function, dtype):
    np.testing.assert_array_equal(projected(function(LABELS.astype(dtype))), projected(function(LABELS)))


def test_labels_and_targets_are_the_functions_own():
    labels, targets = LABELS.copy(), np.ones((3, 2))
    for function, held in (
        (cross_entropy(labels), labels),
        (margin(labels), labels),
        (squared_error(targets), targets),
    ):
        expected = projected(function)
        held[...] = 0
        np.testing.assert_array_equal(projected(function), expected)
        held[...] = 1


BAD_COTANGENTS = {
    "columns": (np.ones((3, 1)), ValueError, r"shape \(3, 2\), got \(3, 1\)"),
    "transposed": (np.ones((2, 3)), ValueError, r"shape \(3, 2\), got \(2, 3\)"),
    "vector": (np.ones(3), ValueError, r"shape \(3, 2\), got \(3,\)"),
    "single": (np.ones((3, 2), "float32"), TypeError, "of dtype float64, got float32"),
    "half": (np.ones((3, 2), "float16"), TypeError, "of dtype float32 or float64, got float16"),
    "labels": (LABELS, TypeError, "of dtype float32 or float64, got int64"),
    "complex": (np.ones((3, 2)) * 1j, TypeError, "got complex128"),
    "list": ([[1.0, 1.0]] * 3, TypeError, "to be a NumPy or CuPy array, got list"),
    "number": (1.0, TypeError, "to be a NumPy or CuPy array, got float"),
    "text": ("margin", TypeError, "to be a NumPy or CuPy array, got str"),
    "NaN": (np.full((3, 2), np.nan), ValueError, r"without NaN or inf, got nan at index \(0, 0\)"),
    "inf": (np.full((3, 2), np.inf), ValueError, "without NaN or inf, got inf"),
}


@pytest.mark.parametrize("what", BAD_COTANGENTS)
def test_bad_cotangents_are_called_by_their_name(what):
    bad, error, message = BAD_COTANGENTS[what]
    for given, name in ((bad, "cotangents"), (lambda y: bad, r"cotangents\(y\)")):
        with pytest.raises(error, match=f"expected {name} .*{message}"):
            projected(given)


def test_a_function_that_returns_nothing():
    with pytest.raises(TypeError, match=r"expected cotangents\(y\) to be a NumPy or CuPy array, got NoneType"):
        projected(lambda y: None)


def test_a_function_may_overwrite_the_outputs_it_is_given():
    """They once were those of the last layer, whose derivative then was that of other outputs."""
    net = Sequential(Dense(5), Tanh(), Dense(2), Tanh())
    params = net.init((4,), seed=0, dtype="float64")

    def doubled(y):
        y *= 2
        return y

    expected = project_jacobian(net, params, X, SKETCH, cotangents=lambda y: 2 * y)
    np.testing.assert_array_equal(project_jacobian(net, params, X, SKETCH, cotangents=doubled), expected)


def test_errors_of_the_callers_function_are_its_own():
    with pytest.raises(ZeroDivisionError):
        projected(lambda y: 1 / 0)


BEFORE_WORK = {
    "sketch": lambda: projected(sketch=3),
    "width": lambda: projected(sketch=TensorProjection(3, combine="concatenate", seed=0)),
    "columns": lambda: projected(sketch=SparseJL(5, 4, seed=0)),
    "labels": lambda: projected(margin(LABELS + 1)),
    "number of labels": lambda: projected(cross_entropy(LABELS[:2])),
    "targets": lambda: projected(squared_error(np.ones((3, 1)))),
    "cotangents": lambda: projected(np.ones((3, 1))),
    "text as cotangents": lambda: projected("margin"),
    "memory": lambda: projected(max_memory=1.5),
    "no memory": lambda: projected(max_memory=0),
    "rule": lambda: allocate_dims(NET, PARAMS, X, 64, rule="best"),
    "sum of widths": lambda: allocate_dims(NET, PARAMS, X, 3),
    "labels of widths": lambda: allocate_dims(NET, PARAMS, X, 64, cotangents=margin(LABELS + 1)),
    "memory of widths": lambda: allocate_dims(NET, PARAMS, X, 64, max_memory="1"),
    "sketch of an error": lambda: projection_error(NET, PARAMS, X, 3),
    "columns of an error": lambda: projection_error(NET, PARAMS, X, SparseJL(5, 4, seed=0)),
    "outputs of an error": lambda: projection_error(NET, PARAMS, X, SKETCH, output="all"),
    "rows of an error": lambda: projection_error(NET, PARAMS, X, SKETCH, n_rows=1),
    "labels of an error": lambda: projection_error(NET, PARAMS, X, SKETCH, cotangents=margin(LABELS + 1)),
    "sketch of a weighted error": lambda: projection_error(NET, PARAMS, X, 3, cotangents=np.tanh),
    "memory of a weighted error": lambda: projection_error(NET, PARAMS, X, SKETCH, cotangents=np.tanh, max_memory=1.5),
}


@pytest.mark.parametrize("what", BEFORE_WORK)
def test_bad_arguments_are_told_before_the_network_runs(what, monkeypatch):
    def forward(*_):
        raise AssertionError("the network ran")

    monkeypatch.setattr(type(NET), "forward", forward)
    with pytest.raises((ValueError, TypeError), match="expected"):
        BEFORE_WORK[what]()
