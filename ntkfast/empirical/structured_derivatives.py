"""Structured derivatives: the NTK of a network of layers from their Jacobian factors, layer by layer.

The backward passes of both sides run in step, and a layer's factors are contracted as soon as both are there; no more
than one layer's cotangents are alive at a time. Where the samples do not fit the memory, tiles of them (and, if one
sample does not fit, of its outputs) are paired, and the factors of a tile are formed again for every pair.

Both functions have the arguments (engine, fun, params, checked, *, output, max_memory=None), where `checked` is what
``engine.check(fun, params, x1, x2)`` returned and output is "trace", "diagonal" or "full".

References
----------
Novak, Sohl-Dickstein, Schoenholz. Fast finite width neural tangent kernel. ICML 2022, arXiv 2206.08720, section 3.3.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from .._check import memory_budget
from .._tree import Tree, join
from .._typing import Array
from ..autodiff import Checked, SupportsFactors
from ..errors import MemoryBudgetError
from ..layers import Layer
from ..layers.factors import Factors
from ._tiles import Tile, cut
from .contraction import layer_terms
from .sums import NTKSum, ntk_sum

__all__ = ["structured_derivatives", "structured_derivatives_by_entry"]

# Share of the budget for the Jacobians of a layer, where a convolution needs them.
_JACOBIAN_SHARE = 4


def structured_derivatives(
    engine: SupportsFactors, fun: Layer, params: Tree, checked: Checked, *, output: str, max_memory: int | None = None
) -> Array:
    """The NTK: (n1, n2), (n1, n2, k) or (n1, n2, k, k).

    Raises
    ------
    MemoryBudgetError
        One sample with one output does not fit; the message has the smallest budget that would do.
    """
    return _Contraction(engine, fun, params, checked, output, max_memory, by_entry=False).run()[""]


def structured_derivatives_by_entry(
    engine: SupportsFactors, fun: Layer, params: Tree, checked: Checked, *, output: str, max_memory: int | None = None
) -> dict[str, Array]:
    """What each parameter array contributes to the NTK, by path; the contributions sum to it."""
    return _Contraction(engine, fun, params, checked, output, max_memory, by_entry=True).run()


class _Contraction:
    """One call: what stays the same for all pairs of tiles."""

    def __init__(
        self, engine: SupportsFactors, fun: Layer, params: Tree, checked: Checked, output: str,
        max_memory: int | None, by_entry: bool,
    ) -> None:  # fmt: skip
        self._engine, self._fun, self._params, self._checked = engine, fun, params, checked
        self._output, self._by_entry = output, by_entry
        self._symmetric = checked.x2 is None
        self._x1, self._x2 = checked.x1, checked.x1 if checked.x2 is None else checked.x2
        self._dtype = next(iter(checked.entries.values())).dtype
        self._budget = memory_budget(max_memory, checked.backend)

    def run(self) -> dict[str, Array]:
        """Kernels by path of a parameter array, or the sum of all under the empty path."""
        size = _TileSize.within(self._fun, self._checked, self._budget)
        lefts, rights = size.tiles(len(self._x1)), size.tiles(len(self._x2))
        whole: dict[str, Array] = {}
        for i, first in enumerate(lefts):
            for second in rights[i:] if self._symmetric else rights:
                if self._output == "full" or first.outputs == second.outputs:
                    for path, block in self._pair(first, second).items():
                        self._place(whole, path, block, first, second)
        if self._output == "trace":
            return {path: total / self._checked.n_outputs for path, total in whole.items()}
        return whole

    def _pair(self, first: Tile, second: Tile) -> dict[str, Array]:
        """Kernels of a pair of tiles; traces are sums over the tile's outputs."""
        same = self._symmetric and first == second
        sums: dict[str, NTKSum] = {}
        firsts = self._engine.factors(self._fun, self._params, self._x1[first.rows], first.outputs)
        seconds: Iterator[Any] = repeat((None, None))
        if not same:
            seconds = self._engine.factors(self._fun, self._params, self._x2[second.rows], second.outputs)
        for (path, found), (_, other) in zip(firsts, seconds, strict=False):
            for entry, ours, theirs in self._entries(path, found, other):
                if entry not in sums:
                    sums[entry] = ntk_sum(
                        self._output, self._checked.backend, first.shape, second.shape, self._dtype, same
                    )
                for term in layer_terms(
                    self._checked.backend, ours, theirs, self._output, self._budget // _JACOBIAN_SHARE
                ):
                    sums[entry].add(term)
        return {path: total.result() for path, total in sums.items()}

    def _entries(
        self, path: str, found: dict[str, Factors], other: dict[str, Factors] | None
    ) -> Iterator[tuple[str, dict[str, Factors], dict[str, Factors] | None]]:
        """A layer's factors as a whole, or one parameter array after the other."""
        if not self._by_entry:
            yield "", found, other
            return
        for name, ours in found.items():
            yield join(path, name), {name: ours}, None if other is None else {name: other[name]}

    def _place(self, whole: dict[str, Array], path: str, block: Array, first: Tile, second: Tile) -> None:
        """Write the kernel of a pair of tiles, and its mirror image, into the whole."""
        n1, n2, k = len(self._x1), len(self._x2), self._checked.n_outputs
        shape = (n1, n2, *{"trace": (), "diagonal": (k,), "full": (k, k)}[self._output])
        if block.shape == shape and first.shape == (n1, k):
            whole[path] = block
            return
        if path not in whole:
            whole[path] = self._checked.backend.xp.zeros(shape, block.dtype)
        whole[path][_index(first, second, self._output)] += block
        if self._symmetric and first != second:
            axes = (1, 0, 3, 2) if self._output == "full" else (1, 0, 2)[: block.ndim]
            whole[path][_index(second, first, self._output)] += block.transpose(axes)


def _index(first: Tile, second: Tile, output: str) -> tuple[slice, ...]:
    """Where the kernel of a pair of tiles lies."""
    outputs = {"trace": (), "diagonal": (first.outputs,), "full": (first.outputs, second.outputs)}[output]
    return first.rows, second.rows, *outputs


@dataclass(frozen=True, slots=True)
class _TileSize:
    """Samples and outputs of a tile."""

    samples: int
    outputs: int
    n_outputs: int

    def tiles(self, n: int) -> list[Tile]:
        """Tiles of n samples and all outputs."""
        return [Tile(r, o) for r in cut(n, self.samples) for o in cut(self.n_outputs, self.outputs)]

    @classmethod
    def within(cls, net: Layer, checked: Checked, budget: int) -> "_TileSize":
        """The largest tiles whose temporaries fit the budget: whole samples if possible."""
        itemsize = next(iter(checked.entries.values())).dtype.itemsize
        kept, widest = (itemsize * size for size in _sample_sizes(net, checked.x1.shape[1:]))
        k, n = checked.n_outputs, max(len(checked.x1), 0 if checked.x2 is None else len(checked.x2))
        room = budget - budget // _JACOBIAN_SHARE
        if (1 if checked.x2 is None else 2) * n * (kept + k * widest) <= room:
            return cls(n, k, k)
        if 2 * (kept + widest) > room:
            smallest = -(-2 * (kept + widest) * _JACOBIAN_SHARE // (_JACOBIAN_SHARE - 1))
            raise MemoryBudgetError(f"expected max_memory of at least {smallest} bytes, got {budget}")
        samples = min(n, room // (2 * (kept + k * widest)))
        return cls(samples, k, k) if samples else cls(1, (room // 2 - kept) // widest, k)


def _sample_sizes(net: Layer, in_shape: tuple[int, ...]) -> tuple[int, int]:
    """Numbers that one sample needs: what the forward pass keeps, and the widest layer's cotangents per output.

    The forward pass keeps what enters a layer, and another array at elementwise layers. The cotangents of a layer's
    output and input are alive at once, and a third array while they are multiplied.
    """
    kept = widest = 0
    for _, layer, shape in net.leaves(in_shape):
        size, out = math.prod(shape), math.prod(layer.out_shape(shape))
        kept += 2 * size
        widest = max(widest, size + 2 * out)
    return kept, widest
