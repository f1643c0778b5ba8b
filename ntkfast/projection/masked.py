"""Masked projection of Jacobians: the outer products of a few coordinates of each side, hashed."""

from dataclasses import dataclass, field
from typing import ClassVar

from .._check import check_int, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import get_backend
from ..kernels import philox
from ..sketch import SparseJL
from ._base import ArraySketch, JacobianSketch, Shape, matrix_shape
from ._bilinear import BilinearArray
from ._sides import Sampled, Side, sampled_widths
from .kronecker import kronecker_array

__all__ = ["MaskedProjection"]


@dataclass(frozen=True, slots=True)
class MaskedProjection(JacobianSketch):
    """Random mask of the rows and columns of Jacobians, and a sparse Johnson-Lindenstrauss map of what it keeps.

    The matrix X of an array becomes ``SparseJL(P X Q)``, where P and Q keep k_in rows and k_out columns, one of every
    stratum of neighbors, times the root of its size: FactGraSS, with the scale that makes ``E <S x, S y> = <x, y>``.
    The cheapest of the projections, and the one with the largest variance where gradients are concentrated.

    Parameters
    ----------
    sketch_dim : int or mapping of str to int
        Width m of the result. With ``combine="concatenate"`` the arrays share it evenly, unless a mapping gives each
        path its own width; 0 leaves an array out.
    combine : {"sum", "concatenate"}
        Whether the sketches of the arrays, which are independent, are added (each has the whole width) or lie one
        after another.
    blow_up : int, default 4
        Entries that the mask keeps, k_in k_out, over m.
    nnz : int, default 1
        Nonzeros per column of the sparse map; at most m are used.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    With b = blow_up m, ``k_out = min(o, 2 sqrt(b))`` and ``k_in = min(i, b // k_out)``; where that keeps all
    rows, ``k_out = min(o, b // i)``. Columns get more, because to sample them costs more variance. A side of which all
    is kept has no mask. An array with at most m entries is neither masked nor hashed, but kept as by
    `KroneckerProjection`, with exact inner products.

    Variance of ``<S X, S Y>`` for one array, exactly: with G = X * Y entry by entry, s_a and s_b the sizes of the
    strata of row a and column b, ``w(a, a') = s_a`` for a = a', 0 for different a, a' of one stratum, and else 1, and

        W(B, D) = sum over a, a', b, b' of w(a, a') w(b, b') B_ab D_a'b',

    the mask alone gives ``W(G, G) - <X, Y>^2``. With c = sum_b 1 / (nnz^2 m_b), m_b the sizes of the blocks of
    buckets (1 / m where nnz divides m), it is altogether

        (1 + c) W(G, G) - <X, Y>^2 + c [ W(X * X, Y * Y) - 2 sum_ab s_a s_b G_ab^2 ]

    where W(G, G) and W(X * X, Y * Y) are the means, over masks, of the squared inner product and of the product of
    squared norms of what is kept. Sums of arrays: the variances of the arrays, and
    ``c (|X_a|^2 |Y_b|^2 + <X_a, Y_a> <X_b, Y_b>)`` for every ordered pair a, b of different arrays (1 / m in place of
    c where one of them is kept). Concatenated ones: the variances of the arrays.

    The mask of an embedding's table keeps few of its tokens, and other tokens are not seen at all: for tables
    `KroneckerProjection` or `TensorProjection` has much less variance.

    Cost per sample and array, with t positions: ``t k_in k_out = t blow_up m`` multiply-adds, and nnz additions for
    each kept entry. Memory: the result, tiles of what is kept, and tables of blow_up m nnz entries per array.

    Determinism: masks and hashes are the same bits everywhere; products are BLAS's, so results of different batches
    and devices agree to rounding.

    Backends: numpy, cupy.

    References
    ----------
    Hu, Melkonian, Tang, Zhao, Ma. GraSS: scalable data attribution with gradient sparsification and sparse
      projection. NeurIPS 2025, arXiv 2505.18976.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> from ntkfast.projection import project_jacobian
    >>> net = Sequential(Dense(64), ReLU(), Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((5, 20))
    >>> params = net.init((20,), seed=0, dtype="float64")
    >>> project_jacobian(net, params, x, MaskedProjection(256, seed=0)).shape
    (5, 1, 256)
    """

    blow_up: int = field(default=4, kw_only=True)
    nnz: int = field(default=1, kw_only=True)

    _stream: ClassVar[Stream] = Stream.MASKED_PROJECTION

    def __post_init__(self) -> None:
        # slots make dataclass rebuild the class, so super() without arguments would miss it
        JacobianSketch.__post_init__(self)
        set_checked(self, blow_up=check_int(self.blow_up, "blow_up", minimum=1))
        set_checked(self, nnz=check_int(self.nnz, "nnz", minimum=1))

    def _part(self, shape: Shape, width: int, key: int) -> ArraySketch:
        lengths = matrix_shape(shape)
        if lengths[0] * lengths[1] <= width:
            return kronecker_array(shape, width, key, scattered=self.combine == "sum")
        kept = sampled_widths(*lengths, self.blow_up * width)
        rows, columns = (Sampled(lengths[s], kept[s], philox.derive_key(key, s)) for s in range(2))
        hashes = SparseJL(kept[0] * kept[1], width, nnz=min(self.nnz, width), seed=philox.derive_key(key, 2))
        return MaskedArray(shape, width, rows, columns, hashes)


@dataclass(frozen=True, slots=True)
class MaskedArray(BilinearArray):
    """Mask and sparse Johnson-Lindenstrauss map of one parameter array.

    Attributes
    ----------
    shape, width, rows, columns
        See `BilinearArray`.
    hashes : SparseJL
        Map of the entries that are kept.
    """

    shape: Shape
    width: int
    rows: Side
    columns: Side
    hashes: SparseJL

    def _finish(self, core: Array) -> Array:
        """Hash what is kept."""
        return self.hashes._apply_unchecked(core, get_backend(core))
