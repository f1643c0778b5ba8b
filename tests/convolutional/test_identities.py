"""What is true of convolutional kernels whatever computes them: other ways to the same network, and symmetries."""

import numpy as np
import pytest
from convolutional.drawn import images, networks
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from ntkfast import analytic
from ntkfast.analytic import leaky_relu
from ntkfast.convolutional import cnn_gp_and_cntk, cntk, flatten_network, gap_network
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

ACTIVATIONS = {
    "relu": (ReLU(), "relu"),
    "abs": (Abs(), leaky_relu(-1.0)),
    "erf": (Erf(), "erf"),
    "leaky": (LeakyReLU(0.3), leaky_relu(0.3)),
    "steep": (LeakyReLU(4.0), leaky_relu(4.0)),
    "identity": (Identity(), leaky_relu(1.0)),
}
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)
every_head = pytest.mark.parametrize("head", [GlobalAvgPool(), Flatten()], ids=["gap", "flatten"])
with_and_without_bias = pytest.mark.parametrize("b_std", [0.0, 0.3])

CLOSE = 1e-12


def assert_same(found, expected, rtol=CLOSE):
    for kind in ("nngp", "ntk"):
        assert_close(getattr(found, kind), getattr(expected, kind), rtol)


def assert_same_networks(network, x, other, y, rtol=CLOSE):
    """Kernels of one network on some images, and of another on others."""
    assert_same(cnn_gp_and_cntk(network, *x), cnn_gp_and_cntk(other, *y), rtol)


def pair(size, seed=0):
    """Two sets that share an image."""
    x = images(size, 5, seed)
    return x[:3], x[[0, 3, 4]]


def tail(head=None, **options):
    """Layers behind a first convolution, each different."""
    rest = Conv2d(4, 3, W_std=1.1, **options), ReLU(), AvgPool2d(2), Conv2d(4, 2, **options), Erf()
    return [ReLU(), *rest, head or GlobalAvgPool(), Dense(2, b_std=0.2)]


# --- other ways to the same network ---------------------------------------------------------------


@every_activation
@every_head
@with_and_without_bias
def test_images_of_one_pixel_are_rows(name, head, b_std):
    layer, activation = ACTIVATIONS[name]
    x1, x2 = pair((1, 1))
    scales = {"W_std": 1.3, "b_std": b_std}
    body = [Conv2d(4, 1, **scales), layer, Conv2d(4, 1, padding="CIRCULAR", **scales), layer]
    network = Sequential(*body, Dense(4, **scales), layer, head, Dense(1, **scales))
    for others in ((x2,), ()):
        rows = [x[:, 0, 0] for x in (x1, *others)]
        expected = analytic.nngp_and_ntk(*rows, depth=3, activation=activation, **scales)
        assert_same(cnn_gp_and_cntk(network, x1, *others), expected)


@every_activation
@every_head
@with_and_without_bias
def test_constant_images_that_wrap_around_are_their_pixel(name, head, b_std):
    """All patches of an image are equal: their angle is exactly 0, or the kernel would lose half of the digits."""
    layer, activation = ACTIVATIONS[name]
    rows = np.random.default_rng(0).standard_normal((4, 3))
    rows[1] = 0
    x = np.broadcast_to(rows[:, None, None], (4, 5, 6, 3))
    scales = {"W_std": 1.3, "b_std": b_std}
    body = [Conv2d(4, 3, padding="CIRCULAR", **scales), layer] * 3
    expected = analytic.nngp_and_ntk(rows, depth=3, activation=activation, **scales)
    assert_same(cnn_gp_and_cntk(Sequential(*body, head, Dense(1, **scales)), x), expected)


@with_and_without_bias
def test_a_convolution_as_large_as_the_image_is_a_dense_layer(b_std):
    x1, x2 = pair((4, 5))
    network = Sequential(
        Conv2d(4, (4, 5), padding="VALID", W_std=1.3, b_std=b_std), ReLU(), Dense(1, W_std=1.3, b_std=b_std)
    )
    rows = x1.reshape(3, -1), x2.reshape(3, -1)
    assert_same(cnn_gp_and_cntk(network, x1, x2), analytic.nngp_and_ntk(*rows, depth=1, W_std=1.3, b_std=b_std))


def test_dense_layers_behind_flatten_or_a_mean_are_a_dense_network():
    x1, x2 = pair((4, 5))
    dense = [Dense(4, W_std=1.3), ReLU(), Dense(4, W_std=1.3), ReLU(), Dense(1, W_std=1.3)]
    for head, rows in ((Flatten(), lambda x: x.reshape(3, -1)), (GlobalAvgPool(), lambda x: x.mean(axis=(1, 2)))):
        expected = analytic.nngp_and_ntk(rows(x1), rows(x2), depth=2, W_std=1.3)
        assert_same(cnn_gp_and_cntk(Sequential(head, *dense), x1, x2), expected)


@every_head
@pytest.mark.parametrize("circular", [False, True])
def test_strides_as_large_as_the_window_are_channels(head, circular):
    """A convolution of blocks is one of single pixels, whose channels are the block's."""
    x = pair((6, 8))
    padding = "CIRCULAR" if circular else "VALID"
    blocks = [a.reshape(3, 3, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 3, 4, 12) for a in x]
    strided = Sequential(Conv2d(4, 2, stride=2, padding=padding, b_std=0.3), *tail(head))
    assert_same_networks(strided, x, Sequential(Conv2d(4, 1, b_std=0.3), *tail(head)), blocks)


@every_head
def test_a_stride_leaves_pixels_out(head):
    """Places of a convolution, and whatever follows, at every second pixel: a pool of size 1 does the same."""
    x = pair((6, 8))
    strided = Sequential(Conv2d(4, 3, stride=2, padding=((1, 0), (1, 0)), b_std=0.3), *tail(head))
    full = Sequential(Conv2d(4, 3, padding=1, b_std=0.3), AvgPool2d(1, stride=2), *tail(head))
    assert_same_networks(strided, x, full, x)


@every_head
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_zeros_around_the_image(head, stride):
    x = pair((6, 8))
    sides = ((2, 1), (0, 3))
    zeros = [np.pad(a, ((0, 0), *sides, (0, 0))) for a in x]
    convolutions = (
        Sequential(Conv2d(4, 3, stride=stride, padding=padding, b_std=0.3), *tail(head)) for padding in (sides, "VALID")
    )
    assert_same_networks(next(convolutions), x, next(convolutions), zeros)


@every_head
def test_circular_padding_is_the_image_again(head):
    x = pair((6, 8))
    again = [np.pad(a, ((0, 0), (1, 1), (0, 1), (0, 0)), mode="wrap") for a in x]
    circular = Sequential(Conv2d(4, (3, 2), padding="CIRCULAR", b_std=0.3), *tail(head))
    assert_same_networks(circular, x, Sequential(Conv2d(4, (3, 2), padding="VALID", b_std=0.3), *tail(head)), again)


@every_head
def test_pools_of_the_images_are_other_images(head):
    x = pair((6, 8))
    small = [a.reshape(3, 3, 2, 4, 2, 3).mean(axis=(2, 4)) for a in x]
    assert_same_networks(
        Sequential(AvgPool2d(2), Conv2d(4, 3), *tail(head)), x, Sequential(Conv2d(4, 3), *tail(head)), small
    )


def test_a_pool_of_everything_is_the_mean():
    x = pair((5, 6))
    body = [Conv2d(4, 3, b_std=0.3), ReLU(), Conv2d(4, 3, padding="CIRCULAR"), ReLU()]
    means = GlobalAvgPool(), AvgPool2d((5, 6))
    assert_same_networks(Sequential(*body, means[0], Dense(1)), x, Sequential(*body, means[1], Dense(1)), x)


def test_means_of_means():
    x = pair((4, 8))
    body = [Conv2d(4, 3, b_std=0.3), ReLU()]
    twice = Sequential(*body, AvgPool2d(2), AvgPool2d(2), GlobalAvgPool())
    assert_same_networks(Sequential(*body, GlobalAvgPool()), x, twice, x)


def test_containers_and_identities_change_nothing():
    x = pair((5, 6))
    flat = Sequential(Conv2d(4, 3), ReLU(), Conv2d(4, 2), ReLU(), GlobalAvgPool(), Dense(1))
    nested = Sequential(
        Sequential(Identity(), flat.layers[0]), Sequential(flat.layers[1], Sequential(*flat.layers[2:4])), Identity(),
        *flat.layers[4:],
    )  # fmt: skip
    for kind in ("nngp", "ntk"):
        got, expected = (getattr(cnn_gp_and_cntk(net, *x), kind) for net in (nested, flat))
        np.testing.assert_array_equal(got, expected)


def test_channels_of_the_network_play_no_part():
    x = pair((5, 6))
    few, many = (gap_network(2, channels=c, outputs=o, b_std=0.1) for c, o in ((1, 1), (512, 10)))
    np.testing.assert_array_equal(cntk(few, *x), cntk(many, *x))


def test_dense_layers_are_convolutions_of_one_pixel():
    x = pair((5, 6))
    start = [Conv2d(4, 3), ReLU()]
    scales = {"W_std": 1.3, "b_std": 0.3}
    assert_same_networks(
        Sequential(*start, Dense(4, **scales), ReLU(), GlobalAvgPool()),
        x,
        Sequential(*start, Conv2d(4, 1, **scales), ReLU(), GlobalAvgPool()),
        x,
    )


def test_the_mean_is_that_of_all_shifts():
    """With circular padding, the mean over all pairs of pixels is the mean over shifts of one image of all pixels."""
    x, y = pair((3, 4))
    gap, flat = (make(2, padding="CIRCULAR", b_std=0.3) for make in (gap_network, flatten_network))
    shifts = [cntk(flat, x, np.roll(y, (r, c), axis=(1, 2))) for r in range(3) for c in range(4)]
    assert_close(cntk(gap, x, y), np.mean(shifts, axis=0), CLOSE)


def test_a_network_without_activations_is_linear():
    """Its NNGP is an inner product of convolved images, and its NTK adds up: every layer has the same share."""
    x1, x2 = pair((4, 5))
    network = Sequential(Conv2d(4, 1, W_std=1.3), Conv2d(4, 1, W_std=0.7), GlobalAvgPool(), Dense(1, W_std=1.1))
    found = cnn_gp_and_cntk(network, x1, x2)
    means = [x.mean(axis=(1, 2)) for x in (x1, x2)]
    assert_close(found.nngp, (1.3 * 0.7 * 1.1) ** 2 * means[0] @ means[1].T / 3, CLOSE)
    assert_close(found.ntk, 3 * found.nngp, CLOSE)


def test_a_sum_of_independent_branches_is_the_sum_of_kernels():
    x = pair((5, 6))
    scales = {"W_std": 1.3, "b_std": 0.3}
    left, right = Conv2d(4, 3, **scales), Conv2d(4, (2, 3), padding="CIRCULAR", **scales)
    found = cnn_gp_and_cntk(Sequential(Residual(left, right), GlobalAvgPool()), *x)
    parts = [cnn_gp_and_cntk(Sequential(part, GlobalAvgPool()), *x) for part in (left, right)]
    for kind in ("nngp", "ntk"):
        assert_close(getattr(found, kind), sum(getattr(part, kind) for part in parts), CLOSE)


# --- symmetries -----------------------------------------------------------------------------------

BODIES = {
    "circular": [Conv2d(4, 3, padding="CIRCULAR", b_std=0.3), ReLU(), Conv2d(4, 3, padding="CIRCULAR"), ReLU()],
    "circular with a residual": [
        Conv2d(4, 3, padding="CIRCULAR"),
        Residual(Sequential(ReLU(), Conv2d(4, (3, 1), padding="CIRCULAR", b_std=0.3))),
        Erf(),
    ],
    "zeros": [Conv2d(4, 3, b_std=0.3), ReLU(), Conv2d(4, (1, 5)), ReLU()],
    "zeros and pools": [Conv2d(4, 3, b_std=0.3), ReLU(), AvgPool2d(2), Conv2d(4, 3), Abs()],
}
every_body = pytest.mark.parametrize("name", BODIES)


@every_body
@every_head
@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_flips_of_both_images(name, head, axes):
    x1, x2 = pair((4, 6))
    network = Sequential(*BODIES[name], head, Dense(1))
    assert_same_networks(network, (np.flip(x1, axes), np.flip(x2, axes)), network, (x1, x2))


@every_head
def test_transposed_images(head):
    x = pair((4, 6))
    transposed = [a.transpose(0, 2, 1, 3) for a in x]
    networks = (
        Sequential(Conv2d(4, kernel, padding=sides, stride=stride), *tail(head))
        for kernel, sides, stride in (((3, 2), ((0, 2), (1, 1)), (1, 2)), ((2, 3), ((1, 1), (0, 2)), (2, 1)))
    )
    assert_same_networks(next(networks), x, next(networks), transposed)


@pytest.mark.parametrize("name", ["circular", "circular with a residual"])
@pytest.mark.parametrize("shift", [(1, 0), (0, -1), (2, 3)])
def test_shifts_of_one_image(name, shift):
    x1, x2 = pair((4, 6))
    network = Sequential(*BODIES[name], GlobalAvgPool(), Dense(1))
    assert_same_networks(network, (x1, np.roll(x2, shift, axis=(1, 2))), network, (x1, x2))


def test_shifts_of_one_image_by_strides():
    x1, x2 = pair((6, 8))
    network = Sequential(Conv2d(4, 3, stride=2, padding="CIRCULAR", b_std=0.3), *BODIES["circular"], GlobalAvgPool())
    assert_same_networks(network, (x1, np.roll(x2, (2, -4), axis=(1, 2))), network, (x1, x2))


def test_shifts_of_both_images_with_all_pixels():
    x1, x2 = (np.roll(x, (3, 1), axis=(1, 2)) for x in pair((4, 6)))
    network = Sequential(*BODIES["circular"], Flatten(), Dense(1))
    assert_same_networks(network, (x1, x2), network, pair((4, 6)))


def test_a_shift_of_one_image_matters_otherwise():
    """The tests above could fail."""
    x1, x2 = pair((4, 6))
    for name, head in (("zeros", GlobalAvgPool()), ("circular", Flatten())):
        network = Sequential(*BODIES[name], head, Dense(1))
        difference = cntk(network, x1, np.roll(x2, 1, axis=1)) - cntk(network, x1, x2)
        assert abs(difference).max() > 1e-3


@every_body
def test_rotations_of_the_channels(name):
    x1, x2 = pair((4, 6))
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    network = Sequential(*BODIES[name], GlobalAvgPool(), Dense(1))
    for change in (rotation, np.eye(3)[[2, 0, 1]]):
        assert_same_networks(network, (x1 @ change, x2 @ change), network, (x1, x2))


@pytest.mark.parametrize("scale", [2.0**-400, 1e-100, 0.3, 1e100, 2.0**400])
def test_scales_of_the_images(scale):
    """Without biases the kernel is of degree one in each image, down to where its square would not be a number."""
    x1, x2 = pair((4, 6))
    network = Sequential(
        *(Conv2d(4, 3), ReLU(), Residual(Conv2d(4, 3), Conv2d(4, 1)), LeakyReLU(0.2)), GlobalAvgPool(), Dense(1)
    )
    scales = np.array([1.0, scale, 1 / scale])  # the first image is in both sets
    found = cnn_gp_and_cntk(network, x1 * scales[:, None, None, None], x2)
    expected = cnn_gp_and_cntk(network, x1, x2)
    for kind in ("nngp", "ntk"):
        assert_close(getattr(found, kind) / scales[:, None], getattr(expected, kind), CLOSE)


def test_multiples_of_an_image():
    """Their patches are parallel: exactly so where the factor is a power of two, else up to sqrt(eps)."""
    x, network = pair((4, 6))[0][:1], gap_network(3)
    kernel = cntk(network, x)
    np.testing.assert_array_equal(cntk(network, x, 8 * x), 8 * kernel)
    assert_close(cntk(network, x, 3 * x), 3 * kernel, 1e-8)


def test_opposite_images():
    """The kernel of abs is even, that of erf odd."""
    x1, x2 = (x[1:] for x in pair((4, 6)))
    for layer, sign in ((Abs(), 1), (Erf(), -1)):
        network = Sequential(Conv2d(4, 3), layer, Conv2d(4, 3), layer, GlobalAvgPool(), Dense(1))
        for kind in ("nngp", "ntk"):
            found, expected = (getattr(cnn_gp_and_cntk(network, x1, s * x2), kind) for s in (-1, 1))
            assert_close(found, sign * expected, CLOSE)


@given(drawn=networks(), seed=st.integers(0, 9))
def test_order_of_the_images(drawn, seed):
    """Permuted rows permute the kernel, to the bit; two sets exchanged transpose it, up to rounding."""
    x = images(drawn.size, 5, seed)
    kernel = cntk(drawn.network, x[:3], x[3:])
    np.testing.assert_array_equal(cntk(drawn.network, x[[2, 0, 1]], x[[4, 3]]), kernel[[2, 0, 1]][:, ::-1])
    assert_close(cntk(drawn.network, x[3:], x[:3]), kernel.T, CLOSE)
