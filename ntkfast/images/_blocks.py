"""Arithmetic on many images in float64, by blocks that bound its memory."""

import math
from collections.abc import Callable, Iterator

from .._check import check_range, quiet
from .._typing import Array
from ..backends import get_backend

__all__ = ["blocks", "by_blocks", "centered", "mean_image"]

_ENTRIES = 2**23  # of float64 at a time


def blocks(x: Array) -> Iterator[slice]:
    """Slices of images that are worked on together."""
    step = max(1, _ENTRIES // math.prod(x.shape[1:]))
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def centered(x: Array, mean: Array) -> Iterator[Array]:
    """Blocks of x - mean, in float64."""
    for rows in blocks(x):
        yield x[rows].astype(mean.dtype) - mean


def mean_image(x: Array) -> Array:
    """Mean over images (h, w, c), in float64."""
    return sum(x[rows].sum(axis=0, dtype=get_backend(x).xp.float64) for rows in blocks(x)) / len(x)


def by_blocks(x: Array, act: Callable[[Array], Array], name: str) -> Array:
    """`act` on blocks of images in float64, in the dtype of x."""
    xp = get_backend(x).xp
    out = xp.empty_like(x)
    with quiet():
        for rows in blocks(x):
            out[rows] = act(x[rows].astype(xp.float64)).astype(x.dtype)
    return check_range(out, name)
