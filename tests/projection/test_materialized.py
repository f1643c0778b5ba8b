"""Sketches of gradients that are at hand: one array, parts by path, and parts in turn give the same bits."""

import tracemalloc

import numba
import numpy as np
import pytest
from helpers import assert_close, tol
from threadpoolctl import threadpool_limits

from ntkfast.empirical import jacobian
from ntkfast.errors import MixedBackendError
from ntkfast.kernels import philox
from ntkfast.layers import Dense, ReLU, Sequential
from ntkfast.projection import TensorProjection, project
from ntkfast.sketch import (
    SRHT,
    BlockSRHT,
    Composition,
    CoordinateMask,
    CountSketch,
    GaussianSketch,
    RademacherSketch,
    SparseJL,
    TensorSketch,
    countsketch,
)

SHAPES = {"0.weight": (7, 9), "0.bias": (9,), "1.scale": (), "2.empty": (0, 3), "2.weight": (3, 3, 2, 4)}
P = 63 + 9 + 1 + 72
M = 8
SKETCHES = {
    "countsketch": CountSketch(P, M, seed=1),
    "sparsejl": SparseJL(P, M, nnz=4, seed=1),
    "srht": SRHT(P, M, seed=1),
    "blocksrht": BlockSRHT(P, M, block=32, seed=1),
    "mask": CoordinateMask(P, M, seed=1),
    "grass": Composition(CoordinateMask(P, 32, seed=1), SparseJL(32, M, nnz=1, seed=1)),
    "gaussian": GaussianSketch(P, M, seed=1),
    "rademacher": RademacherSketch(P, M, seed=1),
}
BITWISE = [name for name in SKETCHES if name not in ("gaussian", "rademacher")]
each = pytest.mark.parametrize("name", list(SKETCHES))


def gradients(*lead, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal((*lead, *shape)).astype(dtype) for path, shape in SHAPES.items()}


def side_by_side(parts, lead):
    return np.concatenate([x.reshape(*lead, -1) for x in parts.values()], axis=-1)


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lead", [(5,), (4, 3), (2, 1, 3)])
def test_an_array_a_mapping_and_a_generator_give_the_same_bits(name, dtype, lead, backend):
    sketch, parts, axes = SKETCHES[name], gradients(*lead, dtype=dtype), len(lead)
    device = {path: backend.asarray(x) for path, x in parts.items()}
    whole = backend.to_numpy(project(backend.asarray(side_by_side(parts, lead)), sketch, sample_axes=axes))
    assert (whole.shape, whole.dtype) == ((*lead, M), dtype)
    for same in (device, (x for x in device.values()), list(device.values())):
        np.testing.assert_array_equal(backend.to_numpy(project(same, sketch, sample_axes=axes)), whole)


@each
def test_against_the_matrix_of_the_sketch(name):
    """The sketch of every unit vector, times the gradients."""
    sketch, parts = SKETCHES[name], gradients(6)
    expected = side_by_side(parts, (6,)) @ sketch.apply(np.eye(P))
    assert_close(project(parts, sketch), expected, tol("float64", P))


def test_hashes_against_the_counter():
    """Buckets and signs from the generator itself: column i goes to bucket h(i) with its sign."""
    x = np.random.default_rng(0).standard_normal((3, P))
    expected = np.zeros((3, M))
    for block in range(4):
        bucket, sign = np.empty(P, np.int32), np.empty(P)
        philox.bucket_sign.reference(philox.derive_key(1, 2, block), 0, 2, bucket, sign)
        np.add.at(expected, (slice(None), 2 * block + bucket), x * sign / 2)
    assert_close(project(x, SKETCHES["sparsejl"]), expected, tol("float64", P))


@each
def test_cuts_of_the_columns_never_show(name):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((9, P)).astype(np.float32)
    whole = project(x, SKETCHES[name])
    for _ in range(5):
        cuts = sorted(rng.integers(0, P + 1, 4))
        np.testing.assert_array_equal(project(iter(np.split(x, cuts, axis=1)), SKETCHES[name]), whole)


@pytest.mark.parametrize("name", BITWISE)
def test_batches_and_threads_never_show(name):
    sketch, x = SKETCHES[name], np.random.default_rng(1).standard_normal((40, P)).astype(np.float32)
    whole, threads = project(x, sketch), numba.get_num_threads()
    try:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        with threadpool_limits(2):
            np.testing.assert_array_equal(project(x, sketch), whole)
    finally:
        numba.set_num_threads(threads)
    for start, stop in [(0, 1), (7, 8), (3, 30)]:
        np.testing.assert_array_equal(project(x[start:stop], sketch), whole[start:stop])


@each
@pytest.mark.parametrize("form", ["fortran", "strided", "reversed", "broadcast", "readonly", "memmap"])
def test_memory_never_shows(name, form, tmp_path):
    x = np.random.default_rng(1).standard_normal((6, P))
    if form == "broadcast":
        x[:] = x[:1]
    forms = {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
        "broadcast": np.broadcast_to(x[:1], x.shape),
        "readonly": x.copy(),
    }
    forms["readonly"].flags.writeable = False
    x.tofile(tmp_path / "x")
    forms["memmap"] = np.memmap(tmp_path / "x", x.dtype, "r", shape=x.shape)
    got = project(forms[form], SKETCHES[name])
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, project(x, SKETCHES[name]))


def test_jacobians_of_a_network():
    """Inner products of isometric sketches are the entries of the NTK."""
    net = Sequential(Dense(6), ReLU(), Dense(3, b_std=0.1))
    params, x = net.init((4,), seed=0), np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    jac = jacobian(net, params, x)
    flat = side_by_side(jac, (5, 3))
    phi = project(jac, SRHT(flat.shape[-1], 64, seed=0), sample_axes=2)
    assert phi.shape == (5, 3, 64)
    assert_close(phi.reshape(15, -1) @ phi.reshape(15, -1).T, flat.reshape(15, -1) @ flat.reshape(15, -1).T, 1e-5)


@pytest.mark.parametrize("combine", ["sum", "concatenate"])
def test_sketches_of_jacobians(combine, backend):
    """A linear map of every array, in its place: the sum, or all one after another."""
    parts = {path: x for path, x in gradients(3, 2).items() if x.size}
    sketch = TensorProjection(40, combine=combine, seed=2)
    device = {path: backend.asarray(x) for path, x in parts.items()}
    whole = backend.to_numpy(project(device, sketch, sample_axes=2))
    places, expected = sketch.layout({path: x.shape[2:] for path, x in parts.items()}), np.zeros((3, 2, 40))
    for path in parts:
        alone = {name: x * (name == path) for name, x in parts.items()}
        found = project(alone, sketch, sample_axes=2)
        outside = np.delete(found, np.r_[places[path]], axis=-1)
        assert not outside.any()
        expected += found
    assert whole.shape == (3, 2, 40)
    assert_close(whole, expected, tol("float64", P))


def test_tables_of_long_rows_are_made_a_tile_at_a_time():
    """Four million columns of one row, all ones: tables would take 48 MiB, and at most 4 MiB are allocated."""
    d = 2**22 + 2**10
    sketch, ones = SparseJL(d, 8, nnz=1, seed=0), np.broadcast_to(np.float32(1), (1, d))
    parts = [ones[:, :1000], ones[:, 1000:]]
    project(parts, sketch)
    tracemalloc.start()
    z = project(dict(enumerate(parts)), sketch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
    bucket, sign = countsketch._hash_tables((sketch, 0, d), *_host())
    np.testing.assert_array_equal(z[0], np.bincount(bucket[0], sign[0], minlength=8))


def _host():
    from ntkfast.backends import get_backend

    return get_backend(np.empty(0)), np.dtype("float32")


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(name, bad):
    parts = gradients(4, 2, dtype="float32")
    index = SKETCHES[name]._within(0, P, *_host())[1] if name == "mask" else None
    where = (2, 1, 0, 4) if index is None or 4 in index else (2, 1, *divmod(int(index[0]), 9))
    if name == "grass":
        index = SKETCHES[name].first._within(0, P, *_host())[1]
        where = (2, 1, *divmod(int(index[0]), 9))
    parts["0.weight"][where] = bad
    place = ", ".join(map(str, where))
    message = rf"without NaN or inf, got {bad} at index \({place}\)"
    with pytest.raises(ValueError, match=r"expected gradients\['0.weight'\] " + message):
        project(parts, SKETCHES[name], sample_axes=2)
    with pytest.raises(ValueError, match=r"expected gradients\[0\] " + message):
        project(iter(parts.values()), SKETCHES[name], sample_axes=2)
    column = where[2] * 9 + where[3]
    with pytest.raises(ValueError, match=rf"expected gradients without NaN or inf, got {bad} at index \(5, {column}\)"):
        project(side_by_side(parts, (4, 2)).reshape(8, P), SKETCHES[name])


def test_a_mask_does_not_read_the_others():
    x, sketch = np.full((2, P), np.nan), SKETCHES["mask"]
    x[:, sketch._within(0, P, *_host())[1]] = 1.0
    assert np.isfinite(project(x, sketch)).all()


@each
def test_overflow_is_an_error_not_an_infinity(name):
    x = np.full((2, P), 3e38, np.float32) * np.resize([1, -1], P).astype(np.float32)
    for given in (x, [x]):
        with pytest.raises(OverflowError, match="expected the sketch within the range of float32"):
            project(given, SKETCHES[name])


def test_overflow_and_nan_of_a_jacobian_sketch():
    parts = {"a": np.ones((2, 3, 4), np.float32), "b": np.ones((2, 5), np.float32)}
    parts["b"][1, 3] = np.nan
    with pytest.raises(ValueError, match=r"expected gradients\['b'\] without NaN or inf, got nan at index \(1, 3\)"):
        project(parts, TensorProjection(8, seed=0))
    parts["b"] = np.full((2, 50), 3e38, np.float32)
    with pytest.raises(OverflowError, match="the sketch within the range of float32"):
        project(parts, TensorProjection(1, seed=0))


ONES = np.ones((4, P))
REFUSED = [
    (ONES[:, 1:], {}, ValueError, rf"expected gradients of shape \(n, {P}\), got \(4, {P - 1}\)"),
    (ONES, {"sample_axes": 2}, ValueError, rf"expected gradients of shape \(n, k, {P}\)"),
    (ONES[None], {}, ValueError, rf"expected gradients of shape \(n, {P}\), got \(1, 4, {P}\)"),
    (ONES[:0], {}, ValueError, "expected gradients with 1 axes of samples, none of them empty"),
    (ONES.astype(np.float16), {}, TypeError, "expected gradients of dtype float32 or float64, got float16"),
    (ONES.astype(int), {}, TypeError, "got int64"),
    ({}, {}, ValueError, "at least one array, got an empty mapping"),
    (
        {"a": ONES[:, 1:]},
        {},
        ValueError,
        rf"expected gradients of {P} columns in all, the sketch's in_dim, got {P - 1}",
    ),
    ({"a": ONES, "b": ONES[:, :2]}, {}, ValueError, rf"of {P} columns in all, the sketch's in_dim, got {P + 2}"),
    (
        {"a": ONES[:, 1:], "b": ONES[:3, :1]},
        {},
        ValueError,
        r"gradients\['b'\] of shape \(4, ...\), as gradients\['a'\]",
    ),
    ({"a": ONES[:, 1:], "b": ONES[:, :1].astype("float32")}, {}, TypeError, "of dtype float64, as .*, got float32"),
    ({"a": {"b": ONES}}, {}, TypeError, r"expected gradients\['a'\] to be a NumPy or CuPy array, got dict"),
    ([], {}, ValueError, rf"expected gradients of {P} columns in all, the sketch's in_dim, got 0"),
    ([ONES[:, 5:]], {}, ValueError, rf"the sketch's in_dim, got {P - 5}"),
    ([ONES, ONES], {}, ValueError, rf"the sketch's in_dim, got at least {2 * P}"),
    ([ONES[:, 1:], ONES[:2, :1]], {}, ValueError, r"expected gradients\[1\] of shape \(4, ...\), as gradients\[0\]"),
    ([[1.0] * P], {}, TypeError, r"expected gradients\[0\] to be a NumPy or CuPy array, got list"),
    (None, {}, TypeError, "expected gradients to be an array, or arrays by path or in turn, got NoneType"),
    (ONES, {"sample_axes": 0}, ValueError, "expected sample_axes to be at least 1"),
]


@pytest.mark.parametrize(("given", "options", "error", "message"), REFUSED)
def test_refused_gradients(given, options, error, message):
    with pytest.raises(error, match=message):
        project(given, SKETCHES["countsketch"], **options)


def test_refused_sketches():
    for sketch in (TensorSketch((3, 4), 8, seed=0), None):
        with pytest.raises(TypeError, match="expected sketch to be a JacobianSketch or a LinearSketch, got"):
            project(ONES, sketch)
    with pytest.raises(TypeError, match="expected gradients by path, whose shapes TensorProjection needs, got ndarray"):
        project(ONES, TensorProjection(8, seed=0))


def test_mixed_backends_are_refused(monkeypatch):
    import fakecupy

    fakecupy.install(monkeypatch)
    parts = [ONES[:, 1:], fakecupy.asarray(ONES[:, :1])]
    for given in (parts, {"a": parts[0], "b": parts[1]}):
        with pytest.raises(MixedBackendError):
            project(given, SKETCHES["countsketch"])
