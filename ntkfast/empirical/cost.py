"""What contraction orders cost: operations over the machine's matrix-product rate plus bytes over its copy rate.

The two rates are measured once per process, backend and dtype, in a few milliseconds. The model decides between orders
whose costs usually differ by factors; it does not promise seconds.
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

from ..backends import Backend

__all__ = ["BlockShape", "Cost", "Rates", "cheapest_order", "order_costs", "rates"]

# Seconds that one call into the array library costs, small work apart, and one more product of a batch within a call.
_CALL = {"numpy": 3e-6, "cupy": 1e-5}
_BATCHED = {"numpy": 3e-6, "cupy": 0.0}

# Size of the square matrices of the probe, and bytes of its copy. Smaller ones would time the launches of a GPU.
_PROBE_SIZE = {"numpy": 384, "cupy": 1024}
_PROBE_BYTES = {"numpy": 2**23, "cupy": 2**27}


class Rates(NamedTuple):
    """What the machine does in a second.

    Attributes
    ----------
    product : float
        Operations of a matrix product (a multiply-add is two).
    copy : float
        Bytes read and written by a copy.
    call : float
        Seconds of a call.
    batched : float
        Seconds of one more matrix product within a call.
    """

    product: float
    copy: float
    call: float
    batched: float = 0.0


@functools.lru_cache
def rates(backend: Backend, dtype: str) -> Rates:
    """Measure the rates of a backend, the best of a few repeats."""
    xp, size, n_bytes = backend.xp, _PROBE_SIZE[backend.name], _PROBE_BYTES[backend.name]
    a = xp.ones((size, size), dtype)
    b = xp.ones(n_bytes // a.itemsize, dtype)
    product = _least_seconds(backend, lambda: xp.matmul(a, a))
    copy = _least_seconds(backend, lambda: xp.copyto(b[: b.size // 2], b[b.size // 2 :]))
    return Rates(2.0 * size**3 / product, n_bytes / copy, _CALL[backend.name], _BATCHED[backend.name])


def _least_seconds(backend: Backend, work: Callable[[], object], repeat: int = 5) -> float:
    times = []
    for _ in range(repeat):
        backend.synchronize()
        start = time.perf_counter()
        work()
        backend.synchronize()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-9)


class BlockShape(NamedTuple):
    """Sizes of a parameter block on both sides; see `ntkfast.layers.JacobianFactors` for the letters."""

    n1: int
    n2: int
    positions: int
    k: int
    inputs: int
    outputs: int
    groups: int
    shared: bool
    gated: bool
    symmetric: bool
    output: str
    itemsize: int

    @property
    def pairs(self) -> float:
        """Pairs of samples whose entries are computed."""
        return self.n1 * (self.n1 + 1) / 2 if self.symmetric else float(self.n1 * self.n2)

    @property
    def samples(self) -> int:
        """Samples whose factors are formed."""
        return self.n1 if self.symmetric else self.n1 + self.n2

    @property
    def entries(self) -> int:
        """Entries of the result per pair of samples, counted as products of outputs."""
        return self.k**2 if self.output == "full" else self.k

    @property
    def width(self) -> int:
        """Parameters of the block."""
        return self.groups * self.inputs * self.outputs


class Cost(NamedTuple):
    """Operations, bytes moved, calls, and matrix products of batches within them."""

    operations: float
    bytes: float
    calls: float
    batched: float = 0.0

    def seconds(self, at: Rates) -> float:
        """Predicted time."""
        return self.operations / at.product + self.bytes / at.copy + self.calls * at.call + self.batched * at.batched


def order_costs(shape: BlockShape) -> dict[str, Cost]:
    """Costs of the contraction orders that a block allows.

    Examples
    --------
    >>> dense = BlockShape(64, 64, 1, 10, 256, 256, 1, False, False, True, "full", 4)
    >>> costs = order_costs(dense)
    >>> costs["inside_out"].operations < costs["outside_in"].operations
    True
    """
    costs = {"outside_in": _outside_in(shape), "left_to_right": _left_to_right(shape), "inside_out": _inside_out(shape)}
    if shape.shared and not (shape.output == "full" and shape.gated and shape.positions == 1):
        costs["shared"] = _shared(shape)
    if shape.groups > 1:
        del costs["left_to_right"], costs["inside_out"]
    return costs


@functools.lru_cache(1024)
def cheapest_order(shape: BlockShape, at: Rates) -> str:
    """Name of the order with the least predicted time."""
    costs = order_costs(shape)
    return min(costs, key=lambda order: costs[order].seconds(at))


def _outside_in(s: BlockShape) -> Cost:
    """Form the Jacobians, then their Gram matrix."""
    form = 2.0 * s.samples * s.positions * s.k * s.width
    gram = 2.0 * s.pairs * s.entries * s.width
    moved = 3.0 * s.samples * s.k * s.width + s.samples * s.positions * s.inputs * s.groups
    products = s.groups if s.width > s.groups else 1  # one per group and sample, but for scales
    return Cost(form + gram, moved * s.itemsize, 4, s.samples * products)


def _left_to_right(s: BlockShape) -> Cost:
    """Form the Jacobian of one side; multiply by the other side's acts, then cotangents."""
    form = 2.0 * s.n1 * s.positions * s.k * s.width
    through = 2.0 * s.pairs * s.k * s.positions * s.width
    gram = 2.0 * s.pairs * s.entries * s.positions * s.outputs
    moved = 3.0 * s.n1 * s.k * s.width + 2.0 * s.pairs * s.k * s.positions * s.outputs
    return Cost(form + through + gram, moved * s.itemsize, 6, s.n1 + 6.0 * s.n2)


def _inside_out(s: BlockShape) -> Cost:
    """A product of Gram matrices for every pair of positions."""
    grams = 2.0 * s.pairs * s.positions**2 * (s.inputs + s.entries * s.outputs)
    results = s.entries if s.output == "full" else 1
    moved = 3.0 * s.pairs * s.positions**2 * (1 + results)
    return Cost(grams, moved * s.itemsize, 6.0 * s.positions**2)


def _shared(s: BlockShape) -> Cost:
    """Sum over positions first, then contract; the outputs come last."""
    if not s.gated:
        return Cost(2.0 * s.pairs * s.inputs, s.samples * s.positions * s.inputs * s.itemsize, 6)
    if s.positions == 1:
        return Cost(2.0 * s.pairs * (s.inputs + s.outputs), 3.0 * s.pairs * s.itemsize, 6)
    form = 2.0 * s.samples * s.positions * s.width
    gram = 2.0 * s.pairs * s.width
    last = 2.0 * s.pairs * s.outputs * s.k**2 if s.output == "full" else 0.0
    moved = 2.0 * s.samples * s.width + s.samples * s.positions * s.inputs
    return Cost(form + gram + last, moved * s.itemsize, 6, s.samples)
