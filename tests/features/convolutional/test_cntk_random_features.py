import math

import numpy as np
import pytest
from helpers import assert_close

from ntkfast.backends import get_backend
from ntkfast.features import CNTKRandomFeatures
from ntkfast.features._weights import filters
from ntkfast.features.convolutional._pixels import _read
from ntkfast.layers import Conv2d, Dense, GlobalAvgPool, ReLU, Sequential

NETWORK = Sequential(Conv2d(1, 3, b_std=0.3), ReLU(), Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1, b_std=0.2))
X = np.random.default_rng(0).standard_normal((3, 5, 4, 2))


def box(a):
    """Means over 3 x 3 neighbors of (n, h, w), zeros outside."""
    padded = np.pad(a, ((0, 0), (1, 1), (1, 1)))
    return sum(padded[:, i : i + a.shape[1], j : j + a.shape[2]] for i in range(3) for j in range(3)) / 9


def test_squares_at_every_pixel_are_exact():
    """The recursion of K(p, p) and Theta(p, p), written out."""
    backend = get_backend(X)
    stages = CNTKRandomFeatures(NETWORK, X.shape[1:], 64, channels=8, width=10, seed=0)._plan.stages
    k = theta = (X**2).mean(axis=3)
    state = _read(X)
    for number, stage in enumerate(stages[:3]):
        state, _ = stage.forward(backend, state)
        if number == 1:
            k, theta = k / 2, theta / 2
        else:
            k = 2 * box(k) + (0.09 if number == 0 else 0)
            theta = k if number == 0 else k + 2 * box(theta)
        assert_close((state.nngp**2).sum(axis=3), k, 1e-12)  # filters in pairs w, -w keep this through ReLU
        if number != 1:
            assert_close((state.ntk**2).sum(axis=3), theta, 1e-12)


def test_features_are_a_gated_network_written_out():
    """One layer: phi is max(W u, 0), and psi the mean over pixels of R u times the steps."""
    network = Sequential(Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1))
    phi = CNTKRandomFeatures(network, X.shape[1:], 2000, channels=6, width=32, seed=3)
    conv = phi._plan.stages[0]
    padded = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    u = np.concatenate([padded[:, i : i + 5, j : j + 4] for i in range(3) for j in range(3)], axis=3)
    u *= math.sqrt(2 / 9 / 2)
    w = conv._filters(get_backend(X), X.dtype)
    v = u @ np.concatenate((w, -w), axis=1)
    norm = np.linalg.norm(u, axis=3, keepdims=True)
    v *= norm / np.linalg.norm(v, axis=3, keepdims=True)
    psi = conv._sketch(u, 2)
    psi *= norm / np.linalg.norm(psi, axis=3, keepdims=True)
    product = np.einsum("npqi,npqj->nij", psi, v > 0) / 20 / math.sqrt(6)
    expected = math.sqrt(2) * np.concatenate((product.reshape(3, -1), np.maximum(v, 0).mean(axis=(1, 2))), axis=1)
    got = phi(X)
    assert_close(got[:, : expected.shape[1]], expected, 1e-12)
    assert not got[:, expected.shape[1] :].any()


def test_orthogonal_filters_keep_inner_products():
    backend = get_backend(X)
    w = filters(backend, np.dtype(float), (5, 15), sampling="orthogonal", key=1)
    assert_close(w @ w.T / 15, np.eye(5), 1e-13)
    assert_close((w**2).sum(axis=0), np.full(15, 5.0), 1e-13)


def test_more_channels_than_features_are_fine_and_odd_ones_too():
    phi = CNTKRandomFeatures(NETWORK, X.shape[1:], 3, channels=7, width=5, seed=0)
    assert phi(X).shape == (3, 3)
    assert np.isfinite(phi.vjp(X, np.ones((3, 3)))).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"channels": 1}, ValueError, "channels"),
        ({"channels": 2.0}, TypeError, "channels"),
        ({"width": 0}, ValueError, "width"),
        ({"sampling": "leverage"}, ValueError, "sampling"),
    ],
)
def test_bad_arguments_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        CNTKRandomFeatures(NETWORK, X.shape[1:], 8, seed=0, **change)
