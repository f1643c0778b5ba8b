"""Cases of ntkfast/kernels/factors.py: tiles anywhere in the result, one sample, one output, one layer."""

import functools

from hypothesis import strategies as st
from kernels.cases import Case, kinds, seeds, sizes, values


def _tile(dtype, layers, constants, n, m, k, q, i0, j0, seed, kind="normal"):
    a, b = values((layers, n, m), dtype, seed, kind), values((layers, n, k, m, q), dtype, seed + 1)
    c, s = values((constants, n, m), dtype, seed + 3, kind), values((constants, k, q), dtype, seed + 4)
    return a, b, c, s, i0, j0, values((n + i0 + 1, m + j0 + 1, k, q), dtype, seed + 2)


def _accumulate(dtype):
    offsets = st.integers(0, 3)
    counts = st.integers(0, 3), st.integers(0, 2), sizes(5), sizes(5), sizes(4), sizes(3)
    return st.builds(functools.partial(_tile, dtype), *counts, offsets, offsets, seeds, kinds)


def _accumulate_corners(dtype):
    """One of everything, one sample, one output, no layer of a kind, and no size like another."""
    counts = [(1, 1, 1, 1, 1, 1), (2, 0, 1, 5, 3, 2), (3, 1, 5, 1, 2, 3), (0, 2, 4, 5, 1, 1), (2, 1, 3, 5, 4, 7)]
    return [_tile(dtype, *six, 1, 2, 0) for six in counts]


def _square(dtype, n, k, seed):
    return (values((n, n, k, k), dtype, seed),)


def _mirror(dtype):
    return st.builds(functools.partial(_square, dtype), sizes(18), sizes(3), seeds)


def _mirror_corners(dtype):
    """One sample, one output, and a square more than a multiple."""
    return [_square(dtype, n, k, 0) for n, k in [(1, 1), (1, 3), (2, 1), (9, 2), (17, 1)]]


CASES = {
    "factors.accumulate": Case(_accumulate, eps=16, corners=_accumulate_corners),
    "factors.mirror": Case(_mirror, small={"_SQUARE": 4}, corners=_mirror_corners),
}
