"""Cases of ntkfast/kernels/countsketch.py: all in one bucket, more buckets than columns, colliding nonzeros."""

import numpy as np
import scipy.sparse
from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

from ntkfast.kernels._cuda import SIMULATED

# the CPU takes eight rows at a time, if every thread gets some; a simulated row takes a second
MOST_ROWS, MOST_COLUMNS = (5, 20) if SIMULATED else (18, 40)


def tables(d, m, nnz, seed, dtype):
    """Buckets (the first table row in one bucket for every fifth seed) and signs."""
    rng = np.random.default_rng(seed)
    bucket = rng.integers(0, m, (nnz, d)).astype(np.int32)
    if seed % 5 == 0:
        bucket[0] = m - 1
    return bucket, rng.choice([-1.0, 1.0], (nnz, d)).astype(dtype)


def _build(make):
    """Strategy of what `make(n, d, m, nnz, seed, kind)` returns."""
    return st.builds(make, sizes(MOST_ROWS), sizes(MOST_COLUMNS), sizes(20), st.integers(1, 4), seeds, kinds)


def _apply(dtype):
    def make(n, d, m, nnz, seed, kind):
        return values((n, d), dtype, seed, kind), *tables(d, m, nnz, seed, dtype), garbage((n, m), dtype)

    return _build(make)


def _add(dtype):
    def make(n, d, m, nnz, seed, kind):
        return values((n, d), dtype, seed, kind), *tables(d, m, nnz, seed, dtype), values((n, m), dtype, seed + 1)

    return _build(make)


def _blocks_of_rows(dtype):
    """So many rows that the CPU takes them in blocks, and a rest; one to five table rows."""
    n, d, m = (5, 12, 5) if SIMULATED else (67, 300, 20)
    x, out = values((n, d), dtype, 1), values((n, m), dtype, 2)
    return [(x, *tables(d, m, nnz, 1, dtype), out) for nnz in (1, 2, 4, 5)]


def _apply_sparse(dtype):
    def make(n, d, m, nnz, seed, kind):
        dense = values((n, d), dtype, seed, kind)
        x = scipy.sparse.csr_array(dense * (np.random.default_rng(seed).random((n, d)) < 0.4))
        index = (x.indices.astype(np.int32), x.indptr.astype(np.int32))
        return x.data, *index, *tables(d, m, nnz, seed, dtype), garbage((n, m), dtype)

    return _build(make)


SMALL = {"_ROWS": 2, "_TILE": 5, "_TILE_EIGHTS": 2, "_FITS": 12, "_SLOTS": 4}
CASES = {
    "countsketch.add": Case(_add, small=SMALL, corners=_blocks_of_rows),
    "countsketch.apply": Case(_apply, small=SMALL),
    "countsketch.apply_sparse": Case(_apply_sparse, small=SMALL),
}
