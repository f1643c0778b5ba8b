"""Sketches as values: equality, hashing, pickling, checked fields, refused input, the cache of tables, and seeds."""

import copy
import dataclasses
import hashlib
import pickle

import numpy as np
import pytest
import scipy.sparse

from ntkfast import _memo
from ntkfast.sketch import (
    SRHT,
    BlockSRHT,
    CoordinateMask,
    CountSketch,
    GaussianSketch,
    PolySketch,
    RademacherSketch,
    SparseJL,
    TensorSketch,
    TensorSRHT,
)

# What a seed means: SHA-256 of the map of every unit vector, in float64. A changed digest changes every user's
# results: it is a mistake, or a new major release.
DIGESTS = {
    "CountSketch": "fed7bf06309ec3d06d2bbee4eb4f99361136a79fefcfe1a97403ddd72ec6f332",
    "SparseJL": "177a47c0c52857302befdda9145519b424f338b1ab8ec63605a8c423b9d7ce94",
    "SRHT": "1b658ce0a9903053f628485cf136bf23cc5522047734296959186faad29efea6",
    "BlockSRHT": "28260090fe2cf90458cfb09f8a0412d12d03fa3400c2c3b8234d50ef9efe2d1e",
    "CoordinateMask": "61b58b4c226b109b420252ebc12d1c1f8751b6f6851cb80c62864297f6fe4a47",
    "GaussianSketch": "16e781c414436f84b28189000f07bdbc85236fef94c805b3c142791e490f8cfb",
    "RademacherSketch": "1a189245d2e2995b121c5f2bfb32d8a0ccd770abae4cbf098ff958258be063ff",
    "TensorSketch": "13e0c35dba59997a0aa2f6704fbc98820cdcc855db76a50a2f866865b1704bd5",
    "TensorSRHT": "4fe860193e281ca8358ed1c4d24eb81e9457bfac7fa98c047fb627f79aff67ec",
    "PolySketch": "f8f4ee30bed898554c80905733d622b09e15d201314c0ea94c09ad1f4bee2500",
}
SKETCHES = {
    "CountSketch": CountSketch(37, 16, seed=2**64 - 1),
    "SparseJL": SparseJL(37, 16, nnz=3, seed=2**64 - 1),
    "SRHT": SRHT(37, 16, seed=2**64 - 1),
    "BlockSRHT": BlockSRHT(37, 16, block=16, seed=2**64 - 1),
    "CoordinateMask": CoordinateMask(37, 16, seed=2**64 - 1),
    "GaussianSketch": GaussianSketch(37, 16, seed=2**64 - 1),
    "RademacherSketch": RademacherSketch(37, 16, seed=2**64 - 1),
    "TensorSketch": TensorSketch((7, 5), 16, seed=2**64 - 1),
    "TensorSRHT": TensorSRHT((7, 5), 16, seed=2**64 - 1),
    "PolySketch": PolySketch(37, 5, 16, seed=2**64 - 1),
}
sketches = pytest.mark.parametrize("name", list(SKETCHES))
LINEAR = ["CountSketch", "SparseJL", "SRHT", "BlockSRHT", "CoordinateMask", "GaussianSketch", "RademacherSketch"]


def call(sketch, x):
    """One array of results for rows `x` in every argument."""
    if isinstance(sketch, PolySketch):
        return np.concatenate(sketch.apply(x), axis=1)
    if hasattr(sketch, "in_dims"):
        return sketch.apply(*[x[:, :d] for d in sketch.in_dims])
    return sketch.apply(x)


def unit_rows(sketch):
    """Results for every unit vector, or every pair of them; those of an FFT are rounded to the integers they are."""
    if not hasattr(sketch, "in_dims"):
        return call(sketch, np.eye(sketch.in_dim))
    i, j = np.indices(sketch.in_dims).reshape(2, -1)
    z = sketch.apply(np.eye(sketch.in_dims[0])[i], np.eye(sketch.in_dims[1])[j])
    return np.rint(z) if isinstance(sketch, TensorSketch) else z


@sketches
def test_seed_digest(name, backend):
    """Also on the reference target; the sum with 0.0 turns -0.0 into 0.0."""
    if backend.name == "cupy-cuda":
        pytest.skip("a digest is of host arrays")
    digest = hashlib.sha256((unit_rows(SKETCHES[name]) + 0.0).astype("<f8").tobytes()).hexdigest()
    assert digest == DIGESTS[name]


@sketches
def test_float32_is_the_same_map(name):
    """Tables in float32 hold the float64 ones, rounded."""
    sketch, x = SKETCHES[name], np.random.default_rng(0).standard_normal((3, 37)).astype(np.float32)
    np.testing.assert_allclose(call(sketch, x), call(sketch, x.astype(float)), rtol=1e-3, atol=1e-4)


@sketches
def test_equal_fields_equal_values(name):
    sketch = SKETCHES[name]
    fields = {f.name: getattr(sketch, f.name) for f in dataclasses.fields(sketch)}
    twin = type(sketch)(**fields)
    assert twin == sketch
    assert hash(twin) == hash(sketch)
    assert dataclasses.replace(sketch, seed=0) != sketch
    assert pickle.loads(pickle.dumps(sketch)) == copy.deepcopy(sketch) == sketch
    assert repr(sketch).startswith(f"{name}(")


@sketches
def test_fields_are_frozen(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        SKETCHES[name].seed = 1


def test_fields_become_python_integers():
    sketch = TensorSketch([np.int64(3), np.uint8(4)], np.int32(8), seed=np.uint64(5))
    assert sketch == TensorSketch((3, 4), 8, seed=5)
    assert [type(v) for v in (*sketch.in_dims, sketch.sketch_dim, sketch.seed)] == [int] * 4


def test_kinds_with_one_seed_are_different_maps():
    signs = [np.sign(make(50, 16, seed=1).apply(np.eye(50))) for make in (CountSketch, SRHT, RademacherSketch)]
    assert not np.array_equal(signs[1], signs[2])
    single = SparseJL(50, 16, nnz=1, seed=1).apply(np.eye(50))
    assert not np.array_equal(signs[0], single)


@sketches
def test_other_seeds_are_other_maps(name):
    sketch = SKETCHES[name]
    x = np.random.default_rng(0).standard_normal((2, 37))
    other = dataclasses.replace(sketch, seed=sketch.seed - 1)
    assert not np.array_equal(call(sketch, x), call(other, x))


@sketches
def test_seed_is_required_by_keyword(name):
    sketch = SKETCHES[name]
    arguments = [getattr(sketch, f.name) for f in dataclasses.fields(sketch) if not f.kw_only]
    with pytest.raises(TypeError, match="seed"):
        type(sketch)(*arguments)
    for seed, error in [(-1, ValueError), (2**64, ValueError), (1.0, TypeError), (None, TypeError), (True, TypeError)]:
        with pytest.raises(error, match="expected seed to be"):
            type(sketch)(*arguments, seed=seed)


@pytest.mark.parametrize("make", [CountSketch, SparseJL, SRHT, BlockSRHT, GaussianSketch, RademacherSketch])
def test_bad_dimensions(make):
    for d, error in [(0, ValueError), (-3, ValueError), (2**31, ValueError), (2.0, TypeError), ("3", TypeError)]:
        with pytest.raises(error, match="expected in_dim to be"):
            make(d, 4, seed=0)
        with pytest.raises(error, match="expected sketch_dim to be"):
            make(4, d, seed=0)


def test_bad_nnz():
    for nnz, error in [(0, ValueError), (9, ValueError), (1.5, TypeError)]:
        with pytest.raises(error, match="expected nnz to be"):
            SparseJL(20, 8, nnz=nnz, seed=0)


def test_bad_block():
    for block, error in [(0, ValueError), (24, ValueError), (2**31, ValueError), (16.0, TypeError)]:
        with pytest.raises(error, match="expected block to be"):
            BlockSRHT(20, 8, block=block, seed=0)


def test_a_mask_cannot_widen():
    with pytest.raises(ValueError, match="expected sketch_dim to be at most in_dim = 4, got 5"):
        CoordinateMask(4, 5, seed=0)


BAD_ROWS = [
    (np.ones((2, 36)), ValueError, r"expected x of shape \(n, 37\), got \(2, 36\)"),
    (np.ones(37), ValueError, r"expected x of shape \(n, 37\), got \(37,\)"),
    (np.ones((2, 37, 1)), ValueError, "expected x of shape"),
    (np.ones((0, 37)), ValueError, "at least one row"),
    (np.full((2, 37), np.nan), ValueError, r"expected x without NaN or inf, got nan at index \(0, 0\)"),
    (np.full((2, 37), np.inf, np.float32), ValueError, "without NaN or inf"),
    (np.ones((2, 37), np.float16), TypeError, "expected x of dtype float32 or float64, got float16"),
    (np.ones((2, 37), int), TypeError, "got int64"),
    (np.ones((2, 37), complex), TypeError, "got complex128"),
    ([[1.0] * 37], TypeError, "expected x to be a NumPy or CuPy array, got list"),
    (None, TypeError, "got NoneType"),
    (scipy.sparse.csr_array((2, 36)), ValueError, r"expected x of shape \(n, 37\), got \(2, 36\)"),
    (scipy.sparse.csr_array((0, 37)), ValueError, "at least one row"),
    (scipy.sparse.coo_array(np.ones((2, 37), int)), TypeError, "got int64"),
    (scipy.sparse.csc_array(np.full((2, 37), np.inf)), ValueError, r"expected x.data without NaN or inf"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_ROWS)
@pytest.mark.parametrize("name", [*LINEAR, "PolySketch"])
def test_refuses_bad_rows(name, x, error, message):
    with pytest.raises(error, match=message):
        SKETCHES[name].apply(x)


@pytest.mark.parametrize("name", LINEAR)
def test_refuses_bad_cotangents(name):
    sketch = SKETCHES[name]
    with pytest.raises(ValueError, match=r"expected z of shape \(n, 16\), got \(2, 37\)"):
        sketch.adjoint(np.ones((2, 37)))
    with pytest.raises(TypeError, match="only functions that say so take sparse matrices"):
        sketch.adjoint(scipy.sparse.csr_array((2, 16)))


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "SRHT"])
@pytest.mark.parametrize(("start", "error"), [(-1, ValueError), (37, ValueError), (1.0, TypeError), (20, ValueError)])
def test_refuses_bad_starts(name, start, error):
    with pytest.raises(error, match="start"):
        SKETCHES[name].apply_part(np.ones((2, 18)), start)


@sketches
@pytest.mark.parametrize("form", ["fortran", "strided", "reversed", "readonly"])
def test_memory_order_never_shows(name, form):
    x = np.random.default_rng(0).standard_normal((4, 37))
    forms = {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": x[::-1].copy()[::-1],
        "readonly": x.copy(),
    }
    forms["readonly"].flags.writeable = False
    np.testing.assert_array_equal(call(SKETCHES[name], forms[form]), call(SKETCHES[name], x))


@sketches
def test_a_single_row(name):
    x = np.random.default_rng(0).standard_normal((4, 37))
    z = call(SKETCHES[name], x[:1])
    np.testing.assert_allclose(z, call(SKETCHES[name], x)[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_overflow_is_an_error_not_an_infinity(name):
    x = np.full((1, 37), 3e38, np.float32) * np.resize([1, -1], 37).astype(np.float32)
    with pytest.raises(OverflowError, match="expected the sketch within the range of float32"):
        SKETCHES[name].apply(x)


@pytest.mark.parametrize("name", LINEAR)
def test_tables_are_made_once_per_dtype(name, monkeypatch):
    monkeypatch.setattr(_memo, "CACHE", _memo.ArrayCache(2**20))
    sketch, x = SKETCHES[name], np.ones((2, 37))
    for array in (x, x, x.astype(np.float32), x):
        sketch.apply(array)
    n_tables = 3 if name == "BlockSRHT" else 1  # of its three blocks
    assert len(_memo.CACHE._held) == 2 * n_tables
