"""Images, networks and budgets that have no kernel are refused before any work."""

import numpy as np
import pytest
from convolutional.drawn import images
from empirical.networks import smallest_budget

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
