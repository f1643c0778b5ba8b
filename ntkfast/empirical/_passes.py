"""Products with the parameters' Jacobian of a batch and with its transpose, tile by tile.

    pull:  G[m] = sum over n of J(x[n])^T ct[n, :, m]        push:  z[n, :, m] = J(x[n]) direction[m]

Letters: n samples, k outputs, m columns. What the forward pass keeps is kept here too, for as many tiles as fit;
the passes of the others are run again every time.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from .._check import memory_budget
from .._tree import Tree, flatten, join, pick
from .._typing import Array
from ..autodiff import Autodiff, Checked
from ..backends import get_backend
from ..layers import Cotangent, Layer
from ._inputs import by_layer
from ._tiles import slices

__all__ = ["Directions", "Passes"]

Directions = dict[str, Array]  # path -> (m, *shape)

# Columns that pass a network at once. Small batches and convolutions gain a third; with more columns the copies of the
# parameters, one per column, leave the cache of a CPU.
_COLUMNS = {"numpy": 8, "cupy": 32}

# Numbers that an engine is taken to keep per number that goes into a function or comes out of it: a guess.
_KEPT_BY_FUNCTIONS = 100


class _Pass(Protocol):
    """Derivatives of one tile of samples."""

    def outputs(self) -> Array:
        """(n, k)."""

    def pull(self, ct: Array) -> Directions:
        """From (n, k, m)."""

    def push(self, directions: Directions) -> Array:
        """To (n, k, m)."""


@dataclass(frozen=True, slots=True)
class _LayerPass:
    """All columns at once, as k cotangents or tangents of a sample."""

    net: Layer
    params: Tree
    y: Array
    saved: Any

    def outputs(self) -> Array:
        return self.y

    def pull(self, ct: Array) -> Directions:
        head = Cotangent(get_backend(ct).xp.ascontiguousarray(ct.transpose(0, 2, 1)))
        layers = self.net.backward(self.params, self.saved, head, want_input=False)
        return {join(path, name): found.total() for path, layer in layers for name, found in layer.items()}

    def push(self, directions: Directions) -> Array:
        pushed, _ = self.net.pair_jvp(self.params, self.saved, None, _Columns(by_layer(directions)))
        assert pushed is not None  # there are parameters
        return pushed.transpose(0, 2, 1)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The motion of the parameters along m directions, the same for all samples."""

    directions: dict[str, Directions]

    def push(self, path: str, layer: Layer, params: Any, saved: Any) -> Array | None:
        found = self.directions.get(path)
        if found is None:
            return None
        columns = len(next(iter(found.values())))
        moves = [layer.param_jvp(params, {name: v[j] for name, v in found.items()}, saved) for j in range(columns)]
        return get_backend(moves[0]).xp.stack(moves, axis=-2)

    def pull(self, path: str, layer: Layer, params: Any, saved: Any, ct: Cotangent) -> Cotangent | None:
        raise NotImplementedError("products with the Jacobian need no second derivatives")


class _FunctionPass:
    """Column by column, through an engine; traces and tapes are made when they are first needed."""

    def __init__(self, engine: Autodiff, fun: Any, params: Tree, x: Array) -> None:
        self._arguments = (fun, params, x)
        self._engine = engine

    @functools.cached_property
    def _vjp(self) -> tuple[Array, Callable[[Array], Tree]]:
        return self._engine.param_vjp(*self._arguments)

    @functools.cached_property
    def _jvp(self) -> tuple[Array, Callable[[Tree], Array]]:
        return self._engine.param_jvp(*self._arguments)

    def outputs(self) -> Array:
        return self._jvp[0]

    def pull(self, ct: Array) -> Directions:
        xp, pullback = get_backend(ct).xp, self._vjp[1]
        columns = [flatten(pullback(xp.ascontiguousarray(ct[:, :, j]))) for j in range(ct.shape[2])]
        return {path: xp.stack([column[path] for column in columns]) for path in columns[0]}

    def push(self, directions: Directions) -> Array:
        params, pushforward = self._arguments[1], self._jvp[1]
        columns = len(next(iter(directions.values())))
        pushed = [pushforward(pick(params, {path: v[j] for path, v in directions.items()})) for j in range(columns)]
        return get_backend(pushed[0]).xp.stack(pushed, axis=-1)


class Passes:
    """Products with the Jacobian of checked samples, and with its transpose.

    Parameters
    ----------
    engine : Autodiff
    fun, params
        As the engine takes them.
    x : array, shape (n, *s)
    checked : Checked
        What the engine found.
    max_memory : int, optional
        Bytes; half of them for passes that are kept. Default a quarter of what is free.
    share : int
        Number of batches that share the bytes.

    Attributes
    ----------
    n : int
    columns : int
        How many columns pass at once.
    """

    def __init__(
        self,
        engine: Autodiff,
        fun: Any,
        params: Tree,
        x: Array,
        checked: Checked,
        max_memory: int | None,
        share: int = 1,
    ) -> None:
        self._engine, self._fun, self._params, self._x = engine, fun, params, x
        self.n = n = len(x)
        sample = _sample_bytes(engine, fun, params, x, checked.n_outputs)
        weights = sum(array.nbytes for array in checked.entries.values())
        smallest = 4 * max(sample, weights)
        budget = memory_budget(max_memory, checked.backend, smallest=share * smallest) // share
        rows = max(1, min(n, budget // (8 * sample)))
        self.columns = max(
            1, min(_COLUMNS[checked.backend.name], budget // (4 * rows * sample), budget // (4 * weights))
        )
        self._tiles = list(slices(n, rows))
        self._kept: list[_Pass] = [self._make(tile) for tile in self._tiles[: budget // (2 * rows * sample)]]

    def _make(self, tile: slice) -> _Pass:
        if isinstance(self._fun, Layer) and self._engine.name == "layers":
            return _LayerPass(self._fun, self._params, *self._fun.forward(self._params, self._x[tile]))
        return _FunctionPass(self._engine, self._fun, self._params, self._x[tile])

    def _passes(self) -> Iterator[tuple[slice, _Pass]]:
        for i, tile in enumerate(self._tiles):
            yield tile, self._kept[i] if i < len(self._kept) else self._make(tile)

    def outputs(self) -> Array:
        """The network's outputs, (n, k)."""
        found = [run.outputs() for _, run in self._passes()]
        return get_backend(self._x).xp.concatenate(found) if len(found) > 1 else found[0]

    def pull(self, ct: Array) -> Directions:
        """Sum over samples of J^T ct, for ct (n, k, m) with at most `columns` columns."""
        total: Directions = {}
        for tile, run in self._passes():
            for path, part in run.pull(ct[tile]).items():
                total[path] = total[path] + part if path in total else part
        return total

    def push(self, directions: Directions) -> Array:
        """J times directions, (n, k, m)."""
        found = [run.push(directions) for _, run in self._passes()]
        return get_backend(found[0]).xp.concatenate(found) if len(found) > 1 else found[0]


def _sample_bytes(engine: Autodiff, fun: Any, params: Tree, x: Array, k: int) -> int:
    """Bytes that the passes of one sample keep or have in work."""
    if engine.name == "layers":
        y, saved = fun.forward(params, x[:1])
        return 2 * (int(y.nbytes) + int(x[:1].nbytes) + _kept_bytes(saved))
    return _KEPT_BY_FUNCTIONS * 8 * (int(math.prod(x.shape[1:])) + k)


def _kept_bytes(saved: Any) -> int:
    """Bytes of the arrays in what a forward pass keeps; one that is kept twice counts twice."""
    if isinstance(saved, (tuple, list)):
        return sum(map(_kept_bytes, saved))
    return int(getattr(saved, "nbytes", 0))
