"""Cases of ntkfast/kernels/gates.py: cotangents per pixel, per sample, and for all."""

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values


def _multiply(dtype):
    def make(p, pixels, k, c, seed, kind):
        m = p * pixels
        return values((p, k, c), dtype, seed, kind), values((m, c), dtype, seed + 1), garbage((m, k, c), dtype)

    return st.builds(make, sizes(4), sizes(4), sizes(3), sizes(17), seeds, kinds)


CASES = {"gates.multiply": Case(_multiply)}
