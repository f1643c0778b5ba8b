"""Structured derivatives: the NTK of a network of layers from their Jacobian factors, layer by layer.

Two ways, by what fits the memory. If the operands of all layers do (operands.py), samples pass a few at a time, so that
cotangents stay in cache, leave their rows of the operands, and each layer is contracted once, at the end. Otherwise
the backward passes of both sides run in step, and a layer's factors are contracted as soon as both are there; no more
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
from typing import Any, TypeAlias

from .._check import memory_budget
from .._tree import Tree, join
from .._typing import Array
from ..autodiff import Checked, SupportsFactors
from ..errors import MemoryBudgetError
from ..layers import Layer
from ..layers.factors import Factors
from ._tiles import Tile, cut
from .contraction import Step, layer_terms, operand_terms, plan_layer
from .operands import Collected, Operand, form, operand_bytes
from .sums import NTKSum, ntk_sum

__all__ = ["structured_derivatives", "structured_derivatives_by_entry"]

_Operands: TypeAlias = dict[str, tuple[str, str, Collected]]  # by path: entry of the result, order, operand

# Share of the budget for the Jacobians of a layer, where a convolution needs them.
_JACOBIAN_SHARE = 4

# Bytes of activations and of a layer's cotangents up to which samples are passed at a time. On a CPU the caches would
# like fewer, the calls per sample more.
_PASS_BYTES = {"numpy": 2**26, "cupy": 2**31}

# Fewest samples of a pass. Cuts of equal length then have two at least, as `plan_layer` asks for.
_LEAST_ROWS = 3


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
        self._dtype = checked.dtype
        self._budget = memory_budget(max_memory, checked.backend)
        self._plans: dict[tuple[str, str], dict[str, Step]] = {}

    def run(self) -> dict[str, Array]:
        """Kernels by path of a parameter array, or the sum of all under the empty path."""
        operands = self._operands()
        whole = self._by_tiles() if operands is None else self._contracted(*operands)
        if self._output == "trace":
            return {path: total / self._checked.n_outputs for path, total in whole.items()}
        return whole

    # --- samples in passes, layers at the end -----------------------------------------------------

    def _operands(self) -> tuple[_Operands, _Operands] | None:
        """Operands of both sides by path, if samples come in several passes and the operands fit."""
        itemsize, k = self._dtype.itemsize, self._checked.n_outputs
        kept, widest = _sample_sizes(self._fun, self._x1.shape[1:])
        most = min(_PASS_BYTES[self._checked.backend.name], self._budget // 4)
        rows = most // (itemsize * (kept + k * widest))
        if not _LEAST_ROWS <= rows < max(len(self._x1), len(self._x2)):
            return None
        # The larger side comes first: plans are made from its first pass, which has two samples at least.
        is_first_larger = len(self._x1) >= len(self._x2)
        larger, smaller = (self._x1, self._x2) if is_first_larger else (self._x2, self._x1)
        found = self._side(larger, rows, self._budget // 2)
        other = found if self._symmetric or found is None else self._side(smaller, rows, self._budget // 2)
        if found is None or other is None:
            return None
        return (found, other) if is_first_larger else (other, found)

    def _side(self, x: Array, rows: int, most: int) -> _Operands | None:
        """Operands of one side, or None if they take more than `most` bytes."""
        operands: _Operands = {}
        for part in cut(len(x), rows):
            found = 0
            for path, entry, order, formed in self._formed(x[part]):
                found += operand_bytes(formed) * len(x) // (part.stop - part.start)
                if found > most:
                    return None
                if path not in operands:
                    operands[path] = (entry, order, Collected(self._checked.backend, len(x)))
                operands[path][2].put(part, formed)
        return operands

    def _formed(self, x: Array) -> Iterator[tuple[str, str, str, Operand]]:
        """Yield (path of a parameter array, entry of the result, order, operand) for some samples."""
        for path, layer in self._engine.factors(self._fun, self._params, x):
            for entry, factors, _ in self._entries(path, layer, None):
                for name, step in self._plan(entry, path, factors).items():
                    formed = form(self._checked.backend, factors[name], step.order, step.bias_scale, self._output)
                    yield join(path, name), entry, step.order, formed

    def _plan(self, entry: str, path: str, factors: dict[str, Factors]) -> dict[str, Step]:
        """Orders for all samples, from the factors of the first pass."""
        if (entry, path) not in self._plans:
            other = None if self._symmetric else factors
            sizes = (len(self._x1), len(self._x2))
            self._plans[entry, path] = plan_layer(self._checked.backend, factors, other, self._output, *sizes)
        return self._plans[entry, path]

    def _contracted(self, first: _Operands, second: _Operands) -> dict[str, Array]:
        """Kernels of all samples from the operands of both sides."""
        sizes = [(len(x), self._checked.n_outputs) for x in (self._x1, self._x2)]
        sums: dict[str, NTKSum] = {}
        for path, (entry, order, collected) in first.items():
            left, right = collected.operand, second[path][2].operand
            if entry not in sums:
                sums[entry] = ntk_sum(
                    self._output, self._checked.backend, sizes[0], sizes[1], self._dtype, self._symmetric
                )
            for term in operand_terms(
                self._checked.backend, left, right, order, self._output, self._budget // _JACOBIAN_SHARE
            ):
                sums[entry].add(term)
        return {path: total.result() for path, total in sums.items()}

    # --- pairs of tiles, layer by layer -----------------------------------------------------------

    def _by_tiles(self) -> dict[str, Array]:
        """Kernels of all samples, tile by tile."""
        size = _TileSize.within(self._fun, self._checked, self._budget)
        lefts, rights = size.tiles(len(self._x1)), size.tiles(len(self._x2))
        whole: dict[str, Array] = {}
        for i, first in enumerate(lefts):
            for second in rights[i:] if self._symmetric else rights:
                if self._output == "full" or first.outputs == second.outputs:
                    for path, block in self._pair(first, second).items():
                        self._place(whole, path, block, first, second)
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
        itemsize = checked.dtype.itemsize
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
