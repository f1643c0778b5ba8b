"""Cases of ntkfast/kernels/winograd.py: padding of both signs, odd sizes, and more channels than a strip."""

import functools

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

from ntkfast.kernels._cuda import SIMULATED

MOST_CHANNELS = 9 if SIMULATED else 150


def _image(dtype, n, h, w, rows, columns, c, before, seed=0, kind="normal"):
    return values((n, h, w, c), dtype, seed, kind), before, garbage((4, 4, n, rows, columns, c), dtype)


def _tiles(dtype):
    make = functools.partial(_image, dtype)
    before = st.tuples(st.integers(-2, 2), st.integers(-2, 2))
    small = sizes(3)
    return st.builds(make, sizes(2), sizes(5), sizes(5), small, small, sizes(MOST_CHANNELS), before, seeds, kinds)


def _tiles_corners(dtype):
    """One pixel, a tile of padding, an image within one tile, and rows from the middle of an image."""
    return [
        _image(dtype, 1, 1, 1, 1, 1, 1, (1, 1)),
        _image(dtype, 1, 2, 2, 2, 1, 3, (4, 0)),
        _image(dtype, 2, 3, 2, 2, 1, 5, (1, 1)),
        _image(dtype, 1, 7, 5, 2, 3, 1, (-2, 1)),
    ]


def _transformed(dtype, n, h, w, c, seed=0, kind="normal"):
    tiles = (4, 4, n, -(-h // 2), -(-w // 2), c)
    return values(tiles, dtype, seed, kind), garbage((n, h, w, c), dtype)


def _results(dtype):
    make = functools.partial(_transformed, dtype)
    return st.builds(make, sizes(2), sizes(5), sizes(5), sizes(MOST_CHANNELS), seeds, kinds)


def _results_corners(dtype):
    """One pixel; odd and even numbers of rows and columns."""
    return [_transformed(dtype, *four) for four in [(1, 1, 1, 1), (1, 2, 1, 5), (2, 1, 2, 1), (1, 3, 4, 9)]]


CASES = {
    "winograd.tiles": Case(_tiles, small={"_STRIP": 4}, corners=_tiles_corners),
    "winograd.results": Case(_results, small={"_STRIP": 4}, corners=_results_corners),
}
