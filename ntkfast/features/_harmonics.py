"""A zonal kernel in spherical harmonics, and the nonlinearity whose random features have that kernel.

On the unit sphere of R^D every zonal kernel is k(s) = sum_l a_l P_l(s) with a_l >= 0 and Gegenbauer polynomials
P_l(1) = 1; the mass a_l is the eigenvalue of degree l times the number of harmonics. With p_l = P_l sqrt(N_l), of unit
norm for one coordinate of a uniform direction w, E[p_l(w.x) p_j(w.y)] = P_l(x.y) if j = l, else 0. So

    G(u) = sum_l sigma_l sqrt(a_l) p_l(u),   |sigma_l| = 1,   has   E[<G(w.x), G(w.y)>] = k(x.y).

All the freedom is in sigma_l. Scalars of either sign give one function per direction, unit vectors of R^2 two.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..kernels.table import pieces
from ..zonal import Zonal, harmonic_multiplicity

__all__ = ["Nonlinearity", "gegenbauer", "masses", "nonlinearity"]

# Beyond this dimension P_l(s) = s^l up to l^2 / (2 D) < 1e-5 for the degrees that carry mass, and the number
# of harmonics leaves the range of float64.
LARGE_DIM = 100_000

# Half width of a table in standard deviations of a projection, 1 / sqrt(D). A random projection is outside with
# probability 7e-6. The truncated series grows like exp(u^2 / 4) there, to 1e5 at eight deviations: it is cut off.
REACH = 4.5

# Root mean square error of a tabulated function over its root mean square.
TABLE_ERROR = 1e-6
MIN_CELLS, MAX_CELLS = 256, 16_384

# Two functions per direction cost 2 (even^2 + odd^2) / (even + odd)^2 in variance for orthogonal points, and save some
# for near ones. The ratio is 2 at depth 1, where all random degrees are even, and 1.0 to 1.2 from depth 2 on. Gram
# errors of NTKs, d = 64: at depth 1 two functions are worse by 40 %; deeper, they are better by 2 to 8 % on digits, and
# from 9 % worse (depth 2) to 2 % better (depth 5) on random points.
MAX_IMBALANCE = 1.5


class Nonlinearity(NamedTuple):
    """q functions on [-reach, reach] as cubic pieces, float64."""

    table: Any  # (q, n_cells, 4)
    reach: float


@functools.lru_cache(maxsize=64)
def masses(zonal: Zonal, dim: int, n_degrees: int) -> tuple[float, ...]:
    """Masses a_l of the degrees l < n_degrees on the sphere of R^dim; their sum over all degrees is k(1)."""
    if dim > LARGE_DIM:
        return tuple(zonal.series(n_degrees).tolist())
    mu = zonal.gegenbauer(dim, n_degrees)
    return tuple(float(value) * harmonic_multiplicity(dim, degree) for degree, value in enumerate(mu))


def gegenbauer(dim: int, n_degrees: int, u: Any) -> tuple[Any, Any]:
    """Orthonormal p_l(u) and their derivatives, each of shape (n_degrees, len(u)).

    u p_l = b_{l+1} p_{l+1} + b_l p_{l-1} with b_l^2 = l (l + D - 3) / ((2 l + D - 2) (2 l + D - 4)), b_1^2 = 1 / D.
    """
    degree = np.arange(1.0, n_degrees + 1)
    below = np.maximum((2 * degree + dim - 2) * (2 * degree + dim - 4), 1)
    b = np.sqrt(np.where(degree == 1, 1 / dim, degree * (degree + dim - 3) / below))
    p, slope = np.zeros((2, n_degrees + 1, u.size))
    p[0] = 1
    p[1], slope[1] = u / b[0], 1 / b[0]
    for j in range(1, n_degrees - 1):
        p[j + 1] = (u * p[j] - b[j - 1] * p[j - 1]) / b[j]
        slope[j + 1] = (p[j] + u * slope[j] - b[j - 1] * slope[j - 1]) / b[j]
    return p[:n_degrees], slope[:n_degrees]


def amplitudes(mass: Any) -> Any:
    """Coefficients sigma_l sqrt(a_l) of the functions of one direction, shape (1 or 2, n_degrees).

    Signs +, +, -, - repeat with the degree: like those of cos and sin they keep G bounded, where equal signs pile
    all degrees up at the ends. Even and odd degrees go to two functions of one direction, as cos and sin do, so that
    their cross terms vanish exactly and |G(u)|^2 is nearly constant; unless one kind has little mass.
    """
    degree = np.arange(mass.size)
    signed = np.sqrt(mass) * np.where(degree % 4 < 2, 1.0, -1.0)
    even, odd = mass[::2].sum(), mass[1::2].sum()
    if 2 * (even**2 + odd**2) > MAX_IMBALANCE * (even + odd) ** 2:
        return signed[None]
    return np.stack([np.where(degree % 2 == 0, signed, 0), np.where(degree % 2 == 1, signed, 0)])


@functools.lru_cache(maxsize=16)
def nonlinearity(mass: tuple[float, ...], dim: int) -> Nonlinearity:
    """Tabulate G of the masses, with the fewest cells that keep `TABLE_ERROR`."""
    amplitude = amplitudes(np.array(mass))
    reach = min(1.0, REACH / math.sqrt(dim))
    cells = MIN_CELLS
    while True:
        table, error = _tabulate(amplitude, dim, reach, cells)
        if error <= TABLE_ERROR or cells >= MAX_CELLS:
            return Nonlinearity(table, reach)
        cells *= 2


def _tabulate(amplitude: Any, dim: int, reach: float, cells: int) -> tuple[Any, float]:
    """Cubic pieces, and their error in the middle of the cells, weighted by the law of a projection."""
    u = np.linspace(-reach, reach, 2 * cells + 1)
    p, slope = gegenbauer(dim, amplitude.shape[1], u)
    g, g_slope = amplitude @ p, amplitude @ slope
    table = pieces(g[:, ::2], g_slope[:, ::2], 2 * reach / cells)
    difference = table @ (0.5 ** np.arange(4)) - g[:, 1::2]
    law = (1 - u[1::2] ** 2) ** (0.5 * (dim - 3))
    return table, float(np.sqrt((law * difference**2).sum() / max((law * g[:, 1::2] ** 2).sum(), 1e-300)))
