"""Tiles of a batch's Jacobian: some samples and some outputs at a time.

A tile's Jacobian is a dictionary path -> array (samples, outputs, parameters). Both algorithms that form Jacobians
take them from here, for every engine.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._check import memory_budget
from .._tree import Tree, join
from .._typing import Array
from ..autodiff import Autodiff, Checked, SupportsFactors
from ..backends import get_backend

__all__ = ["Jacobians", "Tile", "cut", "new_kernels", "slices", "tiles"]

# Arrays of the size of a tile's Jacobian that are alive at once while two tiles are contracted: theirs, and what
# an engine or a transposition needs to make one.
_COPIES = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """Samples and outputs of a part of a Jacobian."""

    rows: slice
    outputs: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of samples and of outputs."""
        return self.rows.stop - self.rows.start, self.outputs.stop - self.outputs.start


@dataclass(frozen=True, slots=True)
class _Outputs:
    """A function reduced to some of its outputs; equal fields make equal functions, for the caches of compilers."""

    fun: Any
    start: int
    stop: int

    def __call__(self, params: Tree, x: Any) -> Any:
        return self.fun(params, x)[:, self.start : self.stop]


@dataclass(frozen=True, slots=True)
class Jacobians:
    """Jacobians of a network's parameters, tile by tile."""

    engine: Autodiff
    fun: Any
    params: Tree
    n_outputs: int

    @property
    def one_by_one(self) -> bool:
        """Whether `of` makes one array at a time, so that two tiles need not exist as a whole."""
        return isinstance(self.engine, SupportsFactors)

    def of(self, x: Array, tile: Tile) -> Iterator[tuple[str, Array]]:
        """Yield (path, Jacobian (samples, outputs, parameters), C-contiguous), always in the same order."""
        ascontiguousarray = get_backend(x).xp.ascontiguousarray
        for path, jacobian in self._arrays(x[tile.rows], tile.outputs):
            # Reshaped here once: an array that meets itself should be seen as one by the matrix product.
            yield path, ascontiguousarray(jacobian.reshape(*tile.shape, -1))

    def _arrays(self, x: Array, outputs: slice) -> Iterator[tuple[str, Array]]:
        """Jacobians (n, outputs, *shape) by path."""
        if isinstance(self.engine, SupportsFactors):
            for layer, factors in self.engine.factors(self.fun, self.params, x, outputs):
                for name, found in factors.items():
                    yield join(layer, name), found.jacobian()
            return
        every = outputs.stop - outputs.start == self.n_outputs
        part = self.fun if every else _Outputs(self.fun, outputs.start, outputs.stop)
        yield from self.engine.param_jacobian(part, self.params, x).items()

    def row_size(self, entries: Mapping[str, Array]) -> int:
        """Numbers that the Jacobian of one sample and one output holds at a time."""
        sizes = [array.size for array in entries.values()]
        return max(sizes) if self.one_by_one else sum(sizes)


def tiles(x: Array, row_bytes: int, max_memory: int | None, checked: Checked, most: int | None = None) -> list[Tile]:
    """Cut samples and outputs into tiles whose Jacobians, of `row_bytes` per sample and output, fit the budget.

    All outputs of some samples, `most` at most, where that fits; else some outputs of one sample.
    """
    n, n_outputs = x.shape[0], checked.n_outputs
    each = _COPIES * row_bytes
    rows = max(1, memory_budget(max_memory, checked.backend, smallest=each) // each)
    samples, outputs = max(1, min(most or n, n, rows // n_outputs)), min(n_outputs, rows)
    return [Tile(r, o) for r in cut(n, samples) for o in cut(n_outputs, outputs)]


def cut(n: int, most: int) -> list[slice]:
    """Slices of nearly equal length, none longer than `most`."""
    count = -(-n // most)
    bounds = [n * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def slices(n: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` of n, and of one at least; the last may be shorter."""
    step = max(1, most)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def new_kernels(checked: Checked, output: str, count: int) -> list[Array]:
    """`count` kernels of zeros, of the shape that `output` says."""
    n1 = checked.x1.shape[0]
    n2 = n1 if checked.x2 is None else checked.x2.shape[0]
    tail = (checked.n_outputs,) * {"trace": 0, "diagonal": 1, "full": 2}[output]
    dtype = checked.dtype
    return [checked.backend.xp.zeros((n1, n2, *tail), dtype) for _ in range(count)]
