"""Bits that do not depend on threads, on the cut of the rows, or on what else is in the batch."""

import os
import subprocess
import sys
import textwrap

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels.cases import seeds, values

from ntkfast.kernels import countsketch, hadamard, philox
from ntkfast.kernels._cuda import SIMULATED

if SIMULATED:
    pytest.skip("without JIT there are no threads to compare", allow_module_level=True)

THREADS = [1, 2, numba.config.NUMBA_NUM_THREADS]


def _with_threads(n_threads, function, *arguments):
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    try:
        function(*arguments)
    finally:
        numba.set_num_threads(before)


def _tables(d, m, nnz=1):
    bucket, sign = np.empty((nnz, d), np.int32), np.empty((nnz, d), np.float32)
    for q in range(nnz):
        philox.bucket_sign.cpu(philox.derive_key(1, q), 0, m, bucket[q], sign[q])
    return bucket, sign


@pytest.mark.parametrize("nnz", [1, 3])
def test_countsketch_across_threads_and_rows(nnz):
    """67 rows: blocks of eight and a rest with two threads, in other places when the rows are cut."""
    x = values((67, 5000), np.float32, 3)
    tables = _tables(5000, 301, nnz)
    whole = np.empty((67, 301), np.float32)
    countsketch.apply.cpu(x, *tables, whole)
    for n_threads in THREADS:
        again = np.empty_like(whole)
        _with_threads(n_threads, countsketch.apply.cpu, x, *tables, again)
        np.testing.assert_array_equal(again, whole)
    for cut in (1, 8, 30):
        parts = np.empty_like(whole)
        countsketch.apply.cpu(x[:cut], *tables, parts[:cut])
        countsketch.apply.cpu(x[cut:], *tables, parts[cut:])
        np.testing.assert_array_equal(parts, whole)


def test_sums_in_other_orders_would_differ():
    """The bits above are worth comparing: pairwise summation gives others."""
    x = values((1, 5000), np.float32, 3)
    bucket, sign = np.zeros((1, 5000), np.int32), np.ones((1, 5000), np.float32)
    out = np.empty((1, 1), np.float32)
    countsketch.apply.cpu(x, bucket, sign, out)
    assert out[0, 0] != x[0, ::-1].cumsum()[-1]


@given(seed=seeds, order=st.integers(0, 13), cut=st.integers(1, 4))
def test_hadamard_across_threads_rows_and_in_place(seed, order, cut):
    x = values((5, 1 << order), np.float32, seed)
    whole = np.empty_like(x)
    hadamard.transform.cpu(x, whole)
    parts, in_place = np.empty_like(x), x.copy()
    hadamard.transform.cpu(x[:cut], parts[:cut])
    _with_threads(1, hadamard.transform.cpu, x[cut:], parts[cut:])
    hadamard.transform.cpu(in_place, in_place)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(in_place, whole)


@pytest.mark.parametrize("kernel", [philox.bits, philox.signs, philox.uniform, philox.normal], ids=lambda k: k.name)
def test_streams_across_threads(kernel):
    dtype = np.uint32 if kernel is philox.bits else np.float64
    whole = np.empty(30_001, dtype)
    kernel.cpu(5, 77, whole)
    for n_threads in THREADS:
        again = np.empty_like(whole)
        _with_threads(n_threads, kernel.cpu, 5, 77, again)
        np.testing.assert_array_equal(again, whole)


SCRIPT = textwrap.dedent("""
    import hashlib, numpy as np
    from ntkfast.kernels import countsketch, philox
    x = np.empty((40, 1024), np.float32)
    philox.uniform.cpu(1, 0, x.reshape(-1))
    bucket, sign = np.empty((1, 1024), np.int32), np.empty((1, 1024), np.float32)
    philox.bucket_sign.cpu(2, 0, 64, bucket[0], sign[0])
    out = np.empty((40, 64), np.float32)
    countsketch.apply.cpu(x, bucket, sign, out)
    print(hashlib.sha256(out.tobytes()).hexdigest())
""")


def test_a_process_with_another_thread_count_agrees(capsys):
    exec(SCRIPT)
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == capsys.readouterr().out
