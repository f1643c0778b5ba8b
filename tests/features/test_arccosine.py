import math

import numpy as np
import pytest
from helpers import arc_cosine_kernel, assert_close

from ntkfast.backends import get_backend
from ntkfast.features import ArcCosineFeatures
from ntkfast.features._weights import directions

X = np.random.default_rng(0).standard_normal((12, 4))


@pytest.mark.parametrize("order", [0, 1])
def test_kernel_is_the_arc_cosine_kernel(order):
    phi = ArcCosineFeatures(4, 8, order=order, seed=0)
    y = X[:5] * 3
    both = np.concatenate((X, y))
    full = arc_cosine_kernel(order, both @ both.T)
    assert_close(phi.kernel(X), full[:12, :12], 1e-7)  # arccos in the test loses half the digits at coincident points
    assert_close(phi.kernel(X, y), full[:12, 12:], 1e-7)
    assert_close(np.diag(phi.kernel(X)), (X**2).sum(1) ** order, 1e-14)


@pytest.mark.stat
@pytest.mark.parametrize(("order", "sampling"), [(0, "gaussian"), (1, "gaussian"), (1, "leverage")])
def test_features_are_unbiased_and_of_the_stated_variance(order, sampling):
    """One draw of m = 2^20 directions: the Gram matrix is a mean of m independent terms.

    Each entry is tested against 6.5 of its own standard errors; normal tails (all moments exist, and m is
    large) give 1e-10 per entry, 1.6e-8 for the 144 entries and 3 cases. The variance of a diagonal entry, 1, 5 or
    6 d / (d + 2) - 1 times |x|^4, is a mean as well, of terms with standard deviation below 150: 5 %
    of it is 6.5 standard errors or more.
    """
    m = 2**20
    phi = ArcCosineFeatures(4, m, order=order, sampling=sampling, seed=7)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    z = phi(unit) * math.sqrt(m)
    mean = z @ z.T / m
    error = np.sqrt(((z**2) @ (z**2).T / m - mean**2) / m)
    assert (np.abs(mean - phi.kernel(unit)) <= 6.5 * error).all()
    stated = {(0, "gaussian"): 1.0, (1, "gaussian"): 5.0, (1, "leverage"): 6 * 4 / 6 - 1}[order, sampling]
    assert_close((z**4).mean(1) - np.diag(mean) ** 2, np.full(12, stated), 0.15)


def test_leverage_directions_lie_on_a_sphere():
    w = directions(get_backend(X), "float64", (4, 50), sampling="leverage", key=1)
    assert_close((w * w).sum(0), np.full(50, 2 * 4 / 50), 1e-14)


def test_steps_take_two_values_and_have_no_gradient():
    phi = ArcCosineFeatures(4, 50, order=0, seed=0)
    z = phi(X)
    np.testing.assert_array_equal(np.unique(z), [0, math.sqrt(2 / 50)])
    assert not phi.vjp(X, z).any()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"order": 2}, ValueError, "order"),
        ({"order": 1.0}, TypeError, "order"),
        ({"n_features": 0}, ValueError, "n_features"),
        ({"in_dim": -1}, ValueError, "in_dim"),
        ({"sampling": "gibbs"}, ValueError, "gaussian, leverage"),
        ({"seed": None}, TypeError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
    ],
)
def test_bad_arguments_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        ArcCosineFeatures(**{"in_dim": 4, "n_features": 8, "order": 1, "seed": 0, **change})
