"""Cases of ntkfast/kernels/gates.py: cotangents of every pixel, of every sample, of every position, and for all."""

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values


def _multiply(dtype):
    def make(n, t, k, c, per_sample, per_position, seed, kind):
        ct = values((n if per_sample else 1, t if per_position else 1, k, c), dtype, seed, kind)
        return ct, values((n, t, c), dtype, seed + 1), garbage((n, t, k, c), dtype)

    return st.builds(make, sizes(3), sizes(4), sizes(3), sizes(17), st.booleans(), st.booleans(), seeds, kinds)


CASES = {"gates.multiply": Case(_multiply)}
