"""PolySketch: the plan of the tree, exact cases, nestedness, bits, and gradients."""

import math

import numpy as np
import pytest
import scipy.sparse
from helpers import assert_close, tol

from ntkfast.sketch import PolySketch, _base, poly

# in_dim above sketch_dim: CountSketch leaves; below: zero-padded leaves
CASES = {
    "hashed": PolySketch(40, 5, 16, seed=1),
    "hashed, odd width": PolySketch(40, 4, 13, seed=1),
    "padded": PolySketch(6, 7, 32, seed=1),
    "padded, odd width": PolySketch(6, 3, 13, seed=1),
    "degree 1": PolySketch(40, 1, 16, seed=1),
    "one column": PolySketch(1, 4, 8, seed=1),
    "one bucket": PolySketch(5, 3, 1, seed=1),
}
cases = pytest.mark.parametrize("sketch", list(CASES.values()), ids=list(CASES))
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def rows(sketch, n=5, dtype="float64"):
    return np.random.default_rng(0).standard_normal((n, sketch.in_dim)).astype(dtype)


@cases
@dtypes
def test_shapes_and_dtypes(sketch, dtype, backend):
    powers = sketch.apply(backend.asarray(rows(sketch, dtype=dtype)))
    assert isinstance(powers, tuple)
    assert [(u.shape, u.dtype) for u in powers] == [((5, sketch.sketch_dim), np.dtype(dtype))] * sketch.degree


@cases
def test_power_j_is_homogeneous_of_degree_j(sketch):
    x = rows(sketch)
    for j, (u, v) in enumerate(zip(sketch.apply(2 * x), sketch.apply(x), strict=True), 1):
        np.testing.assert_array_equal(u, 2**j * v)


def test_one_column_has_exact_norms_up_to_degree_3():
    """H D e_0 has entries of one size, so a node with a padded leaf of one column keeps its other child's norm."""
    x = np.array([[1.5]])
    for j, u in enumerate(CASES["one column"].apply(x)[:3], 1):
        assert_close((u * u).sum(), np.array(1.5 ** (2 * j)), tol("float64", 8, condition=10))


def test_first_power_of_a_padded_input_is_exact():
    sketch = CASES["padded"]
    x = rows(sketch)
    np.testing.assert_array_equal(sketch.apply(x)[0], np.pad(x, ((0, 0), (0, 26))))


@pytest.mark.parametrize("d", [6, 40])
def test_smaller_degrees_are_the_first_of_larger_ones(d):
    x = np.random.default_rng(0).standard_normal((3, d))
    whole = PolySketch(d, 9, 16, seed=4).apply(x)
    for degree in range(1, 9):
        for u, v in zip(PolySketch(d, degree, 16, seed=4).apply(x), whole, strict=False):
            np.testing.assert_array_equal(u, v)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 7, 8, 13, 16, 64, 100])
def test_plan_is_small_and_ordered(degree):
    plan = poly._plan(degree)
    products = [s for s in plan.steps if isinstance(s, poly._Product)]
    assert len(plan.outputs) == len(set(plan.outputs)) == degree
    assert len(products) <= degree / 2 * math.ceil(math.log2(max(degree, 2)))
    for number, step in enumerate(plan.steps, degree):
        sources = (step.source,) if isinstance(step, poly._Projection) else (step.left, step.right)
        assert max(sources) < number


@pytest.mark.parametrize("degree", [1, 2, 3, 6, 8, 11])
def test_plan_multiplies_j_different_leaves_for_power_j(degree):
    """Symbolically: a value is the tuple of leaves beneath it, and no half of a node is used twice in one power."""
    plan = poly._plan(degree)
    values = [((leaf,), frozenset()) for leaf in range(degree)]
    for step in plan.steps:
        if isinstance(step, poly._Projection):
            leaves, halves = values[step.source]
            assert step[1:] not in halves
            values.append((leaves, halves | {step[1:]}))
        else:
            (a, p), (b, q) = values[step.left], values[step.right]
            assert not p & q
            values.append((a + b, p | q))
    for j, output in enumerate(plan.outputs, 1):
        assert values[output][0] == tuple(range(j))


@cases
@dtypes
def test_bits_on_every_backend_and_in_every_tile(sketch, dtype, backend, monkeypatch):
    x = rows(sketch, n=9, dtype=dtype)
    got = [backend.to_numpy(u) for u in sketch.apply(backend.asarray(x))]
    monkeypatch.setattr(_base, "TILE_BYTES", 1)
    order = np.random.default_rng(1).permutation(9)
    for u, v in zip(got, sketch.apply(x[order]), strict=True):
        np.testing.assert_array_equal(u[order], v)


@cases
@dtypes
def test_sparse_equals_dense_bit_for_bit(sketch, dtype):
    x = rows(sketch, dtype=dtype)
    x[np.abs(x) < 0.8] = 0
    x[3] = 0
    cts = [np.full((5, sketch.sketch_dim), 0.5, dtype)] * sketch.degree
    for form in (scipy.sparse.csr_array, scipy.sparse.coo_array):
        for u, v in zip(sketch.apply(form(x)), sketch.apply(x), strict=True):
            np.testing.assert_array_equal(u, v)
    np.testing.assert_array_equal(sketch.vjp(scipy.sparse.csc_array(x), cts), sketch.vjp(x, cts))


@cases
def test_zero_rows_stay_zero(sketch):
    x = rows(sketch)
    x[2] = 0
    assert not any(u[2].any() for u in sketch.apply(x))


@cases
def test_vjp_against_central_differences(sketch, backend):
    """Fourth-order differences of step 1e-2: exact up to degree 4, and 1e-7 for degree 7."""
    x, h = rows(sketch, n=3), 1e-2
    rng = np.random.default_rng(1)
    cts = [rng.standard_normal((3, sketch.sketch_dim)) for _ in range(sketch.degree)]
    step = rng.standard_normal(x.shape)

    def along(t):
        return sum((ct * u).sum() for ct, u in zip(cts, sketch.apply(x + t * step), strict=True))

    slope = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    grad = backend.to_numpy(sketch.vjp(backend.asarray(x), [backend.asarray(ct) for ct in cts]))
    assert_close((grad * step).sum(), slope, 1e-5)


@cases
def test_vjp_tiles_never_show(sketch, monkeypatch):
    x = rows(sketch, n=9)
    cts = [np.random.default_rng(j).standard_normal((9, sketch.sketch_dim)) for j in range(sketch.degree)]
    whole = sketch.vjp(x, cts)
    assert whole.dtype == x.dtype
    monkeypatch.setattr(_base, "TILE_BYTES", 1)
    np.testing.assert_array_equal(sketch.vjp(x, cts), whole)


def test_inputs_are_unchanged():
    sketch = CASES["padded"]
    x, cts = rows(sketch), [np.ones((5, 32)) for _ in range(7)]
    before = x.copy()
    sketch.vjp(x, cts)
    np.testing.assert_array_equal(x, before)
    for ct in cts:
        np.testing.assert_array_equal(ct, np.ones((5, 32)))


@pytest.mark.parametrize(
    ("cts", "error", "message"),
    [
        ([], ValueError, "expected cts of length 3, got 0"),
        ([np.ones((5, 13))] * 2, ValueError, "expected cts of length 3, got 2"),
        ([np.ones((5, 12))] * 3, ValueError, r"expected cts\[0\] of shape \(5, 13\), got \(5, 12\)"),
        ([np.ones((4, 13))] * 3, ValueError, r"expected cts\[0\] of shape \(5, 13\), got \(4, 13\)"),
        ([np.ones((5, 13), np.float32)] * 3, TypeError, r"expected cts\[0\] of dtype float64, got float32"),
        ([np.full((5, 13), np.inf)] * 3, ValueError, r"expected cts\[0\] without NaN or inf"),
    ],
)
def test_refuses_bad_cotangents(cts, error, message):
    sketch = CASES["padded, odd width"]
    with pytest.raises(error, match=message):
        sketch.vjp(rows(sketch), cts)


def test_overflow_is_an_error_not_a_nan():
    with pytest.raises(OverflowError, match="expected power 4 within the range of float32; scale the input down"):
        PolySketch(6, 5, 16, seed=0).apply(np.full((2, 6), 1e12, np.float32))


def test_refuses_bad_degrees():
    for degree, error in [(0, ValueError), (1025, ValueError), (2.0, TypeError), (True, TypeError)]:
        with pytest.raises(error, match="expected degree to be"):
            PolySketch(4, degree, 8, seed=0)
