"""Terms of an embedding table: samples meet where they read the same row, and nothing of the table's size is formed."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .._typing import Array
from ..backends import Backend
from ._tiles import slices
from .operands import Reads
from .terms import Direct, Product, Term

__all__ = ["reads_terms"]

# Parts into which the budget is cut where the sum may keep that many terms waiting.
_WAITING = 16


def reads_terms(backend: Backend, f: Reads, g: Reads, output: str, budget: int) -> Iterator[Term]:
    """Gram matrices of the rows that both sides read; `g` is `f` where the samples are the same."""
    return _by_chunks(backend, f, g, budget) if backend.name == "cupy" else _by_row(backend, f, g, output)


def _by_row(backend: Backend, f: Reads, g: Reads, output: str) -> Iterator[Direct]:
    """One row of the table after the other, over the samples that read it."""
    for token in _common(backend, f.index, g.index):
        rows, left = _readers(backend, f, int(token))
        columns, right = (rows, left) if g is f else _readers(backend, g, int(token))
        yield Direct(_gram(backend, left, right, output, f.scale**2), rows, columns)


def _common(backend: Backend, first: Array, second: Array) -> Any:
    """Rows of a table that both sides read, on the host."""
    tokens = backend.to_numpy(backend.xp.unique(first))
    return tokens if second is first else np.intersect1d(tokens, backend.to_numpy(backend.xp.unique(second)))


def _readers(backend: Backend, f: Reads, token: int) -> tuple[Array, Array]:
    """Samples that read a row of the table, and their Jacobians of it, (rows, k, c)."""
    reads = f.index == token  # (n, t)
    rows = backend.xp.nonzero(reads.any(axis=1))[0]
    weights = reads[rows].astype(f.delta.dtype)
    return rows, backend.xp.einsum("nt,ntkc->nkc", weights, f.delta[rows])


def _gram(backend: Backend, left: Array, right: Array, output: str, scale: float) -> Array:
    """Scaled <left[n, k], right[m, q]> in the shape of the output."""
    path = {"full": "nkc,mqc->nmkq", "diagonal": "nkc,mkc->nmk", "trace": "nkc,mkc->nm"}[output]
    return scale * backend.xp.einsum(path, left, right)


def _by_chunks(backend: Backend, f: Reads, g: Reads, budget: int) -> Iterator[Product]:
    """As `_by_row` with many rows of the table at a time, most of which a sample does not read: for GPUs, few calls."""
    (n, t, k, c), m = f.delta.shape, len(g.delta)
    each = 3 * (n if g is f else n + m) * (t + k * c) * f.delta.dtype.itemsize  # reads, Jacobian, and its transpose
    tokens = backend.xp.asarray(_common(backend, f.index, g.index))
    for part in slices(len(tokens), budget // (_WAITING * each)):
        left = _rows_jacobian(backend, f, tokens[part])
        right = left if g is f else _rows_jacobian(backend, g, tokens[part])
        yield Product(left, right, scale=f.scale**2)


def _rows_jacobian(backend: Backend, f: Reads, tokens: Array) -> Array:
    """Jacobian of some rows of the table without its scale, (n, k, rows c)."""
    n, t, k, c = f.delta.shape
    reads = (f.index[:, None, :] == tokens[:, None]).astype(f.delta.dtype)  # (n, rows, t)
    formed = backend.xp.matmul(reads, f.delta.reshape(n, t, k * c))
    return formed.reshape(n, len(tokens), k, c).transpose(0, 2, 1, 3).reshape(n, k, -1)
