import math

import numpy as np
import pytest
from helpers import arc_cosine_kernel, assert_close

from ntkfast.backends import get_backend
from ntkfast.features import NTKRandomFeatures
from ntkfast.zonal import zonal

X = np.random.default_rng(0).standard_normal((15, 5))
UNIT = X / np.linalg.norm(X, axis=1, keepdims=True)


def row_products(a, b):
    """Tensor products of the rows: (n, p), (n, q) -> (n, p q)."""
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)


def recursion(x, depth, relu, steps, product):
    """The algorithm, with its three random parts as functions of the layer."""
    phi = psi = x
    for h in range(1, depth + 1):
        b = steps(h, phi)
        phi = relu(h, phi)
        psi = np.concatenate((phi, product(h, psi, b)), axis=1)
    return psi


def exact_factor(order):
    """The best features of all: a Cholesky factor of the exact layer kernel."""
    return lambda h, phi: np.linalg.cholesky(arc_cosine_kernel(order, phi @ phi.T))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_recursion_with_exact_layers_gives_the_ntk(depth):
    # X[:8]: full tensor products have 8^depth columns
    psi = recursion(X[:8], depth, exact_factor(1), exact_factor(0), lambda h, psi, b: row_products(psi, b))
    expected = NTKRandomFeatures(5, 10, depth=depth, seed=0).kernel(X[:8])
    assert_close(2 / 5 * psi @ psi.T, expected, 1e-10)


@pytest.mark.parametrize("product", ["tensor_srht", "tensor_sketch"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_features_are_the_recursion_with_random_layers(depth, product):
    phi = NTKRandomFeatures(5, 24, depth=depth, W_std=1.3, n_relu=9, n_step=11, product=product, seed=4)
    backend = get_backend(X)

    def relu(h, below):
        return np.maximum(below @ phi._relu_weights(backend, X.dtype, h), 0)

    def steps(h, below):
        return math.sqrt(2 / 11) * (below @ phi._step_weights(backend, X.dtype, h) > 0)

    psi = recursion(X, depth, relu, steps, lambda h, psi, b: phi._sketch(h).apply(np.ascontiguousarray(psi), b))
    scale = (1.3**2 / 2) ** depth * 1.3**2 / 5
    assert_close(phi(X), math.sqrt(scale) * psi, 1e-13)


@pytest.mark.stat
@pytest.mark.parametrize("sampling", ["gaussian", "leverage"])
def test_one_layer_is_unbiased(sampling):
    """Mean Gram matrix of R = 64 maps within 8.5 of its standard errors, entry by entry.

    Student tails with 63 degrees of freedom give 5e-12 per entry, below 3e-9 for the 225 entries and 2 cases.
    """
    grams = np.array([_gram(NTKRandomFeatures(5, 64, depth=1, sampling=sampling, seed=s)) for s in range(64)])
    error = grams.std(axis=0, ddof=1) / math.sqrt(64)
    assert (np.abs(grams.mean(axis=0) - 2 / 5 * zonal(1).of_cosine(_cosine())) <= 8.5 * error).all()


def _cosine():
    return np.clip(UNIT @ UNIT.T, -1, 1)


def _gram(phi):
    z = phi(UNIT)
    return z @ z.T


@pytest.mark.stat
@pytest.mark.parametrize("depth", [1, 3])
def test_error_falls_with_the_root_of_the_features(depth):
    """Root-mean-square Gram error at 32 and 512 features, R = 16 maps each: their ratio is 4 in the limit.

    The logarithm of each has a standard error below 0.11 and 0.05 (correlated entries, 16 maps, measured), so their
    ratio leaves [1.9, 8.4], 0.74 on the log scale, at 6 standard errors of the difference: below 1e-8.
    """
    expected = NTKRandomFeatures(5, 8, depth=depth, seed=0).kernel(UNIT)

    def error(m):
        grams = (_gram(NTKRandomFeatures(5, m, depth=depth, seed=s)) for s in range(16))
        return math.sqrt(np.mean([((g - expected) ** 2).sum() for g in grams]))

    assert 1.9 < error(32) / error(512) < 8.4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"depth": 0}, ValueError, "depth"),
        ({"depth": -1}, ValueError, "depth"),
        ({"depth": 1.5}, TypeError, "depth"),
        ({"n_features": 1}, ValueError, "n_features"),
        ({"n_relu": 8}, ValueError, "n_relu"),
        ({"n_step": 0}, ValueError, "n_step"),
        ({"W_std": 0.0}, ValueError, "W_std"),
        ({"W_std": float("nan")}, ValueError, "W_std"),
        ({"sampling": "gibbs"}, ValueError, "sampling"),
        ({"product": "outer"}, ValueError, "product"),
    ],
)
def test_bad_arguments_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        NTKRandomFeatures(**{"in_dim": 4, "n_features": 8, "depth": 1, "seed": 0, **change})
