"""Subsampled randomized Hadamard transform: random signs, Walsh-Hadamard transform, a sample of its rows.

Letters: d input width, p the power of two at or above d, m sketch width, D random signs, H the p x p matrix of +1
and -1 of Sylvester, P the m sampled rows.

The sample is *balanced*: it runs through random permutations of all p rows, one after another, and stops after m.
So no row is drawn twice before every row was drawn once, m may exceed p, and the variance is that of sampling
without replacement. For m a multiple of p the transform is an isometry.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .._check import quiet
from .._memo import memoised
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels import countsketch, gather, hadamard, philox
from ._base import Scratch, SeededSketch, dense, row_tiles
from ._row_stream import BlockStream, RowStream

__all__ = ["SRHT"]

Tables: TypeAlias = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class HadamardSample:
    """The linear map ``scale P H D`` of unchecked row tiles; also one half of a TensorSRHT.

    Attributes
    ----------
    in_dim, n_rows : int
        d and m.
    key : int
        Of the stream from which the keys of D and P are derived.
    scale : float
    shuffled : bool
        Whether P is in random order even where it takes each of the p rows once. In natural order nothing has to be
        moved; of the two halves of a TensorSRHT one needs a random order.
    signed : bool
        Whether the sampled rows get random signs of their own, which several transforms that are added need: without
        them, the first coordinates of all, which meet the row of ones of H, would go to the same place.
    """

    in_dim: int
    n_rows: int
    key: int
    scale: float
    shuffled: bool
    signed: bool = False

    @property
    def keeps_order(self) -> bool:
        """Whether P is the identity, without signs."""
        return self.n_rows == self.order and not (self.shuffled or self.signed)

    @property
    def order(self) -> int:
        """The order p of H."""
        return 1 << (self.in_dim - 1).bit_length()

    def tables(self, backend: Backend, dtype: Any, *, keep: bool = True) -> Tables:
        """What `project` and `pull` read, kept for the next call or made anew."""
        return memoised(self, _sample_tables, backend, dtype) if keep else _sample_tables(self, backend, dtype)

    def project(self, x: Array, scratch: Scratch, out: Array, tables: Tables | None = None) -> None:
        """Write ``scale P H D x`` of each row of `x` (n, d) to `out` (n, m)."""
        backend = scratch.backend
        sign, *sample = tables or self.tables(backend, x.dtype)
        padded = out if self.keeps_order else scratch.take(x.shape[0], self.order)
        backend.xp.multiply(x, sign, out=padded[:, : self.in_dim])
        padded[:, self.in_dim :] = 0
        with quiet():
            backend.launch(hadamard.transform, padded, padded)
        if not self.keeps_order:
            backend.launch(gather.signed, padded, *sample, out)
            scratch.give(padded)

    def pull(self, z: Array, scratch: Scratch, out: Array, tables: Tables | None = None) -> None:
        """Write the transpose, ``scale D H P^T z`` of each row of `z` (n, m), to `out` (n, d)."""
        backend = scratch.backend
        sign, *sample = tables or self.tables(backend, z.dtype)
        padded = scratch.take(z.shape[0], self.order)
        with quiet():
            if self.keeps_order:
                padded[...] = z
            else:
                backend.launch(countsketch.apply, z, *sample, padded)
            backend.launch(hadamard.transform, padded, padded)
        backend.xp.multiply(padded[:, : self.in_dim], sign, out=out)
        scratch.give(padded)


def _sample_tables(sample: HadamardSample, backend: Backend, dtype: Any) -> Tables:
    """Signs times scale (d,); rows of H (1, m) and their signs (1, m), since sampling is a CountSketch transposed."""
    sign = backend.xp.empty(sample.in_dim, dtype)
    backend.launch(philox.signs, philox.derive_key(sample.key, 0), 0, sign)
    sign *= sign.dtype.type(sample.scale)
    if sample.keeps_order:
        return (sign,)
    rows = balanced_rows(philox.derive_key(sample.key, 1), sample.order, sample.n_rows, backend)
    row_sign = backend.xp.ones((1, sample.n_rows), dtype)
    if sample.signed:
        backend.launch(philox.signs, philox.derive_key(sample.key, 2), 0, row_sign[0])
    return sign, rows[None], row_sign


def balanced_rows(key: int, n_rows: int, n_samples: int, backend: Backend) -> Array:
    """Draw `n_samples` of `n_rows` rows by running through random permutations of all of them.

    A permutation sorts random words of 64 bits; 32 bits would tie too often.
    """
    rounds = -(-n_samples // n_rows)
    words = backend.xp.empty((rounds, n_rows, 2), np.uint32)
    backend.launch(philox.bits, key, 0, words.reshape(-1))
    words = words.astype(np.uint64)
    order = (words[..., 0] << np.uint64(32) | words[..., 1]).argsort(axis=1)
    return order.reshape(-1)[:n_samples].astype(np.int32)


@dataclass(frozen=True, slots=True)
class SRHT(SeededSketch):
    """Subsampled randomized Hadamard transform: ``S x = P H D x / sqrt(sketch_dim)``.

    D are random signs, H the Walsh-Hadamard matrix of order p, the power of two at or above `in_dim`, and P samples
    `sketch_dim` of its rows, each ``floor(sketch_dim / p)`` or ``ceil(sketch_dim / p)`` times: without replacement as
    far as possible. ``E <S x, S y> = <x, y>``.

    Parameters
    ----------
    in_dim, sketch_dim : int
        Input and output width, 1 <= width < 2**31. Either may be the larger one.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S x, S y>``, exactly, with ``k = sketch_dim mod p``:

        (|x|^2 |y|^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2) / sketch_dim * (k / sketch_dim) (p - k) / (p - 1)

    For ``sketch_dim < p`` the last two factors are ``(p - sketch_dim) / (p - 1)``, the gain over sampling with
    replacement; for k = 0 the variance is 0: S is an isometry.

    Cost per row: ``p log2 p`` additions; memory: the result and a tile of padded rows. Sparse input is made dense
    tile by tile and costs the same as dense input; use `CountSketch` or `SparseJL` where cost should follow nnz.

    Determinism: bitwise across targets, runs, tiles of rows and thread counts; on a GPU the sums have the same order.

    Backends: numpy, cupy.

    References
    ----------
    Ailon, Chazelle. The fast Johnson-Lindenstrauss transform and approximate nearest neighbors. SIAM J. Computing 39,
      2009.
    Tropp. Improved analysis of the subsampled randomized Hadamard transform. Adv. Adaptive Data Analysis 3, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((1, 8))
    >>> z = SRHT(8, 8, seed=0).apply(x)
    >>> round(float((z * z).sum()), 12)
    8.0
    """

    def _apply_unchecked(self, x: Any, backend: Backend) -> Array:
        """`apply` of checked rows; sparse ones are made dense, a tile at a time."""
        sample, scratch = self._sample(), Scratch(backend, x.dtype)
        out = backend.xp.empty((x.shape[0], self.sketch_dim), x.dtype)
        for rows in row_tiles(x.shape[0], sample.order, x.dtype):
            sample.project(dense(x[rows]), scratch, out[rows])
        return out

    def _adjoint_unchecked(self, z: Array, backend: Backend) -> Array:
        """`adjoint` of checked rows."""
        sample, scratch = self._sample(), Scratch(backend, z.dtype)
        out = backend.xp.empty((z.shape[0], self.in_dim), z.dtype)
        for rows in row_tiles(z.shape[0], sample.order, z.dtype):
            sample.pull(z[rows], scratch, out[rows])
        return out

    def _open_stream(self, n_rows: int, backend: Backend, dtype: Any) -> RowStream:
        """`apply` of unchecked dense rows whose columns come in parts, which are held until the rows are whole."""

        def add_block(x: Array, first: int, out: Array) -> None:
            out[...] = self._apply_unchecked(x, backend)

        out = backend.xp.empty((n_rows, self.sketch_dim), dtype)
        return BlockStream(range(self.in_dim), self.in_dim, add_block, out)

    def _columns_held(self, backend: Backend) -> int:
        """Numbers of a row that a stream may hold at once: all."""
        return self.in_dim

    def _sample(self) -> HadamardSample:
        key = philox.derive_key(self.seed, Stream.SRHT)
        return HadamardSample(self.in_dim, self.sketch_dim, key, 1.0 / math.sqrt(self.sketch_dim), shuffled=False)
