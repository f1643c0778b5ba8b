import math

import numpy as np
import pytest

from ntkfast.backends import get_backend
from ntkfast.features import CNTKSketch
from ntkfast.features._polynomial import layer_polynomial
from ntkfast.features.convolutional._pixels import Flattened, Pooled
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, ReLU, Sequential

NETWORK = Sequential(Conv2d(1, 3), ReLU(), Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1))


def kappa(order, cosine):
    angle = np.arccos(cosine)
    kappa_0 = 1 - angle / math.pi
    return kappa_0 if order == 0 else cosine * kappa_0 + np.sin(angle) / math.pi


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize(("order", "error"), [(0, 0.16), (1, 0.03)])
def test_polynomials_of_a_layer_are_near_kappa_where_it_is_met(order, error, layer):
    coefficients = layer_polynomial(order, 4, layer)
    least = -1.0
    for _ in range(layer - 1):
        least = (2 * least + kappa(1, least)) / 3 if order == 1 else (least + kappa(1, least)) / 2
    cosine = np.linspace(least, 1, 200)
    values = np.polynomial.polynomial.polyval(cosine, coefficients)
    assert np.abs(values - kappa(order, cosine)).max() < error
    assert min(coefficients) >= 0


def test_fits_of_a_layer_are_better_there_than_those_of_all_cosines():
    cosine = np.linspace(0, 1, 200)

    def error(layer):
        values = np.polynomial.polynomial.polyval(cosine, layer_polynomial(0, 4, layer))
        return np.sqrt(np.mean((values - kappa(0, cosine)) ** 2))

    assert error(3) < error(1)


def test_a_polynomial_of_kappa_1_keeps_half_of_every_square():
    for layer in range(1, 5):
        assert sum(layer_polynomial(1, 4, layer)) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("pool", [AvgPool2d(2), AvgPool2d((3, 2), stride=1, padding="SAME"), GlobalAvgPool()])
def test_means_are_those_of_the_layer(pool):
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 3))
    window = pool._window((6, 4)) if isinstance(pool, AvgPool2d) else AvgPool2d((6, 4))._window((6, 4))
    stage = Pooled(window)
    expected, _ = pool.forward({}, x)
    np.testing.assert_allclose(stage.mean(x).reshape(expected.shape), expected, atol=1e-14)
    ct = np.random.default_rng(1).standard_normal(stage.mean(x).shape)
    np.testing.assert_allclose((stage.pull_mean(ct) * x).sum(), (ct * stage.mean(x)).sum(), atol=1e-12)


def test_flattening_counts_squares_per_pixel():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    flat = Flattened((3, 4))._flat(x).reshape(2, -1)
    assert get_backend(x).xp.allclose(flat @ flat.T, np.einsum("ipqc,jpqc->ij", x, x) / 12)
    assert Flatten().out_shape((3, 4, 5)) == (flat.shape[1],)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"degree": 0}, ValueError, "degree"),
        ({"degree": 2.5}, TypeError, "degree"),
        ({"width": 1}, ValueError, "width"),
        ({"width": None}, TypeError, "width"),
        ({"expansion": "fourier"}, ValueError, "expansion"),
    ],
)
def test_bad_arguments_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        CNTKSketch(NETWORK, (6, 6, 2), 8, seed=0, **change)
