"""TensorSketch and TensorSRHT: against the tensor product formed in full, and against central differences."""

import numpy as np
import pytest
import scipy.sparse
from helpers import assert_close, tol

from ntkfast.errors import MixedBackendError
from ntkfast.sketch import CountSketch, TensorSketch, TensorSRHT, _base

SKETCHES = {
    "one": TensorSketch((7,), 8, seed=1),
    "two": TensorSketch((7, 5), 12, seed=1),
    "three": TensorSketch((4, 1, 6), 9, seed=1),
    "one bucket": TensorSketch((4, 3), 1, seed=1),
    "srht": TensorSRHT((7, 5), 12, seed=1),
    "srht wide": TensorSRHT((3, 9), 40, seed=1),
    "srht one": TensorSRHT((1, 1), 1, seed=1),
}
sketches = pytest.mark.parametrize("sketch", list(SKETCHES.values()), ids=list(SKETCHES))
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def factors(sketch, n=5, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, d)).astype(dtype) for d in sketch.in_dims]


def full_product(xs):
    """Rows x_1 (x) ... (x) x_q."""
    product = np.ones((xs[0].shape[0], 1))
    for x in xs:
        product = (product[:, :, None] * x[:, None, :]).reshape(x.shape[0], -1)
    return product


def matrix(sketch):
    """The sketch as a matrix on the tensor product, one row for each tuple of unit vectors."""
    grids = np.meshgrid(*[np.arange(d) for d in sketch.in_dims], indexing="ij")
    return sketch.apply(*[np.eye(d)[grid.ravel()] for d, grid in zip(sketch.in_dims, grids, strict=True)])


@sketches
@dtypes
def test_is_linear_in_the_tensor_product(sketch, dtype, backend):
    xs = factors(sketch, dtype=dtype)
    z = backend.to_numpy(sketch.apply(*[backend.asarray(x) for x in xs]))
    assert z.dtype == dtype
    assert_close(z, full_product(xs) @ matrix(sketch), tol(dtype, 64, condition=10))


def test_tensor_sketch_is_a_countsketch_of_the_product():
    """One entry +-1 per column; the bucket is the sum of the factors' buckets, the sign the product of their signs."""
    sketch = TensorSketch((6, 5), 8, seed=3)
    left, right = [s.apply(np.eye(s.in_dim)) for s in sketch._sketches()]
    expected = np.zeros((6, 5, 8))
    for i, j in np.ndindex(6, 5):
        h, g = np.abs(left[i]).argmax(), np.abs(right[j]).argmax()
        expected[i, j, (h + g) % 8] = left[i, h] * right[j, g]
    assert_close(matrix(sketch), expected.reshape(30, 8), tol("float64", 8))


def test_one_factor_is_a_countsketch():
    x, sketch = np.random.default_rng(0).standard_normal((4, 7)), SKETCHES["one"]
    inner = sketch._sketches()[0]
    assert isinstance(inner, CountSketch)
    assert_close(sketch.apply(x), inner.apply(x), tol("float64", 8))


def test_factors_are_sketched_independently():
    left, right = TensorSketch((50, 50), 1000, seed=0)._sketches()
    assert not np.array_equal(left.apply(np.eye(50)), right.apply(np.eye(50)))


@sketches
def test_vjp_against_central_differences(sketch, backend):
    """The map is linear in each factor, so a central difference has no truncation error."""
    xs = factors(sketch, n=3)
    ct = np.random.default_rng(1).standard_normal((3, sketch.sketch_dim))
    grads = sketch.vjp([backend.asarray(x) for x in xs], backend.asarray(ct))
    for k, x in enumerate(xs):
        step = np.random.default_rng(2 + k).standard_normal(x.shape)
        ahead = [x + step if i == k else y for i, y in enumerate(xs)]
        behind = [x - step if i == k else y for i, y in enumerate(xs)]
        slope = ((sketch.apply(*ahead) - sketch.apply(*behind)) / 2 * ct).sum()
        assert_close((backend.to_numpy(grads[k]) * step).sum(), slope, tol("float64", 100, condition=100))


@sketches
def test_sparse_factors(sketch):
    xs = factors(sketch)
    for x in xs:
        x[np.abs(x) < 0.7] = 0
    sparse = [scipy.sparse.csr_array(xs[0]), *xs[1:]]
    ct = np.ones((5, sketch.sketch_dim))
    np.testing.assert_array_equal(sketch.apply(*sparse), sketch.apply(*xs))
    for got, expected in zip(sketch.vjp(sparse, ct), sketch.vjp(xs, ct), strict=True):
        np.testing.assert_array_equal(got, expected)


@sketches
def test_zero_row_stays_zero(sketch):
    xs = factors(sketch)
    xs[0][2] = 0
    assert not sketch.apply(*xs)[2].any()


@pytest.mark.parametrize("name", ["srht", "srht wide", "srht one"])
@dtypes
def test_tensor_srht_bits(name, dtype, backend, monkeypatch):
    """Equal bits for every backend, row chunk and tile."""
    sketch = SKETCHES[name]
    xs = factors(sketch, n=9, dtype=dtype)
    got = backend.to_numpy(sketch.apply(*[backend.asarray(x) for x in xs]))
    monkeypatch.setattr(_base, "TILE_BYTES", 1)
    np.testing.assert_array_equal(got, sketch.apply(*xs))


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_tensor_sketch_tiles_agree_to_rounding(name, monkeypatch):
    sketch = SKETCHES[name]
    xs, ct = factors(sketch, n=9), np.ones((9, sketch.sketch_dim))
    whole, grads = sketch.apply(*xs), sketch.vjp(xs, ct)
    monkeypatch.setattr(_base, "TILE_BYTES", 1)
    assert_close(sketch.apply(*xs), whole, tol("float64", 12))
    for got, expected in zip(sketch.vjp(xs, ct), grads, strict=True):
        assert_close(got, expected, tol("float64", 12))


def test_tensor_srht_of_full_permutations_takes_every_row_once():
    """With x_2 = e_0 the second factor is constant up to sign, so the sketch is a signed SRHT: an isometry."""
    sketch = TensorSRHT((8, 8), 8, seed=0)
    x = np.random.default_rng(0).standard_normal((4, 8))
    z = sketch.apply(x, np.tile(np.eye(8)[0], (4, 1)))
    assert_close(z @ z.T, x @ x.T, tol("float64", 8, condition=10))


def test_inputs_are_unchanged():
    xs = factors(SKETCHES["two"])
    before = [x.copy() for x in xs]
    SKETCHES["two"].vjp(xs, SKETCHES["two"].apply(*xs))
    for x, y in zip(xs, before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_cotangent_is_unchanged():
    xs, ct = factors(SKETCHES["two"]), np.ones((5, 12))
    SKETCHES["two"].vjp(xs, ct)
    np.testing.assert_array_equal(ct, np.ones((5, 12)))


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((np.ones((2, 7)),), ValueError, "expected 2 factors, got 1"),
        ((np.ones((2, 7)), np.ones((2, 6))), ValueError, r"expected xs\[1\] of shape \(n, 5\), got \(2, 6\)"),
        ((np.ones((2, 7)), np.ones((3, 5))), ValueError, r"expected xs\[1\] of 2 rows, as xs\[0\], got 3"),
        ((np.ones((2, 7)), np.ones((2, 5), np.float32)), TypeError, r"expected xs\[1\] of dtype float64"),
        ((np.ones((2, 7)), np.full((2, 5), np.nan)), ValueError, r"expected xs\[1\] without NaN or inf"),
        ((np.ones((2, 7)), [[1.0] * 5] * 2), TypeError, r"expected xs\[1\] to be a NumPy or CuPy array, got list"),
        ((np.full((2, 7), 1e300), np.full((2, 5), 1e300)), OverflowError, "within the range of float64"),
    ],
)
@pytest.mark.parametrize("name", ["two", "srht"])
def test_refuses_bad_factors(name, args, error, message):
    with pytest.raises(error, match=message):
        SKETCHES[name].apply(*args)


@pytest.mark.parametrize("name", ["two", "srht"])
def test_refuses_bad_cotangents(name):
    sketch = SKETCHES[name]
    xs = factors(sketch)
    for shape, dtype, error in [
        ((5, 11), "f8", ValueError),
        ((4, 12), "f8", ValueError),
        ((5, 12), "f4", TypeError),
    ]:
        with pytest.raises(error, match="expected ct of"):
            sketch.vjp(xs, np.ones(shape, dtype))


@pytest.mark.gpu
def test_refuses_mixed_backends():
    import cupy

    with pytest.raises(MixedBackendError):
        SKETCHES["two"].apply(np.ones((2, 7)), cupy.ones((2, 5)))


@pytest.mark.parametrize("make", [TensorSRHT, TensorSketch])
def test_refuses_bad_dimensions(make):
    with pytest.raises(ValueError, match=r"expected in_dims\[1\] to be between 1 and 2147483647, got 0"):
        make((3, 0), 4, seed=0)
    with pytest.raises(ValueError, match="in_dims"):
        make((), 4, seed=0)
    with pytest.raises(TypeError, match="expected in_dims to be a sequence of integers"):
        make(3, 4, seed=0)
    with pytest.raises(ValueError, match="expected in_dims of length 2, got 3"):
        TensorSRHT((3, 3, 3), 4, seed=0)
