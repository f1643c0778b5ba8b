"""Maps of both sides of a parameter's matrix, X -> R^T X C, from the factors of X or from X itself.

The Jacobian of a sample is a sum of outer products over positions t, so

    R^T ( sum_t act_t (x) delta_t ) C = sum_t (R^T act_t) (x) (C^T delta_t),

where a side may be mapped before or after positions are summed: the same number, and what is cheaper is a matter of
their count. Columns of group g meet the acts of group g. All groups share R; and where C mixes columns, the sum above
is over positions and groups.
"""

import abc
import itertools
import math
from typing import NamedTuple

from .._typing import Array
from ..backends import get_backend
from ..layers.factors import Factors, JacobianFactors, SparseFactors
from ._base import ArraySketch, matrix_shape
from ._sides import Mixed, Side

__all__ = ["BilinearArray"]


class _Order(NamedTuple):
    """Whether rows, and columns, are mapped before positions are summed."""

    rows: bool
    columns: bool


class BilinearArray(ArraySketch):
    """Sketch of one parameter array that begins with a map of its rows and one of its columns.

    Attributes
    ----------
    shape, width
        See `ArraySketch`.
    rows, columns : Side
        Maps R and C.
    """

    __slots__ = ()

    rows: Side
    columns: Side

    @abc.abstractmethod
    def _finish(self, core: Array) -> Array:
        """Sketch (n, width) of the mapped matrices (n, k_in k_out), C-contiguous."""

    def of_jacobian(self, jac: Array) -> Array:
        """Sketch of Jacobians (rows, *shape): columns first, then rows."""
        return self._mapped(jac.reshape(len(jac), *matrix_shape(self.shape)), _Order(False, False))

    def of_factors(self, factors: Factors) -> Array:
        """Sketch of the Jacobian of some samples, (n, k, width)."""
        if _has_few_entries(factors):
            return ArraySketch.of_factors(self, factors)
        order = self._order(factors)
        core = self._core(factors, order)
        out = self._mapped(core.reshape(-1, *core.shape[2:]), order)
        if factors.scale != 1.0:
            out *= factors.scale
        return out.reshape(factors.n, factors.k, self.width)

    def _mapped(self, core: Array, order: _Order) -> Array:
        """Apply the maps that are left."""
        if not order.columns:
            core = self.columns.apply(core)
        if not order.rows:
            core = self.rows.apply_rows(core)
        return self._finish(get_backend(core).xp.ascontiguousarray(core).reshape(len(core), -1))

    # --- the sum over positions -----------------------------------------------------------------

    def _core(self, factors: Factors, order: _Order) -> Array:
        """Sum of the outer products of what is mapped first, (n, k, rows, columns), without the scale."""
        xp, delta = get_backend(factors.ct.shared).xp, _cotangents(factors)
        left = self._left(factors, order, delta)
        groups = _groups(factors)
        if groups == 1:
            return _outer(left[:, :, 0], self.columns.apply(delta) if order.columns else delta)
        if order.columns:
            assert isinstance(self.columns, Mixed)  # else columns wait, see `_orders`
            right = self.columns.apply_grouped(delta, groups)
            right = xp.ascontiguousarray(right).reshape(len(delta), -1, *right.shape[3:])
            return _outer(left.reshape(len(left), right.shape[1], -1), right)
        n, t, _, a = left.shape
        acts, shape = left.reshape(n, t, -1), (a, self.shape[-1])
        return JacobianFactors(factors.ct, acts, shape, n, factors.spatial, groups).jacobian()

    def _left(self, factors: Factors, order: _Order, delta: Array) -> Array:
        """Acts (n, t, g, i) or what R maps them to; their sum over positions that share a cotangent."""
        groups, shares = _groups(factors), delta.shape[1] == 1
        if isinstance(factors, SparseFactors):
            found = self.rows.read(factors.index, delta)[:, :, None]
            return found.sum(axis=1, keepdims=True) if shares and found.shape[1] > 1 else found
        assert factors.act is not None  # a bias has few entries
        act = factors.act[0 : factors.n]
        if shares and groups == 1 and act.shape[1] > 1:
            act = act.sum(axis=1, keepdims=True)
        act = act.reshape(*act.shape[:2], groups, -1)
        return self.rows.apply(act) if order.rows else act

    # --- costs ----------------------------------------------------------------------------------

    def _order(self, factors: Factors) -> _Order:
        """The order with the least work."""
        return min(self._orders(factors), key=lambda order: self._work(factors, order))

    def _orders(self, factors: Factors) -> list[_Order]:
        """Possible orders; those of equal work are taken as they come here."""
        rows = (True,) if isinstance(factors, SparseFactors) else (True, False)
        columns = (True, False) if _groups(factors) == 1 or self.columns.mixes else (False,)
        return [_Order(*order) for order in itertools.product(rows, columns)]

    def _work(self, factors: Factors, order: _Order) -> int:
        """Multiply-adds per sample."""
        places, k, groups = math.prod(factors.spatial), factors.k, _groups(factors)
        a, b = self._core_shape(factors, order)
        before = places * groups * self.rows.work if order.rows else k * self.columns.width * self.rows.work
        before += places * k * self.columns.work if order.columns else k * a * self.columns.work
        return before + places * k * a * b * (groups if order.columns else 1)

    def _core_shape(self, factors: Factors, order: _Order) -> tuple[int, int]:
        rows = self.rows.width if order.rows else matrix_shape(self.shape)[0]
        return rows, self.columns.width if order.columns else self.shape[-1]

    def numbers(self, factors: Factors) -> int:
        """Numbers per sample that `of_factors` holds at once."""
        if _has_few_entries(factors):
            return ArraySketch.numbers(self, factors)
        places, k, groups, order = math.prod(factors.spatial), factors.k, _groups(factors), self._order(factors)
        rows, columns = self._core_shape(factors, order)
        left = getattr(factors, "in_width", 0) + 2 * groups * rows
        right = self.shape[-1] + 2 * columns * (groups if order.columns else 1)
        return int(places * (left + k * right) + 2 * k * rows * columns + 2 * k * self.width)


def _groups(factors: Factors) -> int:
    return factors.groups if isinstance(factors, JacobianFactors) else 1


def _has_few_entries(factors: Factors) -> bool:
    """Whether a group has one input, as for a bias or the scale of a normalization: the Jacobian itself is small."""
    return isinstance(factors, JacobianFactors) and (factors.act is None or factors.in_width == factors.groups)


def _cotangents(factors: Factors) -> Array:
    """Cotangents (n or 1, t or 1, k, g o): an axis along which they do not change stays 1, if there is no gate."""
    shared, t = factors.ct.shared, math.prod(factors.spatial)
    places = math.prod(shared.shape[1:-2])
    if factors.ct.gate is not None or places not in (1, t) or (places < t and _groups(factors) > 1):
        return factors.delta
    return shared.reshape(len(shared), places, *shared.shape[-2:])


def _outer(left: Array, right: Array) -> Array:
    """Sum over s of the outer products of (n, s, a) and (n or 1, s, k, b), (n, k, a, b)."""
    (n, s, a), (_, _, k, b) = left.shape, right.shape
    if s == 1:
        return left[:, :, :, None] * right[:, 0, :, None]
    flat = right.reshape(len(right), s, k * b)
    return get_backend(left).xp.matmul(left.swapaxes(1, 2), flat).reshape(n, a, k, b).swapaxes(1, 2)
