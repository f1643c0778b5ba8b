"""Random directions of the published feature maps."""

import math
from typing import Any

from .._memo import memoised
from .._typing import Array
from ..backends import Backend
from ..kernels import philox

__all__ = ["FILTERS", "SAMPLINGS", "directions", "filters"]

SAMPLINGS = ("gaussian", "leverage")
FILTERS = ("gaussian", "orthogonal")


def directions(backend: Backend, dtype: Any, shape: tuple[int, int], *, sampling: str, key: int) -> Array:
    """Matrix of `shape` (d, m) with random columns w, scaled so that E max(w.x, 0)^2 = |x|^2 / m.

    "gaussian": sqrt(m / 2) w is N(0, I). "leverage": importance sampling by the law
    q(w) = (|w|^2 / d) N(w; 0, I). The weighted feature max(w.x, 0) sqrt(d) / |w| depends on w / |w|
    alone, and q is isotropic: sqrt(m / 2) w is uniform on the sphere of radius sqrt(d).

    Entry (i, j) comes from normal number i * m + j of stream `key`.
    """
    return memoised((shape, sampling, key), _directions, backend, dtype)[0]


def _directions(law: tuple[tuple[int, int], str, int], backend: Backend, dtype: Any) -> tuple[Array]:
    shape, sampling, key = law
    weights = backend.xp.empty(shape[0] * shape[1], dtype)
    backend.launch(philox.normal, key, 0, weights)
    weights = weights.reshape(shape)
    if sampling == "leverage":
        weights *= math.sqrt(2 * shape[0] / shape[1]) / backend.xp.sqrt((weights * weights).sum(axis=0))
    else:
        weights *= math.sqrt(2 / shape[1])
    return (weights,)


def filters(backend: Backend, dtype: Any, shape: tuple[int, int], *, sampling: str, key: int) -> Array:
    """Matrix of `shape` (d, m) with random columns w, scaled so that E (w.x)^2 = |x|^2.

    "gaussian": w is N(0, I). "orthogonal": w is uniform on the sphere of radius sqrt(d), and each d columns in a row
    are orthogonal to each other, so that their products keep inner products exactly.
    """
    return memoised((shape, sampling, key), _filters, backend, dtype)[0]


def _filters(law: tuple[tuple[int, int], str, int], backend: Backend, dtype: Any) -> tuple[Array]:
    (d, m), sampling, key = law
    normal = backend.xp.empty(d * m, dtype)
    backend.launch(philox.normal, key, 0, normal)
    normal = normal.reshape(d, m)
    if sampling == "orthogonal":
        for first in range(0, m, d):
            normal[:, first : first + d] = _orthonormal(backend, normal[:, first : first + d]) * math.sqrt(d)
    return (normal,)


def _orthonormal(backend: Backend, normal: Array) -> Array:
    """Orthonormal columns, uniformly distributed: of a QR decomposition whose R has a positive diagonal."""
    q, r = backend.xp.linalg.qr(normal)
    return q * backend.xp.sign(r.diagonal())
