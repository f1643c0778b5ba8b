"""Which of the three algorithms a call takes, and the table that says why.

For a network of layers the sizes of its parameter blocks are read off the factors of two samples, once per network
and shape. For any other function, a pass of a few samples is timed. Then, with [FP] the cost of a forward pass of one
sample, N1 and N2 samples, k outputs and P parameters,

- structured derivatives: (N1 + N2)(k + 1) [FP], and the cheapest contraction order of every block;
- Jacobian contraction: the same with every block outside in; (N1 + N2) 3 k [FP] + 2 N1 N2 k^2 P for a function;
- NTK-vector products: N2 k (3 + 2 N1) [FP].

Novak, Sohl-Dickstein, Schoenholz (arXiv 2206.08720), table 1; symmetric calls count half of the pairs.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from .._tree import join
from ..autodiff import Autodiff, Checked, SupportsFactors
from ..layers.factors import Factors, SparseFactors
from .contraction import block_order, block_shape
from .cost import BlockShape, Cost, Rates, order_costs, rates

__all__ = ["BlockChoice", "Explanation", "explain_choice"]


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """How structured derivatives contract one parameter array; a bias may join the term of its weight instead.

    Attributes
    ----------
    path : str
        Of the parameter array.
    order : str
        "inside_out", "outside_in", "left_to_right", "shared", or "sparse" (an embedding).
    operations, bytes, seconds : float
        Of the contraction, as the model has it.
    """

    path: str
    order: str
    operations: float
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the cost model says about a call; `str` makes a table of it.

    Attributes
    ----------
    method : str
        The algorithm with the least predicted time among those possible.
    seconds : dict of str to float
        Predicted time of each algorithm.
    operations : dict of str to float
        Operations of each algorithm (a multiply-add is two); 0 where the function is a black box and was timed.
    blocks : tuple of BlockChoice
        Contractions of the structured derivatives, output first; empty for functions.
    rates : Rates
        The machine, as measured.
    """

    method: str
    seconds: dict[str, float]
    operations: dict[str, float]
    rates: Rates
    blocks: tuple[BlockChoice, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{'algorithm':<26}{'Gflop':>12}{'ms':>12}"]
        for name, seconds in self.seconds.items():
            mark = "*" if name == self.method else " "
            lines.append(f"{mark} {name:<24}{self.operations[name] / 1e9:>12.3f}{1e3 * seconds:>12.3f}")
        if self.blocks:
            lines.append(f"{'block':<26}{'Gflop':>12}{'MB':>12}{'ms':>12}  order")
        for block in self.blocks:
            sizes = f"{block.operations / 1e9:>12.3f}{block.bytes / 1e6:>12.3f}{1e3 * block.seconds:>12.3f}"
            lines.append(f"  {block.path:<24}{sizes}  {block.order}")
        lines.append(f"matrix products {self.rates.product / 1e9:.0f} Gflop/s, copies {self.rates.copy / 1e9:.0f} GB/s")
        return "\n".join(lines)


# Explanations by everything they depend on; a handful of networks and shapes is what a program uses.
_KNOWN: dict[Any, Explanation] = {}
_MOST_KNOWN = 256


def explain_choice(engine: Autodiff, fun: Any, params: Any, checked: Checked, output: str) -> Explanation:
    """Compare the algorithms for checked arguments.

    Cost: two samples through the network, or a few, twice, through the function, at the first call with its shapes.
    """
    dtype = checked.dtype
    n2 = -1 if checked.x2 is None else len(checked.x2)
    # A function may take parameters of any shape.
    sizes = tuple(array.shape for array in checked.entries.values())
    key = (engine, fun, sizes, checked.x1.shape, n2, output, str(dtype), checked.backend)
    try:
        known = _KNOWN.get(key)
    except TypeError:  # a function, layer or engine that cannot be hashed
        return _explain(engine, fun, params, checked, output, dtype)
    if known is None:
        known = _explain(engine, fun, params, checked, output, dtype)
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = known
    return known


def _explain(engine: Autodiff, fun: Any, params: Any, checked: Checked, output: str, dtype: Any) -> Explanation:
    at = rates(checked.backend, str(dtype))
    if isinstance(engine, SupportsFactors):
        return _explain_layers(engine, fun, params, checked, output, at)
    return _explain_function(engine, fun, params, checked, output, at)


def _explain_layers(
    engine: SupportsFactors, net: Any, params: Any, checked: Checked, output: str, at: Rates
) -> Explanation:
    n1, n2 = len(checked.x1), len(checked.x1 if checked.x2 is None else checked.x2)
    blocks, forward, contracted, jacobians = [], 0.0, Cost(0, 0, 0), Cost(0, 0, 0)
    two = checked.x1[:1].repeat(2, axis=0)
    for path, found in engine.factors(net, params, two):
        for name, factors in found.items():
            shape = _shape(factors, n1, n2, checked.x2 is None, output)
            order, cost = _choose_order(factors, shape, at)
            blocks.append(BlockChoice(join(path, name), order, cost.operations, cost.bytes, cost.seconds(at)))
            forward += 2.0 * shape.positions * shape.width
            contracted = _sum(contracted, cost)
            jacobians = _sum(jacobians, order_costs(shape)["outside_in"])
    samples = n1 if checked.x2 is None else n1 + n2
    passes = Cost(samples * (checked.n_outputs + 1) * forward, 0.0, 4.0 * len(blocks))
    half = 0.5 if checked.x2 is None else 1.0
    vectors = half * n2 * checked.n_outputs
    costs = {
        "structured_derivatives": _sum(passes, contracted),
        "jacobian_contraction": _sum(passes, jacobians),
        "ntk_vector_products": Cost(vectors * (3 + 2 * n1) * forward, 0.0, vectors * 4.0 * len(blocks)),
    }
    return _compare({name: cost.seconds(at) for name, cost in costs.items()}, at, tuple(blocks), costs)


def _shape(factors: Factors, n1: int, n2: int, symmetric: bool, output: str) -> BlockShape:
    """Block shape for all samples, from the factors of two."""
    if isinstance(factors, SparseFactors):
        t, c = factors.index.shape[1], factors.shape[1]
        itemsize = factors.ct.shared.dtype.itemsize
        return BlockShape(n1, n2, t, factors.k, 1, c, 1, False, False, symmetric, output, itemsize)
    return block_shape(factors, factors, output, n1, n2, symmetric=symmetric)


def _choose_order(factors: Factors, shape: BlockShape, at: Rates) -> tuple[str, Cost]:
    if isinstance(factors, SparseFactors):
        return "sparse", order_costs(shape)["inside_out"]
    order = block_order(factors, shape, at)
    return order, order_costs(shape)[order]


def _explain_function(engine: Autodiff, fun: Any, params: Any, checked: Checked, output: str, at: Rates) -> Explanation:
    """Costs in units of a forward pass, which is timed in the engine's framework."""
    n1, n2 = len(checked.x1), len(checked.x1 if checked.x2 is None else checked.x2)
    forward = _forward_seconds(engine, fun, params, checked)
    k, size = checked.n_outputs, sum(array.size for array in checked.entries.values())
    samples = n1 if checked.x2 is None else n1 + n2
    half = 0.5 if checked.x2 is None else 1.0
    entries = k * k if output == "full" else k
    gram = 2.0 * half * n1 * n2 * entries * size
    seconds = {
        "jacobian_contraction": samples * 3 * k * forward + gram / at.product,
        "ntk_vector_products": half * n2 * k * (3 + 2 * n1) * forward,
    }
    operations = {"jacobian_contraction": Cost(gram, 0, 0), "ntk_vector_products": Cost(0, 0, 0)}
    return _compare(seconds, at, (), operations)


def _forward_seconds(engine: Autodiff, fun: Any, params: Any, checked: Checked, samples: int = 8) -> float:
    """Seconds of a forward pass per sample: that of a few samples, the second time."""
    x = checked.x1[:samples]
    seconds = 0.0
    for _ in range(2):
        checked.backend.synchronize()
        start = time.perf_counter()
        engine.param_vjp(fun, params, x)
        checked.backend.synchronize()
        seconds = time.perf_counter() - start
    return seconds / len(x)


def _compare(
    seconds: dict[str, float], at: Rates, blocks: tuple[BlockChoice, ...], costs: dict[str, Cost]
) -> Explanation:
    method = min(seconds, key=lambda name: seconds[name])
    return Explanation(method, seconds, {name: cost.operations for name, cost in costs.items()}, at, blocks)


def _sum(a: Cost, b: Cost) -> Cost:
    return Cost(*(x + y for x, y in zip(a, b, strict=True)))
