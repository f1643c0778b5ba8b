"""Feature vectors at every pixel of images, and what all maps share of the recursion of a convolutional kernel.

Letters: n images, (h, w) pixels, taps a of a window; K the NNGP and Theta the NTK between pixels. `Pixels` carries
vectors with <nngp_p, nngp_q> ~ K(p, q) and <ntk_p, ntk_q> ~ Theta(p, q), and their exact squares K(p, p) and
Theta(p, p) as long as these are known: convolutions and ReLU make them from those of single pixels, but the mean of
several pixels needs pairs.

A stage is one step of the network on `Pixels`: ``forward`` and its transpose ``pull``.
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..._check import check_range
from ..._typing import Array
from ...backends import Backend, get_backend
from ...layers._correlation import make_patches, scatter
from ...layers._geometry import Window
from ...sketch import SRHT
from ._network import Conv

__all__ = [
    "Flattened",
    "Pixels",
    "Pooled",
    "Readout",
    "Saved",
    "Stage",
    "Stages",
    "calibrate",
    "concatenate",
    "gather",
    "mean_product",
    "pull_calibrate",
    "pull_mean_product",
    "pull_squares",
    "ratio",
    "spread",
    "squares_above",
]

Saved = Any


class Pixels(NamedTuple):
    """What is known at every pixel; or the cotangents of that, where None is zero."""

    nngp: Array  # (n, h, w, .)
    ntk: Array | None  # (n, h, w, .); None is zero: nothing has been trained below
    squares: Array | None  # (n, h, w, 2): K(p, p) and Theta(p, p), None where they are not known


class Stage(abc.ABC):
    """One step of the network, carried out on feature vectors."""

    __slots__ = ()

    @abc.abstractmethod
    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        """The vectors above, and what `pull` needs."""

    @abc.abstractmethod
    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        """Cotangents below from those above."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Stages in a row, and the readout: features of images, and their pullback."""

    stages: tuple[Stage, ...]
    readout: "Readout"

    def features(self, backend: Backend, x: Array) -> Array:
        """Features (n, n_features) of images x (n, h, w, c)."""
        state = _read(x)
        for stage in self.stages:
            state, _ = stage.forward(backend, state)
        return self.readout.forward(backend, state)

    def pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        """Gradient (n, h, w, c) of sum(ct * features)."""
        state, kept = _read(x), []
        for stage in self.stages:
            state, saved = stage.forward(backend, state)
            kept.append(saved)
        cts = self.readout.pull(backend, state, ct)
        for stage, saved in zip(reversed(self.stages), reversed(kept), strict=True):
            cts = stage.pull(backend, saved, cts)
        return _pull_read(x, cts)


def _read(x: Array) -> Pixels:
    """The input: K_0(p, q) = <x_p, y_q> / c."""
    c, xp = x.shape[3], get_backend(x).xp
    square = check_range((x * x).sum(axis=3) * x.dtype.type(1 / c), "the squares of pixels")
    return Pixels(x * x.dtype.type(1 / math.sqrt(c)), None, xp.stack((square, xp.zeros_like(square)), axis=3))


def _pull_read(x: Array, ct: Pixels) -> Array:
    c = x.shape[3]
    gradient = ct.nngp * x.dtype.type(1 / math.sqrt(c))
    return gradient if ct.squares is None else gradient + (2 / c) * x * ct.squares[..., :1]


# --- sums over taps -----------------------------------------------------------------------------


def gather(x: Array, window: Window) -> Array:
    """Vectors (n, h, w, c) at all taps of every place, one after the other: (n, rows, columns, taps c)."""
    found = make_patches(x[:, :, :, None], window)
    return found.reshape(x.shape[0], *window.places, -1)


def concatenate(backend: Backend, nngp: Array, step: Conv) -> Array:
    """The vectors u with <u_p, u_q> = K(p, q) above a convolution: scaled taps, and a constant for the bias."""
    u = gather(nngp, step.window)
    u = u * u.dtype.type(step.W_std / math.sqrt(step.window.taps))
    if not step.b_std:
        return u
    return backend.xp.concatenate((u, backend.xp.full((*u.shape[:3], 1), step.b_std, u.dtype)), axis=3)


def spread(ct: Array, window: Window) -> Array:
    """Transpose of `gather`."""
    n, channels = ct.shape[0], ct.shape[3] // window.taps
    out = get_backend(ct).xp.empty((n, *window.size, channels), ct.dtype)
    scatter(ct, window, 1, out)
    return out


def squares_above(squares: Array, window: Window, scale: float, b_std: float) -> Array:
    """Squares (n, rows, columns, 2) above a convolution: K <- scale^2 sum_a K + b_std^2, Theta <- K + ..."""
    sums = gather(squares, window).reshape(squares.shape[0], *window.places, window.taps, 2).sum(axis=3)
    sums *= scale**2
    sums[..., 0] += b_std**2
    sums[..., 1] += sums[..., 0]
    return check_range(sums, "the variances of pixels")


def pull_squares(ct: Array, window: Window, scale: float) -> Array:
    """Transpose of `squares_above`."""
    xp = get_backend(ct).xp
    ct = xp.stack((ct[..., 0] + ct[..., 1], ct[..., 1]), axis=3) * scale**2
    taps = xp.broadcast_to(ct[..., None, :], (*ct.shape[:3], window.taps, 2))
    return spread(taps.reshape(*ct.shape[:3], -1), window)


def calibrate(backend: Backend, v: Array, square: Array) -> Array:
    """Vectors (n, h, w, c) in their direction with a given square (n, h, w), which may be 0 where they are 0."""
    return v * backend.xp.sqrt(ratio(backend, square, dot(v, v)))[..., None]


def pull_calibrate(backend: Backend, v: Array, square: Array, ct: Array) -> tuple[Array, Array]:
    """Cotangents of the arguments of `calibrate`."""
    norm = dot(v, v)
    gain, radial = backend.xp.sqrt(ratio(backend, square, norm)), dot(ct, v)
    ct_square = 0.5 * gain * ratio(backend, radial, square)
    ct_v = (ct - v * ratio(backend, radial, norm)[..., None]) * gain[..., None]
    return ct_v, ct_square


def dot(a: Array, b: Array) -> Array:
    """Inner products of vectors (n, h, w, c)."""
    return get_backend(a).xp.einsum("nhwc,nhwc->nhw", a, b)


def ratio(backend: Backend, a: Array, b: Array) -> Array:
    """Quotients a / b, and 0 where b is 0: where all taps read black pixels there is no direction."""
    return backend.xp.where(b > 0, a / backend.xp.where(b > 0, b, 1), 0)


def mean_product(psi: Array, b: Array) -> Array:
    """Means over all pixels of the products psi_p b_p^T, (n, h, w, s) and (n, h, w, m): (n, 1, 1, s m)."""
    xp, pixels = get_backend(psi).xp, math.prod(psi.shape[1:3])
    product = xp.matmul(_in_rows(psi).transpose(0, 2, 1), _in_rows(b))
    return (product * psi.dtype.type(1 / pixels)).reshape(len(psi), 1, 1, -1)


def pull_mean_product(psi: Array, b: Array, ct: Array) -> tuple[Array, Array]:
    """Cotangents of the arguments of `mean_product`."""
    xp, pixels = get_backend(psi).xp, math.prod(psi.shape[1:3])
    ct = ct.reshape(len(psi), psi.shape[3], b.shape[3]) * psi.dtype.type(1 / pixels)
    ct_psi, ct_b = xp.matmul(_in_rows(b), ct.transpose(0, 2, 1)), xp.matmul(_in_rows(psi), ct)
    return ct_psi.reshape(psi.shape), ct_b.reshape(b.shape)


def _in_rows(x: Array) -> Array:
    """(n, h, w, c) to (n, h w, c)."""
    return x.reshape(x.shape[0], -1, x.shape[3])


# --- stages without random numbers --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pooled(Stage):
    """Mean over windows: a mean of vectors has the mean of their inner products."""

    window: Window

    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        ntk = None if below.ntk is None else self.mean(below.ntk)
        return Pixels(self.mean(below.nngp), ntk, None), None

    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        return Pixels(self.pull_mean(ct.nngp), None if ct.ntk is None else self.pull_mean(ct.ntk), None)

    @property
    def is_global(self) -> bool:
        """Whether the only place reads every pixel."""
        return self.window.places == (1, 1) and self.window.kernel == self.window.size

    def mean(self, x: Array) -> Array:
        """Mean over windows of (n, h, w, c)."""
        if self.is_global:
            return x.mean(axis=1, keepdims=True).mean(axis=2, keepdims=True)
        y = get_backend(x).xp.zeros((x.shape[0], *self.window.places, x.shape[3]), x.dtype)
        for _, pixels, places in self.window.slices():
            y[(slice(None), *places)] += x[(slice(None), *pixels)]
        y *= 1 / self.window.taps
        return y

    def pull_mean(self, ct: Array) -> Array:
        """Transpose of `mean`."""
        xp, shape = get_backend(ct).xp, (ct.shape[0], *self.window.size, ct.shape[3])
        ct = ct * ct.dtype.type(1 / self.window.taps)
        if self.is_global:
            return xp.broadcast_to(ct, shape)
        x = xp.zeros(shape, ct.dtype)
        for _, pixels, places in self.window.slices():
            x[(slice(None), *pixels)] += ct[(slice(None), *places)]
        return x


@dataclass(frozen=True, slots=True)
class Flattened(Stage):
    """All pixels in one vector, over the root of their number: the mean of inner products of equal pixels."""

    size: tuple[int, int]

    def forward(self, backend: Backend, below: Pixels) -> tuple[Pixels, Saved]:
        ntk = None if below.ntk is None else self._flat(below.ntk)
        squares = None if below.squares is None else below.squares.mean(axis=(1, 2), keepdims=True)
        return Pixels(self._flat(below.nngp), ntk, squares), None

    def pull(self, backend: Backend, saved: Saved, ct: Pixels) -> Pixels:
        squares = ct.squares
        if squares is not None:
            squares = backend.xp.broadcast_to(squares / math.prod(self.size), (len(squares), *self.size, 2))
        return Pixels(self._image(ct.nngp), None if ct.ntk is None else self._image(ct.ntk), squares)

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(math.prod(self.size))

    def _flat(self, x: Array) -> Array:
        return x.reshape(x.shape[0], 1, 1, -1) * x.dtype.type(self._scale)

    def _image(self, ct: Array) -> Array:
        return ct.reshape(ct.shape[0], *self.size, -1) * ct.dtype.type(self._scale)


@dataclass(frozen=True, slots=True)
class Readout:
    """The vectors of the only pixel that is left, brought to n_features.

    Of a last dense layer these are [W_std ntk ; W_std nngp ; b_std], of a network without one those of the NTK. An
    SRHT where there are more than n_features, zeros behind where there are fewer.
    """

    head: Conv | None
    widths: tuple[int, int]  # of nngp and ntk; the latter 0 where nothing has been trained below
    n_features: int
    key: int

    @property
    def _parts(self) -> Sequence[int]:
        """Columns of ntk, nngp and bias in the row."""
        nngp, ntk = self.widths
        return (ntk, 0, 0) if self.head is None else (ntk, nngp, int(self.head.b_std > 0))

    @property
    def _scale(self) -> float:
        return 1.0 if self.head is None else self.head.W_std

    def forward(self, backend: Backend, state: Pixels) -> Array:
        """Features (n, n_features)."""
        n, scale = state.nngp.shape[0], state.nngp.dtype.type(self._scale)
        ntk, nngp, bias = self._parts
        row = backend.xp.zeros((n, max(sum(self._parts), self._shortest)), state.nngp.dtype)
        if ntk and state.ntk is not None:
            row[:, :ntk] = state.ntk.reshape(n, -1) * scale
        if nngp:
            row[:, ntk : ntk + nngp] = state.nngp.reshape(n, -1) * scale
        if bias and self.head is not None:
            row[:, ntk + nngp] = self.head.b_std
        return self._sketch.apply(row) if self._shrinks else row

    def pull(self, backend: Backend, state: Pixels, ct: Array) -> Pixels:
        """Cotangents of the vectors."""
        scale = ct.dtype.type(self._scale)
        ntk, nngp, _ = self._parts
        row = self._sketch.adjoint(ct) if self._shrinks else ct
        ct_nngp = backend.xp.zeros_like(state.nngp)
        if nngp:
            ct_nngp = (row[:, ntk : ntk + nngp] * scale).reshape(state.nngp.shape)
        if state.ntk is None:
            return Pixels(ct_nngp, None, None)
        return Pixels(ct_nngp, (row[:, :ntk] * scale).reshape(state.ntk.shape), None)

    @property
    def _shrinks(self) -> bool:
        return sum(self._parts) > self.n_features

    @property
    def _shortest(self) -> int:
        return 0 if self._shrinks else self.n_features

    @property
    def _sketch(self) -> SRHT:
        return SRHT(sum(self._parts), self.n_features, seed=self.key)
