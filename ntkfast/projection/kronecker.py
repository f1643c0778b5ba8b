"""Kronecker projection of Jacobians: a random matrix for the inputs of a weight, and one for its outputs."""

from dataclasses import dataclass, field
from typing import ClassVar

from .._streams import Stream
from .._typing import Array
from ..backends import get_backend
from ..kernels import philox
from ._base import ArraySketch, JacobianSketch, Shape, matrix_shape
from ._bilinear import BilinearArray
from ._sides import Kept, Mixed, Side, mixed_widths

__all__ = ["KroneckerArray", "KroneckerProjection", "kronecker_array"]


@dataclass(frozen=True, slots=True)
class KroneckerProjection(JacobianSketch):
    """Two-sided random projection of Jacobians: the matrix X of an array becomes ``A^T X C``.

    A (i, k_in) and C (o, k_out) have independent entries +-1 / sqrt(k_in) and +-1 / sqrt(k_out); their Kronecker
    product is the sketch (LoGra). ``E <S x, S y> = <x, y>`` for any two gradients.

    Parameters
    ----------
    sketch_dim : int or mapping of str to int
        Width m of the result. With ``combine="concatenate"`` the arrays share it evenly, unless a mapping gives each
        path its own width; 0 leaves an array out.
    combine : {"concatenate", "sum"}
        Whether the sketches of the arrays, which are independent, lie one after another, or are added (each has the
        whole width).
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    An array of width m has k_in k_out <= m numbers. A side may be *kept*: multiplied by random signs only, k = i or o.
    Both are if i o <= m, and inner products are exact then. Else, of (i, m // i), (m // o, o) and (r, m // r) with
    r = isqrt(m), the pair is taken with the least ``1 / k_in + 1 / k_out + 2 / (k_in k_out)``, where 1 / k is 0 for a
    kept side: a side is kept up to a length of about 2 sqrt(m). Concatenated, the numbers are followed by zeros up to
    width m; added, they begin at a random place and go around the end.

    Variance of ``<S X, S Y>`` for one array, exactly, with rows X_a, columns x_b, and
    ``V(B) = |B|^2 + tr(B B) - 2 sum_a B_aa^2``:

        V(X Y^T) / k_in + V(X^T Y) / k_out
        + { |X^T Y|^2 + |X|^2 |Y|^2 - 2 sum_a |X_a|^2 |Y_a|^2 + |X Y^T|^2 + <X, Y>^2 - 2 sum_a <X_a, Y_a>^2
            - 2 sum_b ( |x_b|^2 |y_b|^2 + <x_b, y_b>^2 - 2 sum_a X_ab^2 Y_ab^2 ) } / (k_in k_out)

    with 1 / k = 0 for a kept side. It is at most ``(2 / k_in + 2 / k_out + 4 / (k_in k_out)) |X|^2 |Y|^2``: of order
    1 / sqrt(m) for gradients of rank one, where independent entries would give 2 / m. Sums of arrays: the variances of
    the arrays, and ``(|X_a|^2 |Y_b|^2 + <X_a, Y_a> <X_b, Y_b>) / m`` for every ordered pair a, b of different arrays.
    Concatenated ones: the variances of the arrays.

    Cost per sample and array, with t positions, in multiply-adds: ``t (i k_in + o k_out + k_in k_out)``. A side is
    mapped after positions are summed where that is less. k cotangents share the products of the acts. Memory: the
    result, tiles of the products, and the matrices, i k_in + o k_out numbers per array, kept for the next call.

    Determinism: the matrices are the same bits everywhere; products are BLAS's, so results of different batches and
    devices agree to rounding.

    Backends: numpy, cupy.

    References
    ----------
    Choe et al. What is your data worth to GPT? LLM-scale data valuation with influence functions. 2024,
      arXiv 2405.13954.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> from ntkfast.projection import project_jacobian
    >>> net = Sequential(Dense(64), ReLU(), Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((5, 20))
    >>> params = net.init((20,), seed=0, dtype="float64")
    >>> project_jacobian(net, params, x, KroneckerProjection(256, seed=0)).shape
    (5, 1, 256)
    """

    combine: str = field(default="concatenate", kw_only=True)

    _stream: ClassVar[Stream] = Stream.KRONECKER_PROJECTION

    def _part(self, shape: Shape, width: int, key: int) -> ArraySketch:
        return kronecker_array(shape, width, key, scattered=self.combine == "sum")


@dataclass(frozen=True, slots=True)
class KroneckerArray(BilinearArray):
    """Two-sided random projection of one parameter array.

    Attributes
    ----------
    shape, width, rows, columns
        See `BilinearArray`.
    start : int
        Place of the first of its numbers; they go around the end.
    """

    shape: Shape
    width: int
    rows: Side
    columns: Side
    start: int

    def _finish(self, core: Array) -> Array:
        """Put the numbers at their place."""
        size = core.shape[1]
        if self.start == 0 and size == self.width:
            return core
        out = get_backend(core).xp.zeros((len(core), self.width), core.dtype)
        first = min(size, self.width - self.start)
        out[:, self.start : self.start + first] = core[:, :first]
        out[:, : size - first] = core[:, first:]
        return out


def kronecker_array(shape: Shape, width: int, key: int, *, scattered: bool) -> KroneckerArray:
    """The projection of an array by the rule of the sides; its numbers begin at a random place if `scattered`."""
    lengths = matrix_shape(shape)
    rows, columns = (
        Kept(length, philox.derive_key(key, side)) if k == length else Mixed(length, k, philox.derive_key(key, side))
        for side, (length, k) in enumerate(zip(lengths, mixed_widths(*lengths, width), strict=True))
    )
    return KroneckerArray(shape, width, rows, columns, philox.derive_key(key, 2) % width if scattered else 0)
