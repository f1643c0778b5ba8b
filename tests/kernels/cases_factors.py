"""Cases of ntkfast/kernels/factors.py: tiles anywhere in the result, one sample, one output, one layer."""

from hypothesis import strategies as st
from kernels.cases import Case, kinds, seeds, sizes, values


def _accumulate(dtype):
    def make(layers, n, m, k, q, i0, j0, seed, kind):
        a, b = values((layers, n, m), dtype, seed, kind), values((layers, n, k, m, q), dtype, seed + 1)
        return a, b, i0, j0, values((n + i0 + 1, m + j0 + 1, k, q), dtype, seed + 2)

    offsets = st.integers(0, 3)
    return st.builds(make, st.integers(1, 3), sizes(5), sizes(5), sizes(4), sizes(3), offsets, offsets, seeds, kinds)


def _mirror(dtype):
    return st.builds(lambda n, k, seed: (values((n, n, k, k), dtype, seed),), sizes(18), sizes(3), seeds)


CASES = {
    "factors.accumulate": Case(_accumulate, eps=16),
    "factors.mirror": Case(_mirror, small={"_SQUARE": 4}),
}
