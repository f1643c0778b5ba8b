"""Sums of terms of an NTK, one class per output; a symmetric sum computes the lower triangle of samples only."""

import abc
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TypeAlias

from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import factors
from .terms import Direct, Product, SharedProduct, Term

__all__ = ["NTKSum", "ntk_sum"]

Sizes: TypeAlias = tuple[int, int]  # samples, outputs

# Sizes by backend: what stays in the caches of a CPU, and few launches that fill a GPU.

# Rows (samples times outputs) and columns of a tile of a full kernel. BLAS likes high, narrow ones of whole vectors.
_TILE = {"numpy": (1280, 320), "cupy": (4096, 1024)}
_VECTOR = 16

# Products that wait for each other at most, and width from which one does not wait: its tiles are no burden to it.
_MOST_WAITING = 16
_WIDE = 4096

# Least number of columns of a block of a symmetric Gram matrix: fewer slow matrix products down.
_GRAM_COLUMNS = {"numpy": 48, "cupy": 1024}

# Rows of a square of `_mirror`.
_MIRROR_ROWS = {"numpy": 64, "cupy": 1024}

# Entries of Gram matrices, one per output or channel, that are made at a time. On a CPU one output's is enough.
_OUTPUT_GRAMS = {"numpy": 0, "cupy": 2**26}
_CHANNEL_GRAMS = {"numpy": 2**22, "cupy": 2**26}


class NTKSum(abc.ABC):
    """A kernel block under construction.

    Parameters
    ----------
    backend : Backend
    first, second : (int, int)
        Numbers of samples and of outputs on the two sides.
    dtype : dtype
    symmetric : bool
        The samples of both sides are the same.
    """

    def __init__(self, backend: Backend, first: Sizes, second: Sizes, dtype: object, symmetric: bool) -> None:
        self._backend, self._xp = backend, backend.xp
        (self._n1, self._k), (self._n2, self._q) = first, second
        self._symmetric = symmetric
        self._out = backend.xp.zeros(self._shape(), dtype)

    @abc.abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """Shape of the result."""

    def add(self, term: Term) -> None:
        """Add one term."""
        if isinstance(term, Product):
            self._add_product(term)
        elif isinstance(term, SharedProduct):
            self._add_shared(term)
        else:
            self._add_direct(term)

    @abc.abstractmethod
    def _add_product(self, term: Product) -> None: ...

    @abc.abstractmethod
    def _add_shared(self, term: SharedProduct) -> None: ...

    def _add_direct(self, term: Direct) -> None:
        if isinstance(term.rows, slice):
            self._out[term.rows, term.columns] += term.values
        else:
            self._out[self._xp.ix_(term.rows, term.columns)] += term.values

    def result(self) -> Array:
        """The finished block."""
        if self._symmetric:
            _mirror(self._out)
        return self._out

    def _gram(self, left: Array, right: Array) -> Array:
        """Gram matrices left right^T, (..., n1, n2); with equal samples the lower triangles at least."""
        columns, right = max(_GRAM_COLUMNS[self._backend.name], self._n1 // 16), right.swapaxes(-1, -2)
        if not self._symmetric or self._n1 < 3 * columns:
            return left @ right
        out = self._xp.zeros((*left.shape[:-2], self._n1, self._n2), left.dtype)
        for start in range(0, self._n1, columns):
            part = slice(start, start + columns)
            self._xp.matmul(left[..., start:, :], right[..., part], out=out[..., start:, part])
        return out


def ntk_sum(output: str, backend: Backend, first: Sizes, second: Sizes, dtype: object, symmetric: bool) -> NTKSum:
    """An empty sum for "trace", "diagonal" or "full"."""
    kind: Callable[..., NTKSum] = {"trace": TraceSum, "diagonal": DiagonalSum, "full": FullSum}[output]
    return kind(backend, first, second, dtype, symmetric)


def _mirror(out: Array) -> None:
    """Copy the lower triangle of samples to the upper; out (n, n) or (n, n, k)."""
    backend, n = get_backend(out), out.shape[0]
    xp, rows = backend.xp, _MIRROR_ROWS[backend.name]
    view = out if out.ndim == 2 else out.transpose(2, 0, 1)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        square = view[..., start:stop, start:stop]
        square[...] = xp.tril(square) + xp.tril(square, -1).swapaxes(-1, -2)
        view[..., start:stop, stop:] = view[..., stop:, start:stop].swapaxes(-1, -2)


class TraceSum(NTKSum):
    """(n1, n2): the sum over equal outputs."""

    def _shape(self) -> tuple[int, ...]:
        return self._n1, self._n2

    def _add_product(self, term: Product) -> None:
        left = term.left.reshape(self._n1, -1)
        right = left if term.right is term.left else term.right.reshape(self._n2, -1)
        self._add(self._gram(left, right), term.a, term.scale)

    def _add_shared(self, term: SharedProduct) -> None:
        weights = (term.s1 * term.s2).sum(axis=0)  # (o,)
        if term.x1 is None or term.x2 is None:
            assert term.a is not None
            self._out += term.a * (weights.sum() * term.scale)
            return
        left = (term.x1 * weights[:, None]).reshape(self._n1, -1)
        self._add(self._gram(left, term.x2.reshape(self._n2, -1)), term.a, term.scale)

    def _add(self, gram: Array, a: Array | None, scale: float) -> None:
        if a is not None:
            gram *= a
        if scale != 1.0:
            gram *= scale
        self._out += gram


class DiagonalSum(NTKSum):
    """(n1, n2, k): equal outputs."""

    def _shape(self) -> tuple[int, ...]:
        return self._n1, self._n2, self._k

    def _add_product(self, term: Product) -> None:
        together = max(1, _OUTPUT_GRAMS[self._backend.name] // (self._n1 * self._n2))
        for start in range(0, self._k, together):
            outputs = slice(start, min(start + together, self._k))
            left = term.left[:, outputs].transpose(1, 0, 2)
            right = left if term.right is term.left else term.right[:, outputs].transpose(1, 0, 2)
            self._add_grams(self._gram(left, right), term, outputs)

    def _add_grams(self, grams: Array, term: Product | SharedProduct, outputs: slice) -> None:
        """Add Gram matrices of some outputs, (outputs, n1, n2)."""
        if term.a is not None:
            grams *= term.a
        if term.scale != 1.0:
            grams *= term.scale
        self._out[..., outputs] += grams.transpose(1, 2, 0)

    def _add_shared(self, term: SharedProduct) -> None:
        weights = term.s1 * term.s2  # (k, o)
        if term.x1 is None or term.x2 is None:
            assert term.a is not None
            self._out += term.a[..., None] * (term.scale * weights.sum(axis=1))
            return
        right = term.x2.reshape(self._n2, -1)
        for p in range(self._k):
            gram = self._gram((term.x1 * weights[p, :, None]).reshape(self._n1, -1), right)
            self._add_grams(gram[None], term, slice(p, p + 1))


class FullSum(NTKSum):
    """(n1, n2, k, q): all pairs of outputs.

    Products wait until `result`, so that the tiles of all layers are added while they are in cache.
    """

    def __init__(self, backend: Backend, first: Sizes, second: Sizes, dtype: object, symmetric: bool) -> None:
        super().__init__(backend, first, second, dtype, symmetric)
        self._waiting: list[Product] = []
        self._constant: list[tuple[Array, Array]] = []  # a[n, m] outputs[k, q]: linear layers above all gates

    def _shape(self) -> tuple[int, ...]:
        return self._n1, self._n2, self._k, self._q

    def _add_product(self, term: Product) -> None:
        self._waiting.append(term)
        is_wide = term.left.shape[-1] > _WIDE
        if is_wide or len(self._waiting) >= _MOST_WAITING:
            self._flush()

    def _add_shared(self, term: SharedProduct) -> None:
        weights = term.s1[:, None] * term.s2[None]  # (k, q, o)
        if term.x1 is None or term.x2 is None:
            assert term.a is not None
            self._constant.append((term.a, term.scale * weights.sum(axis=-1)))
            return
        flat = self._xp.ascontiguousarray(weights.reshape(-1, weights.shape[-1]).T)  # (o, k q)
        left, right = term.x1.transpose(1, 0, 2), term.x2.transpose(1, 2, 0)  # (o, n, i), (o, i, m)
        width = max(1, _CHANNEL_GRAMS[self._backend.name] // (self._n1 * flat.shape[0]))
        for rows, columns in self._tiles(width):
            grams = self._xp.matmul(left[:, rows], right[:, :, columns])  # (o, n, m)
            if term.a is not None:
                grams *= term.a[rows, columns]
            part = grams.reshape(flat.shape[0], -1).T @ flat
            part *= term.scale
            self._out[rows, columns] += part.reshape(*grams.shape[1:], self._k, self._q)

    def result(self) -> Array:
        """The finished block."""
        self._flush()
        if self._symmetric:
            self._backend.launch(factors.mirror, self._out)
        return self._out

    def _tiles(self, width: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of columns, from the diagonal down where the samples are the same."""
        for start in range(0, self._n2, width):
            yield slice(start if self._symmetric else 0, self._n1), slice(start, min(start + width, self._n2))

    def _flush(self) -> None:
        """Add the waiting products, tile by tile."""
        terms, constant = self._waiting, self._constant
        self._waiting, self._constant = [], []
        if not terms and not constant:
            return
        most_rows, most_columns = _TILE[self._backend.name]
        height = max(1, most_rows // self._k)
        flat = [_flat(self._xp, term) for term in terms]
        for rest, columns in self._tiles(self._width(most_columns)):
            for start in range(rest.start, rest.stop, height):
                rows = slice(start, min(start + height, rest.stop))
                self._add_tile(terms, flat, constant, rows, columns)

    def _width(self, most_columns: int) -> int:
        """Samples of a tile's columns: an eighth of all at most, and whole vectors of outputs."""
        unit = _VECTOR // math.gcd(_VECTOR, self._q)
        return -(-max(1, min(most_columns // self._q, self._n2 // 8)) // unit) * unit

    def _add_tile(
        self,
        terms: list[Product],
        flat: list[tuple[Array, Array]],
        constant: list[tuple[Array, Array]],
        rows: slice,
        columns: slice,
    ) -> None:
        xp, k, q, dtype = self._xp, self._k, self._q, self._out.dtype
        n, m = rows.stop - rows.start, columns.stop - columns.start
        a, b = xp.empty((len(terms), n, m), dtype), xp.empty((len(terms), n * k, m * q), dtype)
        for i, (term, (left, right)) in enumerate(zip(terms, flat, strict=True)):
            a[i] = term.scale if term.a is None else term.scale * term.a[rows, columns]
            xp.matmul(left[rows.start * k : rows.stop * k], right[columns.start * q : columns.stop * q].T, out=b[i])
        c, s = xp.empty((len(constant), n, m), dtype), xp.empty((len(constant), k, q), dtype)
        for i, (gram, outputs) in enumerate(constant):
            c[i], s[i] = gram[rows, columns], outputs
        tile = b.reshape(len(terms), n, k, m, q)
        self._backend.launch(factors.accumulate, a, tile, c, s, rows.start, columns.start, self._out)


def _flat(xp: ModuleType, term: Product) -> tuple[Array, Array]:
    """Both sides of a product as matrices (n k, w)."""
    left = xp.ascontiguousarray(term.left).reshape(-1, term.left.shape[-1])
    if term.right is term.left:
        return left, left
    return left, xp.ascontiguousarray(term.right).reshape(-1, term.right.shape[-1])
