"""Adding tile after tile of columns, as slices of a wide array, gives the bits of one go."""

import numpy as np
import pytest
from kernels.cases import values
from kernels.cases_countsketch import tables

from ntkfast.kernels import _kernel, countsketch
from ntkfast.kernels._cuda import SIMULATED


@pytest.fixture(params=["reference", "cuda" if SIMULATED else "cpu"])
def target(request, monkeypatch):
    if SIMULATED:
        monkeypatch.setattr(_kernel, "BLOCK", 1)  # three threads
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nnz", [1, 2, 5] if SIMULATED else [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5] if SIMULATED else [1, 7, 67])
def test_tile_after_tile_is_one_go(target, n, nnz, dtype):
    d, m = (15, 7) if SIMULATED else (3000, 70)
    x, (bucket, sign) = values((n, d), dtype, n), tables(d, m, nnz, 1, dtype)
    whole, parts = np.empty((n, m), dtype), np.zeros((n, m), dtype)
    getattr(countsketch.apply, target)(x, bucket, sign, whole)
    for cut in np.split(np.arange(d), [1, d // 3, d // 2]):
        columns = slice(cut[0], cut[-1] + 1)
        tile = (np.ascontiguousarray(table[:, columns]) for table in (bucket, sign))
        part = x[:, columns].copy() if SIMULATED else x[:, columns]  # the simulator transfers no slices
        getattr(countsketch.add, target)(part, *tile, parts)
    np.testing.assert_array_equal(parts, whole)


def test_no_rows_and_no_columns_add_nothing(target):
    for n, d in ((0, 5), (2, 0), (0, 0)):
        out = np.ones((n, 4))
        getattr(countsketch.add, target)(np.ones((n, d)), *tables(d, 4, 1, 1, np.float64), out)
        assert (out == 1).all()
