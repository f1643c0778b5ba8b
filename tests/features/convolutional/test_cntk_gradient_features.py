"""Sketched gradients of random networks as features of the convolutional NTK."""

import dataclasses
import math
import tracemalloc

import numba
import numpy as np
import pytest
from helpers import deviation

from ntkfast._memo import CACHE
from ntkfast.analytic import ntk
from ntkfast.backends import get_backend
from ntkfast.convolutional import cntk, cntk_diagonal
from ntkfast.features import CNTKGradientFeatures, CNTKRandomFeatures, CNTKSketch, cntk_features
from ntkfast.features.convolutional._guided_networks import RandomNetwork, _balance_layer, _paired, widened
from ntkfast.features.convolutional._guided_sketch import GuidedSketch, gradient_parts
from ntkfast.features.convolutional._guides import guide_images
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Erf, Flatten, GlobalAvgPool, ReLU, Sequential

GAP = Sequential(Conv2d(1, 3), ReLU(), Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1))
NETWORKS = {
    "gap": GAP,
    "bias": Sequential(Conv2d(1, 3, b_std=0.5), ReLU(), Conv2d(1, 3, b_std=0.5), ReLU(), GlobalAvgPool(), Dense(1)),
    "strides": Sequential(Conv2d(1, 3, stride=2, padding="VALID"), ReLU(), GlobalAvgPool(), Dense(1, b_std=0.3)),
    "flatten": Sequential(Conv2d(1, 3), ReLU(), AvgPool2d(2), Conv2d(1, (1, 3)), ReLU(), Flatten(), Dense(1)),
    "dense": Sequential(Conv2d(1, 3), ReLU(), Flatten(), Dense(1), ReLU(), Dense(1)),
    "circular": Sequential(Conv2d(1, 3, padding="CIRCULAR"), ReLU(), Conv2d(1, 3, padding="CIRCULAR"), GlobalAvgPool()),
    "linear": Sequential(Flatten(), Dense(1)),
}


def images(n: int, h: int, w: int, c: int = 3, dtype: str = "float64"):
    return np.ascontiguousarray(guide_images(n, (h, w, c), 123).astype(dtype))


@pytest.mark.stat
@pytest.mark.parametrize("name", NETWORKS)
def test_converges_to_the_exact_kernel(name):
    """Raw features, 24 networks of 32 channels, 1024 features: one fixed seed.

    Measured over 6 seeds, the relative Frobenius error has a mean of at most 0.064 and a standard deviation of at most
    0.01 for every network; the bound is 8 deviations above the mean: failure probability below 1e-6.
    """
    x = images(6, 6, 5)
    features = CNTKGradientFeatures(
        NETWORKS[name], (6, 5, 3), 1024, n_networks=24, channels=32, normalize=False, seed=3
    )
    phi = features(x)
    exact = cntk(NETWORKS[name], x)
    assert np.linalg.norm(phi @ phi.T - exact) < 0.15 * np.linalg.norm(exact)


@pytest.mark.stat
def test_error_falls_with_networks():
    """Mean square errors of 12 seeds with 2 and with 32 networks: 16 times less variance, and a bias below.

    Measured: 0.2 and 0.13 against 0.009 and 0.012. Means of 12 squares, with at least 30 degrees of freedom each, would
    have to deviate by a factor of 3 together: failure probability below 1e-6.
    """
    x = images(6, 6, 6)
    exact = cntk(GAP, x)

    def square_error(n_networks):
        errors = []
        for seed in range(12):
            phi = CNTKGradientFeatures(GAP, (6, 6, 3), 64 * n_networks, n_networks=n_networks, channels=16,
                                       normalize=False, seed=seed)(x)  # fmt: skip
            errors.append(np.linalg.norm(phi @ phi.T - exact) ** 2)
        return np.mean(errors)

    assert square_error(2) > 4 * square_error(32)


def test_features_with_exact_norms_are_the_others_times_one_factor_per_image():
    x = images(3, 6, 5)
    raw, scaled = (CNTKGradientFeatures(GAP, (6, 5, 3), 64, channels=8, normalize=n, seed=5)(x) for n in (False, True))
    factors = (scaled * raw).sum(axis=1) / (raw * raw).sum(axis=1)
    assert deviation(scaled, factors[:, None] * raw) < 1e-13


def test_single_pixels_reduce_to_the_fully_connected_kernel():
    x = images(6, 1, 1, 12)
    network = Sequential(Conv2d(1, 1), ReLU(), Conv2d(1, 1), ReLU(), GlobalAvgPool(), Dense(1))
    features = CNTKGradientFeatures(network, (1, 1, 12), 2048, channels=128, n_networks=16, seed=0)
    phi, exact = features(x), ntk(x.reshape(6, 12), depth=2, W_std=math.sqrt(2))
    assert np.linalg.norm(phi @ phi.T - exact) < 0.05 * np.linalg.norm(exact)
    assert deviation(features.kernel(x), exact) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_are_exact(name):
    x = images(4, 6, 5)
    phi = CNTKGradientFeatures(NETWORKS[name], (6, 5, 3), 128, n_networks=2, channels=8, seed=0)(x)
    assert deviation((phi * phi).sum(axis=1), cntk_diagonal(NETWORKS[name], x).ntk) < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_and_seeds(dtype):
    x = images(7, 6, 5, dtype=dtype)
    features = CNTKGradientFeatures(GAP, (6, 5, 3), 100, n_networks=3, channels=8, seed=5)
    phi = features(x)
    assert phi.dtype == x.dtype
    assert phi.shape == (7, 100)
    least = features._image_bytes(x.dtype.itemsize)
    eps = np.finfo(dtype).eps
    assert deviation(features(x, max_memory=2 * least), phi) < 100 * eps
    assert deviation(features(x[2:3]), phi[2:3]) < 100 * eps
    n_threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert deviation(features(x), phi) < 100 * eps
    finally:
        numba.set_num_threads(n_threads)
    CACHE.clear()
    again = CNTKGradientFeatures(GAP, (6, 5, 3), 100, n_networks=3, channels=8, seed=5)
    np.testing.assert_array_equal(again(x), phi)
    other = CNTKGradientFeatures(GAP, (6, 5, 3), 100, n_networks=3, channels=8, seed=6)
    assert deviation(other(x), phi) > 0.1


def test_single_and_double_precision_agree():
    x = images(3, 6, 5)
    features = CNTKGradientFeatures(GAP, (6, 5, 3), 100, n_networks=3, channels=8, seed=5)
    assert deviation(features(x.astype("float32")).astype("float64"), features(x)) < 1e-4


def test_images_of_zeros_have_zero_features():
    x = np.zeros((2, 6, 5, 3))
    features = CNTKGradientFeatures(GAP, (6, 5, 3), 64, channels=8, seed=5)
    assert not features(x).any()
    assert not features.vjp(x, np.ones((2, 64))).any()
    features = CNTKGradientFeatures(NETWORKS["bias"], (6, 5, 3), 64, channels=8, seed=5)
    assert np.isfinite(features(x)).all()


def test_features_scale_with_images_without_biases():
    x = images(3, 6, 5)
    features = CNTKGradientFeatures(GAP, (6, 5, 3), 64, channels=8, seed=5)
    assert deviation(features(4 * x), 4 * features(x)) < 1e-13


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("normalize", [False, True])
def test_vjp_agrees_with_differences(name, normalize):
    x = images(2, 6, 5)
    features = CNTKGradientFeatures(
        NETWORKS[name], (6, 5, 3), 40, n_networks=2, channels=8, normalize=normalize, seed=1
    )
    rng = np.random.default_rng(0)
    ct, direction = rng.standard_normal((2, 40)), rng.standard_normal(x.shape)
    found = (features.vjp(x, ct) * direction).sum()
    step = 1e-6
    expected = (ct * (features(x + step * direction) - features(x - step * direction))).sum() / (2 * step)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


# --- the parts ----------------------------------------------------------------------------------


def test_channels_are_a_frame_in_pairs_within_the_span():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((20, 5)))[0]
    weights = _paired(rng.standard_normal((20, 16)), basis)
    inside = basis.T @ weights
    np.testing.assert_allclose(inside[:, :8], -inside[:, 8:], atol=1e-13)
    np.testing.assert_allclose(inside @ inside.T, 16 * np.eye(5), atol=1e-12)


def test_frames_depend_on_the_span_alone():
    rng = np.random.default_rng(0)
    basis, weights = np.linalg.qr(rng.standard_normal((20, 5)))[0], rng.standard_normal((20, 16))
    turned = basis @ np.linalg.qr(rng.standard_normal((5, 5)))[0]
    assert deviation(_paired(weights, turned), _paired(weights, basis)) < 1e-12


def test_cotangents_are_passed_down_as_signs():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((9 * 8, 4)))[0]
    directions = np.linalg.qr(rng.standard_normal((16, 2)))[0]
    drawn = _paired(rng.standard_normal((9 * 8, 16)), basis)
    entry = {"weight": drawn.reshape(3, 3, 8, 16).copy()}
    _balance_layer(entry, basis, directions)
    passed = (entry["weight"] @ directions / 3).sum(axis=(0, 1))
    assert abs(abs(passed) - 1).max() < 0.1
    inside = basis.T @ entry["weight"].reshape(-1, 16)
    np.testing.assert_allclose(inside @ inside.T, 16 * np.eye(4), atol=1e-12)


def test_weights_have_the_moments_of_normal_numbers():
    """Second moments of all hidden weights, 20 networks: 23,000 numbers, 6 deviations of 0.01."""
    squares = []
    for key in range(20):
        params = RandomNetwork(widened(GAP, (6, 6, 3), 8), (6, 6, 3), key).params(_numpy(), np.dtype("float64"))
        squares += [(params[0]["weight"] ** 2).ravel(), (params[2]["weight"] ** 2).ravel()]
    assert np.concatenate(squares).mean() == pytest.approx(1, abs=0.06)


def test_output_weights_are_signs_that_agree_in_half_of_the_pairs():
    network = RandomNetwork(widened(NETWORKS["flatten"], (6, 4, 3), 8), (6, 4, 3), 1)
    weight = network.params(_numpy(), np.dtype("float64"))[-1]["weight"]
    assert set(np.unique(weight)) == {-1.0, 1.0}
    halves = weight.reshape(-1, 2, 4)
    np.testing.assert_array_equal((halves[:, 0] * halves[:, 1]).sum(axis=1), 0)


@pytest.mark.parametrize("name", ["bias", "flatten", "linear"])
@pytest.mark.parametrize("width", [2, 40])
def test_the_sketch_is_linear_and_adjoint_its_transpose(name, width):
    x = images(3, 6, 5)
    sketch = GuidedSketch(RandomNetwork(widened(NETWORKS[name], (6, 5, 3), 8), (6, 5, 3), 1), width)
    gradients = np.concatenate(list(gradient_parts(sketch.network, x)), axis=1)
    matrix = sketch.adjoint(np.eye(width))
    assert deviation(sketch.of_gradients(x), gradients @ matrix.T) < 1e-12


def test_leading_directions_are_exact():
    """The sketch keeps all products with gradients in the span of those directions."""
    x = images(3, 6, 5)
    sketch = GuidedSketch(RandomNetwork(widened(GAP, (6, 5, 3), 8), (6, 5, 3), 1), 40)
    leading = sketch.adjoint(np.eye(40)[:8])
    gradients = np.concatenate(list(gradient_parts(sketch.network, x)), axis=1)
    np.testing.assert_allclose(leading @ leading.T, np.eye(8), atol=1e-10)
    matrix = sketch.adjoint(np.eye(40))
    assert deviation((gradients @ matrix.T) @ (leading @ matrix.T).T, gradients @ leading.T) < 1e-10


def test_guides_have_unit_variance_and_the_wanted_spectrum():
    guides = guide_images(400, (16, 16, 3), 0)
    assert (guides**2).mean() == pytest.approx(1, abs=0.1)
    power = (abs(np.fft.fft2(guides, axes=(1, 2))) ** 2).mean(axis=(0, 3))
    assert power[0, 1] / power[0, 4] == pytest.approx(16, rel=0.3)


@pytest.mark.parametrize("exponent", [-1000, 900])
def test_features_scale_with_images(exponent):
    phi = CNTKGradientFeatures(GAP, (6, 5, 3), 64, n_networks=2, channels=8, seed=5)
    x = np.random.default_rng(0).standard_normal((3, 6, 5, 3))
    np.testing.assert_array_equal(np.ldexp(phi(np.ldexp(x, exponent)), -exponent), phi(x))


@pytest.mark.parametrize("name", ["apply", "vjp"])
@pytest.mark.parametrize("blocks", [1, 6])
def test_temporaries_stay_within_max_memory(name, blocks):
    """tracemalloc sees NumPy's arrays; weights and tables are made before."""
    phi = CNTKGradientFeatures(GAP, (24, 24, 3), 100, n_networks=2, channels=16, seed=5)
    x = np.random.default_rng(0).standard_normal((12, 24, 24, 3))
    arguments = (x,) if name == "apply" else (x, phi(x))
    call, budget = getattr(phi, name), blocks * phi._image_bytes(8)
    call(*arguments)
    tracemalloc.start()
    call(*arguments, max_memory=budget)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= budget + 2 * x.nbytes + 8 * 12 * 100


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 7}, "even number of channels"),
        ({"channels": 0}, "channels"),
        ({"n_networks": 65}, "n_networks"),
        ({"n_features": 0}, "n_features"),
        ({"network": Sequential(Conv2d(1, 3), ReLU(), GlobalAvgPool())}, "ends in Dense.*got ReLU and GlobalAvgPool"),
        ({"network": Sequential(Conv2d(1, 3), Flatten())}, "Dense behind Flatten.*30 pixels"),
        ({"network": Sequential(Conv2d(1, 3), Erf(), GlobalAvgPool(), Dense(1))}, "Erf"),
        ({"in_shape": (6, 5)}, "in_shape"),
    ],
)
def test_refuses(changes, message):
    arguments = {"network": GAP, "in_shape": (6, 5, 3), "n_features": 64, "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        CNTKGradientFeatures(**arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_refuses_what_leaves_the_range(dtype):
    x = np.ones((1, 6, 5, 3), dtype)
    steep = [
        dataclasses.replace(layer, W_std=1e60) if isinstance(layer, Conv2d | Dense) else layer for layer in GAP.layers
    ]
    with pytest.raises(OverflowError, match="scale the input down"):
        CNTKGradientFeatures(Sequential(*steep), (6, 5, 3), 64, channels=8, seed=0)(x)
    phi = CNTKGradientFeatures(GAP, (6, 5, 3), 64, channels=8, seed=0)
    with pytest.raises(OverflowError, match="scale the input down"):
        phi.vjp(x, np.sign(phi(x)) * np.finfo(dtype).max)


def test_refuses_normalize_that_is_no_bool():
    with pytest.raises(TypeError, match="normalize"):
        CNTKGradientFeatures(GAP, (6, 5, 3), 64, normalize=1, seed=0)


# --- the choice ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("gradient", {"channels": 8}, CNTKGradientFeatures(GAP, (6, 5, 3), 64, channels=8, seed=2)),
        ("random", {"sampling": "gaussian"}, CNTKRandomFeatures(GAP, (6, 5, 3), 64, sampling="gaussian", seed=2)),
        ("sketch", {"degree": 2}, CNTKSketch(GAP, (6, 5, 3), 64, degree=2, seed=2)),
    ],
)
def test_cntk_features_returns_the_map_of_a_method(method, options, expected):
    assert cntk_features(GAP, (6, 5, 3), 64, method=method, seed=2, **options) == expected


def test_cntk_features_takes_gradients_by_default():
    assert cntk_features(GAP, (6, 5, 3), 64, seed=2) == CNTKGradientFeatures(GAP, (6, 5, 3), 64, seed=2)
    with pytest.raises(ValueError, match="method"):
        cntk_features(GAP, (6, 5, 3), 64, method="fourier", seed=2)


def _numpy():
    return get_backend(np.zeros(1))


@pytest.mark.parametrize(("n_features", "n_networks"), [(8, 1), (100, 6), (192, 12), (4096, 12), (16384, 48)])
def test_networks_by_default(n_features, n_networks):
    """A network has 16 to 341 features."""
    assert CNTKGradientFeatures(GAP, (6, 5, 3), n_features, seed=0).n_networks == n_networks
