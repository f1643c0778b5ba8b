"""NTKSketch: the NTK recursion carried out on sketches of the arc-cosine kernels' expansions."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

from .._angles import homogeneous_vjp, unit_rows
from .._check import check_choice, check_int, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels.philox import derive_key
from ..sketch import SRHT, TensorSRHT
from ..sketch.poly import MAX_DEGREE
from ._base import ReluNTKMap
from ._expansion import Expansion
from ._polynomial import EXPANSIONS, kappa_polynomial

__all__ = ["NTKSketch"]


class _Layer(NamedTuple):
    """What a block of rows leaves behind at layer h, for the pullback."""

    nngp: Array  # phi^{h-1}
    ntk: Array  # psi^{h-1}
    derivative: Array  # phidot^h


@dataclass(frozen=True, slots=True)
class NTKSketch(ReluNTKMap):
    r"""Sketch of the depth-L ReLU NTK by recursion over the layers (Zandieh 2021).

    With polynomials p_1 ~ kappa_1 and p_0 ~ kappa_0 of non-negative coefficients and
    phi^0 = psi^0 = x / |x|, for h = 1, ..., L

    - phi^h: sketch of p_1 at phi^{h-1}, so phi^h(x).phi^h(y) ~ p_1(phi^{h-1}(x).phi^{h-1}(y)) (NNGP);
    - phidot^h: sketch of p_0 at phi^{h-1};
    - psi^h = R [S(psi^{h-1} (x) phidot^h) ; phi^h], S a TensorSRHT and R an SRHT (NTK).

    Each sketch of a polynomial is a PolySketch of all powers, mixed by an SRHT. The features are
    |x| psi^L times the square root of the NTK's scale (W_std^2 / 2)^L W_std^2 / d.

    Parameters
    ----------
    in_dim : int
        Width d of the input.
    n_features : int
        Number of features.
    depth : int
        Number L of hidden layers, at least 1.
    degree : int
        Degree of p_0 and p_1.
    expansion : {"fitted", "taylor"}
        "taylor" cuts the power series off, as in the paper's analysis; "fitted" takes the non-negative
        least-squares polynomials of the same degree, with several times less error.
    W_std : float
        Standard deviation of the weights, as in `ntkfast.analytic.ntk`.
    sketch_dim : int, optional
        Width of all inner sketches, at least 2; default n_features, and at least 2.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Error: that of the polynomials, largest at coincident points (`diagonal_gap`; 0.2 of 4 for L = 3 and
    degree 8), plus a standard deviation of order sqrt(degree / sketch_dim) that grows with L.
    Cost: O(n L (q log q) m log m), q = degree, m = sketch_dim.
    Departures from the paper: the input enters the first tree as it is, without sketches in front (they would
    only shorten a wide input), and the R of the last layer has n_features rows, which makes the Gaussian
    matrix behind it needless.
    Determinism: the sketches depend on the seed alone.
    Backends: numpy, cupy.

    References
    ----------
    Zandieh. Learning with neural tangent kernels in near input sparsity time. arXiv 2104.00415.
    Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random features.
    NeurIPS 2021. Algorithm NTKSketch.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import NTKSketch
    >>> x = np.eye(4)
    >>> phi = NTKSketch(4, 4096, depth=2, seed=0)
    >>> error = phi(x) @ phi(x).T - phi.kernel(x)
    >>> bool(np.abs(error).max() < 0.2 * phi.kernel(x).max())
    True
    """

    in_dim: int
    n_features: int
    _: KW_ONLY
    depth: int
    degree: int = 8
    expansion: str = "fitted"
    W_std: float = math.sqrt(2)
    sketch_dim: int | None = None
    seed: int

    def __post_init__(self) -> None:
        self._check_fields(fewest_features=1)
        set_checked(self, degree=check_int(self.degree, "degree", minimum=1, maximum=MAX_DEGREE))
        check_choice(self.expansion, "expansion", EXPANSIONS)
        if self.sketch_dim is not None:
            set_checked(self, sketch_dim=check_int(self.sketch_dim, "sketch_dim", minimum=2))

    @property
    def diagonal_gap(self) -> float:
        """L + 1 minus what the recursion with p_0 and p_1 gives at coincident points."""
        p_0, p_1 = (kappa_polynomial(order, self.degree, self.expansion) for order in (0, 1))
        nngp = ntk = 1.0
        for _ in range(self.depth):
            derivative = sum(c * nngp**j for j, c in enumerate(p_0))
            nngp = sum(c * nngp**j for j, c in enumerate(p_1))
            ntk = ntk * derivative + nngp
        return self.depth + 1 - ntk

    @property
    def _width(self) -> int:
        return max(2, self.n_features) if self.sketch_dim is None else self.sketch_dim

    def _key(self, h: int, part: int) -> int:
        return derive_key(self.seed, Stream.NTK_SKETCH, h, part)

    def _kappa(self, h: int, order: int) -> Expansion:
        """Sketch of p_order at phi^{h-1}."""
        coefficients = kappa_polynomial(order, self.degree, self.expansion)
        in_dim = self.in_dim if h == 1 else self._width
        return Expansion(in_dim, self._width, coefficients, self._width, self._key(h, order))

    def _product(self, h: int) -> TensorSRHT:
        """S of layer h."""
        in_dims = (self.in_dim if h == 1 else self._width, self._width)
        return TensorSRHT(in_dims, self._width, seed=self._key(h, 2))

    def _join(self, h: int) -> SRHT:
        """R of layer h."""
        width = self.n_features if h == self.depth else self._width
        return SRHT(2 * self._width, width, seed=self._key(h, 3))

    def _forward(self, backend: Backend, unit: Array, layers: list[_Layer] | None = None) -> Array:
        """psi^L (b, n_features) of unit rows; what the pullback needs is appended to `layers`."""
        phi = psi = unit
        for h in range(1, self.depth + 1):
            derivative = self._kappa(h, 0).apply(backend, phi)
            if layers is not None:
                layers.append(_Layer(phi, psi, derivative))
            phi = self._kappa(h, 1).apply(backend, phi)
            product = self._product(h).apply(psi, derivative)
            psi = self._join(h).apply(backend.xp.concatenate((product, phi), axis=1))
        return psi

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        unit, norms = unit_rows(x)
        psi = self._forward(backend, unit)
        backend.xp.multiply(psi, (self._root_scale * norms)[:, None], out=out)

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        unit, norms = unit_rows(x)
        layers: list[_Layer] = []
        ct = ct * self._root_scale
        radial = (ct * self._forward(backend, unit, layers)).sum(axis=1)
        ct_psi, ct_phi = ct, None
        for h in range(self.depth, 0, -1):
            ct_psi, ct_phi = self._pull_layer(backend, h, layers[h - 1], ct_psi, ct_phi)
        return homogeneous_vjp(unit, norms, ct_psi + ct_phi, radial)

    def _pull_layer(
        self, backend: Backend, h: int, layer: _Layer, ct_psi: Array, ct_phi: Array | None
    ) -> tuple[Array, Array]:
        """Cotangents of (psi^{h-1}, phi^{h-1}) from those of (psi^h, phi^h)."""
        joined = self._join(h).adjoint(ct_psi)
        ct_product = backend.xp.ascontiguousarray(joined[:, : self._width])
        ct_nngp = joined[:, self._width :] if ct_phi is None else joined[:, self._width :] + ct_phi
        ct_previous, ct_derivative = self._product(h).vjp((layer.ntk, layer.derivative), ct_product)
        ct_phi = self._kappa(h, 1).vjp(backend, layer.nngp, ct_nngp)
        return ct_previous, ct_phi + self._kappa(h, 0).vjp(backend, layer.nngp, ct_derivative)

    def _row_bytes(self, itemsize: int) -> int:
        kept = 3 * self.depth * max(self._width, self.in_dim)
        return (kept + self._kappa(1, 0).row_numbers + 8 * self._width + 2 * self.n_features) * itemsize
