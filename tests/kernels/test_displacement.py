"""What no single call of displacement.py shows: equal patches, classes of displacements, threads."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import cases
from kernels.cases_displacement import SLOPES, WINDOWS, frame, images, program, record

import ntkfast.kernels._displacement_cuda as on_gpu
from ntkfast.kernels import _kernel, displacement
from ntkfast.kernels._cuda import SIMULATED
from ntkfast.kernels.displacement import Boundary

FORMS = ["cuda"] if SIMULATED else ["reference", "cpu"]


@pytest.fixture(autouse=True)
def tiny_blocks(monkeypatch):
    if SIMULATED:
        monkeypatch.setattr(_kernel, "BLOCK", cases.TINY_BLOCK)


def _empty(h, w, dtype):
    return np.empty((0, h, h, w, w), dtype)


def _planes(x, pairs, stage, form):
    """K and Theta of all pairs of pixels of some images, with tables that the same code recorded."""
    operations, constants, n_tables = stage
    h, w = x.shape[2:]
    none, tables = _empty(h, w, x.dtype), np.empty((len(x), n_tables, 2, h, w), x.dtype)
    shape, everything = frame(operations, False), (1 - h, h - 1, 1 - w, w - 1)
    getattr(displacement.record, form)(x, none, operations, constants, shape, tables)
    k, theta = (np.zeros((len(pairs), h, h, w, w), x.dtype) for _ in range(2))
    boundary = (int(Boundary.PLANES), 0, 0, 1, 1, 0, 0)
    arguments = x, x, none, none, tables, tables, np.array(pairs, np.int32), operations, constants, shape
    getattr(displacement.walk, form)(*arguments, everything, boundary, k, theta)
    return tables, k, theta


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_patches_have_the_angle_zero(dtype, form):
    """Then ReLU halves K exactly; an angle of sqrt(eps), which rounding K or q would make, changes it."""
    stage = program("cacaca", [(3, 3), (2, 5), (3, 2)], [0.0] * 3, 0.1, dtype)
    x = images(np.random.default_rng(5), 2, (3, 4), dtype)
    tables, k, _ = _planes(x, [(0, 0), (1, 1)], stage, form)
    own = k[:, np.arange(3), np.arange(3), 0]  # r = r', c = c'
    np.testing.assert_array_equal(own, tables[:, 2, 0] / 2)


@pytest.mark.parametrize("form", FORMS)
def test_equal_images_have_equal_kernels(form):
    x = images(np.random.default_rng(6), 2, (3, 4), np.float32)
    x[1] = x[0]
    stage = program("cacaca", [(3, 3), (2, 5), (3, 2)], [0.0, 0.1, None], 0.1, np.float32)
    _, k, theta = _planes(x, [(0, 0), (0, 1), (1, 0)], stage, form)
    for result in (k, theta):
        np.testing.assert_array_equal(result[1:], result[[0, 0]])


# --- classes of displacements that GPUs walk one after the other ----------------------------------


@given(size=st.integers(1, 40), kernel=st.integers(1, 9), bounds=st.tuples(st.integers(-60, 60), st.integers(0, 90)))
def test_classes_hold_every_displacement_once_and_far_apart(size, kernel, bounds):
    lo = max(1 - size, min(size - 1, bounds[0]))
    hi = min(size - 1, lo + bounds[1])
    whole = on_gpu._displacements(size, lo, hi, kernel, 1, int(Boundary.POOL))
    found = []
    for first, step, n in on_gpu._classes(whole, kernel, int(Boundary.POOL)):
        members = [(first + i * step) % size for i in range(n)]
        apart = [(b - a) % size for a in members for b in members if a != b]
        assert min(apart, default=size) >= min(2 * kernel - 1, size)
        found += members
    assert sorted(found) == sorted({d % size for d in range(lo - kernel + 1, hi + kernel) if abs(d) < size})


def test_sums_and_windows_are_walked_at_once():
    for kind in (Boundary.SUM, Boundary.PLANES, Boundary.WINDOW):
        whole = on_gpu._displacements(8, -3, 3, 3, 2, int(kind))
        assert on_gpu._classes(whole, 3, int(kind)) == [whole]


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.skipif(SIMULATED, reason="without JIT there are no threads to compare")
@pytest.mark.parametrize("kind", [Boundary.SUM, Boundary.POOL])
def test_results_have_the_same_bits_for_any_number_of_threads(kind, monkeypatch):
    """Pools add the parts of a result in the order of the displacements, whichever thread has them."""
    operations, constants, n_tables = program("caca", WINDOWS, SLOPES, 0.1, np.float64)
    x = images(np.random.default_rng(8), 3, (8, 8), np.float64)
    tables = record(x, (operations, constants, n_tables, frame(operations, False)))
    shape, sums = frame(operations, False), kind == Boundary.SUM
    limits = (-7, 7, -7, 7) if sums else (-3, 3, -3, 3)
    boundary, results = (int(kind), 2, 2, 2, 2, 0, 0), (15, 8, 1, 1) if sums else (4, 4, 4, 4)
    arguments = x, x, *[_empty(8, 8, x.dtype)] * 2, tables, tables, np.array([(0, 1), (2, 1)], np.int32)

    def run(n_threads):
        monkeypatch.setattr(_kernel, "_SHARE", 1)
        for where in (numba, displacement):
            monkeypatch.setattr(where, "get_num_threads", lambda: n_threads)
        out = [np.zeros((2, *results)) for _ in range(2)]
        displacement.walk.cpu(*arguments, operations, constants, shape, limits, boundary, *out)
        return out

    alone = run(1)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(run(n_threads), alone)


# --- in the simulator -----------------------------------------------------------------------------


@pytest.mark.skipif(not SIMULATED, reason="the CUDA simulator is off (NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1)")
def test_blocks_of_any_size_and_planes_in_global_memory_give_the_same_bits(monkeypatch):
    operations, constants, n_tables = program("scaxc+a", WINDOWS, SLOPES, 0.1, np.float32)
    x = images(np.random.default_rng(9), 2, (4, 3), np.float32)
    shape = frame(operations, False)
    tables = record(x, (operations, constants, n_tables, shape))
    arguments = x, x, *[_empty(4, 3, x.dtype)] * 2, tables, tables, np.array([(0, 1)], np.int32)

    def run():
        out = [np.zeros((1, 7, 3, 1, 1), np.float32) for _ in range(2)]
        boundary = (int(Boundary.SUM), 0, 0, 1, 1, 0, 0)
        displacement.walk.cuda(*arguments, operations, constants, shape, (-3, 3, -2, 2), boundary, *out)
        return out

    usual = run()
    monkeypatch.setattr(_kernel, "BLOCK", 5)
    np.testing.assert_array_equal(run(), usual)
    monkeypatch.setattr(on_gpu, "_SHARED_BYTES", 0)
    monkeypatch.setattr(on_gpu, "_BLOCKS", 3)
    np.testing.assert_array_equal(run(), usual)
