"""Cases of ntkfast/kernels/patches.py: strides, dilations, padding of both signs, groups."""

from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def _shapes(n, h, w, groups, c, kernel, windows):
    return (n, h, w, groups, c), (n, *windows, groups, *kernel, c)


def _im2col(dtype):
    def make(shapes, stride, dilation, before, seed, kind):
        image, patches = shapes
        return values(image, dtype, seed, kind), stride, dilation, before, garbage(patches, dtype)

    return _arguments(make)


def _col2im(dtype):
    def make(shapes, stride, dilation, before, seed, kind):
        image, patches = shapes
        return values(patches, dtype, seed, kind), stride, dilation, before, garbage(image, dtype)

    return _arguments(make)


def _arguments(make):
    before = st.tuples(st.integers(-1, 3), st.integers(-1, 3))
    small = sizes(5)
    shapes = st.builds(_shapes, sizes(3), small, small, sizes(2), sizes(9), pairs, st.tuples(small, small))
    return st.builds(make, shapes, pairs, pairs, before, seeds, kinds)


CASES = {"patches.im2col": Case(_im2col), "patches.col2im": Case(_col2im)}
