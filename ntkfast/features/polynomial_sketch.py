"""NTKSketch with one polynomial: K^L replaced by a polynomial of the cosine, sketched at once."""

import math
from dataclasses import KW_ONLY, dataclass

from .._angles import homogeneous_vjp, unit_rows
from .._check import check_int, check_matrix, check_range, quiet, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels.philox import derive_key
from ..sketch.poly import MAX_DEGREE
from ._base import ReluNTKMap
from ._expansion import Expansion
from ._polynomial import ntk_polynomial

__all__ = ["NTKPolynomialSketch"]


@dataclass(frozen=True, slots=True)
class NTKPolynomialSketch(ReluNTKMap):
    r"""Sketch of the depth-L ReLU NTK by one polynomial with non-negative coefficients.

    K^L(s) ~ p(s) = sum_{j <= degree} c_j s^j by weighted non-negative least squares, and with u = x / |x|

        phi(x) = scale |x| [sqrt(c_0) ; T [sqrt(c_1) U_1(u) ; ... ; sqrt(c_q) U_q(u)]],

    where a PolySketch makes U_j(u).U_j(v) ~ <u, v>^j for all j and T is an SRHT. This is what the
    authors' program does; `NTKSketch` is the algorithm that their analysis describes.

    Parameters
    ----------
    in_dim : int
        Width d of the input.
    n_features : int
        Number of features, at least 2.
    depth : int
        Number L of hidden layers, at least 1.
    degree : int
        Degree of the polynomial.
    W_std : float
        Standard deviation of the weights, as in `ntkfast.analytic.ntk`.
    sketch_dim : int, optional
        Width of the nodes of the PolySketch; default n_features.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Error: unbiased for scale^2 |x| |y| p(cos). p errs most at coincident points, where K^L has its
    knee and p(1) < L + 1; for degrees 2 / 4 / 8 by 0.10 / 0.05 / 0.03 at L = 1, 0.6 / 0.3 / 0.2 at L = 3 and
    1.2 / 0.7 / 0.5 at L = 5. So the diagonal of a Gram matrix comes out low, as from a smoother kernel;
    `nugget` gives what to add to it to make its mean exact. Standard deviation of order
    sqrt(degree / sketch_dim) + 1 / sqrt(n_features).
    Cost: O(n (q log q) m log m), q = degree, m = sketch_dim.
    Determinism: the sketches depend on the seed alone.
    Backends: numpy, cupy.

    References
    ----------
    Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random features.
    NeurIPS 2021.
    Ahle, Kapralov, Knudsen, Pagh, Velingker, Woodruff, Zandieh. Oblivious sketching of high-degree polynomial
    kernels. SODA 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import NTKPolynomialSketch
    >>> x = np.eye(4)
    >>> phi = NTKPolynomialSketch(4, 4096, depth=1, seed=0)
    >>> gram = phi(x) @ phi(x).T + np.diag(phi.nugget(x))
    >>> bool(np.abs(gram - phi.kernel(x)).max() < 0.2)
    True
    """

    in_dim: int
    n_features: int
    _: KW_ONLY
    depth: int
    degree: int = 8
    W_std: float = math.sqrt(2)
    sketch_dim: int | None = None
    seed: int

    def __post_init__(self) -> None:
        self._check_fields(fewest_features=2)
        set_checked(self, degree=check_int(self.degree, "degree", minimum=1, maximum=MAX_DEGREE))
        if self.sketch_dim is not None:
            set_checked(self, sketch_dim=check_int(self.sketch_dim, "sketch_dim", minimum=1))

    @property
    def coefficients(self) -> tuple[float, ...]:
        """c_0, ..., c_degree of the polynomial p that stands for K^depth."""
        return ntk_polynomial(self.depth, self.degree)

    def nugget(self, x: Array) -> Array:
        """What the polynomial lacks on the diagonal: scale^2 |x|^2 (depth + 1 - p(1)).

        Parameters
        ----------
        x : array, shape (n, in_dim), float32 or float64

        Returns
        -------
        array, shape (n,), dtype and backend of `x`
            Add it to the diagonal of phi(x) @ phi(x).T, whose mean is then the NTK's.

        Raises
        ------
        TypeError, ValueError
            `x` is not such an array, or has NaN or inf.
        OverflowError
            The result leaves the range of the dtype.
        """
        x, _ = check_matrix(x, "x", columns=self.in_dim)
        _, norms = unit_rows(x)
        with quiet():
            return check_range(
                (self._root_scale * norms) ** 2 * (self.depth + 1 - sum(self.coefficients)), "the nugget"
            )

    @property
    def _width(self) -> int:
        return self.n_features if self.sketch_dim is None else self.sketch_dim

    @property
    def _expansion(self) -> Expansion:
        key = derive_key(self.seed, Stream.POLYNOMIAL_SKETCH)
        return Expansion(self.in_dim, self.n_features, self.coefficients, self._width, key)

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        unit, norms = unit_rows(x)
        out[...] = self._expansion.apply(backend, unit)
        out *= (self._root_scale * norms)[:, None]

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        unit, norms = unit_rows(x)
        ct = ct * self._root_scale
        radial = (ct * self._expansion.apply(backend, unit)).sum(axis=1)
        return homogeneous_vjp(unit, norms, self._expansion.vjp(backend, unit, ct), radial)

    def _row_bytes(self, itemsize: int) -> int:
        return (self._expansion.row_numbers + 2 * self.n_features) * itemsize
