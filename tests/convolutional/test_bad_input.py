"""Images and networks that have no kernel are refused before any work; extreme ones give finite kernels."""

import numpy as np
import pytest
from convolutional.drawn import images
from empirical.networks import smallest_budget
from helpers import assert_close

from ntkfast.convolutional import cnn_gp, cnn_gp_and_cntk, cntk, cntk_diagonal, flatten_network, gap_network
from ntkfast.errors import MemoryBudgetError
from ntkfast.kernels import displacement
from ntkfast.layers import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    Dense,
    Embedding,
    Erf,
    Flatten,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    LeakyReLU,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)

FUNCTIONS = {"cntk": cntk, "cnn_gp": cnn_gp, "cnn_gp_and_cntk": cnn_gp_and_cntk, "cntk_diagonal": cntk_diagonal}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
of_pairs = pytest.mark.parametrize("function", [cntk, cnn_gp, cnn_gp_and_cntk])

NETWORK = gap_network(2)
X = images((4, 5), 3, seed=0)


@pytest.fixture(autouse=True)
def no_work(request, monkeypatch):
    """In tests whose names say `refused`, no kernel may run."""
    if "refused" in request.function.__name__:

        def work(*_):
            pytest.fail("a kernel ran before the error")

        for kernel in (displacement.walk, displacement.record):
            monkeypatch.setattr(type(kernel), "cpu", property(lambda _: work), raising=False)


# --- images ---------------------------------------------------------------------------------------


@every_function
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[0], ValueError, r"x1? of shape \(n, height, width, channels\), got \(4, 5, 3\)"),
        (X[None], ValueError, r"of shape \(n, height, width, channels\), got \(1, 3, 4, 5, 3\)"),
        (X.reshape(3, -1), ValueError, r"got \(3, 60\)"),
        (X[:0], ValueError, "at least one image, pixel and channel"),
        (X[:, :0], ValueError, "at least one image, pixel and channel"),
        (X[..., :0], ValueError, "at least one image, pixel and channel"),
        (X.astype(np.float16), TypeError, "float32 or float64, got float16"),
        ((X * 255).astype(np.uint8), TypeError, "float32 or float64, got uint8"),
        (X.astype(complex), TypeError, "float32 or float64, got complex128"),
        (X.tolist(), TypeError, "NumPy or CuPy array, got list"),
        (None, TypeError, "NumPy or CuPy array, got NoneType"),
        (np.where(X[1, 2, 3, 1] == X, np.nan, X), ValueError, r"got nan at index \(1, 2, 3, 1\)"),
        (np.where(X[1, 2, 3, 1] == X, np.inf, X), ValueError, r"got inf at index \(1, 2, 3, 1\)"),
    ],
)
def test_bad_images_are_refused(function, x, error, message):
    with pytest.raises(error, match=message):
        function(NETWORK, x)
    if function is not cntk_diagonal and x is not None:
        with pytest.raises((TypeError, ValueError), match="x2"):
            function(NETWORK, X, x)


@of_pairs
@pytest.mark.parametrize(
    ("x2", "error", "message"),
    [
        (X[..., :2], ValueError, r"x2 of shape \(n, 4, 5, 3\), got \(3, 4, 5, 2\)"),
        (X[:, :3], ValueError, r"x2 of shape \(n, 4, 5, 3\), got \(3, 3, 5, 3\)"),
        (X.transpose(0, 3, 1, 2), ValueError, r"x2 of shape \(n, 4, 5, 3\), got \(3, 3, 4, 5\)"),
        (X.astype(np.float32), TypeError, "one dtype, got float64 and float32"),
    ],
)
def test_sets_that_do_not_match_are_refused(function, x2, error, message):
    with pytest.raises(error, match=message):
        function(NETWORK, X, x2)


# --- networks -------------------------------------------------------------------------------------

CONV, END = Conv2d(4, 3), [ReLU(), GlobalAvgPool(), Dense(1)]


@every_function
@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (None, TypeError, "network to be a Layer of ntkfast.layers, got NoneType"),
        (lambda x: x, TypeError, "network to be a Layer of ntkfast.layers, got function"),
        ([CONV, *END], TypeError, "network to be a Layer of ntkfast.layers, got list"),
        (Sequential, TypeError, "network to be a Layer of ntkfast.layers, got"),
        (Sequential(CONV, MaxPool2d(2), *END), TypeError, r"known infinite-width kernel .*got MaxPool2d \(network.1\)"),
        (Sequential(CONV, LayerNorm(), *END), TypeError, r"got LayerNorm \(network.1\)"),
        (Sequential(CONV, BatchNorm(), *END), TypeError, r"got BatchNorm \(network.1\)"),
        (Sequential(CONV, Tanh(), GlobalAvgPool()), TypeError, r"got Tanh \(network.1\)"),
        (
            Sequential(CONV, Residual(Sequential(GELU(), CONV)), GlobalAvgPool()),
            TypeError,
            r"got GELU \(network.1.body.0\)",
        ),
        (Conv1d(4, 3), ValueError, "expected samples of shape"),
        (Sequential(Embedding(9, 3), *END), (TypeError, ValueError), "expected"),
        (Sequential(Conv2d(3, 3, groups=3), *END), ValueError, r"groups=1 and dilation=1 \(network.0\)"),
        (Sequential(Conv2d(3, 2, dilation=2), *END), ValueError, r"groups=1 and dilation=1 \(network.0\)"),
        (
            Sequential(Conv2d(4, 3, parameterization="standard"), *END),
            ValueError,
            r'parameterization="ntk" in Conv2d \(network.0\).* got \'standard\'',
        ),
        (
            Sequential(CONV, *END[:2], Dense(1, parameterization="standard")),
            ValueError,
            r'parameterization="ntk" in Dense \(network.3\).* got \'standard\'',
        ),
        (Sequential(*END), ValueError, r"convolution or dense layer between ReLU \(network.0\)"),
        (Sequential(CONV, ReLU(), ReLU(), GlobalAvgPool()), ValueError, r"between ReLU \(network.2\)"),
        (Sequential(CONV, ReLU(), AvgPool2d(2), LeakyReLU(), GlobalAvgPool()), ValueError, r"LeakyReLU \(network.3\)"),
        (Sequential(CONV, ReLU(), GlobalAvgPool(), Erf(), Dense(1)), ValueError, r"between Erf \(network.3\)"),
        (Sequential(CONV, Flatten(), ReLU(), Dense(1)), ValueError, r"between ReLU \(network.2\) .*one variance"),
        (Sequential(CONV, ReLU(), Residual(CONV), *END), (ValueError), r"between ReLU \(network.3\)"),
        (
            Sequential(CONV, Residual(Sequential(CONV, ReLU())), GlobalAvgPool()),
            ValueError,
            r"branch of Residual \(network.1\)",
        ),
        (Sequential(CONV, Residual(Identity()), *END), ValueError, r"branch of Residual \(network.1\)"),
        (Sequential(CONV, Residual(Residual(CONV)), *END), ValueError, r"branch of Residual \(network.1\)"),
        (
            Sequential(CONV, Residual(Residual(Sequential(ReLU(), CONV)), Identity()), *END),
            ValueError,
            r"branch of Residual \(network.1\)",
        ),
        (Sequential(CONV, ReLU()), ValueError, "got one whose result is an image of 4 x 5 pixels"),
        (CONV, ValueError, "got one whose result is an image of 4 x 5 pixels"),
        (Sequential(CONV, AvgPool2d(2)), ValueError, "got one whose result is an image of 2 x 2 pixels"),
        (Sequential(Conv2d(4, 5, padding="VALID"), *END), ValueError, "images of at least 5 pixels"),
        (Sequential(Conv2d(4, 3, padding="CIRCULAR", stride=2), *END), ValueError, "a multiple of 2 pixels"),
        (gap_network(1, kernel_size=(5, 3), padding="CIRCULAR"), ValueError, "images of at least 5 pixels"),
        (Sequential(CONV, ReLU(), AvgPool2d(6), *END[1:]), ValueError, "images of at least 6 pixels"),
        (Sequential(GlobalAvgPool(), CONV), ValueError, "expected samples of shape"),
    ],
)
def test_networks_without_a_kernel_are_refused(function, network, error, message):
    with pytest.raises(error, match=message):
        function(network, X)


def test_sums_of_one_summand_are_not_independent():
    """z + (z + W z) is 2 z + W z, whose kernel is not the sum of three; with weights in between it is."""
    inner = Residual(Sequential(ReLU(), CONV))
    with pytest.raises(ValueError, match="branch of Residual"):
        cntk(Sequential(CONV, Residual(inner), *END), X)
    assert np.isfinite(cntk(Sequential(CONV, Residual(Sequential(inner, CONV)), *END), X)).all()
    assert np.isfinite(cntk(Sequential(CONV, Residual(inner, CONV), *END), X)).all()
    assert np.isfinite(cntk(Sequential(Residual(Sequential(CONV, inner), CONV), *END), X)).all()


# --- budgets --------------------------------------------------------------------------------------

BUDGET_NETWORKS = {
    "gap": NETWORK,
    "flatten": flatten_network(2),
    "strided residual": Sequential(
        CONV, Residual(Sequential(ReLU(), Conv2d(4, 3, stride=2)), Sequential(CONV, AvgPool2d(2, padding="SAME"))), *END
    ),
}


@every_function
@pytest.mark.parametrize("bad", [0, -1, 1.5, "1 GB", True])
def test_budgets_that_are_no_numbers_of_bytes_are_refused(function, bad):
    with pytest.raises((TypeError, ValueError), match="max_memory"):
        function(NETWORK, X, max_memory=bad)


@every_function
@pytest.mark.parametrize("bad", [1, "bar", True])
def test_progress_that_cannot_be_called_is_refused(function, bad):
    with pytest.raises(TypeError, match="progress to be None or callable, got"):
        function(NETWORK, X, progress=bad)


@every_function
@pytest.mark.parametrize("name", BUDGET_NETWORKS)
def test_the_budget_that_an_error_names_is_enough(function, name):
    network = BUDGET_NETWORKS[name]
    least = smallest_budget(lambda **budget: function(network, X, **budget))
    function(network, X, max_memory=least)
    with pytest.raises(MemoryBudgetError, match=f"at least {least} bytes, got {least - 1}"):
        function(network, X, max_memory=least - 1)


# --- extreme images -------------------------------------------------------------------------------

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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_and_tiny_images_together(dtype):
    """Each is scaled by itself: the kernel of both is that of ordinary ones."""
    x, big = X.astype(dtype), dtype_power(dtype, 100 if dtype == "float32" else 900)
    mixed = x * np.array([big, 1 / big, 1], dtype)[:, None, None, None]
    found, expected = cntk(NETWORK, mixed[:2], mixed[1:]), cntk(NETWORK, x[:2], x[1:])
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
