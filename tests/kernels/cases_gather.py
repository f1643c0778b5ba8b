"""Cases of ntkfast/kernels/gather.py: all from one column, more columns than there are in z, several table rows."""

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values
from kernels.cases_countsketch import MOST_COLUMNS, MOST_ROWS, tables


def _signed(dtype):
    def make(n, d, m, nnz, seed, kind):
        return values((n, m), dtype, seed, kind), *tables(d, m, nnz, seed, dtype), garbage((n, d), dtype)

    return st.builds(make, sizes(MOST_ROWS), sizes(MOST_COLUMNS), sizes(20), st.integers(1, 4), seeds, kinds)


CASES = {"gather.signed": Case(_signed, small={"_STRIP": 8})}
