"""Widths of the sketches of parameter arrays, shared out of one.

Letters: n samples, k outputs or cotangents per sample, t positions, g groups; i inputs and o outputs of a weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .._check import check_choice, check_int
from .._tree import Tree
from .._typing import Array
from ..autodiff import Autodiff, get_autodiff
from ..backends import get_backend
from ..layers.factors import Factors, JacobianFactors, SparseFactors
from ._base import ArraySketch, Plan, Shape
from .jacobian import Cotangents, collect

__all__ = ["RULES", "allocate_dims"]

RULES = ("energy", "equal", "size")


def allocate_dims(
    fun: Any,
    params: Tree,
    x: Array,
    sketch_dim: int,
    *,
    rule: str = "energy",
    cotangents: Cotangents | None = None,
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
) -> dict[str, int]:
    """Widths by parameter array, for sketches with ``combine="concatenate"``.

    Parameters
    ----------
    fun, params, x, cotangents, autodiff, max_memory
        As in `project_jacobian`; some dozens of samples will do. Other rules than "energy" do not look at the numbers
        in `x` and `cotangents`.
    sketch_dim : int
        Sum of the widths, at least one per array.
    rule : {"energy", "equal", "size"}
        What the widths are proportional to: the mean squared norm of the array's gradients over the samples, one, or
        the number of parameters.

    Returns
    -------
    dict of str to int
        Widths by path, in the order of the tree. They sum to `sketch_dim`, and none is below 1.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other; gradients that are all zero (or whose squares are, in their dtype).
    BackendUnavailableError, MixedBackendError, MemoryBudgetError
        As in `project_jacobian`.
    OverflowError
        Squared norms leave the range of the parameters' dtype.

    Notes
    -----
    Why energy: with e_l(x) the squared gradient norm of array l, its part of an inner product of two sketches has a
    variance of at most c e_l(x) e_l(x') / m_l, the same c for all arrays. Averaged over pairs of samples that is
    c E_l^2 / m_l with E_l the mean of e_l, and sum_l E_l^2 / m_l is least, for a given sum of widths, where m_l is
    proportional to E_l; then it is (sum_l E_l)^2 / m, while equal widths of L arrays have L sum_l E_l^2 / m.
    ``combine="sum"`` has that least variance in the worst case, too, without an allocation; concatenated parts tell the
    arrays apart.

    Widths that would be below 1 are 1; the rest is shared by largest remainders, ties to the earlier array.
    Cost: a backward pass with one cotangent, or k, per sample; norms come from factors, so nothing of the size of the
    parameters is formed (but Jacobians of convolutions of few channels and many positions). Memory: activations,
    cotangents and their products of some samples.
    Determinism: energies are as reproducible as the network's matrix products; a share next to a half may round
    to the other side on another device.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> from ntkfast.projection import TensorProjection, project_jacobian
    >>> net = Sequential(Dense(64), ReLU(), Dense(2, b_std=0.1))
    >>> x = np.random.default_rng(0).standard_normal((10, 20))
    >>> params = net.init((20,), seed=0, dtype="float64")
    >>> allocate_dims(net, params, x, 1000, rule="size")
    {'0.weight': 908, '2.weight': 91, '2.bias': 1}
    >>> widths = allocate_dims(net, params, x, 1000)
    >>> sum(widths.values())
    1000
    >>> sketch = TensorProjection(widths, combine="concatenate", seed=0)
    >>> project_jacobian(net, params, x, sketch).shape
    (10, 2, 1000)
    """
    check_choice(rule, "rule", RULES)
    total = check_int(sketch_dim, "sketch_dim", minimum=1, maximum=2**31 - 1)
    entries = get_autodiff(autodiff).check(fun, params, x).entries
    if total < len(entries):
        raise ValueError(f"expected sketch_dim of at least {len(entries)}, one per array, got {total}")
    weights: Sequence[float] = [1] * len(entries)
    if rule == "size":
        weights = [array.size for array in entries.values()]
    elif rule == "energy":
        weights = _energies(fun, params, x, cotangents=cotangents, autodiff=autodiff, max_memory=max_memory)
    return dict(zip(entries, _shares(weights, total), strict=True))


def _shares(weights: Sequence[float], total: int) -> list[int]:
    """Integers of at least 1 with the given sum, as proportional to the weights as can be."""
    exact = [Fraction(weight) for weight in weights]
    free = list(range(len(exact)))
    while True:
        rest, whole = total - len(exact) + len(free), sum(exact[j] for j in free)
        shares = {j: rest * exact[j] / whole for j in free}
        above = [j for j in free if shares[j] >= 1]
        if len(above) == len(free):
            break
        free = above
    widths = [math.floor(shares[j]) if j in shares else 1 for j in range(len(exact))]
    largest = sorted(free, key=lambda j: (widths[j] - shares[j], j))
    for j in largest[: total - sum(widths)]:
        widths[j] += 1
    return widths


# --- energies: "sketches" of width 1 that are squared norms --------------------------------------


def _energies(fun: Any, params: Tree, x: Array, **options: Any) -> list[float]:
    """Mean squared gradient norms of the arrays."""
    norms = collect(fun, params, x, _norms, name="squared norms of gradients", **options)
    norms = norms.reshape(-1, norms.shape[-1]).mean(axis=0, dtype="float64")
    energies: list[float] = get_backend(norms).to_numpy(norms).tolist()
    if not any(energies):
        raise ValueError("expected gradients that are not all zero, got zeros, or too small for their dtype")
    return energies


def _norms(shapes: dict[str, Shape]) -> Plan:
    parts: dict[str, ArraySketch] = {path: SquaredNorm(shape) for path, shape in shapes.items()}
    return Plan(parts, {path: slice(j, j + 1) for j, path in enumerate(shapes)}, len(shapes))


@dataclass(frozen=True, slots=True)
class SquaredNorm(ArraySketch):
    """Squared norm of an array's Jacobian, in the place of a sketch.

    With Grams A_ts = <act_t, act_s> and D_ts = <delta_t, delta_s> over positions, |J|^2 = scale^2 sum_ts A_ts D_ts,
    summed over groups; of an embedding A_ts = 1 where t and s read the same row, else 0.

    Attributes
    ----------
    shape, width
        See `ArraySketch`.
    """

    shape: Shape
    width: int = 1

    def of_jacobian(self, jac: Array) -> Array:
        """Of Jacobians (rows, *shape): (rows, 1)."""
        flat = jac.reshape(len(jac), -1)
        return get_backend(jac).xp.einsum("rp,rp->r", flat, flat)[:, None]

    def of_factors(self, factors: Factors) -> Array:
        """Of the Jacobian of some samples, (n, k, 1)."""
        if not _is_by_grams(factors):
            return ArraySketch.of_factors(self, factors)  # slots rebuild the class, so super() would miss it
        acts, deltas = _act_grams(factors), _delta_grams(factors)
        return factors.scale**2 * get_backend(deltas).xp.einsum("ngts,nkgts->nk", acts, deltas)[..., None]

    def numbers(self, factors: Factors) -> int:
        """Numbers per sample that `of_factors` holds at once."""
        if not _is_by_grams(factors):
            return ArraySketch.numbers(self, factors)
        t, k = math.prod(factors.spatial), factors.k
        groups, in_width = getattr(factors, "groups", 1), getattr(factors, "in_width", 1)
        return int(2 * t * (in_width + k * factors.ct.shared.shape[-1]) + groups * t * t * (1 + k))


def _is_by_grams(factors: Factors) -> bool:
    """Whether Grams take fewer multiply-adds than the Jacobian, which is mostly zeros for a table."""
    if isinstance(factors, SparseFactors):
        return True
    if factors.act is None:
        return False
    i, o = factors.in_width // factors.groups, factors.out_width // factors.groups
    return factors.positions * (i + factors.k * o) < factors.k * i * o


def _act_grams(factors: Factors) -> Array:
    """Inner products of the acts of all pairs of positions, (n, g, t, t)."""
    if isinstance(factors, SparseFactors):
        same = factors.index[:, None, :, None] == factors.index[:, None, None, :]
        return same.astype(factors.ct.shared.dtype)
    assert factors.act is not None  # else Grams are not taken
    act = factors.act[0 : factors.n].reshape(factors.n, factors.positions, factors.groups, -1).transpose(0, 2, 1, 3)
    return act @ act.swapaxes(-1, -2)


def _delta_grams(factors: Factors) -> Array:
    """Inner products of the cotangents of all pairs of positions, (n, k, g, t, t)."""
    groups = factors.groups if isinstance(factors, JacobianFactors) else 1
    delta = factors.delta
    delta = delta.reshape(*delta.shape[:3], groups, -1).transpose(0, 2, 3, 1, 4)
    return delta @ delta.swapaxes(-1, -2)
