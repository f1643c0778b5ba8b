"""Cases of ntkfast/kernels/gates.py: cotangents of every pixel, of every sample, of every position, and for all."""

import functools

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values


def _arguments(dtype, n, t, k, c, per_sample, per_position, seed=0, kind="normal"):
    ct = values((n if per_sample else 1, t if per_position else 1, k, c), dtype, seed, kind)
    return ct, values((n, t, c), dtype, seed + 1), garbage((n, t, k, c), dtype)


def _multiply(dtype):
    make = functools.partial(_arguments, dtype)
    return st.builds(make, sizes(3), sizes(4), sizes(3), sizes(17), st.booleans(), st.booleans(), seeds, kinds)


def _corners(dtype):
    """One of everything, one sample, one channel, one position, many cotangents; all four kinds of sharing."""
    return [
        _arguments(dtype, 1, 1, 1, 1, True, True),
        _arguments(dtype, 1, 4, 3, 5, True, False),
        _arguments(dtype, 3, 1, 2, 17, False, True),
        _arguments(dtype, 3, 5, 2, 1, False, False),
        _arguments(dtype, 3, 2, 1, 9, True, True),
        _arguments(dtype, 2, 3, 17, 5, True, False),
    ]


CASES = {"gates.multiply": Case(_multiply, small={"_RUN": 2}, corners=_corners)}
