"""Tangent kernels of networks from PyTorch against torch.func, parameter by parameter, untrained and trained."""

import numpy as np
import pytest
from helpers import assert_close

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402
from torch_networks import (  # noqa: E402
    BasicBlock,
    ChannelsLast,
    Functional,
    Nested,
    ResNet,
    Text,
    Words,
    cnn,
    mlp,
    randomized,
    tangent_kernels,
)  # fmt: skip

from ntkfast.adapters.torch import from_torch  # noqa: E402
from ntkfast.empirical import empirical_ntk, layer_ntks  # noqa: E402

# name -> (module, shape of one sample as PyTorch takes it)
NETWORKS = {
    "mlp": (mlp, (7,)),
    "cnn": (cnn, (3, 14, 14)),
    "resnet": (lambda: ResNet((4, 6), classes=3), (3, 20, 24)),
    "functional": (Functional, (3, 10, 10)),
    "nested": (Nested, (6,)),
    "text": (lambda: Text(nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten())), (9,)),
    "words": (Words, (9,)),
    "channels last": (ChannelsLast, (3, 8, 8)),
}


def _samples(n, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    if shape == (9,):
        return torch.randint(0, 20, (n, *shape), generator=generator)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def _ours(x):
    return np.ascontiguousarray(x.movedim(1, -1).numpy()) if x.ndim > 2 else x.numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_kernel_of_every_parameter(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = randomized(make())
    x1, x2 = _samples(4, shape, 1), _samples(3, shape, 2)
    expected = tangent_kernels(module, x1, x2)
    found = from_torch(module)
    got = layer_ntks(found.net, found.params, _ours(x1), _ours(x2), output="full")
    assert {found.names[path] for path in got} == set(expected)
    scale = np.abs(sum(expected.values())).max()
    for path, kernel in got.items():
        assert np.abs(kernel - expected[found.names[path]]).max() <= 1e-12 * scale, found.names[path]


class DigitNet(nn.Module):
    """A small residual CNN for the 8x8 digits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 12, 2), nn.Dropout(0.1))
        self.fc = nn.Linear(12 * 2 * 2, 10)

    def forward(self, x):
        return self.fc(torch.flatten(F.max_pool2d(self.blocks(self.stem(x)), 2), 1))


@pytest.fixture(scope="module")
def trained():
    """A CNN after 60 steps of Adam, and the digits: float64, a sixteenth of the gray levels."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images / 16).reshape(-1, 1, 8, 8), torch.from_numpy(labels)
    module = DigitNet().double()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for step in range(60):
        rows = slice(20 * step, 20 * step + 20)
        optimizer.zero_grad()
        F.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        accuracy = (module(x[1200:]).argmax(1) == y[1200:]).double().mean().item()
    assert accuracy > 0.8  # it has learned: the kernel is not that of initialization
    return module, x


@pytest.mark.parametrize("output", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("method", ["structured_derivatives", "jacobian_contraction", "ntk_vector_products"])
def test_kernel_of_a_trained_cnn(trained, output, method):
    module, x = trained
    expected = sum(tangent_kernels(module, x[:6], x[3:8]).values())
    if output != "full":
        expected = np.einsum("ijkk->ijk", expected)
    if output == "trace":
        expected = expected.mean(-1)
    found = from_torch(module, (8, 8, 1))
    x1, x2 = _ours(x[:6]), _ours(x[3:8])
    got = empirical_ntk(found.net, found.params, x1, x2, output=output, method=method)
    assert_close(got, expected, 1e-10)


def test_symmetric_kernel_of_a_trained_cnn(trained):
    module, x = trained
    found = from_torch(module)
    kernel = empirical_ntk(found.net, found.params, _ours(x[:6]), output="full")
    assert_close(kernel, sum(tangent_kernels(module, x[:6], x[:6]).values()), 1e-10)


def test_float32_kernel_of_a_trained_cnn(trained):
    module, x = trained
    expected = sum(tangent_kernels(module, x[:6], x[3:8]).values())
    single = DigitNet()
    single.load_state_dict(module.state_dict())
    found = from_torch(single.eval())
    x1, x2 = (_ours(part).astype(np.float32) for part in (x[:6], x[3:8]))
    got = empirical_ntk(found.net, found.params, x1, x2, output="full")
    assert got.dtype == np.float32
    assert_close(got, expected, 1e-5)
