"""Predictions of exact kernel regression on real data, against published-tool references."""

import functools

import numpy as np
import pytest
from golden_files import regression_results, regression_task
from helpers import assert_close

from ntkfast.analytic import nngp_and_ntk
from ntkfast.regression import (
    KernelOperator,
    conjugate_gradient,
    decompose,
    gradient_flow,
    kernel_ridge,
    random_preconditioner,
)

NETWORKS = {
    "relu3": {"depth": 3, "W_std": 2**0.5, "b_std": 0.1, "activation": "relu"},
    "erf1": {"depth": 1, "W_std": 1.5, "b_std": 0.1, "activation": "erf"},
    "relu2": {"depth": 2, "W_std": 2**0.5, "b_std": 0.1, "activation": "relu"},
}
CASES = [("energy", "relu2"), ("protein", "relu2"), ("fashion", "relu3"), ("fashion", "erf1")]


@functools.cache
def kernels(task, network):
    data = regression_task(task)
    train = nngp_and_ntk(data.x_train, **NETWORKS[network])
    return train, nngp_and_ntk(data.x_test, data.x_train, **NETWORKS[network])


def ridges(task, network, kind):
    return {key[2]: value for key, value in regression_results(task).items() if key[:2] == (network, kind)}


def in_units(task, prediction):
    data = regression_task(task)
    return prediction * data.y_scale + data.y_mean


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize(("task", "network"), CASES)
def test_predictions_match_the_references(task, network, kind):
    data = regression_task(task)
    train, test = (getattr(pair, kind) for pair in kernels(task, network))
    expected = ridges(task, network, kind)
    assert len(expected) >= 2
    for ridge, reference in expected.items():
        predicted = in_units(task, kernel_ridge(train, data.y_train, reg=ridge).predict(test))
        assert_close(predicted, reference["prediction"], 1e-9)
        if task == "fashion":
            assert np.mean(predicted.argmax(axis=1) == data.y_test) == reference["test_accuracy"]


def test_every_solver_finds_the_reference():
    """Eigendecomposition and conjugate gradients, on the smallest task's hardest ridge."""
    data = regression_task("energy")
    train, test = (pair.ntk for pair in kernels("energy", "relu2"))
    reference = ridges("energy", "relu2", "ntk")[0.001]["prediction"]
    operator = KernelOperator(train)
    conditioner = random_preconditioner(operator, reg=0.001, rank=200, seed=0)
    solution = conjugate_gradient(operator, data.y_train, reg=0.001, preconditioner=conditioner, rtol=1e-12)
    assert_close(in_units("energy", test @ solution.dual_coef), reference, 1e-9)
    assert_close(in_units("energy", decompose(train).solve(data.y_train, 0.001).predict(test)), reference, 1e-9)


def test_long_training_approaches_ridgeless_regression():
    data = regression_task("energy")
    train, test = (pair.ntk for pair in kernels("energy", "relu2"))
    predicted = gradient_flow(train, data.y_train).predict(test, [1e-3, 1e-1, float("inf")])
    ridgeless = kernel_ridge(train, data.y_train, reg=0.0).predict(test)
    gaps = [np.abs(p - ridgeless).max() for p in predicted]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-8 * np.abs(ridgeless).max()
