"""Kernel matrices block by block: images are prepared in blocks, pairs of them evaluated in batches."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import get_num_threads

from .._check import check_images, check_range, memory_budget, quiet
from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels.displacement import Code
from ._execution import Side, State, evaluate, pair_bytes, pixel_pairs, prepare, scratch_bytes, self_pairs, side_bytes
from .architecture import NOWHERE, Fork, Plan

__all__ = [
    "Block",
    "Prepared",
    "Progress",
    "Sizes",
    "batches",
    "check_image_pair",
    "check_progress",
    "diagonal",
    "gram",
    "is_homogeneous",
    "prepared",
    "scaled",
    "sizes",
    "temporary_bytes",
]

Progress: TypeAlias = Callable[[int, int], None]
Prepared: TypeAlias = tuple[Side, Array | None]  # a block of images, and their factors; see `scaled`

# Most bytes of temporaries when the caller names no limit: more does not make anything faster.
_ENOUGH = 1 << 29
# Pairs of one launch, between which progress is reported and an interrupt is heard; and what they hold of pairs of
# pixels, a second's work for two cores.
_BATCH, _PIXEL_PAIRS = 1024, 1 << 30
# Images of a block: enough that their variances cost nothing beside the pairs of two blocks.
_BLOCK = 256
# Bytes of a pair in the list of a block's pairs while it is made; and beside a pair's tensors while it is evaluated.
_PER_INDEX, _PER_PAIR = 32, 128


def check_image_pair(x1: Array, x2: Array | None) -> tuple[Array, Array | None, Backend]:
    """Check two sets of images of one shape, dtype and backend; `x2` may be None."""
    x1, backend = check_images(x1, "x1")
    if x2 is None:
        return x1, None, backend
    if hasattr(x2, "dtype"):
        get_backend(x1, x2)
    x2, _ = check_images(x2, "x2", x1.shape[1:])
    if x1.dtype != x2.dtype:
        raise TypeError(f"expected x1 and x2 of one dtype, got {x1.dtype} and {x2.dtype}")
    return x1, x2, backend


def check_progress(progress: Any) -> None:
    """Refuse what cannot be called."""
    if progress is not None and not callable(progress):
        raise TypeError(f"expected progress to be None or callable, got {progress!r}")


def is_homogeneous(plan: Plan) -> bool:
    """Whether scaling an image scales its kernel: no biases, and activations of degree one."""
    return all(
        all(is_homogeneous(branch) for branch in node.branches)
        if isinstance(node, Fork)
        else node.ending[1] == 0 and all(op.row[0] != Code.ERF and not _has_bias(op) for op in node.ops)
        for node in plan
    )


def _has_bias(op: Any) -> bool:
    return bool(op.row[0] == Code.CONV and op.constants[1] > 0)


class Scaled(NamedTuple):
    """Images (n, c, h, w) as the kernels take them, and what their rows of the result are multiplied with."""

    images: Array
    factors: Array | None


def scaled(plan: Plan, x: Array) -> Scaled:
    """Images (n, h, w, c) divided by sqrt(c), channels first; by their largest entry too, if that can be undone."""
    xp = get_backend(x).xp
    images = xp.ascontiguousarray(x.transpose(0, 3, 1, 2)) * x.dtype.type(1 / math.sqrt(x.shape[3]))
    if not is_homogeneous(plan):
        return Scaled(images, None)
    largest = abs(images).max(axis=(1, 2, 3))
    largest = xp.where(largest > 0, largest, largest.dtype.type(1))
    return Scaled(images / largest[:, None, None, None], largest)


@dataclass(frozen=True, slots=True)
class Block:
    """Pairs of one block of rows and one of columns."""

    rows: slice
    columns: slice
    pairs: np.ndarray  # (b, 2), numbers within the blocks


def pair_blocks(n1: int, n2: int, size: int, symmetric: bool) -> Iterator[Block]:
    for row in range(0, n1, size):
        for column in range(row if symmetric else 0, n2, size):
            rows, columns = slice(row, min(row + size, n1)), slice(column, min(column + size, n2))
            inside = np.ones((rows.stop - row, columns.stop - column), bool)
            if symmetric and row == column:
                inside = np.triu(inside)
            yield Block(rows, columns, np.argwhere(inside).astype(np.int32, order="C"))


class Sizes(NamedTuple):
    """Images of a block, and pairs of a batch."""

    block: int
    batch: int


def sizes(plan: Plan, in_shape: tuple[int, int, int], itemsize: int, backend: Backend, max_memory: Any) -> Sizes:
    """Block and batch within the budget.

    Raises
    ------
    MemoryBudgetError
        `max_memory` is too small for one pair.
    """
    per_pair, per_image = pair_bytes(plan, itemsize) + _PER_PAIR, 3 * side_bytes(plan, in_shape, itemsize)
    preparing = per_image + per_pair
    scratch = get_num_threads() * scratch_bytes(plan, in_shape[2], itemsize) if backend.name == "numpy" else 0
    smallest = scratch + 2 * per_image + per_pair
    budget = memory_budget(max_memory, backend, smallest=smallest)
    if max_memory is None:
        budget = max(smallest, min(budget, _ENOUGH))
    budget -= scratch
    block = min(_BLOCK, budget // 2 // (2 * per_image), budget // 2 // preparing, math.isqrt(budget // 8 // _PER_INDEX))
    block = max(1, block)
    most = min(_BATCH, _PIXEL_PAIRS // max(1, pixel_pairs(plan, NOWHERE)))
    batch = max(1, min(most, (budget - 2 * block * per_image - _PER_INDEX * block**2) // per_pair))
    return Sizes(block, batch)


def temporary_bytes(plan: Plan, in_shape: tuple[int, int, int], itemsize: int, backend: Backend, found: Sizes) -> int:
    """What blocks and batches of these sizes take beside the result."""
    scratch = get_num_threads() * scratch_bytes(plan, in_shape[2], itemsize) if backend.name == "numpy" else 0
    pairs = found.batch * (pair_bytes(plan, itemsize) + _PER_PAIR) + found.block**2 * _PER_INDEX
    return scratch + 6 * found.block * side_bytes(plan, in_shape, itemsize) + pairs


def gram(plan: Plan, x1: Array, x2: Array | None, max_memory: Any, progress: Progress | None) -> tuple[Array, Array]:
    """NNGP and NTK (n1, n2) of checked images; `x2` None computes one triangle and mirrors it."""
    check_progress(progress)
    backend = get_backend(x1)
    found = sizes(plan, x1.shape[1:], x1.dtype.itemsize, backend, max_memory)
    out = backend.xp.empty((2, len(x1), len(x1 if x2 is None else x2)), x1.dtype)
    for block, first, second, pairs in batches(plan, x1, x2, found, progress):
        with quiet():
            state = _batch(plan, first, second, pairs, backend)
        _write(out, state, block, pairs, x2 is None, backend)
    return check_range(out[0], "the kernel"), check_range(out[1], "the kernel")


def batches(
    plan: Plan, x1: Array, x2: Array | None, found: Sizes, progress: Progress | None
) -> Iterator[tuple[Block, Prepared, Prepared, np.ndarray]]:
    """All pairs: a block, its images prepared, and some of its pairs. Progress is told when the next ones are due."""
    other, done = x1 if x2 is None else x2, 0
    cache: dict[str, tuple[slice, Prepared]] = {}
    n1, n2 = len(x1), len(other)
    total = n1 * (n1 + 1) // 2 if x2 is None else n1 * n2
    for block in pair_blocks(n1, n2, found.block, x2 is None):
        first = prepared_block(plan, x1, block.rows, cache, "rows")
        same = x2 is None and block.rows == block.columns
        second = first if same else prepared_block(plan, other, block.columns, cache, "columns")
        for start in range(0, len(block.pairs), found.batch):
            pairs = block.pairs[start : start + found.batch]
            yield block, first, second, pairs
            done += len(pairs)
            if progress is not None:
                progress(done, total)


def prepared_block(plan: Plan, x: Array, rows: slice, cache: dict[str, tuple[slice, Prepared]], name: str) -> Prepared:
    """A prepared block; the last one of either side is kept."""
    if name not in cache or cache[name][0] != rows:
        cache[name] = rows, prepared(plan, x[rows])
    return cache[name][1]


def prepared(plan: Plan, x: Array) -> Prepared:
    """Images (n, h, w, c), ready for the kernels, and their factors; see `scaled`."""
    images, factors = scaled(plan, x)
    with quiet():
        return prepare(plan, images, get_backend(x)), factors


def _batch(plan: Plan, first: Prepared, second: Prepared, pairs: Array, backend: Backend) -> State:
    """Kernels of some pairs of two prepared blocks."""
    pairs = backend.xp.asarray(pairs)
    state = evaluate(plan, first[0], second[0], pairs, backend)
    if first[1] is None or second[1] is None:
        return state
    factors = first[1][pairs[:, 0]] * second[1][pairs[:, 1]]
    return State(state.k * factors, state.theta * factors)


def _write(out: Array, state: State, block: Block, pairs: np.ndarray, symmetric: bool, backend: Backend) -> None:
    i, j = (backend.xp.asarray(pairs[:, side] + part.start) for side, part in enumerate((block.rows, block.columns)))
    for matrix, values in zip(out, state, strict=True):
        matrix[i, j] = values
        if symmetric:
            matrix[j, i] = values


def diagonal(plan: Plan, x: Array, max_memory: Any, progress: Progress | None) -> tuple[Array, Array]:
    """NNGP and NTK (n,) of every image with itself."""
    check_progress(progress)
    backend = get_backend(x)
    found = sizes(plan, x.shape[1:], x.dtype.itemsize, backend, max_memory)
    out = backend.xp.empty((2, len(x)), x.dtype)
    step = min(found.block, found.batch)
    for start in range(0, len(x), step):
        side = prepared(plan, x[start : start + step])
        with quiet():
            state = _batch(plan, side, side, self_pairs(side[0].images, backend), backend)
        out[0, start : start + step], out[1, start : start + step] = state
        if progress is not None:
            progress(min(start + step, len(x)), len(x))
    return check_range(out[0], "the kernel"), check_range(out[1], "the kernel")
