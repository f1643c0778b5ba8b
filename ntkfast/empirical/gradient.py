"""Gradients of the NTK with respect to the inputs, by hand, layer by layer.

A contraction of the NTK is one of Jacobians: with V[n, a] = sum over m, b of ct[n, m, a, b] J(x2[m])[b],

    sum of ct o Theta(x1, x2) = sum over n, a of <V[n, a], J(x1[n])[a]>,

so its gradient with respect to x1 is that of directional derivatives of the network along V, held fixed. No second
automatic differentiation, and V is only formed where that is the cheapest: see _adjoints.py and layers/motion.py.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .._check import check_choice, check_range, memory_budget, quiet
from .._tree import Tree
from .._typing import Array
from ..backends import get_backend
from ..layers import Layer
from ..layers.factors import Cotangent, JacobianFactors
from ..layers.motion import Motion, Pair, SharedMotion
from ._adjoints import Adjoint, arrange, block_adjoints
from ._inputs import by_layer, check_direction, check_layers, check_like
from ._tiles import slices

__all__ = ["NTKGradient", "directional_vjp", "empirical_ntk_vjp"]


class NTKGradient(NamedTuple):
    """Gradient of a contraction of the NTK with respect to the inputs.

    Attributes
    ----------
    x1 : array, of the shape of `x1`
        In a symmetric call the sum over both roles of x1.
    x2 : array, of the shape of `x2`, or None in a symmetric call
    """

    x1: Array
    x2: Array | None


def empirical_ntk_vjp(
    net: Layer,
    params: Tree,
    x1: Array,
    x2: Array | None,
    ct: Array,
    *,
    output: str = "trace",
    max_memory: int | None = None,
) -> NTKGradient:
    """Vector-Jacobian product of the empirical NTK: gradient of sum(ct * Theta(x1, x2)) with respect to the inputs.

    Parameters
    ----------
    net : Layer
        A network of floating-point input (n, *s) and output (n, k).
    params : tree
        As ``net.init`` returns.
    x1 : array, shape (n1, *s), float32 or float64
    x2 : array, shape (n2, *s), or None
        None means `x1` in both roles; its gradient is then the sum of both.
    ct : array
        Cotangent of the kernel, of its shape: (n1, n2), (n1, n2, k) or (n1, n2, k, k).
    output : {"trace", "diagonal", "full"}
        As for `empirical_ntk`.
    max_memory : int, optional
        Bytes that temporaries may take; default a quarter of what is free.

    Returns
    -------
    NTKGradient

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other, NaN or inf; integer samples.
    MemoryBudgetError
        `max_memory` is below what one pair of samples needs.
    OverflowError
        A gradient leaves the range of its dtype.

    Notes
    -----
    Exact up to rounding. Piecewise linear layers (relu, max pooling) are differentiated within their pieces, which is
    the gradient almost everywhere; at a kink it is that of one piece.
    Cost: per side about four backward passes with k cotangents, and per block what the kernel itself costs, twice per
    side. The result does not depend on the tiles but for rounding.
    Memory: a few times the activations and cotangents of a tile; for convolutions also the Jacobian of one layer.
    Backends: numpy, cupy.

    References
    ----------
    Pearlmutter. Fast exact multiplication by the Hessian. Neural Computation 6, 1994: the same two passes, by
    parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense
    >>> net = Dense(1, W_std=1.0)
    >>> params = net.init((2,), seed=0, dtype="float64")
    >>> empirical_ntk_vjp(net, params, np.array([[3.0, 4.0]]), None, np.ones((1, 1))).x1  # Theta(x, x) = |x|^2 / 2
    array([[3., 4.]])
    """
    check_choice(output, "output", ("trace", "diagonal", "full"))
    checked = check_layers(net, params, x1, x2)
    x1, x2, k = checked.x1, checked.x2, checked.n_outputs
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    ends = {"trace": (), "diagonal": (k,), "full": (k, k)}[output]
    ct = check_like(ct, "ct", (n1, n2, *ends), x1)
    with quiet():
        if x2 is None:
            ct = ct + ct.transpose(*((1, 0), (1, 0, 2), (1, 0, 3, 2))[ct.ndim - 2])
        rows = _tile_rows(net, params, x1, x2, k, max(1, math.prod(ends)), max_memory)
        gradient = _symmetric(net, params, x1, arrange(ct, output, k), rows) if x2 is None else _rectangular(
            net, params, (x1, x2), arrange(ct, output, k), rows)  # fmt: skip
    for name, array in gradient._asdict().items():
        if array is not None:
            check_range(array, f"the gradient with respect to {name}")
    return gradient


def directional_vjp(net: Layer, params: Tree, x: Array, direction: Tree, ct: Array) -> Array:
    """Gradient with respect to x of the directional derivatives of a network along one direction of its parameters.

    Parameters
    ----------
    net : Layer
        A network of floating-point input (n, *s) and output (n, k).
    params : tree
        As ``net.init`` returns.
    x : array, shape (n, *s), float32 or float64
    direction : tree
        Like `params`; buffers may be left out.
    ct : array, shape (n, k)
        Weights of the outputs.

    Returns
    -------
    array, shape (n, *s)
        Gradient of sum over n of <ct[n], J(x[n]) direction>, J being the Jacobian by the parameters.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other, NaN or inf; integer samples.
    OverflowError
        The gradient leaves the range of its dtype.

    Notes
    -----
    Exact up to rounding; at a kink of a piecewise linear layer the gradient is that of one piece.
    Cost: one forward, one tangent and two backward passes with one cotangent per sample.
    Memory: activations and tangents of the batch.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense
    >>> net = Dense(1, W_std=1.0)
    >>> params = net.init((1,), seed=0, dtype="float64")
    >>> directional_vjp(net, params, np.ones((1, 1)), {"weight": np.array([[5.0]])}, np.ones((1, 1)))
    array([[5.]])
    """
    checked = check_layers(net, params, x)
    x = checked.x1
    directions = check_direction(direction, checked.entries)
    ct = check_like(ct, "ct", (len(x), checked.n_outputs), x)
    motion = SharedMotion(by_layer(directions))
    with quiet():
        _, saved = net.forward(params, x)
        found = _input_gradient(net, params, saved, x, motion, Cotangent(ct[:, None, :]))
    return check_range(found, "the gradient")


@dataclass(frozen=True, slots=True)
class _BlockMotion:
    """The motion of V, by what it does to each layer: adjoints of its factors' cotangents, and of their acts."""

    moves: dict[str, Array]
    acts: dict[str, dict[str, Array]]

    def push(self, path: str, layer: Layer, params: Any, saved: Any) -> Array | None:
        move = self.moves.get(path)
        return None if move is None else layer.unfold_delta(saved, move)

    def pull(self, path: str, layer: Layer, params: Any, saved: Any, ct: Cotangent) -> Cotangent | None:
        total = None
        for name, act in self.acts.get(path, {}).items():
            pulled = layer.act_vjp(params, saved, name, act)
            if pulled is not None:
                total = pulled if total is None else total + pulled
        return None if total is None else Cotangent(total[..., None, :])

    def record(self, path: str, name: str, factors: JacobianFactors, adjoint: Adjoint) -> None:
        move = adjoint.delta.reshape(factors.n, *factors.spatial, factors.k, factors.out_width)
        self.moves[path] = self.moves[path] + move if path in self.moves else move
        if adjoint.act is not None:
            self.acts.setdefault(path, {})[name] = adjoint.act


def _symmetric(net: Layer, params: Tree, x: Array, weights: Array, rows: int) -> NTKGradient:
    """Both roles at once: `weights` is the sum of the cotangent and its transpose."""
    total = get_backend(x).xp.zeros_like(x)
    tiles = list(slices(len(x), rows))
    for i, first in enumerate(tiles):
        total[first] += _tile(net, params, x[first], None, weights[:, first, :, first])[0]
        for second in tiles[:i]:
            g1, g2 = _tile(net, params, x[first], x[second], weights[:, first, :, second])
            total[first] += g1
            total[second] += g2
    return NTKGradient(total, None)


def _rectangular(net: Layer, params: Tree, x: tuple[Array, Array], weights: Array, rows: int) -> NTKGradient:
    xp = get_backend(x[0]).xp
    totals = xp.zeros_like(x[0]), xp.zeros_like(x[1])
    for first in slices(len(x[0]), rows):
        for second in slices(len(x[1]), rows):
            g1, g2 = _tile(net, params, x[0][first], x[1][second], weights[:, first, :, second])
            totals[0][first] += g1
            totals[1][second] += g2
    return NTKGradient(*totals)


def _tile(net: Layer, params: Tree, x1: Array, x2: Array | None, weights: Array) -> tuple[Array, Array | None]:
    """Gradients with respect to x1 and x2; with x1 alone in the first role where x2 is None."""
    y, saved1 = net.forward(params, x1)
    head = _one_hot(y)
    saved2 = saved1 if x2 is None else net.forward(params, x2)[1]
    first, second = _BlockMotion({}, {}), _BlockMotion({}, {})
    for path, name, f1, f2 in _blocks(net, params, saved1, saved2, head):
        adjoint1, adjoint2 = block_adjoints(f1, f2, weights, both=x2 is not None)
        first.record(path, name, f1, adjoint1)
        if adjoint2 is not None:
            second.record(path, name, f2, adjoint2)
    g1 = _input_gradient(net, params, saved1, x1, first, head)
    return g1, None if x2 is None else _input_gradient(net, params, saved2, x2, second, head)


def _blocks(
    net: Layer, params: Tree, saved1: Any, saved2: Any, head: Cotangent
) -> Iterator[tuple[str, str, JacobianFactors, JacobianFactors]]:
    """Factors of both sides, block by block, from the output down."""
    passes = [net.backward(params, saved, head, want_input=False) for saved in (saved1, saved2)]
    if saved1 is saved2:
        passes[1:] = []
    for found in zip(*passes, strict=True):
        path, factors = found[0]
        for name, f1 in factors.items():
            f2 = found[-1][1][name]
            assert isinstance(f1, JacobianFactors)  # an Embedding takes integers only
            assert isinstance(f2, JacobianFactors)
            yield path, name, f1, f2


def _one_hot(y: Array) -> Cotangent:
    """The k cotangents of the outputs y (n, k)."""
    return Cotangent(get_backend(y).xp.eye(y.shape[1], dtype=y.dtype)[None])


def _input_gradient(net: Layer, params: Tree, saved: Any, x: Array, motion: Motion, head: Cotangent) -> Array:
    """Gradient with respect to x of the sum over n and k of <head[n, k], J(x[n]) V[n, k]>, V being the motion."""
    _, tangents = net.pair_jvp(params, saved, None, motion)
    value = net.pair_vjp(params, saved, tangents, Pair(None, head), motion).value
    if value is None:
        return get_backend(x).xp.zeros_like(x)
    return value.dense(len(x), x.shape[1:-1])[..., 0, :]


def _tile_rows(net: Layer, params: Tree, x1: Array, x2: Array | None, k: int, pair: int, max_memory: int | None) -> int:
    """Samples per side of a tile, so that two sides and their pairs fit."""
    y, saved = net.forward(params, x1[:1])
    widths = [
        3 * f.positions * (k * f.out_width + f.in_width) + (4 * k * f.size if f.positions > 1 else 0)
        for _, _, f, _ in _blocks(net, params, saved, saved, _one_hot(y))
    ]
    sides, pairs = 2 * y.itemsize * sum(widths), 4 * y.itemsize * pair
    budget = memory_budget(max_memory, get_backend(x1), smallest=sides + pairs)
    rows = int((math.sqrt(sides**2 + 4.0 * pairs * budget) - sides) / (2 * pairs))  # pairs r^2 + sides r <= budget
    return max(1, min(rows, max(len(x1), 0 if x2 is None else len(x2))))
