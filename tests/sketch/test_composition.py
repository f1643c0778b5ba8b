"""Masks and compositions: against their definitions, as values, and what is refused."""

import pickle

import numpy as np
import pytest
import scipy.sparse

from ntkfast.sketch import SRHT, BlockSRHT, Composition, CoordinateMask, CountSketch, GaussianSketch, SparseJL

MASK = CoordinateMask(40, 12, seed=3)
GRASS = Composition(MASK, SparseJL(12, 5, nnz=1, seed=3))


@pytest.mark.parametrize(("d", "m"), [(40, 12), (40, 40), (7, 1), (1, 1), (41, 40), (2**31 - 1, 5)])
def test_a_mask_has_one_coordinate_of_each_stratum(d, m):
    z = CoordinateMask(d, m, seed=0)
    (found, index, scale), bounds = z._within(0, d, *_host()), [d * b // m for b in range(m + 1)]
    assert (found.start, found.stop) == (0, m)
    assert all(bounds[b] <= index[b] < bounds[b + 1] for b in range(m))
    np.testing.assert_allclose(scale**2, np.diff(bounds), rtol=1e-12)


def _host():
    from ntkfast.backends import get_backend

    return get_backend(np.empty(0)), np.dtype("float64")


def test_coordinates_are_uniform_in_their_strata():
    """9 coordinates in each of 3,000 strata of 9: every count within 6 standard deviations of 3000 / 9, so a failure
    probability below 1e-7 for a correct implementation."""
    _, index, _ = CoordinateMask(27_000, 3000, seed=5)._within(0, 27_000, *_host())
    counts = np.bincount(index % 9, minlength=9)
    assert np.abs(counts - 3000 / 9).max() < 6 * np.sqrt(3000 * (1 / 9) * (8 / 9))


def test_a_mask_is_a_gather(backend):
    x = np.random.default_rng(0).standard_normal((3, 40))
    _, index, scale = MASK._within(0, 40, *_host())
    np.testing.assert_array_equal(backend.to_numpy(MASK.apply(backend.asarray(x))), x[:, index] * scale)
    z = np.random.default_rng(1).standard_normal((3, 12))
    expected = np.zeros((3, 40))
    expected[:, index] = z * scale
    np.testing.assert_array_equal(backend.to_numpy(MASK.adjoint(backend.asarray(z))), expected)


@pytest.mark.parametrize("sketch", [MASK, GRASS, BlockSRHT(40, 9, block=16, seed=0)], ids=["mask", "grass", "srht"])
@pytest.mark.parametrize("form", ["csr_array", "csc_array", "csr_matrix"])
def test_sparse_equals_dense(sketch, form):
    x = np.random.default_rng(0).standard_normal((5, 40)) * (np.random.default_rng(1).random((5, 40)) < 0.3)
    np.testing.assert_array_equal(sketch.apply(getattr(scipy.sparse, form)(x)), sketch.apply(x))
    part = x[:, 7:31]
    got = sketch.apply_part(getattr(scipy.sparse, form)(part), 7)
    np.testing.assert_array_equal(got, sketch.apply_part(part, 7))


def test_a_composition_is_one_map_after_the_other():
    x, z = np.random.default_rng(0).standard_normal((4, 40)), np.random.default_rng(1).standard_normal((4, 5))
    np.testing.assert_array_equal(GRASS.apply(x), GRASS.second.apply(GRASS.first.apply(x)))
    np.testing.assert_array_equal(GRASS.adjoint(z), GRASS.first.adjoint(GRASS.second.adjoint(z)))


def test_a_composition_is_a_value():
    twin = Composition(CoordinateMask(40, 12, seed=3), SparseJL(12, 5, nnz=1, seed=3))
    assert (GRASS.in_dim, GRASS.sketch_dim) == (40, 5)
    assert twin == GRASS == pickle.loads(pickle.dumps(GRASS))
    assert hash(twin) == hash(GRASS)
    assert Composition(MASK, SparseJL(12, 5, nnz=1, seed=4)) != GRASS
    assert repr(GRASS).startswith("Composition(first=CoordinateMask(")


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        (
            SRHT(40, 12, seed=0),
            CountSketch(12, 5, seed=0),
            TypeError,
            "expected first to be a PartwiseSketch, got SRHT",
        ),
        (MASK, 3, TypeError, "expected second to be a LinearSketch, got int"),
        (MASK, CountSketch(13, 5, seed=0), ValueError, "expected second.in_dim = 12, got 13"),
        (CountSketch(9, 5, seed=1), CountSketch(5, 4, seed=1), ValueError, "differ in kind or seed"),
        (GRASS, CoordinateMask(5, 2, seed=3), ValueError, "differ in kind or seed"),
    ],
)
def test_refused_compositions(first, second, error, message):
    with pytest.raises(error, match=message):
        Composition(first, second)


def test_overflow_in_the_first_map_is_an_error():
    sketch = Composition(GaussianSketch(64, 8, seed=0), CountSketch(8, 4, seed=0))
    with pytest.raises(OverflowError, match="expected the sketch within the range of float32"):
        sketch.apply(np.full((1, 64), 3e38, np.float32))
