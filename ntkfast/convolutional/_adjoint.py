"""Adjoints of plans: from cotangents of K and Theta to those of images and of their variances, node by node.

A kernel depends on two images directly, and through the variances before every activation, their tables. `pull` does
the former for pairs of images, and gives cotangents of the tables. Summed over all pairs of an image they go to
`pull_tables`, once per image: its variances are K of the image with itself, from pixel to pixel within a stage, and
from stage to stage through pairs of the image with itself.
"""

import math
from typing import Any, NamedTuple

from .._typing import Array
from ..backends import Backend
from ..kernels import displacement_gradient as kernels
from ..kernels.displacement import Boundary, Code
from ._execution import (
    Boxes,
    Side,
    State,
    Tables,
    boxes,
    last_activation,
    result_shape,
    run_plan,
    self_pairs,
    stage_arrays,
    stage_inputs,
    table_size,
)
from .architecture import NOWHERE, Box, Fork, Plan, Stage

__all__ = ["Pulled", "pull", "pull_bytes", "pull_tables"]


class Pulled(NamedTuple):
    """Cotangents, pair by pair, of what a plan starts from and of the tables of either side.

    Attributes
    ----------
    images : (array, array) or None
        (b, c, h, w) of either side, if the plan starts from images.
    state : State or None
        Otherwise.
    tables : (Tables, Tables)
        Like `Side.tables`, without the reciprocal roots: (b, l, h, w).
    """

    images: tuple[Array, Array] | None
    state: State | None
    tables: tuple[Tables, Tables]


class _Ends(NamedTuple):
    """Two blocks of images, the tables of a plan for either, and which pairs of them are meant."""

    first: Side
    second: Side
    tables: tuple[Tables, Tables]
    pairs: Array

    def of(self, node: int) -> "_Ends":
        """The same for one node of the plan, or one branch of a fork."""
        return self._replace(tables=(self.tables[0][node], self.tables[1][node]))

    def until(self, node: int) -> "_Ends":
        """The same for the nodes before one."""
        return self._replace(tables=(self.tables[0][:node], self.tables[1][:node]))


def pull(plan: Plan, first: Side, second: Side, pairs: Array, ct: State, backend: Backend) -> Pulled:
    """Cotangents of pairs of images, from those (b,) of their K and Theta."""
    wanted, _ = boxes(plan, NOWHERE)
    given = State(*(a.reshape(-1, 1, 1, 1, 1) for a in ct))
    return _pull(plan, wanted, _Ends(first, second, (first.tables, second.tables), pairs), None, True, given, backend)


def _pull(
    plan: Plan, wanted: Boxes, ends: _Ends, state: State | None, from_images: bool, ct: State, backend: Backend
) -> Pulled:
    """Backwards through a plan; `state` may be None where it has no activation."""
    before = _states(plan, wanted, ends, state, backend)
    pulled = Pulled(None, ct, ((), ()))
    own: list[Any] = []
    other: list[Any] = []
    for i in reversed(range(len(plan))):
        assert pulled.state is not None
        node, ct = plan[i], pulled.state
        if isinstance(node, Fork):
            pulled = _pull_fork(node, wanted[i], ends.of(i), before[i], ct, backend)
        else:
            starts = from_images and i == 0
            pulled = _pull_stage(node, wanted[i], ends.of(i), before[i], starts, ct, backend)
        own.insert(0, pulled.tables[0])
        other.insert(0, pulled.tables[1])
    return pulled._replace(tables=(tuple(own), tuple(other)))


def _states(plan: Plan, wanted: Boxes, ends: _Ends, state: State | None, backend: Backend) -> list[State | None]:
    """States before every node, up to the last one that has an activation, and so needs its state."""
    found: list[State | None] = [state]
    for i in range(len(plan) - 1):
        if table_size(plan[i + 1 :]) == 0:
            return found + [None] * (len(plan) - 1 - i)
        own, other = ends.tables[0][i : i + 1], ends.tables[1][i : i + 1]
        part, box = plan[i : i + 1], wanted[i : i + 1]
        state = run_plan(part, box, ends.first, ends.second, (own, other), ends.pairs, state, backend)
        found.append(state)
    return found


def _pull_fork(fork: Fork, box: Any, ends: _Ends, state: State | None, ct: State, backend: Backend) -> Pulled:
    a, b = (_pull(fork.branches[i], box[1 + i], ends.of(i), state, False, ct, backend) for i in (0, 1))
    assert a.state is not None
    assert b.state is not None
    tables = (a.tables[0], b.tables[0]), (a.tables[1], b.tables[1])
    return Pulled(None, a.state.plus(b.state), tables)


def _pull_stage(
    stage: Stage, box: Box, ends: _Ends, state: State | None, from_images: bool, ct: State, backend: Backend
) -> Pulled:
    xp, dtype, n = backend.xp, ends.first.images.dtype, len(ends.pairs)
    arrays, (h, w) = stage_arrays(stage, backend, dtype), stage.size
    if state is None and not from_images:  # a linear stage: its adjoint does not depend on the state
        state = State(*[xp.zeros((n, h, h, w, w), dtype)] * 2)
    images1, k, theta = stage_inputs(stage, ends.first.images, state, xp)
    images2, _, _ = stage_inputs(stage, ends.second.images, state, xp)
    images = tuple(xp.empty((n, images1.shape[1], h, w), dtype) for _ in range(2))
    inputs = State(*(xp.zeros((0 if from_images else n, h, h, w, w), dtype) for _ in range(2)))
    tables = tuple(xp.empty((n, stage.n_tables, h, w), dtype) for _ in range(2))
    ct = State(*(xp.ascontiguousarray(a / dtype.type(stage.divisor)) for a in ct))
    backend.launch(
        kernels.pull,
        *(images1, images2, k, theta, *ends.tables, ends.pairs, arrays.program, arrays.constants),
        *(stage.frame, box, stage.boundary, *ct, *images, *inputs, *tables),
    )
    tables1, tables2 = tables
    if from_images:
        return Pulled((images[0], images[1]), None, (tables1, tables2))
    return Pulled(None, inputs, (tables1, tables2))


# --- variances of images --------------------------------------------------------------------------


def pull_tables(plan: Plan, side: Side, cts: Tables, backend: Backend) -> Array:
    """Cotangent (n, c, h, w) of a block of images, from that of their variances (n, l, h, w) in every node."""
    images = backend.xp.zeros_like(side.images)
    _pull_record(plan, NOWHERE, side, (side.tables, cts), None, None, images, backend)
    return images


def _pull_record(
    plan: Plan,
    wanted: Box,
    side: Side,
    tables: tuple[Tables, Tables],
    state: State | None,
    ct: State | None,
    images: Array | None,
    backend: Backend,
) -> State | None:
    """Cotangent of the state before a plan, from those of its tables and of the state behind it.

    If the plan starts from images, theirs is added to `images`, and None returned. None is a cotangent of zeros.
    """
    last = len(plan) if ct is not None else last_activation(plan)
    limits, _ = boxes(plan[:last], wanted)
    pairs = self_pairs(side.images, backend)
    ends = _Ends(side, side, (tables[0], tables[0]), pairs)
    before = _self_states(plan, limits, ends, state, backend)
    for i in reversed(range(min(last + 1, len(plan)))):
        node, own = plan[i], (tables[0][i], tables[1][i])
        target = images if i == 0 else None
        if isinstance(node, Fork):
            box = limits[i][0] if i < last else NOWHERE
            ct = _pull_record_fork(node, box, side, own, before[i], ct, backend)
        else:
            box = limits[i] if i < last else NOWHERE
            ct = _pull_record_stage(node, box, ends.of(i), own, before[i], ct, target, backend)
    return ct


def _self_states(plan: Plan, limits: Boxes, ends: _Ends, state: State | None, backend: Backend) -> list[State | None]:
    """States of images with themselves before every node up to the one behind `limits`."""
    found = [state]
    for i in range(len(limits)):
        if i + 1 == len(plan):
            break
        part, box = plan[i : i + 1], limits[i : i + 1]
        tables = ends.tables[0][i : i + 1], ends.tables[1][i : i + 1]
        found.append(run_plan(part, box, ends.first, ends.second, tables, ends.pairs, found[-1], backend))
    return found


def _pull_record_fork(
    fork: Fork,
    wanted: Box,
    side: Side,
    tables: tuple[Tables, Tables],
    state: State | None,
    ct: State | None,
    backend: Backend,
) -> State | None:
    a, b = (
        _pull_record(fork.branches[i], wanted, side, (tables[0][i], tables[1][i]), state, ct, None, backend)
        for i in (0, 1)
    )
    if a is None or b is None:
        return b if a is None else a
    return a.plus(b)


def _pull_record_stage(
    stage: Stage,
    box: Box,
    ends: _Ends,
    tables: tuple[Array, Array],
    state: State | None,
    ct: State | None,
    images: Array | None,
    backend: Backend,
) -> State | None:
    xp, own = backend.xp, tables[1]
    before = None
    if ct is not None:
        pulled = _pull_stage(stage, box, ends, state, images is not None, ct, backend)
        own, before = own + pulled.tables[0] + pulled.tables[1], pulled.state
        if images is not None and pulled.images is not None:
            images += pulled.images[0] + pulled.images[1]
    variance = _pull_variances(stage, tables[0], own, xp)
    if images is not None:
        images += 2 * variance[:, None] * ends.first.images
        return None
    if before is None:
        h, w = stage.size
        before = State(*(xp.zeros((len(variance), h, h, w, w), variance.dtype) for _ in range(2)))
    rows = xp.arange(stage.size[0])
    before.k[:, rows, rows, 0] += variance
    return before


def _pull_variances(stage: Stage, tables: Array, cts: Array, xp: Any) -> Array:
    """Cotangent (n, h, w) of the variances at the start of a stage, from those before its activations."""
    carry = xp.zeros((len(cts), *stage.size), cts.dtype)
    slots: dict[int, Array] = {}
    for op in reversed(stage.ops):
        code, kh, kw, top, left, slot = op.row
        if code == Code.CONV:
            carry = _spread(_spread(carry, 1, kh, top, stage, xp), 2, kw, left, stage, xp) * op.constants[0]
        elif code == Code.HOMOGENEOUS:
            carry = op.constants[0] * carry + cts[:, slot]
        elif code == Code.ERF:  # 2 / pi arcsin(2 q / (1 + 2 q))
            q = tables[:, slot, 0]
            carry = (4 / math.pi) * carry / (xp.sqrt(1 + 4 * q) * (1 + 2 * q)) + cts[:, slot]
        elif code == Code.SAVE:
            carry = carry + slots[slot]
        elif code == Code.SWAP:
            carry, slots[slot] = slots[slot], carry
        else:
            slots[slot] = carry
    return carry


def _spread(a: Array, axis: int, kernel: int, before: int, stage: Stage, xp: Any) -> Array:
    """Adjoint of sums over windows along one axis: out[p] = sum_u a[p + before - u]."""
    size = a.shape[axis]
    shifts = range(before - kernel + 1, before + 1)
    if stage.is_circular:
        return sum(xp.take(a, (xp.arange(size) + shift) % size, axis=axis) for shift in shifts)
    out = xp.zeros_like(a)
    for shift in shifts:
        if abs(shift) < size:
            target, source = slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size + min(0, shift))
            lead = (slice(None),) * axis
            out[(*lead, target)] += a[(*lead, source)]
    return out


# --- memory ---------------------------------------------------------------------------------------


def pull_bytes(plan: Plan, in_shape: tuple[int, int, int], itemsize: int) -> int:
    """Bytes that one pair of images takes: states, their cotangents, and twice its share of the gradient."""
    share = math.prod(in_shape) + table_size(plan) // 2
    return itemsize * (4 * share + 4 * _state_size(plan))


def _state_size(plan: Plan) -> int:
    """Numbers in K, or in Theta, of one pair in all nodes."""
    total = 0
    for node in plan:
        if isinstance(node, Fork):
            total += sum(_state_size(branch) for branch in node.branches)
        elif node.boundary[0] != Boundary.SUM:
            total += math.prod(result_shape(node, NOWHERE))
    return total
