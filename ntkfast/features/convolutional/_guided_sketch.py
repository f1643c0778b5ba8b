"""Sketches of per-sample gradients that take the leading directions of guide images exactly.

    z = [V^T g ; S (g - V V^T g)],   E z(x) . z(y) = g(x) . g(y)

with V (N, k) the leading directions of the gradients of guide images, and S a CountSketch. Its variance is that of
what S meets: gradients of images have much in common, so that a few directions leave a few percent of their squares.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..._memo import memoised
from ..._typing import Array
from ...backends import Backend, get_backend
from ...kernels import countsketch, gather, philox
from ...layers import Cotangent, JacobianFactors
from ._guided_networks import RandomNetwork
from ._guides import guide_images

__all__ = ["GuidedSketch", "gradient_parts"]

# Guide images whose gradients are looked at, and directions of these that are taken exactly.
_GUIDES, LEADING = 32, 8

# Squares of a direction, relative to those of the first one, below which it is nothing but rounding.
_LEAST = 1e-5


class _Tables(NamedTuple):
    """What the sketch is made of."""

    leading: Array  # (k, N): V^T
    folded: Array  # (k, m - k): (S V)^T
    bucket: Array  # (1, N)
    sign: Array  # (1, N)


@dataclass(frozen=True, slots=True)
class GuidedSketch:
    """Linear map from the gradient of a network's output by its N parameters, output layer first, to `width` numbers.

    Attributes
    ----------
    network : RandomNetwork
    width : int
        m, of which a quarter at most are leading directions.
    """

    network: RandomNetwork
    width: int

    @property
    def n_leading(self) -> int:
        """Number k of leading directions."""
        return min(LEADING, self.width // 4)

    def of_gradients(self, x: Array) -> Array:
        """Sketches (n, m) of the gradients at images x (n, h, w, c)."""
        backend = get_backend(x)
        tables = self._tables(backend, x.dtype)
        return self._sketch(gradient_parts(self.network, x), len(x), tables)

    def adjoint(self, ct: Array) -> Array:
        """Transpose of the sketch: directions (n, N) of the parameters from ct (n, m)."""
        backend, k = get_backend(ct), self.n_leading
        tables = self._tables(backend, ct.dtype)
        hashed = backend.xp.ascontiguousarray(ct[:, k:])
        out = backend.xp.empty((len(ct), tables.bucket.shape[1]), ct.dtype)
        backend.launch(gather.signed, hashed, tables.bucket, tables.sign, out)
        out += (ct[:, :k] - hashed @ tables.folded.T) @ tables.leading
        return out

    def _tables(self, backend: Backend, dtype: Any) -> _Tables:
        return _Tables(*memoised(self, _make_tables, backend, dtype))

    def _sketch(self, parts: Iterator[Array], n: int, tables: _Tables) -> Array:
        """Sketches of gradients that come in parts (n, .)."""
        backend, k, start = get_backend(tables.leading), self.n_leading, 0
        exact = backend.xp.zeros((n, k), tables.leading.dtype)
        hashed = backend.xp.zeros((n, self.width - k), tables.leading.dtype)
        for part in parts:
            some = slice(start, start + part.shape[1])
            exact += part @ tables.leading[:, some].T
            backend.launch(countsketch.add, part, tables.bucket[:, some], tables.sign[:, some], hashed)
            start = some.stop
        return backend.xp.concatenate([exact, hashed - exact @ tables.folded], axis=1)


def gradient_parts(network: RandomNetwork, x: Array) -> Iterator[Array]:
    """Gradients of the output by each array of parameters, (n, .), output layer first."""
    backend = get_backend(x)
    params = network.params(backend, x.dtype)
    _, saved = network.network.forward(params, x)
    head = Cotangent(backend.xp.ones((1, 1, 1), x.dtype))
    for _, factors in network.network.backward(params, saved, head, want_input=False):
        for found in factors.values():
            assert isinstance(found, JacobianFactors)  # an Embedding takes integers only
            yield backend.xp.ascontiguousarray(found.jacobian().reshape(len(x), -1))


def _make_tables(sketch: GuidedSketch, backend: Backend, dtype: Any) -> _Tables:
    size = sum(math.prod(shape) for entry in sketch.network.shapes() for shape in entry.values())
    k, key = sketch.n_leading, philox.derive_key(sketch.network.key, 2)
    bucket, sign = backend.xp.empty(size, np.int32), backend.xp.empty(size, dtype)
    backend.launch(philox.bucket_sign, key, 0, sketch.width - k, bucket, sign)
    leading = _leading_gradients(sketch.network, k, size, backend, dtype)
    folded = backend.xp.zeros((k, sketch.width - k), dtype)
    backend.launch(countsketch.add, leading, bucket[None], sign[None], folded)
    return _Tables(leading, folded, bucket[None], sign[None])


def _leading_gradients(network: RandomNetwork, k: int, size: int, backend: Backend, dtype: Any) -> Array:
    """Orthonormal leading directions (k, N) of the gradients of guide images."""
    if k == 0:
        return backend.xp.zeros((0, size), dtype)
    guides = guide_images(_GUIDES, network.in_shape, philox.derive_key(network.key, 3))
    parts = list(gradient_parts(network, backend.xp.asarray(guides.astype(dtype))))
    gradients = backend.xp.concatenate(parts, axis=1)
    values, vectors = np.linalg.eigh(backend.to_numpy(gradients @ gradients.T).astype(np.float64))
    values, vectors = values[: -k - 1 : -1], vectors[:, : -k - 1 : -1]
    signs = np.where(vectors.sum(axis=0) < 0, -1.0, 1.0)  # an eigensolver may return either
    factors = np.where(values > _LEAST * values[0], signs / np.sqrt(np.maximum(values, _LEAST * values[0])), 0.0)
    return backend.xp.asarray((vectors * factors).T.astype(dtype)) @ gradients
