"""The finite-width kernel on every backend, with the bits of arrays that no backend may change."""

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.empirical import empirical_ntk, layer_ntks
from ntkfast.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Embedding,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)

BODY = Sequential(Conv2d(4, 3, b_std=0.1), BatchNorm(), ReLU(), Conv2d(4, 3, groups=2))
NETWORKS = {
    "dense": (Sequential(Dense(9, b_std=0.1), ReLU(), Dense(7), Tanh(), LayerNorm(), Dense(3, b_std=0.1)), (5,)),
    "convolutions": (
        Sequential(Conv2d(4, 3, stride=2), Residual(BODY), ReLU(), Conv2d(5, 3), ReLU(), GlobalAvgPool(), Dense(3)),
        (8, 8, 2),
    ),
    "pooling": (
        Sequential(Conv2d(4, 3, padding="VALID"), MaxPool2d(2), AvgPool2d(3, stride=1), Flatten(), Dense(2)),
        (8, 8, 1),
    ),
    "tokens": (Sequential(Embedding(6, 4), Dense(5), ReLU(), GlobalAvgPool(), Dense(2)), (7,)),
}


def samples(name, n, seed):
    rng, shape = np.random.default_rng(seed), NETWORKS[name][1]
    return rng.integers(0, 6, (n, *shape)) if name == "tokens" else rng.standard_normal((n, *shape))


def moved(backend, tree):
    if isinstance(tree, dict):
        return {name: moved(backend, entry) for name, entry in tree.items()}
    if isinstance(tree, tuple):
        return tuple(moved(backend, entry) for entry in tree)
    return backend.asarray(tree)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["auto", "structured_derivatives", "jacobian_contraction", "ntk_vector_products"])
@pytest.mark.parametrize("output", ["trace", "diagonal", "full"])
def test_every_backend_and_method(backend, name, method, output):
    net, shape = NETWORKS[name]
    params = net.init(shape, seed=3, dtype="float64")
    x1, x2 = samples(name, 4, 0), samples(name, 3, 1)
    expected = empirical_ntk(net, params, x1, output=output, method="jacobian_contraction")
    rectangular = empirical_ntk(net, params, x1, x2, output=output, method="jacobian_contraction")
    there = moved(backend, params)
    x1, x2 = backend.asarray(x1), backend.asarray(x2)
    got = empirical_ntk(net, there, x1, output=output, method=method)
    assert_close(backend.to_numpy(got), expected, tol(np.float64, 1000, 10))
    got = empirical_ntk(net, there, x1, x2, output=output, method=method)
    assert_close(backend.to_numpy(got), rectangular, tol(np.float64, 1000, 10))


@pytest.mark.parametrize("name", NETWORKS)
def test_entries_add_up(backend, name):
    net, shape = NETWORKS[name]
    params = moved(backend, net.init(shape, seed=3, dtype="float64"))
    x = backend.asarray(samples(name, 4, 0))
    whole = empirical_ntk(net, params, x, output="full")
    parts = layer_ntks(net, params, x, output="full")
    total = sum(backend.to_numpy(part) for part in parts.values())
    assert_close(total, backend.to_numpy(whole), tol(np.float64, 100, 10))
