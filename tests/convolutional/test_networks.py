"""The published networks: their layers, and that they run."""

import inspect
import math

import numpy as np
import pytest

from ntkfast.convolutional.networks import flatten_network, gap_network, myrtle
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, ReLU, Sequential


@pytest.mark.parametrize(("make", "head"), [(gap_network, GlobalAvgPool()), (flatten_network, Flatten())])
@pytest.mark.parametrize("depth", [1, 3])
def test_convolutions_in_a_row(make, head, depth):
    body = [Conv2d(8, (3, 2), padding="VALID", W_std=1.2, b_std=0.1), ReLU()] * depth
    expected = Sequential(*body, head, Dense(5, W_std=1.2, b_std=0.1))
    settings = {"kernel_size": (3, 2), "channels": 8, "outputs": 5, "W_std": 1.2, "b_std": 0.1, "padding": "VALID"}
    assert make(depth, **settings) == expected


@pytest.mark.parametrize(("n", "blocks"), [(5, (2, 1, 1)), (7, (2, 2, 2)), (10, (3, 3, 3))])
def test_myrtle_networks(n, blocks):
    """As many layers with weights as the name says, and one pixel before the dense layer."""
    first, second, third = ([Conv2d(64, 3), ReLU()] * count for count in blocks)
    pool = AvgPool2d(2)
    expected = Sequential(*first, pool, *second, pool, *third, pool, pool, pool, Flatten(), Dense(1))
    network = myrtle(n)
    assert network == expected
    assert sum(layer.has_parameters() for layer in network.layers) == n
    assert Sequential(*network.layers[:-2]).out_shape((32, 32, 3)) == (1, 1, 64)


@pytest.mark.parametrize("make", [gap_network, flatten_network, lambda **more: myrtle(5, **more)])
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
@pytest.mark.parametrize("b_std", [0.0, 0.1])
def test_finite_networks_run(make, padding, b_std):
    network = make(channels=4, outputs=3, padding=padding, b_std=b_std)
    params = network.init((32, 32, 3), seed=0)
    y, _ = network.forward(params, np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32))
    assert y.shape == (2, 3)
    assert y.dtype == np.float32
    assert (np.abs(y) > 1e-6).all()


def test_circular_padding_and_averages_do_not_see_shifts():
    network = gap_network(2, channels=4, outputs=3, padding="CIRCULAR")
    params, x = network.init((8, 6, 3), seed=0, dtype="float64"), np.random.default_rng(0).standard_normal((2, 8, 6, 3))
    shifted = np.roll(x, (3, -2), axis=(1, 2))
    np.testing.assert_allclose(network.forward(params, shifted)[0], network.forward(params, x)[0], rtol=1e-12)


@pytest.mark.parametrize("make", [gap_network, flatten_network, myrtle])
def test_weights_keep_the_size_of_what_passes_a_relu(make):
    assert inspect.signature(make).parameters["W_std"].default == math.sqrt(2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gap_network(0), ValueError, "depth to be at least 1, got 0"),
        (lambda: flatten_network(1.5), TypeError, "depth to be an integer"),
        (lambda: gap_network(padding="FULL"), ValueError, "padding to be 'SAME'"),
        (lambda: myrtle(6), ValueError, "n to be 5, 7 or 10, got 6"),
        (lambda: myrtle("5"), TypeError, "n to be an integer"),
        (lambda: myrtle(5, W_std=0.0), ValueError, "W_std"),
    ],
)
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()
