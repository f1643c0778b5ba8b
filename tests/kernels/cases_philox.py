"""Cases of ntkfast/kernels/philox.py: starts on both sides of the boundaries of groups and tiles."""

import numpy as np
from hypothesis import strategies as st
from kernels.cases import Case, garbage, sizes

KEYS = st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
EDGES = [edge + offset for edge in (64, 2048, 2**32, 2**38, 2**61) for offset in (-1, 0, 1)]
STARTS = st.sampled_from([0, 1, *EDGES]) | st.integers(0, 2**61)
LENGTHS = sizes(150, minimum=0)


def _stream(dtype):
    return st.builds(lambda key, start, n: (key, start, garbage(n, dtype)), KEYS, STARTS, LENGTHS)


def _bucket_sign(dtype):
    def build(key, start, n_buckets, n):
        return key, start, n_buckets, garbage(n, np.int32), garbage(n, dtype)

    return st.builds(build, KEYS, STARTS, st.sampled_from([1, 2, 7, 1000, 2**31 - 1]), LENGTHS)


CASES = {
    "philox.bits": Case(_stream, dtypes=("uint32",)),
    "philox.uniform": Case(_stream),
    "philox.normal": Case(_stream, gpu_eps=16),
    "philox.signs": Case(_stream, dtypes=("float32", "float64", "int8")),
    "philox.bucket_sign": Case(_bucket_sign, outputs=(-2, -1)),
}
