"""Subsampled randomized Hadamard transforms of blocks of columns, added up: an SRHT for rows of any length.

Letters: b a block, d_b its columns, p_b the power of two at or above d_b, m sketch width; D_b, H_b and P_b as in
`srht`, E_b random signs of the m results.

The signs E_b are what makes the transforms independent maps. A coordinate that meets the column of ones of H goes to
all results with one sign, whichever rows are sampled; without E_b two such coordinates of different blocks would
be parallel.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from .._check import check_int, quiet, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels import philox
from ._base import PartwiseSketch, Scratch, SeededSketch, row_tiles
from ._row_stream import BlockStream, RowStream
from .srht import HadamardSample

__all__ = ["BlockSRHT"]

# Columns whose tables are kept for the next call.
KEPT_COLUMNS = 2**22


@dataclass(frozen=True, slots=True)
class BlockSRHT(SeededSketch, PartwiseSketch):
    """SRHT in blocks: ``S x = sum_b E_b P_b H_b D_b x_b / sqrt(sketch_dim)``, x_b being blocks of columns.

    D_b and E_b are random signs, H_b the Walsh-Hadamard matrix of order p_b, the power of two at or above the width of
    the block, and P_b samples `sketch_dim` of its rows, without replacement as far as possible; all independent.
    ``E <S x, S y> = <x, y>``. Unlike `SRHT`, it takes rows whose columns come in parts, and holds one block of them.

    Parameters
    ----------
    in_dim, sketch_dim : int
        Input and output width, 1 <= width < 2**31. Either may be the larger one.
    block : int, default 65536
        Columns of a block, a power of two up to 2**30; the last block may be shorter.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S x, S y>``, exactly, with ``m = sketch_dim``, ``k_b = m mod p_b`` and
    ``V(x, y) = |x|^2 |y|^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2``:

        sum_b V(x_b, y_b) / m * (k_b / m) (p_b - k_b) / (p_b - 1)
        + [ |x|^2 |y|^2 + <x, y>^2 - sum_b (|x_b|^2 |y_b|^2 + <x_b, y_b>^2) ] / m

    The first term is that of an `SRHT` for each block, the second that of independent signs between the blocks. It is
    at most ``(|x|^2 |y|^2 + <x, y>^2) / m``.

    Cost per row: ``in_dim log2(block)`` additions, and sketch_dim for each block; memory: the result, a tile of blocks,
    and one block of all rows where columns come in parts. Signs and samples are made block by block. Sparse input is
    made dense a block at a time.

    Determinism: bitwise across targets, runs, tiles of rows, parts of columns and thread counts; on a GPU the sums
    have the same order.

    Backends: numpy, cupy.

    References
    ----------
    Ailon, Chazelle. The fast Johnson-Lindenstrauss transform and approximate nearest neighbors. SIAM J. Computing 39,
      2009.
    Tropp. Improved analysis of the subsampled randomized Hadamard transform. Adv. Adaptive Data Analysis 3, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> BlockSRHT(1000, 64, block=256, seed=0).apply(np.ones((2, 1000))).shape
    (2, 64)
    """

    block: int = field(default=2**16, kw_only=True)

    def __post_init__(self) -> None:
        # slots make dataclass rebuild the class, so super() without arguments would miss it
        SeededSketch.__post_init__(self)
        set_checked(self, block=check_int(self.block, "block", minimum=1, maximum=2**30))
        if self.block & (self.block - 1):
            raise ValueError(f"expected block to be a power of two, got {self.block}")

    def _apply_sparse_columns(self, x: Any, start: int, backend: Backend) -> Array:
        """`apply_part` of a checked sparse matrix, a block of columns at a time."""
        columns = x.tocsc()  # a slice of columns is cheap in CSC only
        stream = self._open_columns(x.shape[0], range(start, start + x.shape[1]), backend, x.dtype)
        for first in range(0, x.shape[1], self.block):
            stream.add(columns[:, first : first + self.block].toarray())
        return stream.result()

    def _adjoint_unchecked(self, z: Array, backend: Backend) -> Array:
        """`adjoint` of checked rows."""
        out = backend.xp.empty((z.shape[0], self.in_dim), z.dtype)
        for first in range(0, self.in_dim, self.block):
            sample, scratch = self._sample(first), Scratch(backend, z.dtype)
            tables = sample.tables(backend, z.dtype, keep=self._is_kept)
            for rows in row_tiles(z.shape[0], self._tile_width, z.dtype):
                sample.pull(z[rows], scratch, out[rows, first : first + self.block], tables)
        return out

    def _open_columns(self, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part` of unchecked dense rows whose columns come in parts."""

        def add_block(x: Array, first: int, out: Array) -> None:
            self._add_block(x, first, backend, out)

        return BlockStream(columns, self.block, add_block, backend.xp.zeros((n_rows, self.sketch_dim), dtype))

    def _columns_held(self, backend: Backend) -> int:
        """Numbers of a row that a stream may hold at once: a block."""
        return min(self.block, self.in_dim)

    def _add_block(self, x: Array, first: int, backend: Backend, out: Array) -> None:
        """Add the sketch of some columns of one block, of which the first is `first`."""
        sample, scratch = self._sample(first), Scratch(backend, x.dtype)
        tables = sample.tables(backend, x.dtype, keep=self._is_kept)
        for rows in row_tiles(x.shape[0], self._tile_width, x.dtype):
            tile = _widened(x[rows], first % self.block, sample.in_dim, backend)
            part = scratch.take(tile.shape[0], self.sketch_dim)
            sample.project(tile, scratch, part, tables)
            with quiet():
                out[rows] += part
            scratch.give(part)

    def _sample(self, column: int) -> HadamardSample:
        """The transform of the block of a column."""
        index = column // self.block
        width = min(self.block, self.in_dim - index * self.block)
        key = philox.derive_key(self.seed, Stream.BLOCK_SRHT, index)
        scale = 1.0 / math.sqrt(self.sketch_dim)
        return HadamardSample(width, self.sketch_dim, key, scale, shuffled=False, signed=True)

    @property
    def _is_kept(self) -> bool:
        return self.in_dim <= KEPT_COLUMNS

    @property
    def _tile_width(self) -> int:
        """Entries per row of the largest scratch array."""
        return max(self._sample(0).order, self.sketch_dim)


def _widened(x: Array, place: int, width: int, backend: Backend) -> Array:
    """Columns of a block from `place` on, with zeros for the others."""
    if x.shape[1] == width:
        return x
    wide = backend.xp.zeros((x.shape[0], width), x.dtype)
    wide[:, place : place + x.shape[1]] = x
    return wide
