"""Cases of ntkfast/kernels/tensorsketch.py."""

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

from ntkfast.kernels._cuda import SIMULATED


def _multiply(dtype):
    def make(n, width, seed, kind):
        shape = (n, width)
        return values(shape, dtype, seed, kind), values(shape, dtype, seed + 1), garbage(shape, dtype)

    return st.builds(make, sizes(5), sizes(20), seeds, kinds)


def _accumulate(dtype):
    def make(n, terms, vectors, width, seed, kind):
        x = values((n, terms, width), dtype, seed, kind)
        return x, values((n, terms, vectors, width), dtype, seed + 1), values((n, vectors, width), dtype, seed + 2)

    return st.builds(make, sizes(4), sizes(4), sizes(3), sizes(12), seeds, kinds)


def _rows_for_threads(dtype):
    """So many entries that rows are cut between threads."""
    n, width = (2, 9) if SIMULATED else (5, 2**15)
    x, y = values((n, 2, width), dtype, 1), values((n, 2, 1, width), dtype, 2)
    return [(x, y, values((n, 1, width), dtype, 3))]


COMPLEX = ("complex64", "complex128")
CASES = {
    "tensorsketch.accumulate": Case(_accumulate, eps=16, dtypes=COMPLEX, corners=_rows_for_threads),
    "tensorsketch.multiply": Case(_multiply, eps=4, dtypes=COMPLEX),
}
