"""Features of one polynomial of an inner product: PolySketch of its powers, mixed to one width."""

import math
from dataclasses import dataclass
from typing import Any

from .._typing import Array
from ..backends import Backend
from ..kernels.philox import derive_key
from ..sketch import SRHT, PolySketch

__all__ = ["Expansion"]


@dataclass(frozen=True, slots=True)
class Expansion:
    """Map u -> z with E z(u).z(v) = sum_j c_j <u, v>^j for given c_j >= 0.

    z = [sqrt(c_0) ; T [sqrt(c_1) U_1(u) ; ... ; sqrt(c_q) U_q(u)]], where one PolySketch tree makes
    all U_j and the SRHT T brings the powers with c_j > 0 to n_features - 1 columns.

    Attributes
    ----------
    in_dim, n_features : int
        Widths of u and z; n_features at least 2.
    coefficients : tuple of float
        c_0, ..., c_q with q >= 1.
    sketch_dim : int
        Width of every U_j.
    key : int
        Of the stream, derived from the seed of a map.
    """

    in_dim: int
    n_features: int
    coefficients: tuple[float, ...]
    sketch_dim: int
    key: int

    @property
    def _degrees(self) -> list[int]:
        return [j for j, c in enumerate(self.coefficients) if j and c > 0]

    @property
    def _powers(self) -> PolySketch:
        degree = len(self.coefficients) - 1
        return PolySketch(self.in_dim, degree, self.sketch_dim, seed=derive_key(self.key, 0))

    @property
    def _mix(self) -> SRHT:
        width = len(self._degrees) * self.sketch_dim
        return SRHT(width, self.n_features - 1, seed=derive_key(self.key, 1))

    def apply(self, backend: Backend, u: Array) -> Array:
        """Rows z (b, n_features) of the rows u (b, in_dim)."""
        powers = self._powers.apply(u)
        blocks = [powers[j - 1] * u.dtype.type(math.sqrt(self.coefficients[j])) for j in self._degrees]
        z = backend.xp.empty((u.shape[0], self.n_features), u.dtype)
        z[:, 0] = math.sqrt(self.coefficients[0])
        z[:, 1:] = self._mix.apply(backend.xp.concatenate(blocks, axis=1))
        return z

    def vjp(self, backend: Backend, u: Array, ct: Array) -> Array:
        """Gradient (b, in_dim) of sum(ct * z(u))."""
        blocks = self._mix.adjoint(backend.xp.ascontiguousarray(ct[:, 1:]))
        cts: list[Any] = [
            backend.xp.zeros((u.shape[0], self.sketch_dim), u.dtype) for _ in range(len(self.coefficients) - 1)
        ]
        for k, j in enumerate(self._degrees):
            part = blocks[:, k * self.sketch_dim : (k + 1) * self.sketch_dim]
            cts[j - 1] = part * u.dtype.type(math.sqrt(self.coefficients[j]))
        return self._powers.vjp(u, cts)

    @property
    def row_numbers(self) -> int:
        """Numbers of temporaries per row."""
        return 4 * len(self.coefficients) * self.sketch_dim + 2 * self.n_features + 2 * self.in_dim
