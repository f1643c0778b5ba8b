"""Standardization, whitening and flips of images, by what they promise."""

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.analytic import ntk
from ntkfast.images import (
    ZCA,
    ChannelStatistics,
    _blocks,
    channel_statistics,
    flip,
    flip_augmented,
    normalize,
    with_flips,
    zca,
)

N = 40
SHAPES = {"more images than entries": (3, 4, 2), "fewer": (5, 4, 3), "as many": (5, 4, 2)}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
RNG = np.random.default_rng


def _images(shape=(5, 4, 3), n=N, dtype="float64", seed=0):
    """Images whose neighbours are correlated, on brightness and contrast of their own per channel."""
    x = RNG(seed).standard_normal((n, *shape))
    x = x + np.roll(x, 1, axis=1) + np.roll(x, 1, axis=2)
    return (x * np.arange(1, shape[-1] + 1) + 3 * np.arange(shape[-1])).astype(dtype)


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
    monkeypatch.setattr(_blocks, "_ENTRIES", 7 * 60)


# --- standardization ----------------------------------------------------------------------------


@dtypes
def test_standardized_channels_have_mean_0_and_deviation_1(dtype):
    x = _images(dtype=dtype)
    z = channel_statistics(x).apply(x)
    assert z.dtype == dtype
    np.testing.assert_allclose(z.mean(axis=(0, 1, 2), dtype=float), 0, atol=tol(dtype))
    np.testing.assert_allclose(z.std(axis=(0, 1, 2), dtype=float), 1, atol=tol(dtype))


def test_statistics_are_those_of_the_training_images():
    x, other = _images(), _images(seed=1)
    statistics = channel_statistics(x)
    assert_close(statistics.mean, x.mean(axis=(0, 1, 2)), 1e-14)
    assert_close(statistics.std, x.std(axis=(0, 1, 2)), 1e-14)
    assert_close(statistics.apply(other), (other - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2)), 1e-14)


def test_a_constant_channel_is_0_even_where_its_mean_is_rounded():
    x = _images()
    x[..., 1] = 0.1
    statistics = channel_statistics(x)
    z = statistics.apply(x)
    assert statistics.std[1] == 0
    assert (z[..., 1] == 0).all()
    assert (z[..., 0] != 0).any()
    assert (statistics.apply(x + 1)[..., 1] == 0).all()
    assert_close(statistics.inverse(z), x, 1e-14)


def test_a_large_offset_costs_no_digits():
    x = RNG(0).standard_normal((N, 3, 3, 1))
    assert_close(channel_statistics(x + 1e6).std, x.std(axis=(0, 1, 2)), 1e-9)


def test_normalized_images_have_mean_0_and_mean_square_1():
    x = _images()
    x[3] = 0.1
    x[5] *= 1e-200
    z = normalize(x)
    assert (z[3] == 0).all()
    rest = np.delete(z, 3, axis=0)
    np.testing.assert_allclose(rest.mean(axis=(1, 2, 3)), 0, atol=1e-13)
    np.testing.assert_allclose((rest**2).mean(axis=(1, 2, 3)), 1, rtol=1e-13)
    assert_close(normalize(3 * x - 2)[:3], z[:3], 1e-13)
    assert normalize(x.astype("float32")).dtype == np.float32


# --- whitening ----------------------------------------------------------------------------------


def _covariance(x):
    return np.cov(x.reshape(len(x), -1).T, bias=True)


def _plain_matrix(x, reg):
    """The definition."""
    values, vectors = np.linalg.eigh(_covariance(x))
    return vectors @ np.diag((values + reg * values.mean()) ** -0.5) @ vectors.T


@shapes
@pytest.mark.parametrize("reg", [1e-3, 0.1, 10.0])
def test_whitening_is_its_definition(shape, reg):
    x, other = _images(shape), _images(shape, n=6, seed=1)
    expected = (other - x.mean(axis=0)).reshape(6, -1) @ _plain_matrix(x, reg)
    whitening = zca(x, reg)
    assert_close(whitening.matrix, _plain_matrix(x, reg), 1e-10)
    assert_close(whitening.apply(other), expected.reshape(other.shape), 1e-10)


@shapes
def test_whitened_covariance_has_the_stated_spectrum(shape):
    """S / (S + r), with the eigenvectors that the images had."""
    x, reg = _images(shape), 0.1
    before = _covariance(x)
    values, vectors = np.linalg.eigh(before)
    shrunk = values / (values + reg * np.trace(before) / len(before))
    assert_close(_covariance(zca(x, reg).apply(x)), vectors @ np.diag(shrunk) @ vectors.T, 1e-11)


@shapes
@dtypes
def test_inverse_undoes_whitening(shape, dtype):
    x = _images(shape, dtype=dtype)
    whitening = zca(x)
    z = whitening.apply(x)
    assert z.dtype == whitening.inverse(z).dtype == dtype
    assert_close(whitening.inverse(z), x, tol(dtype, condition=10))
    other = _images(shape, seed=1, dtype=dtype)
    assert_close(whitening.apply(whitening.inverse(other)), other, tol(dtype, condition=100))


def test_few_images_have_the_whitening_that_their_covariance_has():
    """Inner products of images (n < d) against the covariance of entries, to which copies of the images lead."""
    x = _images((5, 4, 3), n=25)
    dual, primal = zca(x), zca(np.concatenate([x, x, x]))
    assert dual.eigenvalues.shape == primal.eigenvalues.shape == (24,)
    assert_close(dual.eigenvalues, primal.eigenvalues, 1e-12)
    assert_close(dual.matrix, primal.matrix, 1e-11)
    assert dual.shift == pytest.approx(primal.shift, rel=1e-13)
    np.testing.assert_allclose(dual.eigenvectors.T @ dual.eigenvectors, np.eye(24), atol=1e-12)


@pytest.mark.parametrize("count", [1, 500])
def test_both_orders_of_the_products_agree(count):
    x = _images((3, 3, 2))
    whitening, other = zca(x), _images((3, 3, 2), n=count, seed=1)
    expected = (other - whitening.mean).reshape(count, -1) @ whitening.matrix
    assert_close(whitening.apply(other), expected.reshape(other.shape), 1e-12)


def test_whitening_does_not_depend_on_the_scale_of_images():
    x = _images()
    for scale in (1e-100, 1e100):
        assert_close(zca(scale * x).apply(scale * x), zca(x).apply(x), 1e-11)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_images_with_pixels_that_never_change(shift):
    """Their variance is 0, and so is the result."""
    x = _images()
    x[:, 0] = 0.1 + shift
    z = zca(x).apply(x)
    assert np.abs(z[:, 0]).max() < 1e-11
    assert np.abs(z[:, 1:]).max() > 1


@pytest.mark.parametrize("fit", [channel_statistics, zca])
def test_vjp_is_the_derivative(fit):
    """Central differences are exact up to rounding for an affine map."""
    x, direction, ct = _images(), _images(seed=1), _images(seed=2)
    fitted = fit(x)
    difference = fitted.apply(x + direction) - fitted.apply(x - direction)
    np.testing.assert_allclose((fitted.vjp(ct) * direction).sum(), (ct * difference).sum() / 2, rtol=1e-11)


# --- flips --------------------------------------------------------------------------------------


@dtypes
def test_flip_is_an_involution(dtype):
    x = _images(dtype=dtype)
    flipped = flip(x)
    assert flipped.dtype == dtype
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped[:, :, 0], x[:, :, -1])
    np.testing.assert_array_equal(flip(flipped), x)


def test_flip_copies():
    x = _images((3, 1, 2))
    flip(x)[:] = 0
    assert (x != 0).all()


def test_flips_follow_the_images():
    x = _images(n=3)
    y = np.array([[1, 0], [0, 1], [1, 1]])
    both, twice = with_flips(x, y)
    np.testing.assert_array_equal(both[:3], x)
    np.testing.assert_array_equal(both[3:], flip(x))
    np.testing.assert_array_equal(twice, [*y, *y])


def _rotation_invariant(x1, x2=None):
    flat = [None if x is None else x.reshape(len(x), -1) for x in (x1, x2)]
    return ntk(*flat, depth=2, b_std=0.3)


def _left_heavy(x1, x2=None):
    """A kernel that sees what is on the left."""
    weights = np.arange(1.0, 1 + x1.shape[2])[:, None]
    return _rotation_invariant(x1 * weights, None if x2 is None else x2 * weights)


@pytest.mark.parametrize(
    ("kernel", "invariant"), [(_rotation_invariant, True), (_rotation_invariant, False), (_left_heavy, False)]
)
def test_augmented_kernel_is_the_mean_over_flips(kernel, invariant):
    x, y = _images(n=6), _images(n=4, seed=1)
    pairs = [(a, b) for a in (x, flip(x)) for b in (y, flip(y))]
    got = flip_augmented(kernel, x, y, invariant=invariant)
    assert_close(got, sum(kernel(*pair) for pair in pairs) / 4, 1e-14)
    for left in (x, flip(x)):
        for right in (y, flip(y)):
            assert_close(flip_augmented(kernel, left, right, invariant=invariant), got, 1e-14)


@pytest.mark.parametrize(
    ("kernel", "invariant"), [(_rotation_invariant, True), (_rotation_invariant, False), (_left_heavy, False)]
)
def test_augmented_kernel_of_one_set_is_symmetric_and_positive(kernel, invariant):
    x = _images(n=12)
    x[6:9] = flip(x[:3])
    k = flip_augmented(kernel, x, invariant=invariant)
    np.testing.assert_array_equal(k, k.T)
    assert_close(k, flip_augmented(kernel, x, x, invariant=invariant), 1e-14)
    assert np.linalg.eigvalsh(k).min() > -1e-13 * np.trace(k)
    assert_close(k[6:9], k[:3], 1e-14)


def test_number_of_evaluations():
    calls = []

    def counted(x1, x2):
        calls.append(x2 is None)
        return _rotation_invariant(x1, x2)

    for x2, invariant, expected in (
        (None, True, [True, False]),
        (None, False, [True, False, True]),
        (_images(n=2), True, [False] * 2),
        (_images(n=2), False, [False] * 4),
    ):
        calls.clear()
        flip_augmented(counted, _images(n=3), x2, invariant=invariant)
        assert calls == expected


def test_regression_with_the_augmented_kernel_is_regression_on_flips():
    """With half of the ridge."""
    x, test = _images(n=8), _images(n=5, seed=1)
    y, reg = RNG(3).standard_normal((8, 2)), 0.3
    both, twice = with_flips(x, y)
    k = _rotation_invariant(both) + 2 * reg * np.eye(16)
    expected = _rotation_invariant(test, both) @ np.linalg.solve(k, twice)
    augmented = flip_augmented(_rotation_invariant, x) + reg * np.eye(8)
    got = flip_augmented(_rotation_invariant, test, x) @ np.linalg.solve(augmented, y)
    assert_close(got, expected, 1e-11)


# --- backends -----------------------------------------------------------------------------------


def test_every_backend_agrees(backend):
    x, other, y = _images(), _images(seed=1), np.arange(N)

    def results(put):
        found = [normalize(put(x)), flip(put(x)), *with_flips(put(x), put(y))]
        found += [flip_augmented(_rotation_invariant, put(x)), flip_augmented(_rotation_invariant, put(x), put(other))]
        for images in (put(x), put(x[:, :3])):
            for fitted in (channel_statistics(images), zca(images)):
                found += [fitted.apply(images), fitted.inverse(images), fitted.vjp(images)]
        return found

    for got, expected in zip(results(backend.asarray), results(np.asarray), strict=True):
        assert isinstance(got, type(backend.asarray(x)))
        assert_close(backend.to_numpy(got), expected, 1e-10)


# --- bad input ----------------------------------------------------------------------------------

BAD_IMAGES = {
    "bytes": (np.zeros((2, 3, 3, 1), np.uint8), TypeError, "of dtype float32 or float64, got uint8"),
    "list": ([[[[1.0]]]], TypeError, "NumPy or CuPy array, got list"),
    "one image": (np.zeros((3, 3, 1)), ValueError, r"shape \(n, height, width, channels\), got \(3, 3, 1\)"),
    "none": (np.zeros((0, 3, 3, 1)), ValueError, "at least one image"),
    "nan": (np.full((2, 3, 3, 1), np.nan), ValueError, "without NaN or inf"),
}
TAKE_IMAGES = {
    "channel_statistics": channel_statistics,
    "normalize": normalize,
    "zca": zca,
    "flip": flip,
    "with_flips": lambda x: with_flips(x, np.zeros(2)),
    "flip_augmented": lambda x: flip_augmented(_rotation_invariant, x),
    "ChannelStatistics.apply": lambda x: ChannelStatistics(np.zeros(1), np.ones(1)).apply(x),
}


@pytest.mark.parametrize(("x", "error", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
@pytest.mark.parametrize("function", TAKE_IMAGES.values(), ids=TAKE_IMAGES)
def test_bad_images_are_refused(function, x, error, message):
    with pytest.raises(error, match=f"expected x1? .*{message}"):
        function(x)


@pytest.mark.parametrize("method", ["apply", "inverse", "vjp"])
@pytest.mark.parametrize("fit", [channel_statistics, zca])
def test_images_of_another_shape_are_refused(fit, method):
    fitted = fit(_images())
    with pytest.raises(ValueError, match=r"expected (x|z|ct) of (shape \(n, 5, 4, 3\)|3 channels), got"):
        getattr(fitted, method)(np.zeros((2, 5, 4, 1)))


@pytest.mark.parametrize(
    ("x", "reg", "error", "message"),
    [
        (_images(), 0, ValueError, "expected reg to be a finite number greater than 0, got 0"),
        (_images(), "0.1", TypeError, "expected reg to be a real number"),
        (_images(), 1e-17, ValueError, "reg above .*, the rounding of the largest eigenvalue, got 1.0e-17"),
        (_images(n=1), 0.1, ValueError, "different images, got 1 that are all equal"),
        (np.full((9, 2, 2, 1), 0.1), 0.1, ValueError, "different images, got 9 that are all equal"),
        (1e-150 * _images(), 0.1, ValueError, "mean variance of at least 1e-290, got"),
        (1e-200 * _images((2, 2, 2)), 0.1, ValueError, "mean variance of at least 1e-290, got 0"),
        (1e155 * _images(), 0.1, OverflowError, "the covariance within the range of float64"),
        (1e308 * np.sign(_images(n=25) + 2), 0.1, OverflowError, "the mean within the range of float64"),
    ],
)
def test_what_cannot_be_whitened(x, reg, error, message):
    with pytest.raises(error, match=message):
        zca(x, reg)


def test_results_beyond_the_dtype_are_refused():
    x = _images()
    with pytest.raises(OverflowError, match="the standard deviation within the range of float64"):
        channel_statistics(1.5e308 * np.sign(x - 3))
    statistics = ChannelStatistics(np.zeros(3), np.full(3, 1e-30))
    with pytest.raises(OverflowError, match="standardized images within the range of float32"):
        statistics.apply(np.full((1, 2, 2, 3), 1e30, np.float32))
    with pytest.raises(OverflowError, match="the gradient within the range of float32"):
        zca(1e-40 * x).vjp(_images(dtype="float32"))


@pytest.mark.parametrize(
    ("mean", "std", "error", "message"),
    [
        (np.zeros(3), np.ones(2), ValueError, r"of shape \(channels,\), got \(3,\) and \(2,\)"),
        (np.zeros((1, 3)), np.ones((1, 3)), ValueError, r"of shape \(channels,\), got \(1, 3\)"),
        (np.zeros(1), -np.ones(1), ValueError, "std >= 0"),
        (np.zeros(1), np.array([np.nan]), ValueError, "expected std without NaN"),
        ([0.0], np.ones(1), TypeError, "expected mean to be a NumPy or CuPy array"),
        (np.zeros(1, int), np.ones(1), TypeError, "expected mean of dtype float32 or float64"),
    ],
)
def test_statistics_that_make_no_sense(mean, std, error, message):
    with pytest.raises(error, match=message):
        ChannelStatistics(mean, std)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mean": [0.0]}, TypeError, "mean to be a NumPy or CuPy array"),
        ({"mean": np.zeros(2)}, ValueError, r"mean \(h, w, c\).*got shapes \(\(2,\)"),
        ({"eigenvalues": np.ones(2)}, ValueError, r"eigenvalues \(m,\)"),
        ({"eigenvalues": -np.ones(1)}, ValueError, "eigenvalues of at least 0, got -1.0"),
        ({"eigenvectors": np.ones((3, 1))}, ValueError, r"eigenvectors \(h w c, m\)"),
        ({"eigenvectors": np.full((2, 1), np.nan)}, ValueError, "eigenvectors without NaN"),
        ({"shift": 0.0}, ValueError, "shift"),
    ],
)
def test_whitening_that_makes_no_sense(change, error, message):
    fields = {"mean": np.zeros((1, 2, 1)), "eigenvalues": np.ones(1), "eigenvectors": np.eye(2)[:, :1], "shift": 0.1}
    with pytest.raises(error, match=message):
        ZCA(**fields | change)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_statistics_of_images_whose_squares_leave_the_range(scale):
    x = _images()
    statistics = channel_statistics(scale * x)
    assert_close(statistics.apply(scale * x), channel_statistics(x).apply(x), 1e-13)


def test_the_least_standard_deviation_leaves_finite_images():
    statistics = ChannelStatistics(np.zeros(1), np.full(1, 5e-324))
    np.testing.assert_array_equal(statistics.apply(np.array([[[[0.0], [5e-324]]]])).ravel(), [0, 1])


def test_kernels_at_the_end_of_the_range_are_averaged():
    k = flip_augmented(lambda x1, x2: np.full((2, 2), 1.5e308), _images(n=2))
    np.testing.assert_array_equal(k, np.full((2, 2), 1.5e308))


@pytest.mark.parametrize(("y", "error"), [(np.zeros(3), ValueError), (np.zeros(()), ValueError), ([0, 1], TypeError)])
def test_targets_of_other_images(y, error):
    with pytest.raises(error, match="expected y "):
        with_flips(_images(n=2), y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None, _images()), TypeError, "kernel to be a function of two arrays of images, got NoneType"),
        ((_rotation_invariant, _images(), _images((5, 4, 2))), ValueError, r"x2 of shape \(n, 5, 4, 3\)"),
        ((_rotation_invariant, _images(), _images(dtype="float32")), TypeError, "x1 and x2 of one dtype"),
        ((lambda x1, x2: np.zeros(4), _images()), ValueError, r"kernel matrix of shape \(40, 40\), got \(4,\)"),
        ((_rotation_invariant, _images(), None, 1), TypeError, "invariant to be True or False, got 1"),
        ((lambda x1, x2: np.ones((40, 40), int), _images()), TypeError, r"kernel\(x1, x2\) of dtype float32"),
        ((lambda x1, x2: 3, _images()), ValueError, "kernel matrix of shape .*, got int"),
        ((_left_heavy, _images()), ValueError, "kernel that flipping both images leaves as it is.*invariant=False"),
    ],
)
def test_bad_calls_of_the_augmented_kernel(arguments, error, message):
    with pytest.raises(error, match=message):
        flip_augmented(*arguments[:3], **({"invariant": arguments[3]} if len(arguments) > 3 else {}))
