"""A kernel matrix as a linear operator: cached or recomputed by tiles, half of it stored.

Block row i of the upper triangle, K[i : i + b, i :], is one rectangle. A product reads each rectangle
once for both halves:

    out[i : i + b] += R v[i :],     out[i + b :] += R[:, b :]^T v[i : i + b].
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from .._check import FLOAT_DTYPES, check_choice, check_dtype, check_finite, check_matrix, memory_budget
from .._typing import Array
from ..backends import get_backend
from ._inputs import check_kernel

__all__ = ["KernelOperator", "Tile"]

Tile: TypeAlias = Callable[[Array, Array], Array]

# Rows of a rectangle: enough for matrix products to run at full speed.
_ROWS = 2048

# Columns of a rectangle that are widened to float64 at a time: few enough to stay in cache.
_WIDENED_COLUMNS = 256

# Rows of the squares from which the diagonal is read: few calls matter more than n times this many entries.
_DIAGONAL_ROWS = 512


class KernelOperator:
    """The symmetric matrix K of a kernel over points x, for products K v.

    Parameters
    ----------
    kernel : callable or array
        ``kernel(x1, x2)`` returning the (n1, n2) kernel matrix of two row blocks of `x`, such as
        ``functools.partial(ntkfast.ntk, depth=3)``; or the matrix K itself, shape (n, n), which is then
        used where it lies.
    x : array, shape (n, d), float32 or float64
        The points; None (and only None) with a matrix.
    cache : bool
        Keep tiles between products, as many as fit; the others are computed again each time.
    dtype : {"float32", "float64"}, optional
        What tiles are converted to; default: what the kernel returns.
    max_memory : int, optional
        Bytes for the cache and for two rectangles in work; default a quarter of what is free. What
        the kernel function itself allocates beyond its result comes on top.
    progress : callable, optional
        ``progress(done, total)``, numbers of entries, after each computed rectangle.

    Attributes
    ----------
    shape : (n, n)
    backend : Backend

    Raises
    ------
    TypeError, ValueError
        Bad arrays, or a kernel function whose result has a wrong shape or is not finite.
    MemoryBudgetError
        `max_memory` is below two rows of K.

    Notes
    -----
    Memory: the upper triangle, about n (n + 2048) / 2 entries if all is cached: 7.5 GB for n = 60,000 in
    float32, where the full matrix takes 14.4 GB.
    Cost of ``K @ v``, v of shape (n, k): 2 n^2 k operations, and the kernel of the entries that are not cached.
    Determinism: that of the kernel function and of BLAS; results depend on the tile size by rounding only.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(3, 2)
    >>> k = KernelOperator(lambda a, b: a @ b.T, x)
    >>> bool(np.allclose(k @ np.ones(3), x @ x.T @ np.ones(3)))
    True
    """

    def __init__(
        self,
        kernel: Tile | Array,
        x: Array | None = None,
        *,
        cache: bool = True,
        dtype: str | None = None,
        max_memory: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._progress = progress
        self._tile: Tile | None = kernel if callable(kernel) else None
        if self._tile is None:
            self._adopt_matrix(kernel, x, dtype)
        else:
            self._adopt_points(x, cache, dtype, max_memory)

    def _adopt_matrix(self, matrix: Array, x: Array | None, dtype: str | None) -> None:
        if x is not None or dtype is not None:
            raise ValueError("expected x=None and dtype=None with a kernel matrix")
        matrix, self.backend = check_kernel(matrix, "kernel")
        n = matrix.shape[0]
        self._matrix = matrix
        self._bounds = _bounds(n, min(n, _ROWS))
        self._cached = {i: matrix[i:j, i:] for i, j in self._bounds}
        self.shape, self.dtype = (n, n), matrix.dtype

    def _adopt_points(self, x: Array | None, cache: bool, dtype: str | None, max_memory: int | None) -> None:
        if x is None:
            raise ValueError("expected x with a kernel function, got None")
        self._x, self.backend = check_matrix(x, "x")
        n = self._x.shape[0]
        self.shape = (n, n)
        self.dtype = self._probe(dtype)
        row = n * self.dtype.itemsize
        self._budget = memory_budget(max_memory, self.backend, smallest=2 * row)
        # A sixteenth of the budget for a rectangle leaves 7/8 to the cache.
        rows = max(1, min(n, _ROWS, self._budget // (16 * row)))
        self._bounds = _bounds(n, rows)
        self._cached = {}
        self._room = self._budget - 2 * rows * row if cache else 0

    def _probe(self, dtype: str | None) -> Any:
        """Dtype of the tiles, from one entry."""
        tile = self._call(self._x[:1], self._x[:1])
        wanted = tile.dtype if dtype is None else check_choice(dtype, "dtype", FLOAT_DTYPES)
        return self.backend.xp.dtype(wanted)

    def _call(self, x1: Array, x2: Array) -> Array:
        """A tile of the kernel function, checked."""
        assert self._tile is not None
        tile = self._tile(x1, x2)
        expected = (x1.shape[0], x2.shape[0])
        if getattr(tile, "shape", None) != expected:
            raise ValueError(f"expected kernel(x1, x2) of shape {expected}, got {getattr(tile, 'shape', type(tile))}")
        get_backend(tile, self._x)
        check_dtype(tile, "kernel(x1, x2)")
        check_finite(tile, "kernel(x1, x2)")
        return tile

    def _rectangle(self, start: int, stop: int) -> Array:
        """K[start:stop, start:], from the cache or computed."""
        if start in self._cached:
            return self._cached[start]
        tile = self._call(self._x[start:stop], self._x[start:]).astype(self.dtype, copy=False)
        if tile.nbytes <= self._room:
            self._room -= tile.nbytes
            self._cached[start] = tile
        if self._progress is not None:
            n = self.shape[0]
            rest = n - stop
            self._progress((n * (n + 1) - rest * (rest + 1)) // 2, n * (n + 1) // 2)
        return tile

    def __matmul__(self, v: Array) -> Array:
        """K v for v of shape (n,) or (n, k), in v's dtype.

        A float64 `v` has its products and sums in float64 even where the tiles are float32 (which are then
        widened piece by piece, at about twice the time); a float32 `v` has them in the tiles' dtype.
        """
        self._check_vectors(v, "v")
        out = self.backend.xp.zeros(v.shape, v.dtype)
        wide = v.astype(self.dtype, copy=False) if v.dtype.itemsize < self.dtype.itemsize else v
        for start, stop in self._bounds:
            rectangle = self._rectangle(start, stop)
            size = rectangle.shape[1] if wide.dtype == self.dtype else _WIDENED_COLUMNS
            for left in range(start, self.shape[0], size):
                columns = slice(left, left + size)
                piece = rectangle[:, left - start : left - start + size].astype(wide.dtype, copy=False)
                out[start:stop] += piece @ wide[columns]
                # The columns start:stop are the diagonal square, whose transpose is itself.
                below = max(stop - left, 0)
                out[left + below : left + size] += piece[:, below:].T @ wide[start:stop]
        return out

    def _check_vectors(self, v: Array, name: str) -> None:
        n = self.shape[0]
        if getattr(v, "ndim", 0) not in (1, 2) or v.shape[0] != n:
            raise ValueError(f"expected {name} of shape ({n},) or ({n}, k), got {getattr(v, 'shape', type(v))}")
        get_backend(v, self._matrix if self._tile is None else self._x)
        check_dtype(v, name)
        if v.size == 0:
            raise ValueError(f"expected {name} with at least one column, got shape {v.shape}")
        check_finite(v, name)

    def diagonal(self) -> Array:
        """The n entries K[i, i].

        Examples
        --------
        >>> import numpy as np
        >>> KernelOperator(np.diag([1.0, 2.0])).diagonal()
        array([1., 2.])
        """
        if self._tile is None:
            return self._matrix.diagonal().copy()
        out = self.backend.xp.empty(self.shape[0], self.dtype)
        for start, stop in _bounds(self.shape[0], _DIAGONAL_ROWS):
            out[start:stop] = self._call(self._x[start:stop], self._x[start:stop]).diagonal()
        return out

    def block(self, rows: Array | None, columns: Array) -> Array:
        """K[rows][:, columns], computed; `rows` None means all. The form that `random_pivoted_cholesky` takes.

        Examples
        --------
        >>> import numpy as np
        >>> KernelOperator(np.diag([1.0, 2.0])).block(None, np.array([1]))
        array([[0.],
               [2.]])
        """
        if self._tile is None:
            return self._matrix[:, columns] if rows is None else self._matrix[rows][:, columns]
        x1 = self._x if rows is None else self._x[rows]
        return self._call(x1, self._x[columns]).astype(self.dtype, copy=False)

    def predict(self, x_test: Array, dual_coef: Array, *, max_memory: int | None = None) -> Array:
        """K(x_test, x) dual_coef, tile by tile.

        Parameters
        ----------
        x_test : array, shape (m, d)
        dual_coef : array, shape (n,) or (n, k)
            Of the tiles' dtype.
        max_memory : int, optional
            Bytes for two tiles; default a quarter of what is free.

        Returns
        -------
        array, shape (m,) or (m, k)

        Raises
        ------
        TypeError, ValueError, MemoryBudgetError
            As the class; also for an operator made from a matrix, which knows no other points.

        Examples
        --------
        >>> import numpy as np
        >>> k = KernelOperator(lambda a, b: a @ b.T, np.eye(2))
        >>> k.predict(np.array([[2.0, 3.0]]), np.array([1.0, 10.0]))
        array([32.])
        """
        if self._tile is None:
            raise ValueError("expected an operator made from a kernel function, got one made from a matrix")
        x_test, _ = check_matrix(x_test, "x_test", columns=self._x.shape[1])
        if x_test.dtype != self._x.dtype:
            raise TypeError(f"expected x_test of dtype {self._x.dtype}, as the points, got {x_test.dtype}")
        self._check_vectors(dual_coef, "dual_coef")
        n, m = self.shape[0], x_test.shape[0]
        row = n * self.dtype.itemsize
        budget = memory_budget(max_memory, self.backend, smallest=2 * row)
        narrow = dual_coef.astype(self.dtype, copy=False)
        out = self.backend.xp.empty((m, *dual_coef.shape[1:]), dual_coef.dtype)
        for start, stop in _bounds(m, min(m, _ROWS, budget // (2 * row))):
            out[start:stop] = self._call(x_test[start:stop], self._x).astype(self.dtype, copy=False) @ narrow
        return out


def _bounds(n: int, rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]
