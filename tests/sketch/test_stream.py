"""Rows whose columns come in parts: the same bits for every cut, and no tables beyond a tile."""

import itertools
import tracemalloc

import numpy as np
import pytest

from ntkfast.backends import get_backend
from ntkfast.sketch import (
    SRHT,
    BlockSRHT,
    Composition,
    CoordinateMask,
    CountSketch,
    GaussianSketch,
    RademacherSketch,
    SparseJL,
    block_srht,
    countsketch,
    dense,
)

D, M = 301, 16
GRASS = Composition(CoordinateMask(D, 64, seed=1), SparseJL(64, M, nnz=1, seed=1))
SKETCHES = {
    "countsketch": CountSketch(D, M, seed=1),
    "sparsejl": SparseJL(D, M, nnz=3, seed=1),
    "srht": SRHT(D, M, seed=1),
    "blocksrht": BlockSRHT(D, M, block=64, seed=1),
    "mask": CoordinateMask(D, M, seed=1),
    "grass": GRASS,
    "twice": Composition(BlockSRHT(D, 40, block=32, seed=2), GaussianSketch(40, M, seed=1)),
    "thrice": Composition(GRASS, RademacherSketch(M, 5, seed=3)),
    "gaussian": GaussianSketch(D, M, seed=1),
    "rademacher": RademacherSketch(D, M, seed=1),
}
ROWWISE = [name for name in SKETCHES if name not in ("gaussian", "rademacher", "twice", "thrice")]
each = pytest.mark.parametrize("name", list(SKETCHES))


@pytest.fixture(params=["kept", "tiled"])
def small(request, monkeypatch):
    """Blocks and tiles so small that rows have many; tables of all columns kept, or made tile by tile."""
    monkeypatch.setattr(dense, "BLOCK_ENTRIES", 40 * M)
    monkeypatch.setattr(dense, "PRODUCT", {"numpy": (4, 8), "cupy": (5, 16)})
    monkeypatch.setattr(countsketch, "TILE_ENTRIES", 50)
    if request.param == "tiled":
        monkeypatch.setattr(countsketch, "KEPT_ENTRIES", 10)
        monkeypatch.setattr(block_srht, "KEPT_COLUMNS", 10)


def rows(n, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal((n, D)).astype(dtype)


def streamed(sketch, x, cuts):
    """The sketch of rows whose columns come in parts between `cuts`, which are slices of the whole rows."""
    stream = sketch._open_stream(x.shape[0], get_backend(x), x.dtype)
    bounds = [0, *cuts, x.shape[1]]
    for start, stop in itertools.pairwise(bounds):
        stream.add(x[:, start:stop])
    return stream.result()


def cuts(seed):
    """Places of up to six cuts, none of them twice."""
    rng = np.random.default_rng(seed)
    return sorted(set(rng.integers(1, D, int(rng.integers(7))).tolist()))


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("small")
def test_cuts_of_the_columns_never_show(name, dtype, backend):
    sketch, x = SKETCHES[name], backend.asarray(rows(11, dtype))
    whole = backend.to_numpy(sketch.apply(x))
    assert (whole.dtype, whole.shape) == (dtype, (11, sketch.sketch_dim))
    for seed in range(5):
        np.testing.assert_array_equal(backend.to_numpy(streamed(sketch, x, cuts(seed))), whole)
    np.testing.assert_array_equal(backend.to_numpy(streamed(sketch, x, range(1, D))), whole)


@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.usefixtures("small")
def test_batches_of_rows_never_show(name):
    sketch, x, rng = SKETCHES[name], rows(37), np.random.default_rng(3)
    whole = streamed(sketch, x, cuts(0))
    order = rng.permutation(37)
    np.testing.assert_array_equal(streamed(sketch, x[order], cuts(1)), whole[order])
    for start, stop in [(0, 1), (5, 6), (3, 20), (36, 37)]:
        np.testing.assert_array_equal(streamed(sketch, x[start:stop], cuts(2)), whole[start:stop])


@each
@pytest.mark.usefixtures("small")
def test_memory_order_of_parts_never_shows(name):
    x = rows(9)
    whole = SKETCHES[name].apply(x)
    wide = np.full((18, 3 * D), np.float32(np.nan))
    wide[::2, ::3] = x
    for same in (np.asfortranarray(x), wide[::2, ::3], x[::-1].copy()[::-1], x[:, ::-1].copy()[:, ::-1]):
        np.testing.assert_array_equal(streamed(SKETCHES[name], same, cuts(4)), whole)


@each
@pytest.mark.usefixtures("small")
def test_a_stream_of_a_part_is_the_sketch_of_zeros_around_it(name):
    sketch = SKETCHES[name]
    if name == "srht":
        pytest.skip("takes whole rows")
    x = rows(5, "float64")
    x[:, :77] = x[:, 200:] = 0
    part = sketch.apply_part(x[:, 77:200], 77)
    np.testing.assert_allclose(part, sketch.apply(x), rtol=0, atol=1e-12)


@each
def test_a_stream_equals_the_reference(name):
    from ntkfast import backends

    sketch, x = SKETCHES[name], rows(3)
    got = streamed(sketch, x, cuts(5))
    held = backends.get_backend(x)
    backends._BACKENDS[np.ndarray] = backends.Backend("numpy", np, "reference")
    try:
        expected = streamed(sketch, x, cuts(6))
    finally:
        backends._BACKENDS[np.ndarray] = held
    if name in ROWWISE:
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "make",
    [
        lambda d: SparseJL(d, 8, nnz=2, seed=0),
        lambda d: Composition(CoordinateMask(d, 64, seed=0), CountSketch(64, 8, seed=0)),
        lambda d: BlockSRHT(d, 8, block=2**12, seed=0),
    ],
    ids=["sparsejl", "grass", "blocksrht"],
)
def test_a_long_row_needs_no_tables_of_its_length(make):
    """A billion columns, of which a hundred thousand come: at most 8 MiB at once, where whole tables take gigabytes."""
    stream = make(10**9)._open_stream(1, get_backend(np.empty(0)), np.dtype("float32"))
    part = np.broadcast_to(np.float32(1), (1, 50_000))
    stream.add(part)
    tracemalloc.start()
    stream.add(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23
