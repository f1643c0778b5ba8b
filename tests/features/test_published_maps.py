"""What every published map and the Nystroem map must do, one test per promise."""

import dataclasses
import pickle

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.features import (
    ArcCosineFeatures,
    NTKPolynomialSketch,
    NTKRandomFeatures,
    NTKSketch,
    nystroem,
)

D = 6


def make_nystroem(n_features, **parameters):
    return nystroem(points(200, seed=9), n_features, depth=2, **{"seed": 0, **parameters})


MAPS = {
    "arc-cosine 0": lambda m, **p: ArcCosineFeatures(D, m, order=0, **{"seed": 0, **p}),
    "arc-cosine 1": lambda m, **p: ArcCosineFeatures(D, m, order=1, **{"seed": 0, **p}),
    "arc-cosine leverage": lambda m, **p: ArcCosineFeatures(D, m, order=1, sampling="leverage", **{"seed": 0, **p}),
    "random features 1": lambda m, **p: NTKRandomFeatures(D, m, depth=1, **{"seed": 0, **p}),
    "random features 3": lambda m, **p: NTKRandomFeatures(D, m, depth=3, **{"seed": 0, **p}),
    "random features leverage": lambda m, **p: NTKRandomFeatures(
        D, m, depth=2, sampling="leverage", product="tensor_sketch", **{"seed": 0, **p}
    ),
    "sketch": lambda m, **p: NTKSketch(D, m, depth=2, **{"seed": 0, **p}),
    "sketch taylor": lambda m, **p: NTKSketch(D, m, depth=1, degree=5, expansion="taylor", **{"seed": 0, **p}),
    "polynomial sketch": lambda m, **p: NTKPolynomialSketch(D, m, depth=3, **{"seed": 0, **p}),
    "nystroem": make_nystroem,
}


def points(n, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((n, D)).astype(dtype)


@pytest.fixture(params=MAPS, ids=lambda name: name.replace(" ", "-"))
def make(request):
    return MAPS[request.param]


def test_features_approximate_the_kernel(make):
    phi, x = make(2048), points(40)
    got, expected = phi(x) @ phi(x).T, phi.kernel(x)
    assert np.linalg.norm(got - expected) <= 0.25 * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_dtype_and_apply(make, dtype):
    phi, x = make(40), points(5, dtype=dtype)
    z = phi(x)
    assert z.shape == (5, 40)
    assert z.dtype == dtype
    assert z.flags.c_contiguous
    np.testing.assert_array_equal(z, phi.apply(x))
    gradient = phi.vjp(x, z)
    assert gradient.shape == x.shape
    assert gradient.dtype == dtype


def test_float32_agrees_with_float64(make):
    phi, x = make(64), points(50)
    assert np.linalg.norm(phi(x.astype(np.float32)) - phi(x)) <= 2e-4 * np.linalg.norm(phi(x))


def test_zero_rows_have_zero_features_and_gradients(make):
    """The Nystroem map hands the exact kernel's gradient on, which is a mean over directions there."""
    phi, x = make(32), points(4)
    x[2] = 0
    assert not phi(x)[2].any()
    gradient = phi.vjp(x, np.ones((4, 32)))
    assert make is make_nystroem or not gradient[2].any()
    assert np.isfinite(gradient).all()


def test_positive_factors_come_out(make):
    """phi(2 x) = 2 phi(x), and for steps phi(2 x) = phi(x)."""
    phi, x = make(32), points(10)
    z = phi(x)
    assert_close(phi(2 * x), z if np.array_equal(phi(2 * x), z) else 2 * z, tol(np.float64, 100))


def test_seed_and_fields_decide_the_map(make):
    x = points(10)
    np.testing.assert_array_equal(make(32)(x), make(32)(x))
    assert not np.array_equal(make(32)(x), make(32, seed=1)(x))
    copy = pickle.loads(pickle.dumps(make(32)))
    np.testing.assert_array_equal(copy(x), make(32)(x))


def test_row_blocks_do_not_matter(make):
    phi, x = make(16), points(60)
    z, gradient = phi(x), phi.vjp(x, phi(x))
    small = 20 * phi._row_bytes(8)
    assert_close(phi(x, max_memory=small), z, tol(np.float64, 1000))
    assert_close(phi.vjp(x, z, max_memory=small), gradient, tol(np.float64, 1000))


def test_vjp_is_the_derivative_of_the_features(make):
    """Central differences with step h = 1e-6: error h^2 plus rounding / h; no step of a map is crossed at this seed."""
    phi, x = make(24), points(7)
    rng = np.random.default_rng(1)
    ct, direction = rng.standard_normal((7, 24)), rng.standard_normal((7, D))
    h = 1e-6
    difference = (ct * (phi(x + h * direction) - phi(x - h * direction))).sum(axis=1) / (2 * h)
    assert_close((phi.vjp(x, ct) * direction).sum(axis=1), difference, 1e-6)


@pytest.mark.stat
def test_gram_error_falls_with_the_number_of_features(make):
    """16 times the features, a quarter of a random error in the limit: the median of R = 27 ratios is below 0.7.

    Every ratio has two seeds of its own. If one is above 0.7 with a probability of at most 1/8, the median is with
    P(Bin(27, 1/8) >= 14) < 1e-6. (Of 300 to 1000 other ratios, 6 % were
    of "random features 3", below 1 % of the other maps.)
    """
    x = points(60)
    kernel = make(8).kernel(x)

    def error(m, seed):
        return np.linalg.norm((z := make(m, seed=seed)(x)) @ z.T - kernel)

    assert np.median([error(16 * 8, 2 * s + 1) / error(8, 2 * s) for s in range(27)]) < 0.7


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (np.full((3, D), np.nan), ValueError),
        (np.full((3, D), np.inf), ValueError),
        (np.ones((0, D)), ValueError),
        (np.ones((3, D + 1)), ValueError),
        (np.ones(D), ValueError),
        (np.ones((3, D), np.float16), TypeError),
        (np.ones((3, D), int), TypeError),
        ([[1.0] * D], TypeError),
    ],
)
def test_bad_rows_are_refused(make, bad, error):
    with pytest.raises(error, match="x"):
        make(8)(bad)


def test_order_and_strides_of_the_input_do_not_matter(make):
    phi, x = make(16), points(20)
    z = phi(x)
    assert_close(phi(np.asfortranarray(x)), z, tol(np.float64, 100))
    wide = np.zeros((40, 2 * D))
    wide[::2, ::2] = x
    assert_close(phi(wide[::2, ::2]), z, tol(np.float64, 100))
    x.flags.writeable = False
    np.testing.assert_array_equal(phi(x), z)


def test_one_row_repeated_rows_and_opposite_rows(make):
    phi, x = make(16), points(1)
    both = phi(np.concatenate((x, x, -x)))
    assert_close(both[:1], phi(x), tol(np.float64, 100))
    np.testing.assert_array_equal(both[0], both[1])
    assert np.isfinite(both).all()


def test_every_backend(make, backend):
    phi, x = make(24), points(9)
    if make is make_nystroem:  # a map with data, which has to be where the rows are
        phi = dataclasses.replace(phi, landmarks=backend.asarray(phi.landmarks))
    got = phi(backend.asarray(x))
    assert_close(backend.to_numpy(got), make(24)(x), 1e-9)
    gradient = phi.vjp(backend.asarray(x), got)
    assert np.isfinite(backend.to_numpy(gradient)).all()
