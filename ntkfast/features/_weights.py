"""Random directions of the published feature maps."""

import math
from typing import Any

from .._typing import Array
from ..backends import Backend
from ..kernels import philox
from ..sketch._base import TableCache
from ._base import place

__all__ = ["SAMPLINGS", "directions"]

SAMPLINGS = ("gaussian", "leverage")

# Weights kept for all maps together, least recently used out first: 1 GiB holds a depth-3 map of
# 8192 random features in float32 three times. Larger weights are made again at each call.
WEIGHTS = TableCache(2**30)


def directions(backend: Backend, dtype: Any, shape: tuple[int, int], *, sampling: str, key: int) -> Array:
    """Matrix of `shape` (d, m) with random columns w, scaled so that E max(w.x, 0)^2 = |x|^2 / m.

    "gaussian": sqrt(m / 2) w is N(0, I). "leverage": importance sampling by the law
    q(w) = (|w|^2 / d) N(w; 0, I). The weighted feature max(w.x, 0) sqrt(d) / |w| depends on w / |w|
    alone, and q is isotropic: sqrt(m / 2) w is uniform on the sphere of radius sqrt(d).

    Entry (i, j) comes from normal number i * m + j of stream `key`.
    """
    tag = (*place(backend), backend.target, str(dtype), shape, sampling, key)
    return WEIGHTS.get(tag, lambda: (_directions(backend, dtype, shape, sampling, key),))[0]


def _directions(backend: Backend, dtype: Any, shape: tuple[int, int], sampling: str, key: int) -> Array:
    weights = backend.xp.empty(shape[0] * shape[1], dtype)
    backend.launch(philox.normal, key, 0, weights)
    weights = weights.reshape(shape)
    if sampling == "leverage":
        weights *= math.sqrt(2 * shape[0] / shape[1]) / backend.xp.sqrt((weights * weights).sum(axis=0))
    else:
        weights *= math.sqrt(2 / shape[1])
    return weights
