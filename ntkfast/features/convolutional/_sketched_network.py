"""The recursion of the convolutional NTK on sketches, one stage per step. See `CNTKSketch`.

phi (nngp) and psi (ntk) are the vectors at the pixels; letters as in _pixels.py.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..._angles import unit_rows
from ..._typing import Array
from ...backends import Backend
from ...kernels.philox import derive_key
from ...layers._geometry import Window
from ...sketch import SRHT, TensorSRHT
from .._expansion import Expansion
from .._weights import directions
from ._network import Conv
from ._pixels import (
    Pixels,
    Pooled,
    Saved,
    Stage,
    concatenate,
    gather,
    mean_product,
    pull_mean_product,
    pull_squares,
    ratio,
    spread,
    squares_above,
)

__all__ = ["ArcCosinePart", "Part", "PolynomialPart", "SketchedConv", "SketchedRelu"]


@dataclass(frozen=True, slots=True)
class SketchedConv(Stage):
    """A convolution: taps one after the other, brought back to one width by an SRHT where they are more.

    Attributes
    ----------
    step : Conv
    widths : (int, int)
        Of phi and psi below.
    width : int
        Most columns above.
    key : int
    """

    step: Conv
    widths: tuple[int, int]
    width: int
    key: int

    @property
    def above(self) -> tuple[int, int]:
        """Widths of phi and psi above."""
        return tuple(min(self.width, dim) for dim in self._dims)  # type: ignore[return-value]

    @property
    def _dims(self) -> tuple[int, int]:
        """Widths of phi and psi before the SRHTs."""
        taps = self.step.window.taps
        nngp = taps * self.widths[0] + int(self.step.b_std > 0)
        return nngp, taps * self.widths[1] + min(nngp, self.width)

    @property
    def _scale(self) -> float:
        return self.step.W_std / math.sqrt(self.step.window.taps)

    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        window, scale = self.step.window, below.nngp.dtype.type(self._scale)
        nngp = self._shrink(0, concatenate(backend, below.nngp, self.step))
        ntk = nngp
        if below.ntk is not None:
            ntk = self._shrink(1, backend.xp.concatenate((gather(below.ntk, window) * scale, nngp), axis=3))
        if below.squares is None:
            return Pixels(nngp, ntk, None), None
        return Pixels(nngp, ntk, squares_above(below.squares, window, self._scale, self.step.b_std)), None

    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        assert ct.ntk is not None
        window, scale = self.step.window, ct.nngp.dtype.type(self._scale)
        ct_nngp, ct_ntk = ct.nngp + ct.ntk if not self.widths[1] else ct.nngp, None
        if self.widths[1]:
            joined, own = self._unshrink(1, ct.ntk), window.taps * self.widths[1]
            ct_nngp = ct_nngp + joined[..., own:]
            ct_ntk = spread(joined[..., :own] * scale, window)
        u = self._unshrink(0, ct_nngp)[..., : window.taps * self.widths[0]]
        squares = None if ct.squares is None else pull_squares(ct.squares, window, self._scale)
        return Pixels(spread(u * scale, window), ct_ntk, squares)

    def _sketch(self, part: int) -> SRHT:
        return SRHT(self._dims[part], self.width, seed=derive_key(self.key, part))

    def _shrink(self, part: int, x: Array) -> Array:
        if x.shape[3] <= self.width:
            return x
        return self._sketch(part).apply(x.reshape(-1, x.shape[3])).reshape(*x.shape[:3], -1)

    def _unshrink(self, part: int, ct: Array) -> Array:
        if self._dims[part] <= self.width:
            return ct
        return self._sketch(part).adjoint(ct.reshape(-1, ct.shape[3])).reshape(*ct.shape[:3], -1)


@dataclass(frozen=True, slots=True)
class PolynomialPart:
    """Features of a polynomial near kappa_1 and of one near kappa_0, for unit vectors."""

    in_dim: int
    width: int
    coefficients: tuple[tuple[float, ...], tuple[float, ...]]  # of kappa_0 and kappa_1
    key: int

    def apply(self, backend: Backend, order: int, unit: Array) -> Array:
        """Features (b, width) of kappa_order."""
        return self._expansion(order).apply(backend, unit)

    def vjp(self, backend: Backend, order: int, unit: Array, ct: Array) -> Array:
        """Their pullback (b, in_dim)."""
        return self._expansion(order).vjp(backend, unit, ct)

    def _expansion(self, order: int) -> Expansion:
        key = derive_key(self.key, order)
        return Expansion(self.in_dim, self.width, self.coefficients[order], self.width, key)


@dataclass(frozen=True, slots=True)
class ArcCosinePart:
    """Random features of kappa_1 (ReLUs) and of kappa_0 (steps), for unit vectors."""

    in_dim: int
    width: int
    key: int

    def apply(self, backend: Backend, order: int, unit: Array) -> Array:
        """Features (b, width) of kappa_order."""
        products = unit @ self._weights(backend, order, unit.dtype)
        if order == 1:
            return backend.xp.maximum(products, 0)
        return (products > 0) * unit.dtype.type(math.sqrt(2 / self.width))

    def vjp(self, backend: Backend, order: int, unit: Array, ct: Array) -> Array:
        """Their pullback (b, in_dim); steps are constant almost everywhere."""
        if order == 0:
            return backend.xp.zeros_like(unit)
        weights = self._weights(backend, order, unit.dtype)
        return (ct * (unit @ weights > 0)) @ weights.T

    def _weights(self, backend: Backend, order: int, dtype: Any) -> Array:
        key = derive_key(self.key, order)
        return directions(backend, dtype, (self.in_dim, self.width), sampling="gaussian", key=key)


Part = PolynomialPart | ArcCosinePart


class _Kept(NamedTuple):
    """What ReLU leaves behind for the pullback, in rows of pixels."""

    unit: Array
    norm: Array
    radius: Array
    value: Array  # features of kappa_1
    step: Array  # features of kappa_0
    psi: Array
    shape: tuple[int, int, int]
    has_squares: bool


@dataclass(frozen=True, slots=True)
class SketchedRelu(Stage):
    """ReLU: phi <- sqrt(K(p, p) / 2) kappa_1's features, psi <- psi (x) kappa_0's features over sqrt(2), sketched.

    Attributes
    ----------
    part : Part
    width : int
        Of psi below.
    pool : Window or None
        The mean over all pixels that follows at once; then psi (x) b is averaged without a sketch.
    key : int
    """

    part: Part
    width: int
    pool: Window | None
    key: int

    @property
    def above(self) -> tuple[int, int]:
        """Widths of phi and psi above."""
        return self.part.width, self.part.width if self.pool is None else self.width * self.part.width

    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        assert below.ntk is not None
        shape, psi = below.nngp.shape[:3], _rows(below.ntk)
        unit, norm = unit_rows(_rows(below.nngp))
        radius = norm if below.squares is None else backend.xp.sqrt(below.squares[..., 0].reshape(-1))
        half = unit.dtype.type(math.sqrt(0.5))
        value, step = self.part.apply(backend, 1, unit), self.part.apply(backend, 0, unit) * half
        nngp = (value * (half * radius)[:, None]).reshape(*shape, -1)
        kept = _Kept(unit, norm, radius, value, step, psi, shape, below.squares is not None)
        if self.pool is not None:
            ntk = mean_product(psi.reshape(*shape, -1), step.reshape(*shape, -1))
            return Pixels(Pooled(self.pool).mean(nngp), ntk, None), kept
        ntk = self._product.apply(psi, step).reshape(*shape, -1)
        squares = None if below.squares is None else below.squares * below.squares.dtype.type(0.5)
        return Pixels(nngp, ntk, squares), kept

    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        assert ct.ntk is not None
        half = saved.unit.dtype.type(math.sqrt(0.5))
        ct_nngp, (ct_psi, ct_step) = self._pull_outputs(backend, saved, ct)
        ct_unit = self.part.vjp(backend, 1, saved.unit, ct_nngp * (half * saved.radius)[:, None])
        ct_unit += self.part.vjp(backend, 0, saved.unit, ct_step * half)
        ct_unit -= saved.unit * (ct_unit * saved.unit).sum(axis=1)[:, None]
        ct_rows = ct_unit * ratio(backend, backend.xp.ones_like(saved.norm), saved.norm)[:, None]
        ct_radius = half * (ct_nngp * saved.value).sum(axis=1)
        squares = None
        if saved.has_squares:
            squares = self._pull_radius(backend, saved, ct_radius, ct.squares)
        else:
            ct_rows += ct_radius[:, None] * saved.unit
        return Pixels(ct_rows.reshape(*saved.shape, -1), ct_psi.reshape(*saved.shape, -1), squares)

    def _pull_outputs(self, backend: Backend, saved: _Kept, ct: Pixels) -> tuple[Array, tuple[Array, ...]]:
        """Cotangents of phi, and of the factors psi and b of the product, in rows."""
        if self.pool is None:
            return _rows(ct.nngp), self._product.vjp((saved.psi, saved.step), _rows(ct.ntk))
        psi, step = (x.reshape(*saved.shape, -1) for x in (saved.psi, saved.step))
        factors = pull_mean_product(psi, step, ct.ntk)
        return _rows(Pooled(self.pool).pull_mean(ct.nngp)), tuple(map(_rows, factors))

    def _pull_radius(self, backend: Backend, saved: _Kept, ct_radius: Array, ct: Array | None) -> Array:
        """Cotangent of the squares below: the radius is the root of the first."""
        first = ratio(backend, 0.5 * ct_radius, saved.radius).reshape(saved.shape)
        squares = backend.xp.stack((first, backend.xp.zeros_like(first)), axis=3)
        return squares if ct is None else squares + ct * ct.dtype.type(0.5)

    @property
    def _product(self) -> TensorSRHT:
        return TensorSRHT((self.width, self.part.width), self.part.width, seed=self.key)


def _rows(x: Any) -> Array:
    """Vectors (n, h, w, c) as rows."""
    return x.reshape(-1, x.shape[3])
