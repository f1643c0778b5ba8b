"""PolySketch: sketches of all tensor powers of x up to a degree, from one balanced tree.

The tree has `degree` leaves. Leaf i is an independent sketch of x, and a node of level l and index k is a degree-2
TensorSRHT over the leaves of [k 2**l, (k + 1) 2**l). The sketch of power j is the value at the root when leaves
j, j + 1, ... hold e_1 instead of x. A subtree that holds e_1 only is a fixed unit vector, and a node with such a
child passes its other child through. What then remains to compute for all powers together are at most
(degree / 2) log2 degree nodes, where one tree per power would take degree**2 / 2.

Streams belong to (level, index): the sketches of a smaller degree are the first ones of a larger degree, bit for bit.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from .._check import check_cotangent, check_int, check_range, check_seed, quiet, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels import philox
from ._base import Scratch, check_dim, check_rows, dense, entries, row_tiles
from .countsketch import CountSketch
from .srht import HadamardSample

__all__ = ["PolySketch"]

MAX_DEGREE = 1024


class _Projection(NamedTuple):
    """One half of a node, applied to the value with number `source`."""

    source: int
    level: int
    position: int
    side: int


class _Product(NamedTuple):
    """Entrywise product of the projections with numbers `left` and `right`."""

    left: int
    right: int


_Step: TypeAlias = _Projection | _Product


def _sources(step: _Step) -> tuple[int, ...]:
    """Numbers of the values that a step reads."""
    return (step.source,) if isinstance(step, _Projection) else (step.left, step.right)


class _Plan(NamedTuple):
    """The tree as a list of steps: values 0, ..., degree - 1 are the leaves, step k makes value degree + k."""

    steps: tuple[_Step, ...]
    outputs: tuple[int, ...]
    last_uses: tuple[tuple[int, ...], ...]  # for each step, the values that no later step reads


class _Planner:
    """Lists the steps for all powers, each once."""

    def __init__(self, degree: int) -> None:
        self.degree = degree
        self.steps: list[_Step] = []
        self.known: dict[object, int] = {}

    def plan(self) -> _Plan:
        top = (self.degree - 1).bit_length()
        outputs = tuple(self.value(top, 0, power) for power in range(1, self.degree + 1))
        return _Plan(tuple(self.steps), outputs, self.last_uses())

    def last_uses(self) -> tuple[tuple[int, ...], ...]:
        last = {source: k for k, step in enumerate(self.steps) for source in _sources(step)}
        return tuple(tuple(v for v in _sources(step) if last[v] == k) for k, step in enumerate(self.steps))

    def value(self, level: int, index: int, active: int) -> int:
        """Number of the value of a node whose leaves below `active` hold x."""
        if level == 0:
            return index
        middle = (2 * index + 1) << (level - 1)
        if active <= middle:  # the right child holds e_1 only
            return self.value(level - 1, 2 * index, active)
        left = _Projection(self.value(level - 1, 2 * index, middle), level, index, 0)
        right = _Projection(self.value(level - 1, 2 * index + 1, active), level, index, 1)
        return self.step(_Product(self.step(left), self.step(right)))

    def step(self, step: _Step) -> int:
        if step not in self.known:
            self.known[step] = self.degree + len(self.steps)
            self.steps.append(step)
        return self.known[step]


@functools.lru_cache(maxsize=64)
def _plan(degree: int) -> _Plan:
    return _Planner(degree).plan()


@dataclass(frozen=True, slots=True)
class PolySketch:
    """Sketches of the tensor powers x, x (x) x, ..., of all degrees up to `degree`, from one tree.

    ``apply(x)`` returns U_1, ..., U_degree with ``E <U_j(x), U_j(y)> = <x, y>**j``. A non-negative combination of
    them is a feature map of a polynomial kernel: ``sum_j c_j <x, y>**j`` is approximated by the concatenation of
    the ``sqrt(c_j) U_j``.

    Leaves are independent copies of `CountSketch` where ``in_dim > sketch_dim``; otherwise x itself, filled with
    zeros to `sketch_dim` coordinates, which adds no variance and makes U_1 exact. Nodes are `TensorSRHT`.

    Parameters
    ----------
    in_dim : int
        Input width, 1 <= in_dim < 2**31.
    degree : int
        Highest power, 1 <= degree <= 1024; need not be a power of two.
    sketch_dim : int
        Width of each U_j, and of every node inside.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance, for unit vectors with ``s = <x, y>``, up to terms of order ``1 / sketch_dim**2``, for j and `sketch_dim`
    powers of two (a sum over the tree, leaves first):

        sketch_dim Var <U_j(x), U_j(y)>
            <= j s^(2(j-1)) (1 + s^2) + sum_{k = 2, 4, ..., j} (j / k) s^(2(j-k)) (1 + s^k)^2

    The leaves' term is absent where ``in_dim <= sketch_dim``. At s = 1 this is ``(6 j - 4) / sketch_dim``, at s = 0
    it is ``1 / sketch_dim``. For other vectors multiply by ``|x|^(2j) |y|^(2j)``.

    Cost: ``degree nnz(x)`` for the leaves and at most ``degree log2(degree)`` Walsh-Hadamard transforms of
    `sketch_dim` entries per row; memory: the result, and the tree of one tile of rows. In `vjp` the tree of a tile is
    computed again.

    Determinism: bitwise across targets, runs, tiles of rows and thread counts, and for sparse and dense input. A
    smaller `degree` gives the same U_j.

    Backends: numpy, cupy.

    References
    ----------
    Ahle, Kapralov, Knudsen, Pagh, Velingker, Woodruff, Zandieh. Oblivious sketching of high-degree polynomial
      kernels. SODA 2020.
    Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random features. NeurIPS
      2021.

    Examples
    --------
    >>> import numpy as np
    >>> powers = PolySketch(4, 3, 65536, seed=0).apply(np.array([[0.5, 0.5, 0.5, 0.5]]))
    >>> [round(float((u * u).sum()), 1) for u in powers]
    [1.0, 1.0, 1.0]
    """

    in_dim: int
    degree: int
    sketch_dim: int
    seed: int = field(kw_only=True)

    def __post_init__(self) -> None:
        set_checked(self, in_dim=check_dim(self.in_dim, "in_dim"))
        set_checked(self, degree=check_int(self.degree, "degree", minimum=1, maximum=MAX_DEGREE))
        set_checked(self, sketch_dim=check_dim(self.sketch_dim, "sketch_dim"))
        set_checked(self, seed=check_seed(self.seed))

    def apply(self, x: Any) -> tuple[Array, ...]:
        """Sketches of all powers of each row.

        Parameters
        ----------
        x : array or sparse matrix, shape (n, in_dim), float32 or float64
            Rows are samples.

        Returns
        -------
        tuple of `degree` arrays, shape (n, sketch_dim), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError
            `x` is of the wrong type, dtype or shape, is empty, or has NaN or inf.
        OverflowError
            A power of x leaves the range of its dtype.
        """
        x, backend = check_rows(x, "x", self.in_dim)
        shape = (x.shape[0], self.sketch_dim)
        result = tuple(backend.xp.empty(shape, x.dtype) for _ in range(self.degree))
        scratch = Scratch(backend, x.dtype)
        for rows, tile in self._tiles(x):
            self._fill([power[rows] for power in result], tile, scratch)
        return tuple(check_range(power, f"power {j}") for j, power in enumerate(result, 1))

    def vjp(self, x: Any, cts: Sequence[Array]) -> Array:
        """Gradient with respect to x of ``sum_j sum(cts[j] * U_j(x))``.

        Parameters
        ----------
        x : array or sparse matrix, shape (n, in_dim), float32 or float64
        cts : sequence of `degree` arrays, shape (n, sketch_dim), dtype of `x`
            Cotangents of U_1, ..., U_degree.

        Returns
        -------
        array, shape (n, in_dim), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong type, dtype or shape, is empty, or has NaN or inf.
        OverflowError
            The gradient leaves the range of the dtype.
        """
        x, backend = check_rows(x, "x", self.in_dim)
        cts = self._check_cotangents(cts, x)
        out = backend.xp.empty((x.shape[0], self.in_dim), x.dtype)
        for rows, tile in self._tiles(x):
            scratch = Scratch(backend, x.dtype)
            values = self._forward(tile, scratch)
            self._backward(values, [ct[rows] for ct in cts], scratch, out[rows])
        return check_range(out, "the gradient")

    def _check_cotangents(self, cts: Sequence[Array], x: Any) -> list[Array]:
        if not hasattr(cts, "__len__"):
            raise TypeError(f"expected cts to be a sequence of {self.degree} arrays, got {type(cts).__name__}")
        if len(cts) != self.degree:
            raise ValueError(f"expected cts of length {self.degree}, got {len(cts)}")
        shape = x.shape[0], self.sketch_dim
        return [check_cotangent(ct, f"cts[{j}]", shape, entries(x)) for j, ct in enumerate(cts)]

    def _tiles(self, x: Any) -> Iterator[tuple[slice, Any]]:
        """Row tiles; a sparse tile stays sparse if the leaves take it as it is."""
        for rows in row_tiles(x.shape[0], self.sketch_dim, x.dtype):
            yield rows, x[rows] if self._hashes_leaves else dense(x[rows])

    @property
    def _hashes_leaves(self) -> bool:
        return self.in_dim > self.sketch_dim

    def _fill(self, powers: list[Array], x: Any, scratch: Scratch) -> None:
        """Write the powers of a tile of rows; the memory of a value is used again after its last use."""
        plan = _plan(self.degree)
        place = dict(zip(plan.outputs, powers, strict=True))
        values = self._leaves(x, scratch)
        powers[0][...] = values[0]
        for k, step in enumerate(plan.steps, self.degree):
            values[k] = self._take(step, values, scratch, place.get(k))
            for number in plan.last_uses[k - self.degree]:
                self._forget(number, values.pop(number), place, scratch)

    def _forget(self, number: int, value: Array, place: dict[int, Array], scratch: Scratch) -> None:
        """Hand back the memory of a value, unless it is a result or the caller's or shared."""
        if number not in place and (number >= self.degree or self._hashes_leaves):
            scratch.give(value)

    def _forward(self, x: Any, scratch: Scratch) -> dict[int, Array]:
        """All values of the plan for a tile of rows, by number."""
        values = self._leaves(x, scratch)
        for k, step in enumerate(_plan(self.degree).steps, self.degree):
            values[k] = self._take(step, values, scratch)
        return values

    def _take(self, step: _Step, values: dict[int, Array], scratch: Scratch, out: Array | None = None) -> Array:
        """The value of one step, in `out` if given."""
        if out is None:
            out = scratch.take(*values[_sources(step)[0]].shape)
        if isinstance(step, _Projection):
            _maps(self).halves[step].project(values[step.source], scratch, out)
        else:
            with quiet():
                scratch.backend.xp.multiply(values[step.left], values[step.right], out=out)
        return out

    def _leaves(self, x: Any, scratch: Scratch) -> dict[int, Array]:
        """The sketches of x at the leaves; where nothing has to shrink they are x itself, with zeros behind."""
        backend, n_rows = scratch.backend, x.shape[0]
        if self._hashes_leaves:
            return {
                i: leaf._apply_columns(x, 0, backend, scratch.take(n_rows, self.sketch_dim))
                for i, leaf in enumerate(_maps(self).leaves)
            }
        if self.in_dim < self.sketch_dim:
            padded = backend.xp.zeros((n_rows, self.sketch_dim), x.dtype)
            padded[:, : self.in_dim] = x
            x = padded
        return dict.fromkeys(range(self.degree), x)

    def _backward(self, values: dict[int, Array], cts: list[Array], scratch: Scratch, out: Array) -> None:
        """Write the gradient of a tile to `out`: the steps in reverse, cotangents added up by value."""
        plan, maps = _plan(self.degree), _maps(self)
        grads: list[Array | None] = [None] * len(values)
        for number, ct in zip(plan.outputs, cts, strict=True):
            _add(grads, number, ct)
        for number in range(len(values) - 1, self.degree - 1, -1):
            step, ct = plan.steps[number - self.degree], grads[number]
            if isinstance(step, _Projection):
                pulled = scratch.backend.xp.empty_like(ct)
                maps.halves[step].pull(ct, scratch, pulled)
                _add(grads, step.source, pulled)
            else:
                with quiet():
                    _add(grads, step.left, ct * values[step.right])
                    _add(grads, step.right, ct * values[step.left])
        self._pull_leaves(grads[: self.degree], scratch.backend, out)

    def _pull_leaves(self, grads: list[Array], backend: Backend, out: Array) -> None:
        out[...] = 0
        for leaf, ct in zip(_maps(self).leaves, grads, strict=True):
            out += leaf._adjoint_unchecked(ct, backend) if self._hashes_leaves else ct[:, : self.in_dim]


class _Maps(NamedTuple):
    """The random maps of a tree: a CountSketch per leaf, and a half of a TensorSRHT per projection."""

    leaves: tuple[CountSketch, ...]
    halves: dict[_Projection, HadamardSample]


@functools.lru_cache(maxsize=64)
def _maps(sketch: PolySketch) -> _Maps:
    """Derive all keys once. A node's right half has its scale 1 / sqrt(sketch_dim) and its random order."""
    d, m, key = sketch.in_dim, sketch.sketch_dim, philox.derive_key(sketch.seed, Stream.POLY_SKETCH)
    leaves = tuple(CountSketch(d, m, seed=philox.derive_key(key, 0, i)) for i in range(sketch.degree))
    halves = {}
    for step in _plan(sketch.degree).steps:
        if isinstance(step, _Projection):
            own = philox.derive_key(key, step.level, step.position, step.side)
            scale = 1.0 / math.sqrt(m) if step.side else 1.0
            halves[step] = HadamardSample(m, m, own, scale, shuffled=bool(step.side))
    return _Maps(leaves, halves)


def _add(grads: list[Array | None], number: int, ct: Array) -> None:
    """Add a cotangent to that of a value; never in place, since arrays are shared."""
    held = grads[number]
    grads[number] = ct if held is None else held + ct
