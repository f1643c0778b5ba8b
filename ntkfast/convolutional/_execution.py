"""Plans on arrays: variances of images at every activation, then kernels of pairs of images, stage by stage."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from .._typing import Array
from ..backends import Backend
from ..kernels import displacement as kernels
from ..kernels.displacement import Boundary, Code
from .architecture import NOWHERE, Box, Fork, Plan, Stage

__all__ = [
    "Boxes",
    "Side",
    "State",
    "Tables",
    "boxes",
    "evaluate",
    "last_activation",
    "pair_bytes",
    "pixel_pairs",
    "prepare",
    "result_shape",
    "run_plan",
    "scratch_bytes",
    "self_pairs",
    "side_bytes",
    "stage_arrays",
    "stage_inputs",
    "table_size",
]

# Entries to which the CPU's planes are rounded up.
_ALIGNED = 64

# Variances of all activations of a plan, one entry per node: (n, l, 2, h, w), or those of both branches.
Tables: TypeAlias = tuple[Any, ...]

Boxes: TypeAlias = tuple[Any, ...]  # of every node's results, one entry per node


class Side(NamedTuple):
    """A block of images, (n, c, h, w) divided by sqrt(c), and their tables."""

    images: Array
    tables: Tables


class State(NamedTuple):
    """K and Theta of all pairs of pixels, (b, h, h, w, w); see `ntkfast.kernels.displacement`."""

    k: Array
    theta: Array

    def plus(self, other: "State") -> "State":
        """K and Theta of a sum of independent branches; likewise for cotangents."""
        return State(self.k + other.k, self.theta + other.theta)


def boxes(plan: Plan, wanted: Box) -> tuple[Boxes, Box]:
    """Displacements that every node has to give for results within `wanted`, and those of the plan's input."""
    found: list[Any] = []
    for node in reversed(plan):
        if isinstance(node, Stage):
            found.append(node.limits(wanted))
            wanted = node.needs(wanted)
        else:
            parts = [boxes(branch, wanted) for branch in node.branches]
            found.append((wanted, parts[0][0], parts[1][0]))
            wanted = _union(parts[0][1], parts[1][1])
    return tuple(reversed(found)), wanted


def _union(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])


@dataclass(frozen=True, slots=True)
class _Arrays:
    """What the kernels take of a stage, on a backend and in a dtype."""

    program: Array
    constants: Array


def stage_arrays(stage: Stage, backend: Backend, dtype: Any) -> _Arrays:
    """The program of a stage with its constants, on a backend."""
    xp = backend.xp
    program = xp.asarray([op.row for op in stage.ops], dtype="int32").reshape(-1, 6)
    constants = xp.asarray([op.constants for op in stage.ops] + [stage.ending], dtype=dtype)
    return _Arrays(program, constants)


# --- images ---------------------------------------------------------------------------------------


def prepare(plan: Plan, images: Array, backend: Backend) -> Side:
    """Tables of a block of images (n, c, h, w): K of every image with itself, before every activation."""
    tables, _ = _record(plan, NOWHERE, images, None, backend, needs_state=False)
    return Side(images, tables)


def _record(
    plan: Plan, wanted: Box, images: Array, state: State | None, backend: Backend, *, needs_state: bool
) -> tuple[Tables, State | None]:
    """Tables of a plan, and the state behind it if that is needed.

    Pairs of an image with itself are walked no farther than to the last activation, and only for the displacements
    that its variances depend on.
    """
    last = len(plan) if needs_state else last_activation(plan)
    limits, _ = boxes(plan[:last], wanted)
    tables: list[Any] = []
    for i, node in enumerate(plan):
        walks = i < last
        if isinstance(node, Fork):
            box = limits[i][0] if walks else NOWHERE
            found, state = _record_fork(node, box, images, state, backend, walks)
        else:
            found = _record_stage(node, images, state, backend)
            if walks:
                side = Side(images, (found,))
                state = _walk(node, limits[i], side, side, found, found, self_pairs(images, backend), state, backend)
        tables.append(found)
    return tuple(tables), state


def last_activation(plan: Plan) -> int:
    """Number of the last node that has an activation, or 0."""
    return max((i for i, node in enumerate(plan) if table_size((node,))), default=0)


def _record_fork(
    fork: Fork, wanted: Box, images: Array, state: State | None, backend: Backend, needs_state: bool
) -> tuple[Tables, State | None]:
    (first, a), (second, b) = (
        _record(branch, wanted, images, state, backend, needs_state=needs_state) for branch in fork.branches
    )
    if not needs_state:
        return (first, second), state
    assert a is not None
    assert b is not None
    return (first, second), a.plus(b)


def _record_stage(stage: Stage, images: Array, state: State | None, backend: Backend) -> Array:
    xp = backend.xp
    tables = xp.empty((len(images), stage.n_tables, 2, *stage.size), images.dtype)
    if stage.n_tables:
        arrays = stage_arrays(stage, backend, images.dtype)
        given, k, _ = stage_inputs(stage, images, state, xp)
        backend.launch(kernels.record, given, k, arrays.program, arrays.constants, stage.frame, tables)
    return tables


def self_pairs(images: Array, backend: Backend) -> Array:
    """Every image of a block with itself, (n, 2)."""
    index = backend.xp.arange(len(images), dtype="int32")
    return backend.xp.stack([index, index], axis=1)


def stage_inputs(stage: Stage, images: Array, state: State | None, xp: Any) -> tuple[Array, Array, Array]:
    """Images, K and Theta at the start of a stage, those that are not used with an empty axis."""
    h, w = stage.size
    if state is None:
        empty = xp.empty((0, h, h, w, w), images.dtype)
        return images, empty, empty
    return xp.empty((len(images), 0, h, w), images.dtype), state.k, state.theta


# --- pairs of images ------------------------------------------------------------------------------


def evaluate(plan: Plan, first: Side, second: Side, pairs: Array, backend: Backend) -> State:
    """K and Theta (b,) of pairs of images, `pairs` (b, 2) being their numbers in either side."""
    wanted, _ = boxes(plan, NOWHERE)
    tables = first.tables, second.tables
    state = run_plan(plan, wanted, first, second, tables, pairs, None, backend)
    return State(state.k.reshape(-1), state.theta.reshape(-1))


def run_plan(
    plan: Plan,
    wanted: Boxes,
    first: Side,
    second: Side,
    tables: tuple[Tables, Tables],
    pairs: Array,
    state: State | None,
    backend: Backend,
) -> State:
    """State behind a plan; without one before it, from the images."""
    for node, box, own, other in zip(plan, wanted, *tables, strict=True):
        if isinstance(node, Fork):
            a, b = (
                run_plan(node.branches[i], box[1 + i], first, second, (own[i], other[i]), pairs, state, backend)
                for i in (0, 1)
            )
            state = a.plus(b)
        else:
            state = _walk(node, box, first, second, own, other, pairs, state, backend)
    assert state is not None
    return state


def _walk(
    stage: Stage,
    box: Box,
    first: Side,
    second: Side,
    own: Array,
    other: Array,
    pairs: Array,
    state: State | None,
    backend: Backend,
) -> State:
    """State behind a stage."""
    xp, dtype = backend.xp, first.images.dtype
    arrays = stage_arrays(stage, backend, dtype)
    images1, k, theta = stage_inputs(stage, first.images, state, xp)
    images2, _, _ = stage_inputs(stage, second.images, state, xp)
    # A convolution that enlarges the image has places so far apart that only the bias, stage.ending[1], is common.
    out = State(*(xp.full((len(pairs), *result_shape(stage, box)), stage.ending[1], dtype) for _ in range(2)))
    backend.launch(
        kernels.walk,
        *(images1, images2, k, theta, own, other, pairs, arrays.program, arrays.constants),
        *(stage.frame, box, stage.boundary, *out),
    )
    if stage.boundary[0] != Boundary.SUM:
        return out
    sums = (a.sum(axis=(1, 2, 3, 4), dtype="float64") / stage.divisor for a in out)
    return State(*(a.astype(dtype).reshape(-1, 1, 1, 1, 1) for a in sums))


def result_shape(stage: Stage, box: Box) -> tuple[int, ...]:
    """Shape of what the kernel writes per pair."""
    if stage.boundary[0] == Boundary.SUM:
        return box[1] - box[0] + 1, stage.size[1] if stage.everywhere else 1, 1, 1
    h, w = stage.out
    return h, h, w, w


# --- cost ---------------------------------------------------------------------------------------


def pair_bytes(plan: Plan, itemsize: int) -> int:
    """Most bytes that one pair of images takes between stages."""
    wanted, _ = boxes(plan, NOWHERE)
    return itemsize * max(_tensors(plan, wanted, 0))


def _tensors(plan: Plan, wanted: Boxes, held: int) -> Iterator[int]:
    """Numbers per pair that are alive while each node runs; `held` are those that live as long as the plan runs."""
    before = 0
    for node, box in zip(plan, wanted, strict=True):
        after = _result_size(node, box)
        if isinstance(node, Fork):
            for i, branch in enumerate(node.branches):
                yield from _tensors(branch, box[1 + i], held + before + i * after)
            yield held + before + 3 * after
        else:
            yield held + before + after
        before = after


def _result_size(node: Stage | Fork, box: Any) -> int:
    """Numbers of K and Theta behind a node."""
    if isinstance(node, Stage):
        return 2 * math.prod(result_shape(node, box))
    return max(_result_size(branch[-1], box[1 + i][-1]) for i, branch in enumerate(node.branches) if branch)


def side_bytes(plan: Plan, in_shape: tuple[int, int, int], itemsize: int) -> int:
    """Bytes of one prepared image, its tables included."""
    return itemsize * (math.prod(in_shape) + table_size(plan))


def table_size(plan: Plan) -> int:
    """Numbers in the tables of one image."""
    total = 0
    for node in plan:
        if isinstance(node, Fork):
            total += sum(table_size(branch) for branch in node.branches)
        else:
            total += 2 * node.n_tables * math.prod(node.size)
    return total


def scratch_bytes(plan: Plan, channels: int, itemsize: int) -> int:
    """Bytes in which one thread of a CPU walks planes, at most."""
    return itemsize * max(_scratch_size(node, channels) for node in plan)


def _scratch_size(node: Stage | Fork, channels: int) -> int:
    if isinstance(node, Fork):
        return max(_scratch_size(child, channels) for branch in node.branches for child in branch)
    (h, w), (up, down, gap, circular) = node.size, node.frame
    slots = max((op.row[5] + 1 for op in node.ops if op.row[0] >= Code.SAVE), default=0)
    rows = 5 + 2 * slots + 2 * (channels + 2 * node.n_tables)
    return rows * (((1 + circular) * h + up + down + 1) * (w + 2 * gap) + 2 * gap + 4 * _ALIGNED)


def pixel_pairs(plan: Plan, wanted: Box) -> int:
    """Pairs of pixels, times activations, of one pair of images, for results within the displacements `wanted`."""
    total = 0
    for node in reversed(plan):
        if isinstance(node, Fork):
            total += sum(pixel_pairs(branch, wanted) for branch in node.branches)
            wanted = boxes((node,), wanted)[1]
        else:
            wanted = node.needs(wanted)
            total += node.n_tables * _overlap(node.size[0], *wanted[:2]) * _overlap(node.size[1], *wanted[2:])
    return total


def _overlap(size: int, lo: int, hi: int) -> int:
    """Pairs of pixels along one axis with a displacement from lo to hi."""
    return sum(size - abs(d) for d in range(lo, hi + 1))
