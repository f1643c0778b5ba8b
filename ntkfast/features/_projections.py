"""Random directions on the unit sphere, and the projections of rows on them.

Three kinds, all with uniform marginals and fewer correlations the further down:

- "gaussian": independent directions;
- "orthogonal": blocks of D orthonormal directions, uniform by Haar's measure;
- "hadamard": blocks of D orthonormal directions H D_3 H D_2 H D_1 with random signs D_i and the Walsh-Hadamard
  matrix H, D a power of two (rows are padded): D log D additions a block, no matrix. Marginals are uniform up
  to O(1 / D).

References
----------
Mezzadri. How to generate random matrices from the classical compact groups. Notices of the AMS 54, 2007.
Yu, Suresh, Choromanski, Holtmann-Rice, Kumar. Orthogonal random features. NIPS 2016.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .._memo import memoised
from .._streams import Stream
from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import hadamard, philox

__all__ = ["Projection"]

# Sign flips and transforms of a Hadamard block. Gram error of one-pass features (depth 3, m = 1024) on the unit vectors
# of R^256 with 1, 2, 3, 4 of them: 0.31, 0.087, 0.065, 0.065, where a Haar matrix has 0.065. Dense rows need fewer.
ROTATIONS = 3


class Projection(NamedTuple):
    """p unit directions in R^dim; rows have in_dim <= dim entries, the missing ones are 0."""

    kind: str
    in_dim: int
    dim: int
    n_directions: int
    seed: int

    def apply(self, backend: Backend, unit: Array) -> Array:
        """Projections u (n, p) of unit rows (n, in_dim)."""
        if self.kind == "hadamard":
            return self._rotate(backend, unit)
        return unit @ self._weights(backend, unit.dtype)

    def adjoint(self, backend: Backend, ct: Array) -> Array:
        """Pull (n, p) back to (n, in_dim)."""
        if self.kind == "hadamard":
            return self._rotate_back(backend, ct)
        return ct @ self._weights(backend, ct.dtype).T

    def row_entries(self) -> int:
        """Numbers of temporaries per row, beside u."""
        return 2 * self.dim if self.kind == "hadamard" else 0

    def _weights(self, backend: Backend, dtype: Any) -> Array:
        return memoised(self, _copy_matrix, backend, dtype)[0]

    def _matrix(self) -> Any:
        """Directions as columns (in_dim, p), made on the host in float64 for every backend and dtype."""
        stream = np.empty(self.n_directions * self.dim)
        get_backend(stream).launch(philox.normal, philox.derive_key(self.seed, Stream.ONE_PASS), 0, stream)
        normals = stream.reshape(self.n_directions, self.dim).T
        if self.kind == "gaussian":
            directions = normals / np.sqrt((normals * normals).sum(axis=0))
        else:
            starts = range(0, self.n_directions, self.dim)
            directions = np.concatenate([_haar(normals[:, s : s + self.dim]) for s in starts], axis=1)
        return directions[: self.in_dim]

    def _signs(self, backend: Backend, dtype: Any) -> Array:
        """Signs (n_blocks, ROTATIONS, dim) over sqrt(dim), so that every rotation is orthogonal."""
        return memoised(self, _draw_signs, backend, dtype)[0]

    def _rotate(self, backend: Backend, unit: Array) -> Array:
        xp, n = backend.xp, unit.shape[0]
        u = xp.empty((n, self.n_directions), unit.dtype)
        for block, signs in enumerate(self._signs(backend, unit.dtype)):
            rotated = xp.zeros((n, self.dim), unit.dtype)
            rotated[:, : self.in_dim] = unit
            for sign in signs:
                rotated *= sign
                backend.launch(hadamard.transform, rotated, rotated)
            start = block * self.dim
            u[:, start : start + self.dim] = rotated[:, : self.n_directions - start]
        return u

    def _rotate_back(self, backend: Backend, ct: Array) -> Array:
        xp, n = backend.xp, ct.shape[0]
        total = xp.zeros((n, self.in_dim), ct.dtype)
        for block, signs in enumerate(self._signs(backend, ct.dtype)):
            rotated = xp.zeros((n, self.dim), ct.dtype)
            part = ct[:, block * self.dim : (block + 1) * self.dim]
            rotated[:, : part.shape[1]] = part
            for sign in signs[::-1]:
                backend.launch(hadamard.transform, rotated, rotated)
                rotated *= sign
            total += rotated[:, : self.in_dim]
        return total


def _copy_matrix(projection: Projection, backend: Backend, dtype: Any) -> tuple[Array]:
    return (backend.xp.asarray(projection._matrix().astype(str(dtype))),)


def _draw_signs(projection: Projection, backend: Backend, dtype: Any) -> tuple[Array]:
    n_blocks = -(-projection.n_directions // projection.dim)
    signs = backend.xp.empty(n_blocks * ROTATIONS * projection.dim, dtype)
    backend.launch(philox.signs, philox.derive_key(projection.seed, Stream.ONE_PASS, 1), 0, signs)
    signs /= math.sqrt(projection.dim)
    return (signs.reshape(n_blocks, ROTATIONS, projection.dim),)


def _haar(normals: Any) -> Any:
    """Orthonormal columns with Haar's law: the factor Q of normal columns with a positive diagonal of R (Mezzadri)."""
    q, r = np.linalg.qr(normals)
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
