"""Random architectures against the recursion on all pairs of pixels (reference.py)."""

import numpy as np
import pytest
from convolutional.drawn import images, networks
from convolutional.reference import kernels
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from ntkfast import backends
from ntkfast.convolutional import cnn_gp_and_cntk, cntk_diagonal, gap_network
from ntkfast.layers import (
    Abs,
    AvgPool2d,
    Conv2d,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    Identity,
    LeakyReLU,
    ReLU,
    Residual,
    Sequential,
)

RELU, ABS, ERF, LEAKY = ReLU(), Abs(), Erf(), LeakyReLU(0.2)
GAP, FLATTEN, HEAD = GlobalAvgPool(), Flatten(), Dense(2, b_std=0.2)


def conv(kernel=3, **options):
    return Conv2d(4, kernel, **{"padding": "SAME", "W_std": 1.3, **options})


# A stage of planes ends, or goes on, in every way.
NETWORKS = {
    "circular, then zeros": [conv(padding="CIRCULAR"), RELU, conv(b_std=0.3), ERF, GAP, HEAD],
    "zeros, then circular": [conv(2), RELU, conv(4, padding="CIRCULAR", b_std=0.3), ABS, FLATTEN, HEAD],
    "circular with strides": [conv(padding="CIRCULAR", stride=(2, 3)), RELU, conv(2, padding="CIRCULAR"), GAP],
    "circular strides of one pixel": [conv(1, padding="CIRCULAR", stride=2, b_std=0.3), RELU, conv(), FLATTEN],
    "circular all around": [conv((4, 6), padding="CIRCULAR"), RELU, conv((4, 6), padding="CIRCULAR"), RELU, GAP],
    "without padding to one pixel": [conv(padding="VALID"), RELU, conv((2, 4), padding="VALID"), RELU, HEAD],
    "a larger image": [conv(2, padding=((3, 1), (0, 2)), b_std=0.3), RELU, conv(), GAP, HEAD],
    "a larger image with strides": [conv(padding=4, stride=2, b_std=0.3), ERF, conv(2, padding=2), RELU, GAP, HEAD],
    "a shifted image": [conv(padding=((2, 0), (0, 2)), b_std=0.3), RELU, conv(2, padding=((0, 1), (1, 0))), GAP],
    "pools that overlap": [conv(), RELU, AvgPool2d(3, stride=1, padding="SAME"), conv(), LEAKY, FLATTEN, HEAD],
    "pools with padding": [conv(), RELU, AvgPool2d((3, 2), stride=2, padding=((2, 1), (0, 1))), conv(), RELU, GAP],
    "pools apart": [AvgPool2d(1, stride=3), conv(2, b_std=0.3), RELU, AvgPool2d(2, stride=3, padding=1), FLATTEN, HEAD],
    "pool first": [AvgPool2d(2), conv(), RELU, GAP],
    "pool last": [conv(), RELU, AvgPool2d(2), AvgPool2d((2, 3)), FLATTEN],
    "circular, pool": [conv(padding="CIRCULAR"), RELU, AvgPool2d(2), conv(2, padding="CIRCULAR"), RELU, GAP],
    "circular, pool that overlaps": [
        conv(padding="CIRCULAR"),
        RELU,
        AvgPool2d(3, stride=2, padding=1),
        HEAD,
        RELU,
        GAP,
    ],
    "mean first": [GAP, HEAD, RELU, HEAD, ERF, HEAD],
    "all pixels first": [FLATTEN, HEAD, RELU, HEAD, ABS],
    "mean in the middle": [conv(), RELU, GAP, HEAD, RELU, HEAD, LEAKY, HEAD],
    "mean of Gaussians": [conv(b_std=0.3), GAP, RELU, HEAD],
    "dense on pixels": [HEAD, RELU, conv(), Identity(), HEAD, RELU, FLATTEN],
    "no layers": [GAP],
    "linear": [conv(), conv(2, b_std=0.3), AvgPool2d(2), conv(), GAP, HEAD],
    "residual": [conv(), Residual(Sequential(RELU, conv(b_std=0.3))), RELU, GAP, HEAD],
    "residual of images": [Residual(Conv2d(3, 3)), GAP],
    "shortcut": [conv(), RELU, Residual(Sequential(conv(), RELU, conv(2)), conv(1, b_std=0.3)), RELU, FLATTEN],
    "shortcut with an activation": [
        conv(),
        Residual(Sequential(RELU, conv()), Sequential(conv(1), ERF)),
        HEAD,
        RELU,
        GAP,
    ],
    "strided shortcut": [
        conv(),
        Residual(Sequential(RELU, conv(stride=2), RELU, conv()), conv(1, stride=2, b_std=0.3)),
        Residual(Sequential(RELU, conv())),
        RELU,
        GAP,
        HEAD,
    ],
    "strided shortcut of images": [Residual(conv(stride=(2, 3)), conv(2, stride=(2, 3))), RELU, GAP],
    "pool as a shortcut": [conv(), Residual(Sequential(RELU, conv(stride=2)), AvgPool2d(2)), RELU, FLATTEN, HEAD],
    "nested": [
        conv(),
        Residual(
            Sequential(
                RELU, conv(), Residual(Sequential(LEAKY, conv(), Residual(Sequential(ABS, conv())))), ERF, conv()
            )
        ),
        RELU,
        GAP,
    ],
    "nested with strides": [
        conv(),
        Residual(
            Sequential(Residual(Sequential(RELU, conv(2, b_std=0.3))), RELU, conv(stride=2)),
            Sequential(Residual(Sequential(ABS, conv()), conv()), RELU, conv(3, stride=2)),
        ),
        RELU,
        GAP,
    ],
    "circular in a shortcut": [conv(), Residual(Sequential(RELU, conv()), conv(padding="CIRCULAR")), RELU, GAP],
    "circular around a residual": [
        conv(padding="CIRCULAR"),
        Residual(Sequential(RELU, conv(2, padding="CIRCULAR")), conv(1)),
        RELU,
        FLATTEN,
    ],
    "residual after the mean": [conv(), RELU, GAP, HEAD, Residual(Sequential(RELU, HEAD)), RELU, HEAD],
    "residual around the mean": [
        conv(),
        Residual(Sequential(RELU, GAP, HEAD), Sequential(ABS, FLATTEN, HEAD)),
        RELU,
        HEAD,
    ],
}


def assert_equals_the_recursion(network, x1, x2, rtol=1e-11):
    """Of two sets, of one set with itself, and the diagonal."""
    for others in ((x2,), ()):
        expected, found = kernels(network, x1, *others), cnn_gp_and_cntk(network, x1, *others)
        for got, wanted in zip((found.nngp, found.ntk), expected, strict=True):
            assert_close(got, wanted, rtol)
    diagonal = cntk_diagonal(network, x1)
    for got, wanted in zip((diagonal.nngp, diagonal.ntk), expected, strict=True):
        assert_close(got, np.diag(wanted), rtol)


@pytest.mark.parametrize("size", [(4, 6), (8, 6)])
@pytest.mark.parametrize("name", NETWORKS)
def test_named_architectures(name, size):
    if name == "without padding to one pixel":
        size = (4, 6)
    x = images(size, 4, seed=0)
    assert_equals_the_recursion(Sequential(*NETWORKS[name]), x[:2], x[[0, 2, 3]], 1e-12)


@given(drawn=networks(), seed=st.integers(0, 9))
def test_random_architectures(drawn, seed):
    """The first image is in both sets, where angles are exactly 0."""
    x1 = images(drawn.size, 2, seed)
    x2 = np.concatenate([x1[:1], images(drawn.size, 1, seed + 100)])
    assert_equals_the_recursion(drawn.network, x1, x2)


@pytest.mark.parametrize("name", ["residual", "strided shortcut", "circular with strides", "pools with padding"])
def test_single_precision(name):
    x, network = images((4, 6), 4, seed=0), Sequential(*NETWORKS[name])
    assert_equals_the_recursion(network, x[:2].astype(np.float32), x[[0, 2, 3]].astype(np.float32), 1e-5)


@given(drawn=networks(), seed=st.integers(0, 9))
def test_random_architectures_in_single_precision(drawn, seed):
    x = images(drawn.size, 3, seed).astype(np.float32)
    assert_equals_the_recursion(drawn.network, x[:2], x[2:], 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_deep_networks(padding, dtype):
    """Angles fall with the depth, but differences of nearly equal numbers do not: errors grow slowly."""
    network, x = gap_network(40, padding=padding), images((4, 5), 3, seed=0).astype(dtype)
    assert_equals_the_recursion(network, x[:2], x[[0, 2]], 100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_kernels_agree(name, monkeypatch):
    """Those of NumPy, launched by the same plan."""
    x, network = images((8, 6) if "one pixel" not in name else (4, 6), 2, seed=1), Sequential(*NETWORKS[name])
    got = cnn_gp_and_cntk(network, x)
    monkeypatch.setitem(backends._BACKENDS, np.ndarray, backends.Backend("numpy", np, "reference"))
    expected = cnn_gp_and_cntk(network, x)
    assert_close(got.nngp, expected.nngp, 1e-12)
    assert_close(got.ntk, expected.ntk, 1e-12)
