"""What both maps that follow the recursion of the convolutional NTK at every pixel must do, one test per promise."""

import math
import pickle
import tracemalloc

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.analytic import ntk
from ntkfast.errors import MemoryBudgetError
from ntkfast.features import CNTKRandomFeatures, CNTKSketch
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, ReLU, Residual, Sequential, Tanh

SHAPE = (6, 6, 2)

NETWORKS = {
    "gap": Sequential(
        Conv2d(1, 3, b_std=0.5), ReLU(), Conv2d(1, 3, W_std=1.2), ReLU(), GlobalAvgPool(), Dense(1, b_std=0.4)
    ),
    "pool": Sequential(
        Sequential(Conv2d(1, 3, b_std=0.3), ReLU(), AvgPool2d(2)),
        *(Conv2d(1, 3, padding="CIRCULAR"), AvgPool2d((1, 2), stride=1), ReLU(), Flatten(), Dense(1), ReLU(), Dense(1)),
    ),
    "flatten": Sequential(Conv2d(1, 3, stride=2, padding="VALID"), ReLU(), Conv2d(1, 2), ReLU(), Flatten(), Dense(1)),
    "no head": Sequential(Conv2d(1, (3, 2), padding=1), ReLU(), Conv2d(1, 3, W_std=1.0), ReLU(), GlobalAvgPool()),
    "linear": Sequential(Conv2d(1, 3, b_std=0.2), GlobalAvgPool(), Dense(1)),
}


def sketch(network, n_features=64, width=16, in_shape=SHAPE, seed=0, **parameters):
    return CNTKSketch(network, in_shape, n_features, width=width, seed=seed, **parameters)


def sketch_of_arc_cosines(network, n_features=64, width=16, in_shape=SHAPE, seed=0):
    return sketch(network, n_features, width, in_shape, seed, expansion="arccosine")


def sketch_of_series(network, n_features=64, width=16, in_shape=SHAPE, seed=0):
    return sketch(network, n_features, width, in_shape, seed, expansion="taylor", degree=5)


def random_features(network, n_features=64, width=16, in_shape=SHAPE, seed=0, **parameters):
    return CNTKRandomFeatures(network, in_shape, n_features, channels=width, seed=seed, **parameters)


def gaussian_features(network, n_features=64, width=16, in_shape=SHAPE, seed=0):
    return random_features(network, n_features, width, in_shape, seed, sampling="gaussian")


@pytest.fixture(params=[sketch, sketch_of_arc_cosines, sketch_of_series, random_features, gaussian_features])
def make(request):
    return request.param


@pytest.fixture(params=NETWORKS, ids=lambda name: name.replace(" ", "-"))
def network(request):
    return NETWORKS[request.param]


def images(n, seed=0, shape=SHAPE, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(dtype)


def gram_error(phi, x, kernel):
    z = phi(x)
    return np.linalg.norm(z @ z.T - kernel) / np.linalg.norm(kernel)


@pytest.mark.stat
def test_mean_over_seeds_is_the_kernel_of_every_network(make, network):
    """Mean Gram matrix of R = 16 maps within 14 of its standard errors, entry by entry, and a bias.

    Student tails with 15 degrees of freedom give 5e-10 per entry, below 5e-7 for the 36 entries and 25 cases. The bias
    allowed is 0.2 of the largest entry: vectors are random inside kappa_0 and kappa_1, and polynomials err at 1.
    """
    x = images(6)
    zs = [make(network, 512, 32, seed=s)(x) for s in range(16)]
    grams = np.array([z @ z.T for z in zs])
    kernel = make(network).kernel(x)
    allowed = 14 * grams.std(axis=0, ddof=1) / math.sqrt(16) + 0.2 * np.abs(kernel).max()
    assert (np.abs(grams.mean(axis=0) - kernel) <= allowed).all()
    assert np.linalg.norm(grams.mean(axis=0) - kernel) <= 0.35 * np.linalg.norm(kernel)


@pytest.mark.stat
@pytest.mark.parametrize("make", [random_features, sketch_of_arc_cosines])
def test_error_falls_with_the_widths(make):
    """16 times the widths, a quarter of a random error in the limit: the median of R = 27 ratios is below 0.7.

    Every ratio has two seeds of its own. If one is above 0.7 with a probability of at most 1/8, the median is with
    P(Bin(27, 1/8) >= 14) < 1e-6.
    """
    x, network = images(6), NETWORKS["gap"]
    kernel = make(network).kernel(x)
    ratios = [
        gram_error(make(network, 2048, 128, seed=2 * s + 1), x, kernel)
        / gram_error(make(network, 128, 8, seed=2 * s), x, kernel)
        for s in range(27)
    ]
    assert np.median(ratios) < 0.7


@pytest.mark.stat
def test_images_of_one_pixel_have_the_fully_connected_kernel(make):
    """Gram error against the fully connected NTK of depth 2: the median of R = 9 maps is at most 0.25.

    If one is above with a probability of at most 0.02, the median is with P(Bin(9, 0.02) >= 5) < 4e-7.
    """
    network = Sequential(Conv2d(1, 3), ReLU(), Conv2d(1, 3, padding="SAME"), ReLU(), GlobalAvgPool(), Dense(1))
    x = images(6, shape=(1, 1, 5))
    expected = ntk(x.reshape(6, 5), depth=2, W_std=math.sqrt(2)) / 81  # 8 of 9 taps read zeros, in two layers
    assert_close(make(network, in_shape=(1, 1, 5)).kernel(x), expected, 1e-10)
    errors = [gram_error(make(network, 2048, 128, (1, 1, 5), s), x, expected) for s in range(9)]
    assert np.median(errors) <= 0.25


@pytest.mark.stat
def test_constant_images_on_a_torus_have_the_fully_connected_kernel(make):
    """As above, all pixels being equal: the median of R = 9 Gram errors is at most 0.25."""
    network = Sequential(
        *(Conv2d(1, 3, padding="CIRCULAR"), ReLU(), Conv2d(1, 3, padding="CIRCULAR"), ReLU(), GlobalAvgPool(), Dense(1))
    )
    x = np.ascontiguousarray(np.broadcast_to(images(6, shape=(1, 1, 5)), (6, 4, 3, 5)))
    expected = ntk(np.ascontiguousarray(x[:, 0, 0]), depth=2, W_std=math.sqrt(2))
    errors = [gram_error(make(network, 2048, 128, (4, 3, 5), s), x, expected) for s in range(9)]
    assert np.median(errors) <= 0.25


def test_linear_networks_are_exact():
    """Where all vectors fit the widths, nothing random is left of a network without ReLU."""
    phi, x = sketch(NETWORKS["linear"], 64, 64), images(7)
    assert_close(phi(x) @ phi(x).T, phi.kernel(x), 1e-12)
    mean = Sequential(AvgPool2d(2), Flatten(), Dense(1, b_std=0.3))
    phi = random_features(mean, 64)
    assert_close(phi(x) @ phi(x).T, phi.kernel(x), 1e-12)


def test_shifts_round_a_torus_change_nothing(make):
    """All pixels share the weights, and the mean over pixels does not know their places."""
    conv = Conv2d(1, 3, padding="CIRCULAR")
    network = Sequential(conv, ReLU(), conv, ReLU(), GlobalAvgPool())
    phi, x = make(network), images(3)
    assert_close(phi(np.roll(x, (2, 3), axis=(1, 2))), phi(x), 1e-11)


def test_vjp_is_the_derivative_of_the_features(make, network):
    """Central differences with step h = 1e-6: error h^2 plus rounding / h; no step of a map is crossed at this seed."""
    phi, x = make(network), images(3)
    rng = np.random.default_rng(1)
    ct, direction = rng.standard_normal((3, 64)), rng.standard_normal(x.shape)
    h = 1e-6
    difference = (ct * (phi(x + h * direction) - phi(x - h * direction))).sum(axis=1) / (2 * h)
    assert_close((phi.vjp(x, ct) * direction).sum(axis=(1, 2, 3)), difference, 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_dtype_and_apply(make, network, dtype):
    phi, x = make(network, 40), images(4, dtype=dtype)
    z = phi(x)
    assert z.shape == (4, 40)
    assert z.dtype == dtype
    assert z.flags.c_contiguous
    np.testing.assert_array_equal(z, phi.apply(x))
    gradient = phi.vjp(x, z)
    assert gradient.shape == x.shape
    assert gradient.dtype == dtype


def test_float32_agrees_with_float64(make, network):
    """No step of the random features is within rounding of 0 at this seed."""
    phi, x = make(network), images(4)
    assert np.linalg.norm(phi(x.astype(np.float32)) - phi(x)) <= 2e-4 * np.linalg.norm(phi(x))


def test_blocks_of_images_do_not_matter(make, network):
    phi, x = make(network), images(11)
    z, gradient = phi(x), phi.vjp(x, phi(x))
    small = 2 * phi._image_bytes(8)
    assert_close(phi(x, max_memory=small), z, tol(np.float64, 1000))
    assert_close(phi.vjp(x, z, max_memory=small), gradient, tol(np.float64, 1000))


def test_blocks_give_the_same_bits_where_nothing_but_sketches_is_summed():
    phi, x = sketch(NETWORKS["flatten"]), images(11)
    np.testing.assert_array_equal(phi(x, max_memory=phi._image_bytes(8)), phi(x))


@pytest.mark.parametrize("name", ["apply", "vjp"])
def test_temporaries_stay_within_max_memory(make, network, name):
    """tracemalloc sees NumPy's arrays; weights and tables are made before."""
    phi, x = make(network, 64, 24), images(40)
    arguments = (x,) if name == "apply" else (x, phi(x))
    budget = 10 * phi._image_bytes(8)
    call = getattr(phi, name)
    call(*arguments)
    tracemalloc.start()
    call(*arguments, max_memory=budget)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= budget + 2 * x.nbytes + 8 * 40 * 64


def test_too_little_memory_is_refused(make):
    phi = make(NETWORKS["gap"])
    with pytest.raises(MemoryBudgetError, match="max_memory"):
        phi(images(2), max_memory=100)


def test_seed_and_fields_decide_the_map(make):
    network, x = NETWORKS["gap"], images(3)
    np.testing.assert_array_equal(make(network)(x), make(network)(x))
    assert not np.array_equal(make(network)(x), make(network, seed=1)(x))
    copy = pickle.loads(pickle.dumps(make(network)))
    np.testing.assert_array_equal(copy(x), make(network)(x))
    assert hash(copy) == hash(make(network))


def test_black_images_and_black_borders_are_valid(make, network):
    x = images(4)
    x[1] = 0
    x[2, :, :4] = 0
    phi = make(network)
    assert np.isfinite(phi(x)).all()
    assert np.isfinite(phi.vjp(x, np.ones((4, 64)))).all()
    has_bias = any(getattr(layer, "bias", False) for _, layer, _ in network.leaves(SHAPE))
    assert has_bias or not phi(x)[1].any()


def test_every_backend(make, backend):
    """Tiny, for the simulator."""
    network, shape = Sequential(Conv2d(1, 2, b_std=0.3), ReLU(), GlobalAvgPool(), Dense(1)), (2, 2, 1)
    phi, x = make(network, 5, 4, shape), images(1, shape=shape)
    got = phi(backend.asarray(x))
    assert_close(backend.to_numpy(got), make(network, 5, 4, shape)(x), 1e-9)
    assert_close(backend.to_numpy(phi.vjp(backend.asarray(x), got)), phi.vjp(x, backend.to_numpy(got)), 1e-8)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (np.full((3, *SHAPE), np.nan), ValueError),
        (np.ones((0, *SHAPE)), ValueError),
        (np.ones((3, 6, 5, 2)), ValueError),
        (np.ones(SHAPE), ValueError),
        (np.ones((3, *SHAPE), np.float16), TypeError),
        (np.ones((3, *SHAPE), np.uint8), TypeError),
        ([[1.0]], TypeError),
    ],
)
def test_bad_images_are_refused(make, bad, error):
    phi = make(NETWORKS["gap"])
    with pytest.raises(error, match="x"):
        phi(bad)
    with pytest.raises(error, match="x1"):
        phi.kernel(bad)


@pytest.mark.parametrize("exponent", [-1000, -500, 300, 900])
@pytest.mark.parametrize("name", ["flatten", "no head"])
def test_features_scale_with_images(make, name, exponent):
    phi, x = make(NETWORKS[name]), images(3)
    z = phi(x)
    np.testing.assert_array_equal(np.ldexp(phi(np.ldexp(x, exponent)), -exponent), z)
    np.testing.assert_array_equal(phi.vjp(np.ldexp(x, exponent), z), phi.vjp(x, z))


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e19), (np.float32, 1e38), (np.float64, 1e300)])
@pytest.mark.parametrize("name", ["gap", "pool", "linear"])
def test_images_too_large_for_their_squares_are_refused(make, name, dtype, size):
    phi, x = make(NETWORKS[name]), np.full((2, *SHAPE), size, dtype)
    with pytest.raises(OverflowError, match="scale the input down"):
        phi(x)
    with pytest.raises(OverflowError, match="scale the input down"):
        phi.vjp(x, np.ones((2, 64), dtype))


@pytest.mark.parametrize(
    ("network", "error", "words"),
    [
        (Sequential(Conv2d(1, 3), Tanh(), GlobalAvgPool()), ValueError, "Tanh as layer 1"),
        (Sequential(Sequential(Residual(Conv2d(2, 3))), GlobalAvgPool()), ValueError, "Residual as layer 0.0"),
        (Sequential(ReLU(), GlobalAvgPool(), Dense(1)), ValueError, "layer 0"),
        (Sequential(Conv2d(1, 3), ReLU(), GlobalAvgPool(), ReLU()), ValueError, "layer 3"),
        (Sequential(Conv2d(1, 3), ReLU()), ValueError, "vectors"),
        (Sequential(Conv2d(1, 3), Conv2d(1, 9, padding="VALID"), Flatten()), ValueError, r"layer 1 \(Conv2d\).*pixels"),
        (Sequential(Conv2d(1, 3), AvgPool2d(7), Flatten()), ValueError, r"layer 1 \(AvgPool2d\).*pixels"),
        (Sequential(Conv2d(2, 3, groups=2), Flatten()), ValueError, "groups"),
        (Sequential(Conv2d(2, 3, dilation=2), Flatten()), ValueError, "dilation"),
        (Sequential(Conv2d(2, 3, parameterization="standard"), Flatten()), ValueError, "parameterization"),
        (Sequential(Flatten(), GlobalAvgPool()), ValueError, "GlobalAvgPool"),
        ("conv", TypeError, "network"),
        ([Conv2d(1, 3), GlobalAvgPool()], TypeError, "network"),
    ],
)
def test_networks_that_are_not_supported_are_refused(make, network, error, words):
    with pytest.raises(error, match=words):
        make(network)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_features": 0}, ValueError, "n_features"),
        ({"n_features": 2.5}, TypeError, "n_features"),
        ({"in_shape": (6, 6)}, ValueError, "in_shape"),
        ({"in_shape": (6, 6, 0)}, ValueError, "in_shape"),
        ({"width": 0}, ValueError, "width|channels"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_arguments_are_refused(make, change, error, words):
    with pytest.raises(error, match=words):
        make(NETWORKS["gap"], **change)
