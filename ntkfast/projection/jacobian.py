"""Projected Jacobians of a network, from the factors of its layers: the Jacobian itself is never formed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from .._check import check_range, memory_budget, quiet
from .._tree import Tree, join
from .._typing import Array
from ..autodiff import Autodiff, Checked, SupportsFactors, get_autodiff
from ..backends import get_backend
from ..empirical._inputs import check_like
from ..empirical._tiles import slices
from ..layers.factors import Factors
from ..sketch._base import LinearSketch
from ._base import JacobianSketch, Plan, Shape
from ._collector import Collector
from ._streamed import TILE
from .linear import plan_columns

__all__ = ["Cotangents", "PerSample", "check_cotangents", "collect", "plan", "project_jacobian"]

Cotangents = Array | Callable[[Array], Array]

# Bytes of the activations and cotangents of one tile of samples, where memory allows more: each tile scales the weights
# again, and beyond some hundreds of samples products get no faster. A GPU wants more work at once.
_TILE = {"numpy": 2**26, "cupy": 2**31}

# Numbers that the sketch of one array holds at once: enough to be worth the start of kernels and transforms.
_CHUNK = {"numpy": 2**20, "cupy": 2**25}

# Vectors of a sample that are alive at once: the result, its transform, and those that wait for their turn.
_WAITING = 8


@runtime_checkable
class PerSample(Protocol):
    """A function of outputs that holds something for every sample, such as a label."""

    def __call__(self, y: Array) -> Array:
        """Cotangents (n, k) of outputs (n, k)."""

    def rows(self, rows: slice) -> "PerSample":
        """The same function for some samples."""


def project_jacobian(
    fun: Any,
    params: Tree,
    x: Array,
    sketch: JacobianSketch | LinearSketch,
    *,
    cotangents: Cotangents | None = None,
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
) -> Array:
    """Sketch of every sample's parameter gradients.

    Parameters
    ----------
    fun : Layer or callable
        A network of `ntkfast.layers`, or a function of (params, x) for the other engines.
    params : tree
        Dictionaries, tuples and lists of arrays.
    x : array, shape (n, *s)
    sketch : JacobianSketch or LinearSketch
        A map of whole parameter arrays (`TensorProjection`, `KroneckerProjection`, `MaskedProjection`), or a sketch of
        `ntkfast.sketch` that takes columns in parts, with `in_dim` the number of parameters: arrays in the tree's
        order, each in C order.
    cotangents : array, shape (n, k), or callable, optional
        Weights c of the outputs; each sample then has one gradient, that of ``sum_k c[n, k] f_k(x_n)``. A callable
        finds them from the outputs (n, k): `cross_entropy`, `margin`, `squared_error`, or your own, which is given
        the outputs of all samples. Default: a gradient of each output.
    autodiff : str or Autodiff
        Engine; see `ntkfast.autodiff.get_autodiff`. Only "layers" has factors; others form the Jacobians of all
        outputs of some samples at a time.
    max_memory : int, optional
        Bytes that temporaries may take beside the result and the sketch's tables; default a quarter of what is free,
        or less. What `GaussianSketch` and `RademacherSketch` draw they draw again for every tile of samples, so that
        small budgets make them slow.

    Returns
    -------
    array, shape (n, k, m), or (n, m) with `cotangents`; dtype and backend of `params`
        m is the sketch's width. ``result[a, i] @ result[b, j]`` estimates, without bias, the inner product of the two
        gradients: entry [a, b, i, j] of ``empirical_ntk(fun, params, x, output="full")``.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other, NaN or inf; a sketch that does not take columns in parts (`SRHT`).
    BackendUnavailableError
        The engine's package is missing.
    MixedBackendError
        NumPy and CuPy arrays in one call.
    MemoryBudgetError
        `max_memory` is below what one sample needs; the message has the bytes.
    OverflowError
        The outputs of the network or the result leave the range of their dtype.

    Notes
    -----
    Error: see the class of the sketch.
    Cost: a backward pass with one cotangent, or k, per sample, and the sketch's own. A callable of your own takes
    another forward pass where memory holds some of the samples only, since it is given the outputs of all.
    Memory: the result, activations and cotangents of some samples, and tiles of the sketch.
    Determinism: the sketch is the same map everywhere; results for different batches and chunks agree to the rounding
    of the matrix products of the network, and of the FFT where one is used.
    Backends: numpy, cupy.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc, Madry. TRAK: attributing model behavior at scale. ICML 2023, arXiv 2303.14186.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> from ntkfast.projection import TensorProjection, cross_entropy
    >>> net = Sequential(Dense(64), ReLU(), Dense(3))
    >>> x = np.random.default_rng(0).standard_normal((5, 20))
    >>> params = net.init((20,), seed=0, dtype="float64")
    >>> labels = np.array([0, 2, 1, 1, 0])
    >>> phi = project_jacobian(net, params, x, TensorProjection(256, seed=0), cotangents=cross_entropy(labels))
    >>> phi.shape
    (5, 256)
    """
    return collect(
        fun,
        params,
        x,
        lambda shapes: plan(sketch, shapes),
        cotangents=cotangents,
        autodiff=autodiff,
        max_memory=max_memory,
    )


def collect(
    fun: Any,
    params: Tree,
    x: Array,
    make_plan: Callable[[dict[str, Shape]], Plan],
    *,
    cotangents: Cotangents | None,
    autodiff: str | Autodiff,
    max_memory: int | None,
    name: str = "the projected Jacobian",
) -> Array:
    """`project_jacobian` by what `make_plan` makes of the shapes of the parameter arrays; `name` is for errors."""
    engine = get_autodiff(autodiff)
    with quiet():
        checked = engine.check(fun, params, x)
        memory_budget(max_memory, checked.backend)  # refuses what is no number of bytes before the network runs
        layout = make_plan({path: array.shape for path, array in checked.entries.items()})
        weights = check_cotangents(cotangents, checked)
        source = _Source(engine, fun, params, checked, layout)
        k = checked.n_outputs if weights is None else 1
        rows, chunk = source.tile_sizes(k, max_memory)
        if rows < len(checked.x1) and callable(weights) and not isinstance(weights, PerSample):
            weights = _check_weights(weights(source.outputs(rows)), checked, "cotangents(y)")
        out = source.tiles(rows, k, weights, chunk)
    check_range(out, name)
    return out if weights is None else out[:, 0]


def plan(sketch: JacobianSketch | LinearSketch, shapes: dict[str, Shape]) -> Plan:
    """How a sketch treats parameter arrays of given shapes."""
    if isinstance(sketch, JacobianSketch):
        return sketch._plan(shapes)
    if isinstance(sketch, LinearSketch):
        return plan_columns(sketch, shapes)
    raise TypeError(f"expected sketch to be a JacobianSketch or a LinearSketch, got {type(sketch).__name__}")


# --- cotangents ---------------------------------------------------------------------------------


def check_cotangents(cotangents: Any, checked: Checked) -> Any:
    """None, a function of outputs, or a checked array."""
    if isinstance(cotangents, PerSample):  # labels that do not fit show with any outputs, before work
        zeros = checked.backend.xp.zeros((len(checked.x1), checked.n_outputs), checked.dtype)
        _check_weights(cotangents(zeros), checked, "cotangents(y)")
    if cotangents is None or callable(cotangents):
        return cotangents
    return _check_weights(cotangents, checked, "cotangents")


def _check_weights(ct: Any, checked: Checked, name: str) -> Array:
    """Check weights of the outputs of all samples."""
    like = next(iter(checked.entries.values()))  # samples may be integers
    return check_like(ct, name, (len(checked.x1), checked.n_outputs), like)


def _for_rows(weights: Any, rows: slice, n: int) -> Callable[[Array], Array] | None:
    """The function from the outputs of some of n samples to their cotangents."""
    if weights is None:
        return None
    if not callable(weights):
        return lambda y: weights[rows]
    some = weights.rows(rows) if isinstance(weights, PerSample) and rows.stop - rows.start < n else weights
    # of a copy: the last layer's derivative may need its outputs, which the caller's function may overwrite
    return lambda y: check_like(some(y.copy()), "cotangents(y)", y.shape, y)


# --- tiles of samples ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """Jacobians of a network's samples, and where they go."""

    engine: Autodiff
    fun: Any
    params: Tree
    checked: Checked
    plan: Plan

    def tiles(self, rows: int, k: int, weights: Any, chunk: int) -> Array:
        """Sketches of all samples, (n, k, width), some rows at a time."""
        n = len(self.checked.x1)
        if rows >= n:  # without a copy
            return self.tile(slice(0, n), k, _for_rows(weights, slice(0, n), n), chunk)
        out = self.checked.backend.xp.empty((n, k, self.plan.width), self.checked.dtype)
        for tile in slices(n, rows):
            out[tile] = self.tile(tile, k, _for_rows(weights, tile, n), chunk)
        return out

    def tile(self, rows: slice, k: int, weights: Callable[[Array], Array] | None, chunk: int) -> Array:
        """Sketches of some samples, (rows, k, width), of which parts hold about `chunk` numbers at once."""
        x = self.checked.x1[rows]
        found = Collector(self.plan, len(x), k, self.checked.backend, self.checked.dtype, chunk=chunk)
        if isinstance(self.engine, SupportsFactors):
            for path, factors in self._factors(x, weights):
                found.add(path, factors)
        else:
            for path, jac in self._jacobians(x, weights):
                found.add_jacobian(path, jac)
        return found.result()

    def outputs(self, rows: int) -> Array:
        """Outputs of all samples, (n, k)."""
        x, xp = self.checked.x1, self.checked.backend.xp
        tiles = slices(len(x), rows)
        return xp.concatenate([self.engine.param_vjp(self.fun, self.params, x[tile])[0] for tile in tiles])

    def tile_sizes(self, k: int, max_memory: int | None) -> tuple[int, int]:
        """Samples of a tile, and numbers that the sketch of one array may hold beside."""
        itemsize, name = self.checked.dtype.itemsize, self.checked.backend.name
        sample = self._numbers(k) + _WAITING * k * self.plan.width
        largest = max(array.size for array in self.checked.entries.values())
        fixed = largest + min(TILE[name], k * largest)  # a scaled weight, and a tile of Jacobians
        least = 0 if max_memory is None else self._least_chunk(k)
        smallest = itemsize * (fixed + least + sample)
        budget = memory_budget(max_memory, self.checked.backend, smallest=smallest) // itemsize - fixed
        chunk = max(least, min(_CHUNK[name], budget // 4))
        return max(1, (min(budget, _TILE[name] // itemsize) - chunk) // sample), chunk

    def _least_chunk(self, k: int) -> int:
        """Numbers that the sketch of one array holds for one sample: known once its factors are."""
        if not isinstance(self.engine, SupportsFactors):
            return max(2 * k * part.width for part in self.plan.parts.values())
        weights = None if k == self.checked.n_outputs else get_backend(self.checked.x1).xp.zeros_like
        found = self._factors(self.checked.x1[:1], weights)
        return max(self.plan.parts[path].numbers(f) for path, f in found if path in self.plan.parts)

    def _numbers(self, k: int) -> int:
        """Numbers that the engine holds per sample: all inputs of layers and one layer's cotangents, or Jacobians."""
        if not isinstance(self.engine, SupportsFactors):
            return int(2 * self.checked.n_outputs * sum(array.size for array in self.checked.entries.values()))
        leaves = self.fun.leaves(self.checked.x1.shape[1:])
        sizes = [(math.prod(shape), math.prod(layer.out_shape(shape))) for _, layer, shape in leaves]
        return int(sum(2 * size for size, _ in sizes) + 3 * k * max(map(sum, sizes)))

    def _factors(self, x: Array, weights: Callable[[Array], Array] | None) -> Iterator[tuple[str, Factors]]:
        assert isinstance(self.engine, SupportsFactors)
        for path, layer in self.engine.factors(self.fun, self.params, x, cotangents=weights):
            for name, factors in layer.items():
                yield join(path, name), factors

    def _jacobians(self, x: Array, weights: Callable[[Array], Array] | None) -> Iterator[tuple[str, Array]]:
        """Jacobians (n, k, *shape) by path, those of the outputs or of their weighted sum."""
        xp, found = self.checked.backend.xp, self.engine.param_jacobian(self.fun, self.params, x)
        ct = None if weights is None else weights(self.engine.param_vjp(self.fun, self.params, x)[0])
        for path in self.checked.entries:
            jac = found.pop(path)
            if ct is not None:
                jac = xp.einsum("nk,nkp->np", ct, jac.reshape(*ct.shape, -1)).reshape(len(x), 1, *jac.shape[2:])
            yield path, xp.ascontiguousarray(jac)
