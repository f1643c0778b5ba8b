"""One sketch after another."""

from dataclasses import dataclass
from typing import Any

from .._typing import Array
from ..backends import Backend
from ._base import LinearSketch, PartwiseSketch, SeededSketch
from ._row_stream import RowStream

__all__ = ["Composition"]


@dataclass(frozen=True, slots=True)
class Composition(PartwiseSketch):
    """One sketch after another: ``S x = S_2 S_1 x``, with ``E <S x, S y> = <x, y>`` as both have it.

    GraSS is ``Composition(CoordinateMask(p, 4 * m, seed=s), SparseJL(4 * m, m, nnz=1, seed=s))``.

    Parameters
    ----------
    first : PartwiseSketch
        Any sketch of this package but `SRHT`, for which there is `BlockSRHT`.
    second : LinearSketch
        With ``second.in_dim == first.sketch_dim``.

    Attributes
    ----------
    in_dim, sketch_dim : int
        Input width of `first`, output width of `second`.

    Raises
    ------
    TypeError
        `first` or `second` is no such sketch.
    ValueError
        Their widths do not fit, or they are of one kind with one seed, and so not independent.

    Notes
    -----
    Variance of ``<S x, S y>``, exactly: that of `first`, plus the expectation over `first` of that of `second` at
    ``S_1 x, S_1 y``. For a `CoordinateMask` of variance V_1 with the strata x_b and y_b of x and y, followed by
    `CountSketch`, `RademacherSketch` or `SparseJL` with ``nnz=1``, and ``m = sketch_dim``:

        V_1 + [ |x|^2 |y|^2 + <x, y>^2 - sum_b (|x_b|^2 |y_b|^2 + <x_b, y_b>^2) ] / m

    Cost: those of both. Where `first` is a `CoordinateMask`, what it samples is handed on as it comes; else its result
    is held.

    Determinism and backends: those of both.

    References
    ----------
    Hu, Melkonian, Tang, Zhao, Ma. GraSS: scalable data attribution with gradient sparsification and sparse projection.
      NeurIPS 2025, arXiv 2505.18976.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.sketch import CoordinateMask, SparseJL
    >>> grass = Composition(CoordinateMask(1000, 64, seed=0), SparseJL(64, 16, nnz=1, seed=0))
    >>> grass.in_dim, grass.sketch_dim, grass.apply(np.ones((2, 1000))).shape
    (1000, 16, (2, 16))
    """

    first: PartwiseSketch
    second: LinearSketch

    def __post_init__(self) -> None:
        for name, kind in (("first", PartwiseSketch), ("second", LinearSketch)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"expected {name} to be a {kind.__name__}, got {type(getattr(self, name)).__name__}")
        if self.second.in_dim != self.first.sketch_dim:
            raise ValueError(f"expected second.in_dim = {self.first.sketch_dim}, got {self.second.in_dim}")
        if draws(self.first) & draws(self.second):
            raise ValueError("expected first and second to differ in kind or seed, got two that draw the same numbers")

    @property
    def in_dim(self) -> int:  # type: ignore[override]
        """Input width."""
        return self.first.in_dim

    @property
    def sketch_dim(self) -> int:  # type: ignore[override]
        """Output width."""
        return self.second.sketch_dim

    def _apply_sparse_columns(self, x: Any, start: int, backend: Backend) -> Array:
        """`apply_part` of a checked sparse matrix."""
        return self.second._apply_unchecked(self.first._apply_columns(x, start, backend), backend)

    def _adjoint_unchecked(self, z: Array, backend: Backend) -> Array:
        """`adjoint` of checked rows."""
        return self.first._adjoint_unchecked(self.second._adjoint_unchecked(z, backend), backend)

    def _open_columns(self, n_rows: int, columns: range, backend: Backend, dtype: Any) -> RowStream:
        """`apply_part` of unchecked dense rows whose columns come in parts."""
        second = self.second._open_stream(n_rows, backend, dtype)
        return self.first._open_chain(second, n_rows, columns, backend, dtype)

    def _columns_held(self, backend: Backend) -> int:
        """Numbers of a row that a stream may hold at once: those of both, and the result of the first."""
        return self.first._columns_held(backend) + self.first.sketch_dim + self.second._columns_held(backend)


def draws(sketch: LinearSketch) -> set[tuple[type, int]]:
    """Kinds and seeds of the random numbers in a sketch; two of one kind and seed have some of them in common."""
    if isinstance(sketch, Composition):
        return draws(sketch.first) | draws(sketch.second)
    return {(type(sketch), sketch.seed)} if isinstance(sketch, SeededSketch) else set()
