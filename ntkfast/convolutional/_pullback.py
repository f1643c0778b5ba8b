"""Gradients by images, pair by pair: pairs of blocks are pulled back in batches, and summed image by image."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads

from .._check import check_range, memory_budget, quiet
from .._typing import Array
from ..backends import Backend, get_backend
from ._adjoint import Pulled, pull, pull_bytes, pull_tables
from ._execution import State, Tables, scratch_bytes, side_bytes
from ._gram import Block, Prepared, Progress, Sizes, batches, prepared
from .architecture import Fork, Plan

__all__ = ["pull_diagonal", "pull_gram"]

# Most bytes of temporaries when the caller names no limit, and pairs of one batch: more makes nothing faster.
_ENOUGH = 1 << 28
_BATCH = 256
_BLOCK = 256


def pull_gram(
    plan: Plan, x1: Array, x2: Array | None, ct: Array, kind: str, max_memory: Any, progress: Progress | None
) -> tuple[Array, Array | None]:
    """Gradients of sum_ij ct_ij K(x1_i, x2_j) by checked images; `x2` None is `x1` in both roles."""
    backend, other = get_backend(x1), x1 if x2 is None else x2
    found = _sizes(plan, x1, backend, max_memory)
    rows = _Total.zeros(plan, x1, backend)
    columns = rows if x2 is None else _Total.zeros(plan, other, backend)
    for block, first, second, pairs in batches(plan, x1, x2, found, progress):
        weights = _weights(ct, block, pairs, x2 is None)
        with quiet():
            _add_batch(plan, (first, second), block, pairs, weights, kind, (rows, columns), backend)
    gradient = _finish(plan, x1, rows, found, backend)
    return gradient, None if x2 is None else _finish(plan, other, columns, found, backend)


def pull_diagonal(plan: Plan, x: Array, ct: Array, kind: str, max_memory: Any, progress: Progress | None) -> Array:
    """Gradient of sum_i ct_i K(x_i, x_i) by checked images."""
    backend = get_backend(x)
    found, total = _sizes(plan, x, backend, max_memory), _Total.zeros(plan, x, backend)
    step = min(found.block, found.batch)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        side = prepared(plan, x[rows])
        pairs = np.repeat(np.arange(rows.stop - start, dtype=np.int32)[:, None], 2, axis=1)
        with quiet():
            _add_batch(plan, (side, side), Block(rows, rows, pairs), pairs, ct[rows], kind, (total, total), backend)
        if progress is not None:
            progress(rows.stop, len(x))
    return _finish(plan, x, total, found, backend)


def _sizes(plan: Plan, x: Array, backend: Backend, max_memory: Any) -> Sizes:
    """Images of a block, and pairs of a batch, within the budget."""
    shape, itemsize = x.shape[1:], x.dtype.itemsize
    per_pair, per_image = pull_bytes(plan, shape, itemsize), 4 * side_bytes(plan, shape, itemsize)
    scratch = 3 * get_num_threads() * scratch_bytes(plan, shape[2], itemsize) if backend.name == "numpy" else 0
    smallest = scratch + 2 * per_image + per_pair
    budget = memory_budget(max_memory, backend, smallest=smallest)
    if max_memory is None:
        budget = max(smallest, min(budget, _ENOUGH))
    budget -= scratch
    block = max(1, min(_BLOCK, budget // 2 // (2 * per_image)))
    return Sizes(block, max(1, min(_BATCH, (budget - 2 * block * per_image) // per_pair)))


def _weights(ct: Array, block: Block, pairs: np.ndarray, symmetric: bool) -> Array:
    """Cotangents of pairs; those of (i, j) and (j, i) together where only one of them is visited."""
    xp = get_backend(ct).xp
    i, j = (xp.asarray(pairs[:, side] + part.start) for side, part in enumerate((block.rows, block.columns)))
    return ct[i, j] + xp.where(i == j, 0, ct[j, i]) if symmetric else ct[i, j]


class _Total(NamedTuple):
    """Sums over pairs, image by image, in float64: cotangents of the images (n, c, h, w), and of their variances."""

    images: Array
    tables: Tables

    @classmethod
    def zeros(cls, plan: Plan, x: Array, backend: Backend) -> "_Total":
        n, h, w, c = x.shape
        return cls(backend.xp.zeros((n, c, h, w)), _zero_tables(plan, n, backend))


def _zero_tables(plan: Plan, n: int, backend: Backend) -> Tables:
    return tuple(
        tuple(_zero_tables(branch, n, backend) for branch in node.branches)
        if isinstance(node, Fork)
        else backend.xp.zeros((n, node.n_tables, *node.size))
        for node in plan
    )


def _leaves(tables: Any) -> Iterator[Array]:
    if isinstance(tables, tuple):
        for part in tables:
            yield from _leaves(part)
    else:
        yield tables


def _add_batch(
    plan: Plan,
    sides: tuple[Prepared, Prepared],
    block: Block,
    batch: np.ndarray,
    weights: Array,
    kind: str,
    totals: tuple[_Total, _Total],
    backend: Backend,
) -> None:
    """Pull some pairs of two prepared blocks back, and add what they give to either side's images.

    Images were divided by factors s, and K(x, y) = s t K(x / s, y / t): the gradient by x is t times that by x / s.
    """
    xp, (first, second) = backend.xp, sides
    i, j = (xp.asarray(batch[:, side]) for side in (0, 1))
    zero = xp.zeros_like(weights)
    ct = State(zero, weights) if kind == "ntk" else State(weights, zero)
    pulled = pull(plan, first[0], second[0], xp.asarray(batch), ct, backend)
    for side, part in enumerate((block.rows, block.columns)):
        factors = sides[1 - side][1]
        scale = xp.ones_like(weights) if factors is None else factors[(j, i)[side]]
        _scatter(totals[side], part.start, batch[:, side], scale, pulled, side, xp)


def _scatter(total: _Total, start: int, numbers: np.ndarray, scale: Array, pulled: Pulled, side: int, xp: Any) -> None:
    """Add the sums over the pairs of every image; always in the order of the pairs."""
    assert pulled.images is not None
    order = np.argsort(numbers, kind="stable")
    images, first = np.unique(numbers[order], return_index=True)
    parts = [pulled.images[side], *_leaves(pulled.tables[side])]
    sums = [total.images, *_leaves(total.tables)]
    for image, lo, hi in zip(images.tolist(), first, [*first[1:], len(order)], strict=True):
        rows = order[lo:hi]
        is_run = rows[-1] - rows[0] == len(rows) - 1
        index = slice(int(rows[0]), int(rows[-1]) + 1) if is_run else xp.asarray(rows)
        for out, part in zip(sums, parts, strict=True):
            if part.size:
                out[start + image] += xp.einsum("b,bcij->cij", scale[index], part[index])


def _finish(plan: Plan, x: Array, total: _Total, found: Sizes, backend: Backend) -> Array:
    """Add the gradient through the variances, and undo how images were prepared."""
    xp, n = backend.xp, len(x)
    out = xp.empty_like(x)
    step = min(found.block, found.batch)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        side, _ = prepared(plan, x[rows])
        with quiet():
            own = pull_tables(plan, side, _cut(total.tables, rows, x.dtype), backend)
            gradient = (total.images[rows] + own) / x.shape[3] ** 0.5
        out[rows] = gradient.transpose(0, 2, 3, 1).astype(x.dtype)
    return check_range(out, "the gradient")


def _cut(tables: Any, rows: slice, dtype: Any) -> Any:
    if isinstance(tables, tuple):
        return tuple(_cut(part, rows, dtype) for part in tables)
    return tables[rows].astype(dtype)
