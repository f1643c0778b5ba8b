"""Cotangents and per-sample parameter Jacobians, kept as the products they are.

Letters: n samples, s spatial axes, t positions (the spatial axes as one; 1 for a dense layer on vectors), k cotangents
per sample, c channels; o outputs and i inputs of a weight, both counted within one of g groups.

The k cotangents of a sample lie beside its channels, (n, s, k, c), so that the weight Jacobian of a sample is one
matrix product over its positions, and k cotangents pass a spatial layer as k c channels.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

from .._typing import Array
from ..backends import get_backend
from ..kernels import gates

__all__ = ["Acts", "Cotangent", "Factors", "JacobianFactors", "SparseFactors"]

# Entries of a product from which a kernel of its own, with threads, is worth its start.
_PARALLEL = 2**20


@dataclass(frozen=True, slots=True)
class Cotangent:
    """k cotangents of every sample at some place of a network.

        value[n, s, k, c] = gate[n, s, c] shared[n, s, k, c]

    Axes of `shared` over which it does not change have size 1. Below a linear head all samples share their cotangents;
    below a global average all positions do, too; and an elementwise layer then only adds a gate. So the product need
    not be formed before the next weight.

    Attributes
    ----------
    shared : array, shape (n or 1, *spatial or ones, k, c)
    gate : array, shape (n, *spatial, c), optional
        None means ones.
    owned : bool
        Nothing else holds `shared`, so that the layer below may overwrite it (`gated`). Whoever passes a cotangent on
        twice passes `lent`.
    """

    shared: Array
    gate: Array | None = None
    owned: bool = False
    _formed: list[Array] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def k(self) -> int:
        """Number of cotangents per sample."""
        return int(self.shared.shape[-2])

    def dense(self, n: int, spatial: tuple[int, ...]) -> Array:
        """The product, shape (n, *spatial, k, c), C-contiguous; may share memory with `shared`."""
        xp = get_backend(self.shared).xp
        if self.gate is not None:
            return self.product()
        shape = (n, *spatial, *self.shared.shape[-2:])
        if self.shared.shape == shape:  # broadcast_to would make it read-only, and kernels compile for such again
            return xp.ascontiguousarray(self.shared)
        return xp.ascontiguousarray(xp.broadcast_to(self.shared, shape))

    def product(self) -> Array:
        """The product, formed once; without a gate it is `shared`, with axes of size 1."""
        if self.gate is None:
            return self.shared
        if not self._formed:
            self._formed.append(_gate(self.shared, self.gate))
        return self._formed[0]

    def rows(self, rows: slice) -> "Cotangent":
        """The cotangents of some samples; formed if they were."""
        if self._formed:
            return Cotangent(self._formed[0][rows])
        shared = self.shared if self.shared.shape[0] == 1 else self.shared[rows]
        return Cotangent(shared, None if self.gate is None else self.gate[rows])

    def lent(self) -> "Cotangent":
        """The same cotangent, not to be overwritten."""
        return Cotangent(self.shared, self.gate) if self.owned else self

    def gated(self, slope: Array) -> "Cotangent":
        """The cotangent below an elementwise layer with derivative `slope` (n, *spatial, c)."""
        if self.gate is not None:
            return Cotangent(self.shared, self.gate * slope)
        if self.shared.shape[0] == 1 or self.shared.shape[:-2] != slope.shape[:-1]:
            # Also for a single sample: it may meet a side of several, which share what is its own.
            return Cotangent(self.shared, slope)
        return Cotangent(_gate(self.shared, slope, self.shared if self.owned else None), owned=True)

    def scaled(self, factor: Array | float) -> "Cotangent":
        """The cotangent times a number, or times one number per channel, shape (c,)."""
        return Cotangent(self.shared * factor, self.gate)

    def __add__(self, other: "Cotangent") -> "Cotangent":
        """Sum of two cotangents at one place."""
        if self.gate is other.gate:
            return Cotangent(self.shared + other.shared, self.gate)
        return Cotangent(self.product() + other.product())


def _gate(shared: Array, gate: Array, out: Array | None = None) -> Array:
    """The product gate[n, s, c] shared[n, s, k, c], in `out` if given."""
    backend = get_backend(shared)
    (n, *spatial, c), k = gate.shape, shared.shape[-2]
    if out is None or not out.flags.c_contiguous:
        out = backend.xp.empty((n, *spatial, k, c), gate.dtype)
    if backend.name == "numpy" and out.size < _PARALLEL:
        return backend.xp.multiply(gate[..., None, :], shared, out=out)
    t = math.prod(spatial)
    if math.prod(shared.shape[1:-2]) not in (1, t):  # constant along some of the spatial axes
        shared = backend.xp.broadcast_to(shared, (shared.shape[0], *spatial, k, c))
    blocks = backend.xp.ascontiguousarray(shared).reshape(shared.shape[0], -1, k, c)
    gate = backend.xp.ascontiguousarray(gate).reshape(n, t, c)
    backend.launch(gates.multiply, blocks, gate, out.reshape(n, t, k, c))
    return out


class Acts(Protocol):
    """What multiplies a cotangent in a weight's Jacobian: an array (n, t, g i), or what makes its rows when asked.

    ``acts[rows]`` with a slice of samples returns the array (rows, t, g i), C-contiguous.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, t, g i)."""

    def __getitem__(self, rows: slice) -> Array:
        """The array of some samples."""


@dataclass(frozen=True, slots=True)
class JacobianFactors:
    """Per-sample Jacobian of one parameter array, as a sum of outer products.

        J[n, k, (i, g, o)] = scale sum_t act[n, t, g, i] delta[n, t, k, g, o]

    A weight is stored (i, g o): inputs first, as in [inputs, outputs] and HWIO. Scale and shift of a normalization, and
    depthwise filters, have one group per channel.

    Attributes
    ----------
    ct : Cotangent
        delta, with all spatial axes: (n, *spatial, k, g o).
    act : Acts or None
        (n, t, g i); None means ones: a bias.
    shape : tuple of int
        Shape of the parameter array.
    groups : int
    scale : float
        W_std / sqrt(fan-in) or b_std in the NTK parameterization, else 1.
    """

    ct: Cotangent
    act: Acts | None
    shape: tuple[int, ...]
    n: int
    spatial: tuple[int, ...]
    groups: int = 1
    scale: float = 1.0

    @property
    def positions(self) -> int:
        """Number t of positions."""
        return math.prod(self.spatial)

    @property
    def k(self) -> int:
        """Number of cotangents per sample."""
        return self.ct.k

    @property
    def size(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape)

    @property
    def out_width(self) -> int:
        """Width g o of a cotangent."""
        return int(self.ct.shared.shape[-1])

    @property
    def in_width(self) -> int:
        """Width g i of an act; 1 for a bias."""
        return 1 if self.act is None else self.act.shape[-1]

    @property
    def _is_channelwise(self) -> bool:
        """Whether every group has one input and one output: the scale of a normalization."""
        return self.in_width == self.out_width == self.groups

    @property
    def delta(self) -> Array:
        """The cotangents as one array, shape (n, t, k, g o)."""
        return self.ct.dense(self.n, self.spatial).reshape(self.n, self.positions, self.k, self.out_width)

    def rows(self, rows: slice) -> "JacobianFactors":
        """The factors of some samples."""
        start, stop, _ = rows.indices(self.n)
        act = None if self.act is None else self.act[rows]
        return JacobianFactors(self.ct.rows(rows), act, self.shape, stop - start, self.spatial, self.groups, self.scale)

    def jacobian(self) -> Array:
        """The Jacobian itself, shape (n, k, *shape)."""
        delta = self.delta
        n, t, k, _ = delta.shape
        if self.act is None:
            return (self.scale * delta.sum(axis=1)).reshape(n, k, *self.shape)
        xp, g = get_backend(delta).xp, self.groups
        if self._is_channelwise:
            return (self.scale * xp.einsum("ntc,ntkc->nkc", self.act[0:n], delta)).reshape(n, k, *self.shape)
        act = self.act[0:n].reshape(n, t, g, -1).transpose(0, 2, 3, 1)  # (n, g, i, t)
        delta = delta.reshape(n, t, k, g, -1).transpose(0, 3, 1, 2, 4).reshape(n, g, t, -1)  # (n, g, t, k o)
        out = xp.matmul(act, delta).reshape(n, g, act.shape[2], k, -1)  # (n, g, i, k, o)
        return (self.scale * out.transpose(0, 3, 2, 1, 4)).reshape(n, k, *self.shape)

    def total(self) -> Array:
        """The Jacobian summed over samples, shape (k, *shape): a vector-Jacobian product of the batch."""
        delta = self.delta
        n, t, k, _ = delta.shape
        if self.act is None:
            return (self.scale * delta.sum(axis=(0, 1))).reshape(k, *self.shape)
        xp, g = get_backend(delta).xp, self.groups
        if self._is_channelwise:
            return (self.scale * xp.einsum("ntc,ntkc->kc", self.act[0:n], delta)).reshape(k, *self.shape)
        act = self.act[0:n].reshape(n * t, g, -1).transpose(1, 2, 0)  # (g, i, n t)
        delta = delta.reshape(n * t, k, g, -1).transpose(2, 0, 1, 3).reshape(g, n * t, -1)  # (g, n t, k o)
        out = xp.matmul(act, delta).reshape(g, act.shape[1], k, -1)  # (g, i, k, o)
        return (self.scale * out.transpose(2, 1, 0, 3)).reshape(k, *self.shape)


@dataclass(frozen=True, slots=True)
class SparseFactors:
    """Per-sample Jacobian of an embedding table, by the rows that a sample reads.

        J[n, k, v, c] = scale sum over t with index[n, t] = v of delta[n, t, k, c]

    Attributes
    ----------
    ct : Cotangent
        delta: (n, *spatial, k, c).
    index : array of int, shape (n, t)
    shape : (vocabulary, c)
    scale : float
    """

    ct: Cotangent
    index: Array
    shape: tuple[int, ...]
    n: int
    spatial: tuple[int, ...]
    scale: float = 1.0

    @property
    def k(self) -> int:
        """Number of cotangents per sample."""
        return self.ct.k

    @property
    def size(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape)

    @property
    def delta(self) -> Array:
        """The cotangents as one array, shape (n, t, k, c)."""
        return self.ct.dense(self.n, self.spatial).reshape(*self.index.shape, self.k, self.shape[1])

    def rows(self, rows: slice) -> "SparseFactors":
        """The factors of some samples."""
        start, stop, _ = rows.indices(self.n)
        return SparseFactors(self.ct.rows(rows), self.index[rows], self.shape, stop - start, self.spatial, self.scale)

    def jacobian(self) -> Array:
        """The Jacobian itself, shape (n, k, vocabulary, c): for checks, since it is almost all zeros."""
        delta = self.delta
        xp, (n, positions, k, _) = get_backend(delta).xp, delta.shape
        out, samples = xp.zeros((n, k, *self.shape), delta.dtype), xp.arange(n)
        for t in range(positions):  # one of every sample at a time, so that no row is met twice
            out[samples, :, self.index[:, t]] += delta[:, t]
        return self.scale * out

    def total(self) -> Array:
        """The Jacobian summed over samples, shape (k, vocabulary, c)."""
        delta = self.scale * self.delta
        xp, (vocabulary, c) = get_backend(delta).xp, self.shape
        out = xp.zeros((vocabulary, self.k, c), delta.dtype)
        xp.add.at(out, self.index.reshape(-1), delta.reshape(-1, self.k, c))
        return out.transpose(1, 0, 2)


Factors = JacobianFactors | SparseFactors
