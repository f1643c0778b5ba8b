"""Linear sketches: what holds for each of them, on every backend of the matrix."""

import numpy as np
import pytest
import scipy.sparse
from helpers import assert_close, tol

from ntkfast import _memo
from ntkfast.sketch import (
    SRHT,
    BlockSRHT,
    Composition,
    CoordinateMask,
    CountSketch,
    GaussianSketch,
    RademacherSketch,
    SparseJL,
    _base,
    dense,
)

HASHED = {
    "countsketch": CountSketch,
    "sparsejl": lambda d, m, *, seed: SparseJL(d, m, nnz=min(3, m), seed=seed),
}


def masked(d, m, *, seed):
    """GraSS."""
    n_kept = max(1, d // 2)
    return Composition(CoordinateMask(d, n_kept, seed=seed), SparseJL(n_kept, m, nnz=1, seed=seed))


BLOCKED = {"blocksrht": lambda d, m, *, seed: BlockSRHT(d, m, block=16, seed=seed), "grass": masked}
BITWISE = {**HASHED, **BLOCKED, "srht": SRHT}
DENSE = {"gaussian": GaussianSketch, "rademacher": RademacherSketch}
PARTWISE = {**HASHED, **BLOCKED, **DENSE}
LINEAR = {**BITWISE, **DENSE}
SHAPES = [(37, 16), (37, 50), (1, 5), (9, 1), (64, 64), (1, 1), (70, 130)]


def parametrize(makers):
    return pytest.mark.parametrize("make", list(makers.values()), ids=list(makers))


shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}to{s[1]}")
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def normal(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def sparse_rows(n, d, dtype, seed=0):
    """Dense rows of which two thirds of the entries, one whole row, and one whole column are zero."""
    x = normal(n, d, dtype=dtype, seed=seed) * (np.random.default_rng(seed + 1).random((n, d)) < 1 / 3)
    x[n // 2] = 0
    x[:, d // 2] = 0
    return x.astype(dtype)


@parametrize(LINEAR)
@shapes
@dtypes
def test_result_has_shape_and_dtype(make, shape, dtype, backend):
    d, m = shape
    sketch = make(d, m, seed=1)
    z = backend.to_numpy(sketch.apply(backend.asarray(normal(3, d, dtype=dtype))))
    x = backend.to_numpy(sketch.adjoint(backend.asarray(normal(2, m, dtype=dtype))))
    assert (z.shape, z.dtype, x.shape, x.dtype) == ((3, m), dtype, (2, d), dtype)


@parametrize(LINEAR)
@shapes
def test_adjoint_identity(make, shape, backend):
    d, m = shape
    sketch, x, z = make(d, m, seed=2), normal(4, d), normal(4, m, seed=1)
    left = (backend.to_numpy(sketch.apply(backend.asarray(x))) * z).sum(axis=1)
    right = (x * backend.to_numpy(sketch.adjoint(backend.asarray(z)))).sum(axis=1)
    assert_close(left, right, tol("float64", d * m, condition=10))


@parametrize(LINEAR)
def test_linear(make, backend):
    sketch, x, y = make(21, 12, seed=3), normal(5, 21), normal(5, 21, seed=1)

    def apply(a):
        return backend.to_numpy(sketch.apply(backend.asarray(a)))

    assert_close(apply(2 * x - 3 * y), 2 * apply(x) - 3 * apply(y), tol("float64", 21))


@parametrize(LINEAR)
def test_zero_rows_stay_zero(make, backend):
    x = normal(3, 21)
    x[1] = 0
    z = backend.to_numpy(make(21, 12, seed=3).apply(backend.asarray(x)))
    assert not z[1].any()
    assert z[0].any()


@parametrize(BITWISE)
@shapes
@dtypes
def test_rows_are_computed_alone(make, shape, dtype):
    d, m = shape
    sketch, x = make(d, m, seed=4), normal(11, d, dtype=dtype)
    whole, order = sketch.apply(x), np.random.default_rng(0).permutation(11)
    np.testing.assert_array_equal(sketch.apply(x[order]), whole[order])
    np.testing.assert_array_equal(np.concatenate([sketch.apply(x[:4]), sketch.apply(x[4:])]), whole)


@parametrize(DENSE)
def test_rows_of_dense_sketches_are_computed_alone_to_rounding(make):
    sketch, x = make(40, 24, seed=4), normal(11, 40)
    whole = sketch.apply(x)
    assert_close(np.concatenate([sketch.apply(x[:4]), sketch.apply(x[4:])]), whole, tol("float64", 40))


@parametrize(PARTWISE)
def test_parts_of_a_row_add_up(make, backend):
    sketch, x = make(37, 16, seed=5), normal(4, 37)
    parts = sum(
        backend.to_numpy(sketch.apply_part(backend.asarray(x[:, a:b]), a))
        for a, b in [(0, 5), (5, 6), (6, 30), (30, 37)]
    )
    assert_close(parts, backend.to_numpy(sketch.apply(backend.asarray(x))), tol("float64", 37))


@parametrize({**HASHED, "rademacher": RademacherSketch})
def test_parts_of_a_row_of_integers_add_up_exactly(make):
    # sums of small integers are exact; only the scale 1/sqrt(4) = 1/2 remains
    sketch = make(37, 4, seed=5) if make is not HASHED["sparsejl"] else SparseJL(37, 16, nnz=4, seed=5)
    x = np.random.default_rng(0).integers(-9, 9, (4, 37)).astype(np.float32)
    parts = sketch.apply_part(x[:, :20], 0) + sketch.apply_part(x[:, 20:], 20)
    np.testing.assert_array_equal(parts, sketch.apply(x))


def test_part_of_a_row_too_long_for_tables():
    sketch, x = CountSketch(2**31 - 1, 8, seed=0), normal(2, 3)
    z = sketch.apply_part(x, 2**31 - 4)
    np.testing.assert_allclose(np.abs(z).sum(axis=1) <= np.abs(x).sum(axis=1) + 1e-12, True)
    with pytest.raises(ValueError, match="at most 2 columns from start 2147483645 on, got 3"):
        sketch.apply_part(x, 2**31 - 3)


@parametrize(BITWISE)
@dtypes
@pytest.mark.parametrize("form", ["csr_array", "csc_array", "coo_array", "csr_matrix"])
def test_sparse_equals_dense_bit_for_bit(make, dtype, form, backend):
    if "cupy" in backend.name:
        pytest.skip("SciPy matrices live on the host")
    x, sketch = sparse_rows(6, 37, dtype), make(37, 16, seed=6)
    z = sketch.apply(getattr(scipy.sparse, form)(x))
    assert z.dtype == dtype
    np.testing.assert_array_equal(z, sketch.apply(x))


@parametrize(DENSE)
@dtypes
def test_sparse_equals_dense_to_rounding(make, dtype):
    x, sketch = sparse_rows(6, 37, dtype), make(37, 16, seed=6)
    assert_close(sketch.apply(scipy.sparse.csr_array(x)), sketch.apply(x), tol(dtype, 37))


@pytest.mark.gpu
@parametrize(LINEAR)
@dtypes
@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_matrices_of_cupy(make, dtype, form):
    import cupyx.scipy.sparse

    x, sketch = sparse_rows(6, 37, dtype), make(37, 16, seed=6)
    z = sketch.apply(getattr(cupyx.scipy.sparse, f"{form}_matrix")(scipy.sparse.csr_matrix(x)))
    assert z.dtype == dtype
    assert_close(z.get(), sketch.apply(x), 0.0 if make in BITWISE.values() else tol(dtype, 37))


@parametrize(PARTWISE)
def test_sparse_parts(make):
    x, sketch = sparse_rows(6, 37, "float64"), make(40, 16, seed=6)
    assert_close(sketch.apply_part(scipy.sparse.csr_array(x), 3), sketch.apply_part(x, 3), tol("float64", 37))


def test_unsorted_and_repeated_entries_are_merged_in_a_copy():
    data, indices, indptr = np.array([1.0, 2.0, 4.0, 8.0]), np.array([3, 1, 3, 0]), np.array([0, 3, 4])
    x = scipy.sparse.csr_array((data, indices, indptr), shape=(2, 5))
    sketch = CountSketch(5, 4, seed=0)
    np.testing.assert_array_equal(sketch.apply(x), sketch.apply(np.array([[0.0, 2, 0, 5, 0], [8, 0, 0, 0, 0]])))
    np.testing.assert_array_equal(x.indices, [3, 1, 3, 0])


def test_empty_sparse_matrix_is_zero_rows():
    x = scipy.sparse.csr_array((3, 5))
    for make in LINEAR.values():
        np.testing.assert_array_equal(make(5, 4, seed=0).apply(x), np.zeros((3, 4)))


@parametrize(BITWISE)
@shapes
@dtypes
def test_targets_agree_bit_for_bit(make, shape, dtype, backend):
    """The plain NumPy references, asked for directly, are what every backend is compared with."""
    d, m = shape
    sketch, x, z = make(d, m, seed=7), normal(3, d, dtype=dtype), normal(3, m, dtype=dtype)
    got = [backend.to_numpy(a) for a in (sketch.apply(backend.asarray(x)), sketch.adjoint(backend.asarray(z)))]
    expected = on_reference(lambda: (sketch.apply(x), sketch.adjoint(z)))
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@parametrize(DENSE)
@dtypes
def test_targets_agree_to_rounding(make, dtype, backend):
    sketch, x = make(37, 16, seed=7), normal(3, 37, dtype=dtype)
    got = backend.to_numpy(sketch.apply(backend.asarray(x)))
    assert_close(got, on_reference(lambda: sketch.apply(x)), tol(dtype, 37))


def on_reference(call):
    from ntkfast import backends

    held = backends.get_backend(np.zeros(1))
    backends._BACKENDS[np.ndarray] = backends.Backend("numpy", np, "reference")
    try:
        return call()
    finally:
        backends._BACKENDS[np.ndarray] = held


def test_countsketch_is_what_its_tables_say():
    """Against the definition: column i has one entry, a sign, in bucket h(i)."""
    matrix = CountSketch(50, 8, seed=9).apply(np.eye(50))
    assert (np.count_nonzero(matrix, axis=1) == 1).all()
    assert set(np.unique(matrix)) == {-1.0, 0.0, 1.0}


def test_sparsejl_has_one_nonzero_in_each_block():
    matrix = SparseJL(60, 10, nnz=3, seed=9).apply(np.eye(60))
    for first, last in [(0, 3), (3, 6), (6, 10)]:
        assert (np.count_nonzero(matrix[:, first:last], axis=1) == 1).all()
    assert_close(np.abs(matrix).max(axis=1), np.full(60, 3**-0.5), tol("float64"))


@pytest.mark.parametrize("m", [64, 128, 192])
def test_srht_of_full_permutations_is_an_isometry(m):
    sketch, x, y = SRHT(50, m, seed=1), normal(3, 50), normal(3, 50, seed=1)
    assert_close(sketch.apply(x) @ sketch.apply(y).T, x @ y.T, tol("float64", 64, condition=10))


def test_srht_draws_no_row_twice_before_every_row_once():
    gram = np.unique(np.abs(SRHT(16, 16, seed=3).apply(np.eye(16)) @ SRHT(16, 16, seed=3).apply(np.eye(16)).T))
    assert_close(gram, np.array([0.0, 1.0]), tol("float64", 16))
    rows = SRHT(16, 40, seed=3).apply(np.eye(16)).T * 40**0.5
    counts = np.unique((rows @ rows.T > 15.5).sum(axis=1))
    np.testing.assert_array_equal(counts, [2, 3])


def test_dense_block_boundaries_do_not_depend_on_the_part(monkeypatch):
    """A matrix of many blocks is the matrix of one block, and equals the stream at counter offsets."""
    for make in DENSE.values():
        _memo.CACHE.clear()
        whole = make(100, 8, seed=2).apply(np.eye(100))
        with monkeypatch.context() as patch:
            patch.setattr(dense, "BLOCK_ENTRIES", 7 * 8)
            blocks = make(100, 8, seed=2).apply(np.eye(100))
            parts = make(100, 8, seed=2).apply_part(np.eye(100)[:, 33:55], 33)
        np.testing.assert_array_equal(blocks, whole)  # each sum has one term
        np.testing.assert_array_equal(parts[33:55], whole[33:55])


@parametrize(LINEAR)
def test_row_tiles_never_show(make, monkeypatch):
    sketch, x, z = make(37, 16, seed=8), normal(23, 37), normal(23, 16)
    whole, adjoint = sketch.apply(x), sketch.adjoint(z)
    monkeypatch.setattr(_base, "TILE_BYTES", 5 * 64 * 8)
    assert [s.stop - s.start for s in _base.row_tiles(23, 64, "float64")] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(sketch.apply(x), whole)
    np.testing.assert_array_equal(sketch.adjoint(z), adjoint)


@parametrize(BITWISE)
@shapes
def test_threads_never_show(make, shape):
    import numba

    d, m = shape
    sketch, x, threads = make(d, m, seed=8), normal(23, d), numba.get_num_threads()
    whole = sketch.apply(x)
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(sketch.apply(x), whole)
    finally:
        numba.set_num_threads(threads)
