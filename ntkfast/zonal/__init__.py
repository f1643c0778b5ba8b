"""Zonal functions: the infinite-width theory of a bias-free homogeneous network as one function of the angle.

Activations of the family phi(z) = p z + q |z| (relu, leaky relu, abs) are positively homogeneous, so without biases
the NNGP and the NTK of a network of any depth are

    K(x, y) = scale |x| |y| k(t),      t = angle between x and y.

With r = q^2 / (p^2 + q^2) one layer maps the angle and the kernels by (Cho and Saul 2009; Arora et al. 2019)

    kappa_0(t) = 1 - 2 r t / pi,       1 - kappa_1(t) = (1 - cos t) - (2 r / pi) (sin t - t cos t),
    cos t_h = kappa_1(t_{h-1}),        Sigma^h = cos t_h,        K^h = K^{h-1} kappa_0(t_{h-1}) + Sigma^h,

t_0 = t, K^0 = cos t. Here k = Sigma^depth (``kind="nngp"``) or K^depth (``kind="ntk"``), normalized to
Sigma^depth(0) = 1 and K^depth(0) = depth + 1. Each layer multiplies both by W_std^2 (p^2 + q^2), which is 1 for
relu with W_std = sqrt 2.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._typing import Array
from ..backends import get_backend
from ._expansions import chebyshev_table, funk_hecke_quadrature, funk_hecke_series, power_series
from ._recursion import derivative, kernels
from .slopes import LEAK, Slopes, check_leak, slopes_of

__all__ = ["Zonal", "ZonalTable", "harmonic_multiplicity", "zonal"]

ACTIVATIONS = ("relu", "leaky_relu", "abs")
KINDS = ("nngp", "ntk")


@dataclass(frozen=True, slots=True)
class ZonalTable:
    """A zonal function as two Chebyshev series, what the compute kernel reads.

    With s = sin(t / 2) for t <= pi / 2 (side 0) or s = sin((pi - t) / 2) (side 1), and y = s / sqrt(1/8) - 1,

        k(t) = ends[side] + (1 + y) * sum_m coefficients[side, m] T_m(y).

    The function is analytic in s on both sides, up to and including coincident (s = 0, side 0) and opposite points,
    where the formula returns `ends` exactly. Neither side needs the angle: s is half the length of the chord.

    Attributes
    ----------
    coefficients : ndarray, shape (2, n_terms)
        n_terms is a multiple of 8, the fewest with which the truncation stays below the rounding of the dtype.
    ends : ndarray, shape (2,)
        k(0) and k(pi).
    slope : float
        |dk/dt| at t = 0 over k(0): how strongly an error of the angle of nearly coincident points is felt.
    """

    coefficients: Any
    ends: Any
    slope: float


@dataclass(frozen=True, slots=True)
class Zonal:
    """One zonal function k(t); see the module. Make it with `zonal`, which checks its arguments.

    Attributes
    ----------
    depth : int
        Number of hidden layers.
    activation : str
        ``"relu"``, ``"leaky_relu"`` or ``"abs"``.
    kind : str
        ``"ntk"`` or ``"nngp"``.
    leak : float
        Slope of ``"leaky_relu"`` for negative arguments; not read by the others.
    """

    depth: int
    activation: str = "relu"
    kind: str = "ntk"
    leak: float = LEAK

    @property
    def slopes(self) -> Slopes:
        """The activation as phi(z) = odd z + even |z|: p and q of the module."""
        return slopes_of(self.activation, self.leak)

    @property
    def ratio(self) -> float:
        """The even part's share r = q^2 / (p^2 + q^2): 0 for a linear network, 1/2 for relu, 1 for abs."""
        return self.slopes.ratio

    @property
    def _which(self) -> int:
        return KINDS.index(self.kind)

    @property
    def peak(self) -> float:
        """k(0): depth + 1 for the NTK, 1 for the NNGP."""
        return float(self.depth + 1) if self.kind == "ntk" else 1.0

    def of_angle(self, t: Array | float) -> Array:
        """Evaluate k at angles by the recursion.

        Parameters
        ----------
        t : array or float
            Angles in radians, 0 <= t <= pi; float32 or float64.

        Returns
        -------
        array of the shape and dtype of `t`
            Error a few units of rounding times `peak`. Cost: about 100 ns per entry and layer; the compute kernel
            ``zonal.evaluate`` is some hundred times faster.

        Examples
        --------
        >>> import numpy as np
        >>> zonal(1).of_angle(np.array([0.0, np.pi / 2, 3.0])).round(6)
        array([ 2.      ,  0.31831 , -0.044319])
        """
        xp, t = _angles(t)
        return kernels(xp, t, self.depth, self.ratio)[self._which]

    def of_cosine(self, s: Array | float) -> Array:
        """Evaluate k at cosines -1 <= s <= 1; values outside by rounding (up to 0.001) are clipped.

        Near s = 1 an error e of the cosine moves the NTK by about sqrt(e): prefer `of_angle` where the angle is known.

        Examples
        --------
        >>> float(zonal(3).of_cosine(1.0))
        4.0
        """
        xp, s = _cosines(s)
        return self.of_angle(xp.arccos(xp.clip(s, -1.0, 1.0)))

    def derivative(self, t: Array | float) -> Array:
        """Evaluate dk/dt at angles, finite everywhere on [0, pi].

        The chain rule along the recursion, with d kappa_1 / dt = -sin(t) kappa_0(t) and d kappa_0 / dt = -2 r / pi.

        Examples
        --------
        >>> round(float(zonal(3).derivative(0.0)), 6) == round(-3 * 4 / (2 * math.pi), 6)
        True
        """
        xp, t = _angles(t)
        return derivative(xp, t, self.depth, self.ratio)[self._which]

    def series(self, n_terms: int) -> Any:
        """Power-series coefficients: k = sum_j c_j s^j in the cosine s.

        Parameters
        ----------
        n_terms : int
            Number of coefficients, j = 0 .. n_terms - 1.

        Returns
        -------
        ndarray, shape (n_terms,), float64
            Non-negative; their sum over all j is `peak`, so ``peak - c.sum()`` is what the truncated series lacks at
            s = 1 (it decays like n_terms**-0.5 for the NTK, n_terms**-1.5 for the NNGP). Absolute error about
            1e-14 `peak`.

        Notes
        -----
        Cauchy's formula on a circle of radius R < 1 by an FFT of length M = 16 n_terms or more. R^M is the unit
        roundoff u: aliasing is u, and rounding is amplified by no more than R^(-n_terms) = u^(-1/16), a factor 10.

        Examples
        --------
        >>> zonal(1, kind="nngp").series(4).round(6)
        array([0.31831 , 0.5     , 0.159155, 0.      ])
        """
        n_terms = _check.check_int(n_terms, "n_terms", minimum=1)
        return power_series(self.depth, self.ratio, self._which, n_terms)

    def gegenbauer(self, dim: int, n_terms: int) -> Any:
        """Eigenvalues of the kernel k on the unit sphere of R^dim under the uniform probability measure.

        Parameters
        ----------
        dim : int
            Dimension of the inputs, at least 2.
        n_terms : int
            Number of degrees l = 0 .. n_terms - 1.

        Returns
        -------
        ndarray, shape (n_terms,), float64
            mu_l >= 0. Every spherical harmonic of degree l is an eigenfunction with eigenvalue mu_l, and there are
            `harmonic_multiplicity` (dim, l) of them, so that sum_l multiplicity_l mu_l = `peak` (Mercer).

        Notes
        -----
        Funk-Hecke: mu_l = E[k(s) P_l(s)], s the first coordinate of a uniform point and P_l the Gegenbauer polynomial
        with P_l(1) = 1. Up to dim 12 by Gauss-Legendre quadrature in the angle, where the integrand is analytic
        (in the cosine it has square-root ends); beyond, where mu_l ~ dim^-l is too small for cancellation, by
        summing the power series term by term, every term being non-negative.

        References
        ----------
        Bietti and Mairal 2019, "On the inductive bias of neural tangent kernels", arXiv 1905.12173.

        Examples
        --------
        >>> mu = zonal(1, kind="nngp").gegenbauer(3, 3)
        >>> bool((mu > 0).all())
        True
        """
        dim = _check.check_int(dim, "dim", minimum=2)
        n_terms = _check.check_int(n_terms, "n_terms", minimum=1)
        if dim <= 12:
            return funk_hecke_quadrature(self.of_angle, dim, n_terms)
        return funk_hecke_series(self.series(max(1024, 4 * n_terms)), dim, n_terms)

    def table(self, dtype: Any) -> ZonalTable:
        """Chebyshev coefficients for the compute kernel, as exact as `dtype` (float32 or float64) allows.

        Cached; the first call costs about a millisecond (more than a few hundred layers: some tens).

        Examples
        --------
        >>> zonal(3).table("float32").coefficients.shape
        (2, 16)
        """
        return _table(self, _float_name(dtype))


def zonal(depth: int, *, activation: str = "relu", kind: str = "ntk", leak: float = LEAK) -> Zonal:
    """Zonal function of a bias-free network with `depth` hidden layers.

    Parameters
    ----------
    depth : int
        Number of hidden layers, at least 0 (0 is the linear kernel, k = cos t).
    activation : {"relu", "leaky_relu", "abs"}
        Applied in every hidden layer.
    kind : {"ntk", "nngp"}
        Tangent kernel, or covariance of the outputs.
    leak : float
        Slope of ``"leaky_relu"`` for negative arguments.

    Returns
    -------
    Zonal

    Raises
    ------
    TypeError, ValueError
        An argument is not of the kind above.

    Notes
    -----
    Nothing is computed here; `Zonal.table` is memoised. Error, cost and determinism are said with the methods.

    References
    ----------
    Cho, Saul. Kernel methods for deep learning. NIPS 2009.
    Bietti, Mairal. On the inductive bias of neural tangent kernels. NeurIPS 2019.

    Examples
    --------
    >>> zonal(3).peak
    4.0
    """
    depth = _check.check_int(depth, "depth", minimum=0)
    activation = _check.check_choice(activation, "activation", ACTIVATIONS)
    return Zonal(depth, activation, _check.check_choice(kind, "kind", KINDS), check_leak(leak))


def harmonic_multiplicity(dim: int, degree: int) -> int:
    """Number of linearly independent spherical harmonics of one degree on the unit sphere of R^dim.

    Parameters
    ----------
    dim : int
        Dimension of the inputs, at least 2.
    degree : int
        At least 0.

    Returns
    -------
    int
        Exact, of any size.

    Raises
    ------
    TypeError, ValueError
        An argument is not such an integer.

    Examples
    --------
    >>> [harmonic_multiplicity(3, degree) for degree in range(4)]
    [1, 3, 5, 7]
    """
    dim = _check.check_int(dim, "dim", minimum=2)
    degree = _check.check_int(degree, "degree", minimum=0)
    lower = math.comb(degree + dim - 3, dim - 1) if degree >= 2 else 0
    return math.comb(degree + dim - 1, dim - 1) - lower


def _checked(x: Array | float, name: str, lowest: float, highest: float, slack: float) -> tuple[Any, Array]:
    """Array module and array of angles or cosines; `slack` is what rounding may exceed the range by."""
    if isinstance(x, (int, float)):
        x = np.asarray(_check.check_real(x, name))
    elif not hasattr(x, "dtype"):
        raise TypeError(f"expected {name} to be a number or a NumPy or CuPy array, got {type(x).__name__}")
    xp = get_backend(x).xp
    _check.check_dtype(x, name)
    if not bool(((x >= lowest - slack) & (x <= highest + slack)).all()):  # NaN is outside as well
        raise ValueError(f"expected {name} between {lowest:g} and {highest:.6g}, got {_outside(x, lowest, highest)}")
    return xp, x


def _outside(x: Array, lowest: float, highest: float) -> float:
    """One value that is not in the range."""
    return float(x[~((x >= lowest) & (x <= highest))][0])


def _angles(t: Array | float) -> tuple[Any, Array]:
    return _checked(t, "t", 0.0, math.pi, 1e-6)  # pi rounded to float32 is larger than pi


def _cosines(s: Array | float) -> tuple[Any, Array]:
    return _checked(s, "s", -1.0, 1.0, 1e-3)


def _float_name(dtype: Any) -> str:
    try:
        name = None if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in _check.FLOAT_DTYPES:
        raise TypeError(f"expected dtype float32 or float64, got {dtype!r}")
    return str(name)


@functools.lru_cache(maxsize=64)
def _table(function: Zonal, dtype: str) -> ZonalTable:
    eps = float(np.finfo(dtype).eps)
    coefficients = chebyshev_table(function.of_angle, eps * function.peak).astype(dtype)
    ends = function.of_angle(np.array([0.0, math.pi]))
    ends[0] = function.peak
    coefficients.flags.writeable = False
    return ZonalTable(coefficients, ends.astype(dtype), abs(float(function.derivative(0.0))) / function.peak)
