"""The kernel for Gaussian processes: values, gradients, algebra, cloning, and a fit."""

import pickle

import numpy as np
import pytest
from helpers import assert_close
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, WhiteKernel

from ntkfast.adapters.sklearn import NTKKernel
from ntkfast.analytic import ntk

KERNELS = {
    "default": NTKKernel(),
    "deep": NTKKernel(depth=5, W_std=1.2, b_std=0.5),
    "erf": NTKKernel(depth=2, activation="erf", b_std=0.3),
    "no biases": NTKKernel(b_std=0.0),
    "fixed": NTKKernel(W_std_bounds="fixed"),
    "sum": ConstantKernel(0.7) * NTKKernel(depth=1) + WhiteKernel(0.1),
}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(12, 3))


@pytest.fixture(params=KERNELS)
def kernel(request):
    return clone(KERNELS[request.param])


def test_values_are_those_of_the_core(x):
    kernel = NTKKernel(depth=2, W_std=1.3, b_std=0.4)
    parameters = {"depth": 2, "W_std": 1.3, "b_std": 0.4}
    np.testing.assert_array_equal(kernel(x), ntk(x, **parameters))
    np.testing.assert_array_equal(kernel(x, x[:4]), ntk(x, x[:4], **parameters))
    assert_close(kernel.diag(x), np.diag(kernel(x)), 1e-14)


def test_integers_and_float32_become_float64():
    rows = [[1, 2], [3, 4]]
    assert NTKKernel()(rows).dtype == np.float64
    np.testing.assert_array_equal(NTKKernel()(np.array(rows, np.float32)), NTKKernel()(np.array(rows, float)))


def test_gradient_is_that_of_central_differences(kernel, x):
    value, gradient = kernel(x, eval_gradient=True)
    assert_close(value, kernel(x), 1e-13)
    assert gradient.shape == (12, 12, kernel.n_dims)
    for index in range(kernel.n_dims):
        step = np.zeros(kernel.n_dims)
        step[index] = 1e-5
        difference = kernel.clone_with_theta(kernel.theta + step)(x) - kernel.clone_with_theta(kernel.theta - step)(x)
        assert_close(gradient[:, :, index], difference / 2e-5, 1e-8)


def test_hyperparameters():
    assert NTKKernel(W_std=2.0, b_std=0.5).theta == pytest.approx(np.log([2.0, 0.5]))
    assert NTKKernel(b_std=0.0).theta == pytest.approx(np.log([2**0.5]))
    assert NTKKernel(W_std_bounds="fixed", b_std_bounds="fixed").n_dims == 0
    np.testing.assert_allclose(NTKKernel(W_std_bounds=(1, 2)).bounds[0], np.log([1, 2]))
    assert [p.name for p in NTKKernel().hyperparameters] == ["W_std", "b_std"]


def test_gradient_of_a_fixed_kernel_is_empty(x):
    fixed = NTKKernel(W_std_bounds="fixed", b_std_bounds="fixed")
    assert fixed(x, eval_gradient=True)[1].shape == (12, 12, 0)


def test_gradient_needs_one_set(x):
    with pytest.raises(ValueError, match="eval_gradient without Y"):
        NTKKernel()(x, x, eval_gradient=True)


def test_parameters_cloning_and_pickling(kernel, x):
    copies = [clone(kernel), pickle.loads(pickle.dumps(kernel)), kernel.clone_with_theta(kernel.theta)]
    for copy in copies:
        assert isinstance(copy, Kernel)
        assert_close(copy(x), kernel(x), 1e-13)
    assert clone(kernel) == kernel
    assert not kernel.is_stationary()


def test_repr_names_the_network():
    assert repr(NTKKernel(depth=2, W_std=1.5, b_std=0.25)) == "NTKKernel(depth=2, W_std=1.5, b_std=0.25)"


def test_bad_parameters_are_named(x):
    with pytest.raises(ValueError, match="depth"):
        NTKKernel(depth=-1)(x)
    with pytest.raises(ValueError, match="W_std"):
        NTKKernel(W_std=0.0)(x)


def test_marginal_likelihood_is_maximized():
    """A kinked function with noise: all three hyperparameters have an optimum inside their bounds."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 1))
    y = 2 + np.abs(x[:, 0] - 0.5) + 0.1 * rng.normal(size=40)
    start = NTKKernel(depth=1, W_std=0.5, b_std=0.5) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(start).fit(x, y)
    assert process.log_marginal_likelihood_value_ > process.log_marginal_likelihood(start.theta) + 1
    # the optimizer follows our gradient: it must have arrived where the gradient vanishes
    gradient = process.log_marginal_likelihood(process.kernel_.theta, eval_gradient=True)[1]
    assert np.abs(gradient).max() < 1e-3
    mean, deviation = process.predict(x, return_std=True)
    assert np.abs(mean - y).max() < 0.5
    assert (deviation > 0).all()


def test_in_a_classifier(x):
    labels = (x[:, 0] > 0).astype(int)
    assert GaussianProcessClassifier(NTKKernel(depth=1)).fit(x, labels).score(x, labels) > 0.9
