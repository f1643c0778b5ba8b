"""Cases of ntkfast/kernels/winograd.py: padding of both signs, odd sizes, and more channels than a strip."""

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

from ntkfast.kernels._cuda import SIMULATED

MOST_CHANNELS = 9 if SIMULATED else 150


def _tiles(dtype):
    def make(n, h, w, rows, columns, c, before, seed, kind):
        return values((n, h, w, c), dtype, seed, kind), before, garbage((4, 4, n, rows, columns, c), dtype)

    before = st.tuples(st.integers(-2, 2), st.integers(-2, 2))
    small = sizes(3)
    return st.builds(make, sizes(2), sizes(5), sizes(5), small, small, sizes(MOST_CHANNELS), before, seeds, kinds)


def _results(dtype):
    def make(n, h, w, c, seed, kind):
        tiles = (4, 4, n, -(-h // 2), -(-w // 2), c)
        return values(tiles, dtype, seed, kind), garbage((n, h, w, c), dtype)

    return st.builds(make, sizes(2), sizes(5), sizes(5), sizes(MOST_CHANNELS), seeds, kinds)


CASES = {
    "winograd.tiles": Case(_tiles, small={"_STRIP": 4}),
    "winograd.results": Case(_results, small={"_STRIP": 4}),
}
