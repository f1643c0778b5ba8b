"""How CUDA kernels are launched, without launching them: on the caller's stream, in grids that a device accepts."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from kernels import cases

from ntkfast.kernels import _kernel, arccos, recursion, table, tensorsketch, zonal
from ntkfast.kernels._cuda import SIMULATED, cuda

if SIMULATED:
    pytest.skip("the CUDA simulator has no dispatchers", allow_module_level=True)

CASES = cases.load()
MOST_BLOCKS, MOST_THREADS, MOST_SHARED_BYTES = 2**31 - 1, 1024, 48 * 1024
STREAM = object()


@pytest.fixture
def geometries(monkeypatch):
    """Geometries of the launches that the test would have made."""
    seen = []

    def note(_dispatcher, geometry):
        seen.append(geometry)
        return lambda *_: None

    monkeypatch.setattr(type(cuda.jit(lambda: None)), "__getitem__", note)
    return seen


def _check(geometries):
    assert geometries, "the launcher launches nothing"
    for blocks, threads, stream, *shared in geometries:
        assert 1 <= blocks <= MOST_BLOCKS
        assert 1 <= threads <= MOST_THREADS
        assert stream is STREAM
        assert all(0 < n_bytes <= MOST_SHARED_BYTES for n_bytes in shared)


@pytest.mark.parametrize(("kernel", "dtype"), cases.examples(), ids=lambda value: getattr(value, "name", value))
def test_every_launch_is_on_the_stream_it_was_given(kernel, dtype, geometries):
    @settings(max_examples=5, phases=[Phase.generate], derandomize=True, database=None)
    @given(arguments=CASES[kernel.name].arguments(np.dtype(dtype)))
    def launch(arguments):
        kernel.cuda(*arguments, stream=STREAM)

    launch()
    _check(geometries)


@pytest.mark.parametrize("block", [32, 1024])
def test_the_size_of_a_block_is_read_at_launch(block, geometries, monkeypatch):
    monkeypatch.setattr(_kernel, "BLOCK", block)
    arccos.kappa.cuda(*(np.ones(3 * block) for _ in range(3)), stream=STREAM)
    assert geometries == [(3, block, STREAM)]


def _huge(*shape, dtype=np.float32):
    """An array of any size that takes the memory of one entry."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def test_matrices_of_more_than_two_to_the_31_entries(geometries):
    """60,000 x 60,000 entries; grids stay within bounds, and their threads take strides of 64 bits."""
    n, real = 60_000, np.float32(0.5)
    matrix, rows, one = _huge(n, n), _huge(n, 784), _huge(n)
    assert matrix.size > 2**31
    arccos.angle.cuda(rows, rows, real, 0, 0, 1, matrix, stream=STREAM)
    zonal.evaluate.cuda(
        rows, rows, one, one, _huge(1, 2, 16), _huge(1, 2), real, 0, 0, 1, _huge(1, n, n), stream=STREAM
    )
    tables = _huge(4, 3, n)
    recursion.walk.cuda(matrix, rows, rows, tables, tables, real, real, real, matrix, matrix, stream=STREAM)
    table.evaluate.cuda(matrix, one, _huge(1, 256, 4), 1.0, 0, matrix, stream=STREAM)
    spectrum = _huge(n, n, dtype=np.complex64)
    tensorsketch.multiply.cuda(spectrum, spectrum, spectrum, stream=STREAM)
    _check(geometries)
