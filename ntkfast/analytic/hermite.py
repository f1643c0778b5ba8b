"""Dual activations of any callable, by its Hermite expansion.

With normalized Hermite polynomials h_i (orthonormal under N(0, 1)) and a variance q = s^2, let

    a_i(q) = E[phi(s z) h_i(z)],   c = q12 / (s1 s2).

Mehler's formula gives k = sum_i a_i(q1) a_i(q2) c^i. Integration by parts gives the coefficients of the r-th
derivative of phi without differentiating it, sqrt((i + 1) ... (i + r)) a_(i + r) / s^r, and so by Price's theorem kdot
and all partial derivatives of k and kdot. The a_i come from Gauss-Hermite quadrature, once per point and layer.

References
----------
Daniely, Frostig, Singer. Toward deeper understanding of neural networks. NIPS 2016 (dual activation).
Mehler. Ueber die Entwicklung einer Function von beliebig vielen Variablen nach Laplaceschen Functionen hoeherer
Ordnung. Crelle 66, 1866.
"""

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from .._check import check_int, check_real
from .._typing import Array
from ._dual import Derivatives, Diagonal, Dual
from .activations import Activation

__all__ = ["HermiteExpansion", "expand"]

# Below this standard deviation the coefficients of the derivatives are taken at it: a_i / s^r would be rounding error.
_SMALLEST = 1e-4

_EXTRA = 3  # derivatives up to phi''' are asked for


def expand(phi: Callable[[Array], Array], *, degree: int = 64, nodes: int = 256, tolerance: float = 1e-5) -> Activation:
    """Record of an arbitrary activation, to be passed as ``activation=``.

    Parameters
    ----------
    phi : callable
        Elementwise function of a float64 array (NumPy or CuPy, like the inputs). No derivative is asked for.
    degree : int
        Highest Hermite degree, at least 1.
    nodes : int
        Quadrature nodes, more than `degree` + 3.
    tolerance : float
        A RuntimeWarning tells when the part of E[phi^2] beyond `degree` is larger than this share of it.

    Returns
    -------
    Activation

    Raises
    ------
    TypeError
        `phi` is not callable.
    ValueError
        `degree`, `nodes` or `tolerance` out of range; when it is used: `phi` returned another shape, or NaN or inf.

    Notes
    -----
    Error: abs(k - k_degree) <= sqrt(e1 e2), with e the energy sum_(i > degree) a_i^2 of either point. For smooth phi
    it falls geometrically in `degree` (slowly for saturating functions at large variances, where they look like a
    step). For a kink like relu's it falls as degree^(-3/2) in k and degree^(-1/2) in kdot, and the quadrature itself
    errs by about 1 / nodes: use the closed form of a kinked activation.
    Derivatives of phi are taken at variances of at least 1e-8 (zero vectors without biases); phi itself is not.
    Cost: `nodes` values of phi per point and layer, and about 6 `degree` operations per entry and layer.

    Examples
    --------
    >>> import numpy as np
    >>> swish = expand(lambda z: z / (1 + np.exp(-z)))
    >>> swish.name
    'hermite(<lambda>)'
    """
    if not callable(phi):
        raise TypeError(f"expected activation to be a name, an Activation or a callable, got {type(phi).__name__}")
    degree = check_int(degree, "degree", minimum=1)
    nodes = check_int(nodes, "nodes", minimum=degree + _EXTRA + 1)
    expansion = HermiteExpansion(phi, degree, nodes, check_real(tolerance, "tolerance", minimum=0.0))
    name = f"hermite({getattr(phi, '__name__', type(phi).__name__)})"
    return Activation(name, expansion.dual, expansion.derivatives, expansion.diagonal, expansion.points)


@functools.lru_cache(maxsize=8)
def _quadrature(degree: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (nodes,) and the matrix (nodes, degree + 4) of weight times h_i; float64, read-only."""
    from scipy.special import roots_hermitenorm

    z, weight = roots_hermitenorm(nodes)
    root = np.sqrt(weight / math.sqrt(2 * math.pi))  # on both sides of the recurrence, or h_i overflows
    columns = [root, root * z]
    for i in range(1, degree + _EXTRA):
        columns.append((z * columns[i] - math.sqrt(i) * columns[i - 1]) / math.sqrt(i + 1))
    matrix = root[:, None] * np.stack(columns, axis=1)
    for array in (z, matrix):
        array.flags.writeable = False
    return z, matrix


@dataclass(frozen=True, slots=True)
class HermiteExpansion:
    """The functions of `expand`'s record.

    A point's table is (variance, a_0, ..., a_degree, reciprocal, c_1, ..., c_(degree + 3)): c is a where the
    variance is above the smallest one for derivatives, else a of that one; reciprocal is 1 / s of c.
    """

    phi: Callable[[Array], Array]
    degree: int
    nodes: int
    tolerance: float

    def points(self, xp: ModuleType, q: Array) -> Array:
        """Table (2 degree + 6, n) of variances q (n,)."""
        energy, direct = self._coefficients(xp, q)
        self._check_energy(xp, energy, direct, q)
        larger = xp.maximum(q, _SMALLEST**2)
        slopes = self._coefficients(xp, larger)[1] if bool((q < larger).any()) else direct
        return xp.concatenate([q[None], direct[: self.degree + 1], 1 / xp.sqrt(larger)[None], slopes[1:]])

    def _coefficients(self, xp: ModuleType, q: Array) -> tuple[Array, Array]:
        """E[phi^2] (n,) and a_0, ..., a_(degree + 3) (degree + 4, n)."""
        z, matrix = (xp.asarray(array) for array in _quadrature(self.degree, self.nodes))
        argument = xp.sqrt(q)[:, None] * z
        values = xp.asarray(self.phi(argument))
        if values.shape != argument.shape or not bool(xp.isfinite(values).all()):
            what = "NaN or inf" if values.shape == argument.shape else f"shape {values.shape} for {argument.shape}"
            raise ValueError(f"expected activation to map an array to a finite array of its shape, got {what}")
        return values**2 @ matrix[:, 0], (values @ matrix).T

    def _check_energy(self, xp: ModuleType, energy: Array, coefficients: Array, q: Array) -> None:
        missing = energy - (coefficients[: self.degree + 1] ** 2).sum(axis=0)
        worst = int((missing - self.tolerance * energy).argmax())
        if float(missing[worst]) > self.tolerance * float(energy[worst]):
            warnings.warn(
                f"the Hermite expansion of degree {self.degree} misses a share "
                f"{float(missing[worst] / energy[worst]):.1e} of the activation's energy at variance "
                f"{float(q[worst]):.3g}; raise degree and nodes (ntkfast.analytic.expand), or use a closed form",
                RuntimeWarning,
                stacklevel=2,
            )

    def _sum(self, p1: Array, p2: Array, c: Array, r1: int, r2: int) -> Array:
        """E[phi^(r1)(u) phi^(r2)(v)] by Horner's rule in c."""
        total = 0.0 * c
        for i in range(self.degree, -1, -1):
            total *= c
            total += self._term(p1, i, r1) * self._term(p2, i, r2)
        reciprocal1, reciprocal2 = p1[self.degree + 2], p2[self.degree + 2]
        return total * (reciprocal1**r1 * reciprocal2**r2)

    def _term(self, p: Array, i: int, r: int) -> Array:
        """Coefficient i of phi^(r), times s^r."""
        if r == 0:
            return p[1 + i]
        return math.sqrt(math.prod(range(i + 1, i + r + 1))) * p[self.degree + 2 + i + r]

    def _correlation(self, xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Array:
        s1, s2 = xp.sqrt(p1[0]), xp.sqrt(p2[0])
        return xp.clip(q12 / xp.where(s1 > 0, s1, 1) / xp.where(s2 > 0, s2, 1), -1, 1)

    def dual(self, xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Dual:
        """See `Activation`."""
        c = self._correlation(xp, p1, p2, q12)
        return Dual(self._sum(p1, p2, c, 0, 0), self._sum(p1, p2, c, 1, 1))

    def derivatives(self, xp: ModuleType, p1: Array, p2: Array, q12: Array) -> Derivatives:
        """See `Activation`; dk/dq1 = E[phi'' phi] / 2, dkdot/dq1 = E[phi''' phi'] / 2, dkdot/dq12 = E[phi'' phi'']."""
        c = self._correlation(xp, p1, p2, q12)
        return Derivatives(
            self._sum(p1, p2, c, 0, 0),
            self._sum(p1, p2, c, 1, 1),
            self._sum(p1, p2, c, 2, 0) / 2,
            self._sum(p1, p2, c, 0, 2) / 2,
            self._sum(p1, p2, c, 3, 1) / 2,
            self._sum(p1, p2, c, 1, 3) / 2,
            self._sum(p1, p2, c, 2, 2),
        )

    def diagonal(self, xp: ModuleType, q: Array) -> Diagonal:
        """See `Activation`; the slope is E[phi'' phi] + E[phi'^2]."""
        table = self.points(xp, q)
        one = xp.ones_like(q)
        kdot = self._sum(table, table, one, 1, 1)
        return Diagonal(self._sum(table, table, one, 0, 0), kdot, self._sum(table, table, one, 2, 0) + kdot)
