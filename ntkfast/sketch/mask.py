"""A sample of the coordinates, one of each stratum of consecutive ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._check import quiet
from .._memo import memoised
from .._streams import Stream
from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import philox
from ._base import PartwiseSketch, SeededSketch, dense
from ._row_stream import ColumnStream, RowStream

__all__ = ["CoordinateMask", "mask_tables"]


@dataclass(frozen=True, slots=True)
class CoordinateMask(SeededSketch, PartwiseSketch):
    """Stratified sample of coordinates: one of each of `sketch_dim` strata, times the root of the stratum's size.

    Stratum b holds the coordinates from ``in_dim b // sketch_dim`` up to the next stratum; sizes s_b differ by at
    most one. ``(S x)_b = sqrt(s_b) x_j`` with j uniform in stratum b, independently. ``E <S x, S y> = <x, y>``.

    Parameters
    ----------
    in_dim, sketch_dim : int
        Input and output width, 1 <= sketch_dim <= in_dim < 2**31.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S x, S y>``, exactly, with ``g_j = x_j y_j``:

        sum_b [ s_b sum_{j in b} g_j^2 - (sum_{j in b} g_j)^2 ]

    It is small only where coordinates are alike: of a vector with one nonzero all or nothing is left. Independent
    samples of all coordinates would have ``in_dim / sketch_dim sum_j g_j^2 - <x, y>^2 / sketch_dim``, which is larger
    where sketch_dim divides in_dim.

    Cost: a gather of `sketch_dim` entries per row; memory: the result, and 12 to 16 bytes per sampled coordinate, which
    are kept. `apply` reads all entries once to check them.

    Determinism: bitwise across targets, runs, rows, parts of columns and thread counts, and for sparse and dense input.

    Backends: numpy, cupy.

    References
    ----------
    Hu, Melkonian, Tang, Zhao, Ma. GraSS: scalable data attribution with gradient sparsification and sparse projection.
      NeurIPS 2025, arXiv 2505.18976 (there without strata).

    Examples
    --------
    >>> import numpy as np
    >>> CoordinateMask(6, 3, seed=0).apply(np.ones((1, 6))).round(3)
    array([[1.414, 1.414, 1.414]])
    """

    def __post_init__(self) -> None:
        # slots make dataclass rebuild the class, so super() without arguments would miss it
        SeededSketch.__post_init__(self)
        if self.sketch_dim > self.in_dim:
            raise ValueError(f"expected sketch_dim to be at most in_dim = {self.in_dim}, got {self.sketch_dim}")

    def _apply_sparse_columns(self, x: Any, start: int, backend: Backend) -> Array:
        """`apply_part` of a checked sparse matrix."""
        found, index, scale = self._within(start, start + x.shape[1], backend, x.dtype)
        out = backend.xp.zeros((x.shape[0], self.sketch_dim), x.dtype)
        with quiet():
            out[:, found] = dense(x[:, index]) * scale
        return out

    def _adjoint_unchecked(self, z: Array, backend: Backend) -> Array:
        """`adjoint` of checked rows."""
        coordinates, scale = memoised(self, mask_tables, backend, z.dtype)
        out = backend.xp.zeros((z.shape[0], self.in_dim), z.dtype)
        with quiet():
            out[:, coordinates] = z * scale
        return out

    def _open_columns(self, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part` of unchecked dense rows whose columns come in parts."""
        found, _, _ = self._within(columns.start, columns.stop, backend, dtype)
        out = backend.xp.zeros((n_rows, self.sketch_dim), dtype)
        return _GatherStream(self, columns.start, backend, ColumnStream(out, found.start))

    def _open_chain(self, second: RowStream, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part`, followed by another sketch, which is given the coordinates as they come."""
        if len(columns) == self.in_dim:
            return _GatherStream(self, 0, backend, second)
        return PartwiseSketch._open_chain(self, second, n_rows, columns, backend, dtype)

    def _within(self, start: int, stop: int, backend: Backend, dtype: Any) -> tuple[slice, Array, Array]:
        """Which results are among the columns [start, stop), where in these, and their scale."""
        host = get_backend(np.empty(0))
        first, last = np.searchsorted(memoised(self, mask_tables, host, dtype)[0], (start, stop))
        found = slice(int(first), int(last))
        coordinates, scale = memoised(self, mask_tables, backend, dtype)
        return found, coordinates[found] - start, scale[found]


class _GatherStream(RowStream):
    """Sampled coordinates, handed on as they come."""

    def __init__(self, mask: CoordinateMask, start: int, backend: Backend, sink: RowStream) -> None:
        self._mask, self._place, self._backend, self._sink = mask, start, backend, sink

    def add(self, x: Array) -> None:
        """Hand on the sampled ones of the next columns."""
        stop = self._place + x.shape[1]
        found, index, scale = self._mask._within(self._place, stop, self._backend, x.dtype)
        self._place = stop
        if found.stop > found.start:
            with quiet():
                self._sink.add(x[:, index] * scale)

    def result(self) -> Array:
        """What became of them."""
        return self._sink.result()


def mask_tables(mask: CoordinateMask, backend: Backend, dtype: Any) -> tuple[Array, Array]:
    """Sampled coordinates, ascending, and the roots of the sizes of their strata."""
    bounds = np.arange(mask.sketch_dim + 1) * mask.in_dim // mask.sketch_dim
    sizes = np.diff(bounds).astype(np.uint64)
    words = np.empty((mask.sketch_dim, 2), np.uint32)
    get_backend(words).launch(philox.bits, philox.derive_key(mask.seed, Stream.COORDINATE_MASK), 0, words.reshape(-1))
    high, low = words.T.astype(np.uint64)
    # the upper half of a product of 64 random bits with the size: 2**-33 from uniform at most
    place = (high * sizes + (low * sizes >> np.uint64(32))) >> np.uint64(32)
    coordinates = bounds[:-1] + place.astype(np.int64)
    return backend.xp.asarray(coordinates), backend.xp.asarray(np.sqrt(sizes.astype(np.float64)).astype(dtype))
