"""Cases of ntkfast/kernels/tensorsketch.py."""

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values


def _multiply(dtype):
    def make(n, width, seed, kind):
        shape = (n, width)
        return values(shape, dtype, seed, kind), values(shape, dtype, seed + 1), garbage(shape, dtype)

    return st.builds(make, sizes(5), sizes(20), seeds, kinds)


CASES = {"tensorsketch.multiply": Case(_multiply, eps=4, dtypes=("complex64", "complex128"))}
