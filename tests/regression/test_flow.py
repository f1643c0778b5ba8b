import math

import numpy as np
import pytest
from helpers import assert_close
from scipy.linalg import expm

from ntkfast.regression import decompose, gradient_flow, kernel_ridge


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_solves_the_differential_equation(problem, loss):
    """Against the matrix exponential, in the formula of the papers."""
    rate = 0.7 / (60 if loss == "mean" else 1)
    flow = gradient_flow(problem.k, problem.y, learning_rate=0.7, loss=loss)
    times = [0.0, 1e-3, 0.1, 2.0]
    for time, test, train in zip(times, flow.predict(problem.k_test, times), flow.train(times), strict=True):
        learned = problem.y - expm(-rate * time * problem.k) @ problem.y
        assert_close(train, learned, 1e-11)
        assert_close(test, problem.k_test @ np.linalg.solve(problem.k, learned), 1e-10)


def test_infinite_time_is_ridgeless_regression(problem):
    ridgeless = kernel_ridge(problem.k, problem.y, reg=0.0)
    flow = gradient_flow(problem.k, problem.y)
    for time in (math.inf, 1e9, 1e300):
        assert_close(flow.predict(problem.k_test, [time])[0], ridgeless.predict(problem.k_test), 1e-9)
    assert_close(flow.train([math.inf])[0], problem.y, 1e-11)


def test_small_times_keep_full_accuracy(problem):
    """To first order f_t = t K y; at t = 1e-14 a plain 1 - exp(-s t) would be noise."""
    time = 1e-14
    flow = gradient_flow(problem.k, problem.y)
    assert_close(flow.predict(problem.k_test, [time])[0], time * problem.k_test @ problem.y, 1e-10)


def test_initial_function(problem):
    start = np.random.default_rng(0).standard_normal(problem.y.shape)
    flow = gradient_flow(problem.k, problem.y, initial=start)
    assert_close(start + flow.train([math.inf])[0], problem.y, 1e-11)
    shifted = gradient_flow(problem.k, problem.y - start)
    np.testing.assert_array_equal(flow.dual_coef([0.3]), shifted.dual_coef([0.3]))


def test_shapes_follow_the_targets_and_times_are_independent(problem):
    spectrum = decompose(problem.k)
    times = [0.1, math.inf, 0.0]
    one, many = gradient_flow(spectrum, problem.y[:, 0]), gradient_flow(spectrum, problem.y)
    assert one.dual_coef(times).shape == (3, 60)
    assert one.predict(problem.k_test, times).shape == (3, 13)
    assert many.train(times).shape == (3, 60, 3)
    assert_close(one.predict(problem.k_test, times), many.predict(problem.k_test, times)[:, :, 0], 1e-12)
    assert_close(many.train([0.1])[0], many.train(times)[0], 1e-13)


def test_what_repeated_points_disagree_on_is_never_learned(problem):
    rows = np.r_[np.arange(60), 0]
    k, y = problem.k[np.ix_(rows, rows)], problem.y[rows, 0].copy()
    y[-1] += 2.0
    flow = gradient_flow(k, y)
    for time in (1e12, math.inf):
        fitted = flow.train([time])[0]
        assert_close(fitted[[0, -1]], np.full(2, y[[0, -1]].mean()), 1e-8)
        assert np.isfinite(flow.dual_coef([time])).all()


def test_every_backend_and_float32(problem, backend):
    expected = gradient_flow(problem.k, problem.y).predict(problem.k_test, [0.2, math.inf])
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 2e-3)):
        k, y, k_test = (backend.asarray(a.astype(dtype)) for a in (problem.k, problem.y, problem.k_test))
        found = gradient_flow(k, y).predict(k_test, [0.2, math.inf])
        assert str(found.dtype) == np.dtype(dtype).name
        assert_close(backend.to_numpy(found), expected, rtol)


def test_ensemble_is_the_law_of_linearized_networks(problem):
    """Mean and variance against the affine map of a Gaussian initial function, formed in full."""
    nngp = problem.k * 0.5 + np.eye(60) * 0.3
    nngp_cross, nngp_test = problem.k_test * 0.5, problem.k_test_test * 0.5
    flow = gradient_flow(problem.k, problem.y[:, 0])
    times = [0.0, 0.05, math.inf]
    found = flow.ensemble(problem.k_test, nngp, nngp_cross, np.ascontiguousarray(nngp_test.diagonal()), times)
    joint = np.block([[nngp_test, nngp_cross], [nngp_cross.T, nngp]])
    for time, mean, variance in zip(times, found.mean, found.variance, strict=True):
        decay = np.zeros((60, 60)) if time == math.inf else expm(-time * problem.k)
        a = problem.k_test @ np.linalg.solve(problem.k, np.eye(60) - decay)
        affine = np.hstack([np.eye(13), -a])
        assert_close(mean, a @ problem.y[:, 0], 1e-9)
        assert_close(variance, (affine @ joint @ affine.T).diagonal(), 1e-9)


def test_ensemble_variance_is_never_negative(problem):
    flow = gradient_flow(problem.k, problem.y)
    diagonal = np.ascontiguousarray(problem.k.diagonal())
    found = flow.ensemble(problem.k, problem.k, problem.k, diagonal, [math.inf])
    assert found.variance.min() >= 0
    assert found.variance.max() < 1e-10


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: gradient_flow(p.k, p.y, loss="huber"), ValueError, "loss to be one of"),
        (lambda p: gradient_flow(p.k, p.y, learning_rate=0), ValueError, "learning_rate.*greater than 0"),
        (lambda p: gradient_flow(p.k, p.y[:3]), ValueError, "y of shape"),
        (lambda p: gradient_flow(p.k[:, :3], p.y), ValueError, r"\(n, n\)"),
        (lambda p: gradient_flow(p.k, p.y, initial=p.y[:, 0]), ValueError, "initial of shape"),
        (lambda p: gradient_flow(p.k, p.y).train([-1.0]), ValueError, r"times\[0\]"),
        (lambda p: gradient_flow(p.k, p.y).train([math.nan]), ValueError, r"times\[0\]"),
        (lambda p: gradient_flow(p.k, p.y).train([]), TypeError, "at least one number"),
        (lambda p: gradient_flow(p.k, p.y).train(1.0), TypeError, "sequence"),
        (lambda p: gradient_flow(p.k, p.y).predict(p.k_test.T, [1.0]), ValueError, "k_test_train"),
        (
            lambda p: gradient_flow(p.k, p.y).ensemble(p.k_test, p.k, p.k_test, p.k_test_test, [1.0]),
            ValueError,
            r"nngp_test of shape \(13,\)",
        ),
    ],
)
def test_bad_input(problem, call, error, message):
    with pytest.raises(error, match=message):
        call(problem)
