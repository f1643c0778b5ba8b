"""What a seed is split into: the first tag of every key that is derived from a seed, all in one place.

A public object with a seed draws from ``derive_key(seed, Stream.X, ...)`` and from nothing else. What follows the
first tag (a layer, a leaf, a side) belongs to that object alone. So two kinds of objects with one seed are independent,
and a new kind needs no more than a new number here.
"""

import enum

__all__ = ["Stream"]


@enum.unique
class Stream(enum.IntEnum):
    """First tag of a key.

    The numbers are part of what a seed means: they never change, and that of a removed name is not used again.
    """

    # sketch
    COUNT_SKETCH = 1
    SPARSE_JL = 2
    SRHT = 3
    GAUSSIAN = 4
    RADEMACHER = 5
    TENSOR_SKETCH = 6
    TENSOR_SRHT = 7
    POLY_SKETCH = 8
    BLOCK_SRHT = 9
    COORDINATE_MASK = 10

    # layers
    LAYERS = 32

    # features
    ARC_COSINE = 64
    RANDOM_FEATURES = 65
    NTK_SKETCH = 66
    POLYNOMIAL_SKETCH = 67
    PIVOTS = 68
    CNTK_SKETCH = 69
    CNTK_RANDOM_FEATURES = 70
    CNTK_GRADIENT = 71
    ONE_PASS = 80
    GRAM_ROWS = 96
    WIDTH_TRIALS = 97

    # spectrum
    HUTCHINSON_TRACE = 100
    XTRACE = 101
    HUTCHINSON_DIAGONAL = 102
    XDIAG = 103
    LANCZOS = 104

    # projection
    TENSOR_PROJECTION = 120
    KRONECKER_PROJECTION = 121
    MASKED_PROJECTION = 122

    # cli
    DEMO_DRAWS = 112
