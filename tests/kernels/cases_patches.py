"""Cases of ntkfast/kernels/patches.py: strides, dilations, padding of both signs, groups."""

import functools

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def _shapes(n, h, w, groups, c, kernel, windows):
    return (n, h, w, groups, c), (n, *windows, groups, *kernel, c)


def _forward(dtype, shapes, stride, dilation, before, seed=0, kind="normal"):
    image, patches = shapes
    return values(image, dtype, seed, kind), stride, dilation, before, garbage(patches, dtype)


def _backward(dtype, shapes, stride, dilation, before, seed=0, kind="normal"):
    image, patches = shapes
    return values(patches, dtype, seed, kind), stride, dilation, before, garbage(image, dtype)


def _arguments(make, dtype):
    before = st.tuples(st.integers(-1, 3), st.integers(-1, 3))
    small = sizes(5)
    shapes = st.builds(_shapes, sizes(3), small, small, sizes(2), sizes(9), pairs, st.tuples(small, small))
    return st.builds(functools.partial(make, dtype), shapes, pairs, pairs, before, seeds, kinds)


def _corners(make, dtype):
    """One sample, pixel, channel and tap; windows that skip pixels, or all lie in the padding; ragged sizes."""
    one = (1, 1)
    return [
        make(dtype, _shapes(1, 1, 1, 1, 1, one, one), one, one, (0, 0)),
        make(dtype, _shapes(1, 5, 4, 1, 1, (3, 3), (5, 4)), one, one, one),
        make(dtype, _shapes(1, 7, 5, 1, 3, (2, 1), (3, 2)), (3, 2), one, (0, 0)),
        make(dtype, _shapes(2, 2, 3, 2, 1, (2, 3), (2, 2)), one, (2, 1), (3, 3)),
        make(dtype, _shapes(1, 3, 3, 1, 2, one, (2, 2)), one, one, (4, 4)),
        make(dtype, _shapes(3, 5, 3, 2, 7, (3, 2), (2, 2)), (2, 1), (1, 2), (1, -1)),
    ]


CASES = {
    f"patches.{name}": Case(functools.partial(_arguments, make), corners=functools.partial(_corners, make))
    for name, make in (("im2col", _forward), ("col2im", _backward))
}
