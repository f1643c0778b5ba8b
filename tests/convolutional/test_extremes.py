"""Images at the ends of the range, of zeros, constant, equal and opposite: finite kernels, and right ones."""

import numpy as np
import pytest
from convolutional.drawn import images
from helpers import assert_close

from ntkfast.convolutional import cnn_gp_and_cntk, cntk, cntk_diagonal, flatten_network, gap_network
from ntkfast.layers import (
    AvgPool2d,
    Conv2d,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    LeakyReLU,
    ReLU,
    Residual,
    Sequential,
)

X = images((4, 5), 3, seed=0)
CONV, END = Conv2d(4, 3), [ReLU(), GlobalAvgPool(), Dense(1)]
ALL = {
    "gap": gap_network(3),
    "flatten": flatten_network(3),
    "circular": gap_network(3, padding="CIRCULAR"),
    "bias": gap_network(2, b_std=0.1),
    "erf": Sequential(CONV, Erf(), CONV, Erf(), GlobalAvgPool(), Dense(1)),
    "pools": Sequential(
        CONV, ReLU(), AvgPool2d(2, stride=1), Conv2d(4, 3, stride=2), LeakyReLU(0.2), Flatten(), Dense(1)
    ),
    "residual": Sequential(CONV, Residual(Sequential(ReLU(), CONV)), *END),
}
every_network = pytest.mark.parametrize("name", ALL)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
HOMOGENEOUS = [name for name in ALL if name not in ("bias", "erf")]


def assert_kernel(found):
    for kind in ("nngp", "ntk"):
        assert np.isfinite(getattr(found, kind)).all()


@every_network
@every_dtype
def test_zero_images(name, dtype):
    """Their rows are 0 without biases, and never NaN."""
    x = X.astype(dtype)
    x[1] = 0
    for found in (cnn_gp_and_cntk(ALL[name], x), cnn_gp_and_cntk(ALL[name], x, x[::-1].copy())):
        assert_kernel(found)
        if name != "bias":
            for kind in ("nngp", "ntk"):
                kernel = getattr(found, kind)
                assert (kernel[1] == 0).all()
                assert (kernel[:, 1] == 0).all()
                assert (kernel[::2, ::2] > 0).all() or name == "erf"
    assert_kernel(cntk_diagonal(ALL[name], x))


@every_network
@every_dtype
def test_black_borders(name, dtype):
    """Patches of zeros beside others."""
    x = X.astype(dtype)
    x[:, :3] = 0
    x[2, :, :3] = 0
    assert_kernel(cnn_gp_and_cntk(ALL[name], x))
    assert_kernel(cnn_gp_and_cntk(ALL[name], x, X.astype(dtype)))


@pytest.mark.parametrize("name", HOMOGENEOUS)
@pytest.mark.parametrize(
    ("dtype", "exponent"), [("float32", 60), ("float32", -60), ("float64", 500), ("float64", -500)]
)
def test_homogeneous_kernels_of_any_scale(name, dtype, exponent):
    """Down and up to the range of the kernel itself, though products of its entries are far out of it."""
    x = X.astype(dtype)
    found, expected = (
        cnn_gp_and_cntk(ALL[name], scale * x) for scale in (dtype_power(dtype, exponent), x.dtype.type(1))
    )
    for kind in ("nngp", "ntk"):
        wanted = getattr(expected, kind).astype(np.longdouble) * np.longdouble(2.0) ** (2 * exponent)
        got = getattr(found, kind)
        np.testing.assert_allclose(got, wanted.astype(dtype), rtol=4 * np.finfo(dtype).eps)


def dtype_power(dtype, exponent):
    return np.dtype(dtype).type(2.0**exponent)


@every_network
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", 1e-30), ("float32", 1e30), ("float64", 1e-300), ("float64", 1e300), ("float64", 1e-160)],
)
def test_kernels_at_the_ends_of_the_range(name, dtype, scale):
    """Finite, or an error that says so."""
    x = X.astype(dtype) * np.dtype(dtype).type(scale)
    for call in (lambda: cnn_gp_and_cntk(ALL[name], x), lambda: cntk_diagonal(ALL[name], x)):
        try:
            assert_kernel(call())
        except OverflowError as error:
            assert scale > 1
            assert f"expected the kernel within the range of {dtype}" in str(error)  # noqa: PT017


# Not homogeneous behind a homogeneous part: the images' scale is that of the first angles.
UNSCALED = {
    "bias": Sequential(CONV, ReLU(), Conv2d(4, 3, b_std=0.1), *END),
    "erf": Sequential(CONV, ReLU(), CONV, Erf(), *END[1:]),
}


@pytest.mark.parametrize("name", UNSCALED)
@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1e4, 1e9])
def test_range_of_kernels_that_do_not_scale(name, scale):
    """In float32; in float64 the same numbers are in the middle of the range."""
    x = X.astype(np.float32) * np.float32(scale)
    found, expected = (cnn_gp_and_cntk(UNSCALED[name], x.astype(dtype)) for dtype in (np.float32, np.float64))
    for kind in ("nngp", "ntk"):
        assert_close(getattr(found, kind), getattr(expected, kind), 1e-5)


@pytest.mark.parametrize(("name", "scale"), [("erf", 1e-76), ("bias", 1e76)])
def test_range_in_double_precision(name, scale):
    """Where erf is linear, and the bias is nothing: there kernels scale."""
    found, expected = (cnn_gp_and_cntk(UNSCALED[name], s * X) for s in (scale, scale ** (1 / 2)))
    for kind in ("nngp", "ntk"):
        assert_close(getattr(found, kind) / scale, getattr(expected, kind), 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_and_tiny_images_together(dtype):
    """Each is scaled by itself: the kernel of both is that of ordinary ones."""
    x, big = X.astype(dtype), dtype_power(dtype, 100 if dtype == "float32" else 900)
    mixed = x * np.array([big, 1 / big, 1], dtype)[:, None, None, None]
    found, expected = cntk(gap_network(2), mixed[:2], mixed[1:]), cntk(gap_network(2), x[:2], x[1:])
    assert_close(found[0, 0], expected[0, 0], 4 * np.finfo(dtype).eps)
    assert_close(found[0, 1] / big, expected[0, 1], 4 * np.finfo(dtype).eps)


@every_network
@every_dtype
def test_constant_images(name, dtype):
    """Inner patches are all parallel, equal but for rounding where images differ in scale: an error of sqrt(eps)."""
    levels = np.array([1, 0.3, 3], dtype)
    x = np.broadcast_to(levels[:, None, None, None], (3, 6, 7, 3))
    found, noise = cnn_gp_and_cntk(ALL[name], x), np.random.default_rng(0).standard_normal((3, 6, 7, 3))
    exact = cnn_gp_and_cntk(ALL[name], x.astype(np.float64) * (1 + 1e-9 * noise))
    for kind in ("nngp", "ntk"):
        assert_close(getattr(found, kind), getattr(exact, kind), 3 * np.sqrt(np.finfo(dtype).eps))


@every_network
def test_equal_and_opposite_images(name):
    x = X[[0, 1, 0, 1]] * np.array([1, 1, 1, -1])[:, None, None, None]
    found = cnn_gp_and_cntk(ALL[name], x)
    assert_kernel(found)
    assert_close(found.ntk[0], found.ntk[2], 1e-14)
    assert found.ntk[0, 2] == found.ntk[0, 0]


@every_network
@every_dtype
def test_one_image(name, dtype):
    x = X[:1].astype(dtype)
    found, diagonal = cnn_gp_and_cntk(ALL[name], x), cntk_diagonal(ALL[name], x)
    assert found.ntk.shape == found.nngp.shape == (1, 1)
    assert diagonal.ntk.shape == (1,)
    assert found.ntk.dtype == diagonal.nngp.dtype == dtype
    assert found.ntk[0, 0] == diagonal.ntk[0] > diagonal.nngp[0] > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_small_images_and_any_channels(size, channels):
    x = np.random.default_rng(0).standard_normal((3, *size, channels))
    for network in (gap_network(2), flatten_network(2), Sequential(Conv2d(4, 4, b_std=0.1), ReLU(), GlobalAvgPool())):
        assert_kernel(cnn_gp_and_cntk(network, x))
