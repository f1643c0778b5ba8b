"""Cases of ntkfast/kernels/hadamard.py: every path, by the width against the block."""

import numpy as np
from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values


def _transform(dtype):
    def make(n, order, seed, kind):
        return values((n, 1 << order), dtype, seed, kind), garbage((n, 1 << order), dtype)

    return st.builds(make, sizes(3), st.integers(0, 8), seeds, kinds)


def _around_the_simulated_block(dtype):
    return [(values((1, width), dtype, width), garbage((1, width), dtype)) for width in (64, 128, 256)]


def _wide(dtype):
    return np.empty((1, 2**15), dtype), np.empty((1, 2**15), dtype)


CASES = {
    "hadamard.transform": Case(
        _transform, small={"_BLOCK": 64, "_STRIP": 16}, corners=_around_the_simulated_block, large=_wide
    )
}
