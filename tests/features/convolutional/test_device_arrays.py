"""What is done to images on a GPU never converts them on the way: a stand-in for CuPy refuses that (fakecupy.py)."""

import fakecupy
import numpy as np
import pytest
from helpers import assert_close

from ntkfast import convolutional, images
from ntkfast.errors import MixedBackendError
from ntkfast.features import CNTKGradientFeatures, CNTKRandomFeatures, CNTKSketch
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, ReLU, Sequential

X = np.random.default_rng(0).standard_normal((3, 6, 6, 2))
SHAPE = X.shape[1:]
ROUND = Conv2d(1, 3, padding="CIRCULAR")
NETWORKS = {
    "gap": convolutional.gap_network(2),
    "pool": Sequential(Conv2d(1, 3, b_std=0.3), ReLU(), AvgPool2d(2), ROUND, ReLU(), GlobalAvgPool(), Dense(1)),
    "flatten": Sequential(Conv2d(1, 3), ReLU(), Flatten(), Dense(1), ReLU(), Dense(1)),
}
MAPS = {
    "gradient": lambda network: CNTKGradientFeatures(network, SHAPE, 64, n_networks=2, channels=8, seed=0),
    "random": lambda network: CNTKRandomFeatures(network, SHAPE, 64, channels=16, seed=0),
    "sketch": lambda network: CNTKSketch(network, SHAPE, 64, width=16, seed=0),
    "arccosine": lambda network: CNTKSketch(network, SHAPE, 64, width=16, expansion="arccosine", seed=0),
}


@pytest.fixture(autouse=True)
def _device(monkeypatch):
    fakecupy.install(monkeypatch)


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


def both(call, *arrays):
    """The call takes arrays of the device, and returns what it returns on the host."""
    found = call(*map(fakecupy.ndarray, arrays))
    assert isinstance(found, fakecupy.ndarray)
    assert_close(found.get(), call(*arrays), 1e-10)


@pytest.mark.parametrize("name", MAPS)
def test_maps(name, network):
    phi = MAPS[name](network)
    z = phi(X)
    both(phi, X)
    both(phi.vjp, X, z)
    both(phi.kernel, X)
    with pytest.raises(MixedBackendError):
        phi.vjp(fakecupy.ndarray(X), z)


def test_exact_kernels(network):
    both(lambda x: convolutional.cntk(network, x), X)
    both(lambda x, other: convolutional.cnn_gp(network, x, other), X, X[:2] + 1)
    both(lambda x: convolutional.cntk_diagonal(network, x).ntk, X)
    assert convolutional.estimate_cost(network, fakecupy.ndarray(X)).pairs == 6


def test_gradients_of_exact_kernels(network):
    ct = np.random.default_rng(1).standard_normal((3, 3))
    both(lambda x, ct: convolutional.cntk_vjp(network, x, None, ct).x1, X, ct)
    both(lambda x, ct: convolutional.cntk_diagonal_vjp(network, x, ct), X, ct[0])


@pytest.mark.parametrize("fit", [images.channel_statistics, images.zca])
def test_statistics(fit):
    for name in ("apply", "inverse", "vjp"):
        both(lambda x, name=name: getattr(fit(x), name)(x), X)


def test_functions_of_images():
    both(images.normalize, X)
    both(images.flip, X)
    both(lambda x, y: images.with_flips(x, y)[1], X, np.arange(3.0))
    both(lambda x: images.flip_augmented(lambda a, b: convolutional.cntk(NETWORKS["gap"], a, b), x), X)
