"""Modules of PyTorch as layers of ours: the same outputs, shared memory, and what is refused."""

import numpy as np
import pytest
from helpers import assert_close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch_networks import (  # noqa: E402
    BasicBlock, ChannelsLast, Functional, Nested, PreActivation, ResNet, Text, Words, cnn, mlp, randomized,
)  # fmt: skip

from ntkfast.adapters.torch import from_torch  # noqa: E402
from ntkfast.layers import Dense, Identity, Residual, Sequential  # noqa: E402


def _last(x):
    """A batch of PyTorch's as ours: channels last."""
    return np.ascontiguousarray(x.movedim(1, -1).numpy())


def _seen(net):
    """A net after a convolution that makes its channels known to be first."""
    return nn.Sequential(nn.Conv2d(3, 6, 1), net)


WORDS = (9,)
IMAGE = (14, 12, 3)
# name -> (module, shape of one of our samples)
ZOO = {
    "mlp": (mlp, (7,)),
    "cnn": (cnn, (14, 14, 3)),
    "resnet": (lambda: ResNet((8, 12, 16, 20)), (40, 33, 3)),
    "two blocks, one with a shortcut": (
        lambda: nn.Sequential(BasicBlock(3, 3, 1), BasicBlock(3, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGE),
    "shortcut is an empty row": (lambda: nn.Sequential(PreActivation(3, nn.Sequential()), nn.Flatten(), nn.Linear(504, 2)),
                                 IMAGE),
    "shortcut is the longer": (lambda: _seen(PreActivation(6, nn.Sequential(
        *[m for _ in range(4) for m in (nn.Conv2d(6, 6, 1), nn.Tanh())]))), IMAGE),
    "functional": (Functional, (10, 10, 3)),
    "nested": (Nested, (6,)),
    "text, adaptive pool": (lambda: Text(nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten())), WORDS),
    "words": (Words, WORDS),
    "channels last": (ChannelsLast, IMAGE),
    "flatten first": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(504, 5), nn.ReLU(), nn.Linear(5, 2)), IMAGE),
    "layer norm of images": (lambda: _seen(nn.Sequential(nn.LayerNorm([6, 14, 12]), nn.Flatten(), nn.Linear(1008, 2))),
                             IMAGE),
    "layer norm behind flatten": (lambda: _seen(nn.Sequential(nn.Flatten(), nn.LayerNorm(1008), nn.Linear(1008, 2))), IMAGE),
    "grouped, strided": (lambda: nn.Sequential(nn.Conv2d(3, 12, (3, 2), (2, 1), (0, 1), (1, 2), groups=3), nn.ReLU(),
                                               nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGE),
    "adaptive pool to some pixels": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.AdaptiveAvgPool2d((7, 3)),
                                                           nn.Flatten(), nn.Linear(84, 2)), IMAGE),
}  # fmt: skip


@pytest.fixture(params=ZOO)
def case(request):
    """A module, inputs as PyTorch takes them and as we do, and the shape of a sample."""
    torch.manual_seed(0)
    make, shape = ZOO[request.param]
    module = randomized(make())
    if shape == WORDS:
        x = torch.randint(0, 20, (5, *shape))
        return module, x, x.numpy(), shape
    x = torch.randn(5, shape[-1], *shape[:-1], dtype=torch.float64)
    return module, x, _last(x), shape


def _outputs(module, x):
    with torch.no_grad():
        return module(x).numpy()


def test_outputs_are_those_of_the_module(case):
    module, x, ours, shape = case
    found = from_torch(module, shape)
    y = found.net.forward(found.params, ours)[0]
    expected = _outputs(module, x)
    assert_close(y, np.moveaxis(expected, 1, -1) if expected.ndim > 2 else expected, 1e-12)
