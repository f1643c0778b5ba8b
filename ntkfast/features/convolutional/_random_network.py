"""A random convolutional network, and beside it a random linear network that it gates: stages of random features.

phi (nngp) is the network with weights W, psi (ntk) the linear one. See `CNTKRandomFeatures`.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..._typing import Array
from ...backends import Backend, get_backend
from ...layers._geometry import Window
from ...sketch import SRHT, CountSketch
from .._weights import filters
from ._network import Conv
from ._pixels import (
    Pixels,
    Pooled,
    Saved,
    Stage,
    calibrate,
    concatenate,
    gather,
    mean_product,
    pull_calibrate,
    pull_mean_product,
    pull_squares,
    spread,
    squares_above,
)

__all__ = ["Gate", "GatedMean", "RandomConv"]


class _Kept(NamedTuple):
    """What a convolution leaves behind for the pullback: vectors before they are calibrated, and squares."""

    nngp: Array
    ntk: Array
    squares: Array | None


@dataclass(frozen=True, slots=True)
class RandomConv(Stage):
    """A convolution: random filters for phi, sketches of concatenated taps for psi.

    Attributes
    ----------
    step : Conv
    widths : (int, int)
        Of phi and psi below.
    channels, width : int
        Of phi and psi above.
    sampling : str
    keys : (int, int, int)
        Of W, S and R.
    """

    step: Conv
    widths: tuple[int, int]
    channels: int
    width: int
    sampling: str
    keys: tuple[int, int, int]

    @property
    def _scale(self) -> float:
        return self.step.W_std / math.sqrt(self.step.window.taps)

    @property
    def _u_dim(self) -> int:
        return self.step.window.taps * self.widths[0] + int(self.step.b_std > 0)

    def _filters(self, backend: Backend, dtype: Any) -> Array:
        """Half of the columns of W; the others are the same with a minus, in the same order."""
        m = -(-self.channels // 2)
        w = filters(backend, dtype, (self._u_dim, m), sampling=self.sampling, key=self.keys[0])
        return w * w.dtype.type(1 / math.sqrt(self.channels))

    def _project(self, backend: Backend, u: Array) -> Array:
        """W u at every pixel."""
        half = _times(u, self._filters(backend, u.dtype))
        return backend.xp.concatenate((half, -half[..., : self.channels // 2]), axis=3)

    def _pull_project(self, backend: Backend, ct: Array) -> Array:
        """Transpose of `_project`."""
        m = -(-self.channels // 2)
        half = ct[..., :m].copy()
        half[..., : self.channels - m] -= ct[..., m:]
        return _times(half, self._filters(backend, ct.dtype).T)

    def _sum_of(self, part: int, in_dim: int) -> SRHT | CountSketch:
        """S or R: an SRHT of few numbers, a CountSketch of many."""
        kind = SRHT if in_dim <= self.width else CountSketch
        return kind(in_dim, self.width, seed=self.keys[part])

    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        u = concatenate(backend, below.nngp, self.step)
        nngp = self._project(backend, u)
        ntk = self._sketch(u, 2)
        if below.ntk is not None:
            ntk += self._sketch(gather(below.ntk, self.step.window), 1) * u.dtype.type(self._scale)
        if below.squares is None:
            return Pixels(nngp, ntk, None), _Kept(nngp, ntk, None)
        squares = squares_above(below.squares, self.step.window, self._scale, self.step.b_std)
        above = Pixels(calibrate(backend, nngp, squares[..., 0]), calibrate(backend, ntk, squares[..., 1]), squares)
        return above, _Kept(nngp, ntk, squares)

    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        assert ct.ntk is not None
        window, scale = self.step.window, ct.nngp.dtype.type(self._scale)
        ct_squares = None
        if saved.squares is not None:
            ct, ct_squares = self._pull_calibration(backend, saved, ct)
        ct_u = self._pull_project(backend, ct.nngp) + self._unsketch(ct.ntk, 2)
        ct_nngp = spread(ct_u[..., : window.taps * self.widths[0]] * scale, window)
        ct_ntk = spread(self._unsketch(ct.ntk, 1) * scale, window) if self.widths[1] else None
        return Pixels(ct_nngp, ct_ntk, ct_squares)

    def _pull_calibration(self, backend: Backend, saved: _Kept, ct: Pixels) -> tuple[Pixels, Array]:
        """Cotangents of the vectors before they are calibrated, and of the squares below."""
        assert saved.squares is not None
        nngp, first = pull_calibrate(backend, saved.nngp, saved.squares[..., 0], ct.nngp)
        ntk, second = pull_calibrate(backend, saved.ntk, saved.squares[..., 1], ct.ntk)
        squares = backend.xp.stack((first, second), axis=3)
        if ct.squares is not None:
            squares = squares + ct.squares
        return Pixels(nngp, ntk, None), pull_squares(squares, self.step.window, self._scale)

    def _sketch(self, x: Array, part: int) -> Array:
        """S or R at every pixel."""
        sketch = self._sum_of(part, x.shape[3])
        return sketch.apply(x.reshape(-1, x.shape[3])).reshape(*x.shape[:3], -1)

    def _unsketch(self, ct: Array, part: int) -> Array:
        """Transpose of `_sketch`."""
        sketch = self._sum_of(part, self._u_dim if part == 2 else self.step.window.taps * self.widths[1])
        return sketch.adjoint(ct.reshape(-1, ct.shape[3])).reshape(*ct.shape[:3], -1)


def _times(x: Array, matrix: Array) -> Array:
    """Products of vectors (n, h, w, c) with a matrix."""
    return (x.reshape(-1, x.shape[3]) @ matrix).reshape(*x.shape[:3], -1)


@dataclass(frozen=True, slots=True)
class Gate(Stage):
    """ReLU: phi is cut at 0, and psi is gated by the steps of phi, repeated or cut to its width."""

    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        assert below.ntk is not None
        gate = below.nngp > 0
        squares = None if below.squares is None else below.squares * below.squares.dtype.type(0.5)
        return Pixels(below.nngp * gate, _gated(below.ntk, gate), squares), gate

    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        assert ct.ntk is not None
        squares = None if ct.squares is None else ct.squares * ct.squares.dtype.type(0.5)
        return Pixels(ct.nngp * saved, _gated(ct.ntk, saved), squares)


def _gated(ntk: Array, gate: Array) -> Array:
    """Vectors psi (n, h, w, s) times steps (n, h, w, m), of which channel j meets step j modulo m."""
    m, s = gate.shape[3], ntk.shape[3]
    out = get_backend(ntk).xp.empty_like(ntk)
    for start in range(0, s, m):
        channels = slice(start, min(start + m, s))
        out[..., channels] = ntk[..., channels] * gate[..., : channels.stop - start]
    return out


@dataclass(frozen=True, slots=True)
class GatedMean(Stage):
    """ReLU and the mean over all pixels: psi becomes the mean of the matrices psi_p b_p^T / sqrt(m), unsketched."""

    window: Window

    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        assert below.ntk is not None
        gate = below.nngp > 0
        ntk = mean_product(below.ntk, self._steps(gate, below.ntk.dtype))
        return Pixels(Pooled(self.window).mean(below.nngp * gate), ntk, None), (gate, below.ntk)

    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        assert ct.ntk is not None
        gate, psi = saved
        ct_psi, _ = pull_mean_product(psi, self._steps(gate, psi.dtype), ct.ntk)
        return Pixels(Pooled(self.window).pull_mean(ct.nngp) * gate, ct_psi, None)

    def _steps(self, gate: Array, dtype: Any) -> Array:
        """The steps b over the root of their number."""
        return gate.astype(dtype) * dtype.type(1 / math.sqrt(gate.shape[3]))
