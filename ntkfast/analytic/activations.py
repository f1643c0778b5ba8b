"""Dual activations: Gaussian expectations of an activation, in closed form.

For (u, v) ~ N(0, [[q1, q12], [q12, q2]]) and an activation phi,

    k(q1, q2, q12) = E[phi(u) phi(v)],    kdot(q1, q2, q12) = E[phi'(u) phi'(v)] = dk / dq12

are all that an infinitely wide layer needs to know of phi. A record `Activation` holds them, their partial
derivatives, and their forms on the diagonal q1 = q2 = q12. `closed_form` makes the record of a name,
`hermite.expand` that of any callable.

Let A = 1 + q1, B = 1 + q2 and a = q12 / sqrt(A B) for gelu and gaussian, and A = 1 + 2 q1, B = 1 + 2 q2,
a = 2 q12 / sqrt(A B) for erf. Then m = 1 - a^2 > 0 is bounded below by 1/A + 1/B - 1/(A B), which is imposed against
rounding.

References
----------
Cho, Saul. Kernel methods for deep learning. NIPS 2009 (relu).
Williams. Computing with infinite networks. NIPS 1997 (erf, gaussian).
Tsuchida, Pearce, van der Heide, Roosta, Gallagher. Avoiding kernel fixed points. AAAI 2021 (gelu).
Han, Zandieh, Lee, Novak, Xiao, Karbasi. Fast neural kernel embeddings for general activations. NeurIPS 2022, table 1.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from .._typing import Array
from ..zonal.slopes import LEAK, Slopes, check_leak, slopes_of
from . import _closed_forms as forms
from ._dual import Derivatives, Diagonal, Dual

__all__ = ["CLOSED_FORMS", "Activation", "closed_form", "leaky_relu"]


def _variance_only(xp: ModuleType, q: Array) -> Array:
    return q[None]


@dataclass(frozen=True, slots=True)
class Activation:
    """Dual kernels of an activation.

    Every function takes the array module first and broadcasts. ``p1`` and ``p2`` are tables of points, made by
    `points` from variances of shape (n,); a table has shape (m, n), its row 0 is the variance q, and its
    columns may be sliced and given more axes.

    Attributes
    ----------
    name : str
        For messages.
    dual : callable
        ``dual(xp, p1, p2, q12) -> Dual(k, kdot)``.
    derivatives : callable
        ``derivatives(xp, p1, p2, q12) -> Derivatives``: also dk/dq1, dk/dq2, dkdot/dq1, dkdot/dq2 and dkdot/dq12.
    diagonal : callable
        ``diagonal(xp, q) -> Diagonal(k, kdot, slope)`` at q1 = q2 = q12 = q, slope = dk/dq along that line.
    points : callable
        ``points(xp, q) -> (m, n)``: what is worth computing once per point; by default q alone.
    slopes : Slopes, optional
        Set for positively homogeneous activations only: these go through angles, which loses no digits.

    Notes
    -----
    dual, derivatives and diagonal must be finite for finite arguments with q1, q2 >= 0 and q12^2 <= q1 q2 up to
    rounding.

    Examples
    --------
    >>> import numpy as np
    >>> q = np.ones((1, 1))
    >>> closed_form("sin").dual(np, q, q, np.array([[0.5]])).k.round(4)  # exp(-1) sinh(0.5)
    array([[0.1917]])
    """

    name: str
    dual: Callable[[ModuleType, Array, Array, Array], Dual]
    derivatives: Callable[[ModuleType, Array, Array, Array], Derivatives]
    diagonal: Callable[[ModuleType, Array], Diagonal]
    points: Callable[[ModuleType, Array], Array] = _variance_only
    slopes: Slopes | None = None


def _homogeneous(name: str, slopes: Slopes) -> Activation:
    return Activation(
        name,
        functools.partial(forms.homogeneous_dual, gain=slopes.gain, ratio=slopes.ratio),
        functools.partial(forms.homogeneous_derivatives, gain=slopes.gain, ratio=slopes.ratio),
        functools.partial(forms.homogeneous_diagonal, gain=slopes.gain),
        slopes=slopes,
    )


def leaky_relu(leak: float = LEAK) -> Activation:
    """Record of phi(z) = z for z >= 0 and leak * z below.

    Parameters
    ----------
    leak : float
        Any finite number: 0 is relu, -1 is abs, 1 the identity.

    Returns
    -------
    Activation

    Raises
    ------
    TypeError, ValueError
        `leak` is not a finite number, or its square overflows.

    Examples
    --------
    >>> leaky_relu(-1.0).slopes
    Slopes(odd=0.0, even=1.0)
    """
    leak = check_leak(leak)
    return _homogeneous(f"leaky_relu({leak:g})", slopes_of("leaky_relu", leak))


CLOSED_FORMS: dict[str, Activation] = {
    "relu": _homogeneous("relu", slopes_of("relu")),
    "leaky_relu": leaky_relu(),
    "abs": _homogeneous("abs", slopes_of("abs")),
    "erf": Activation("erf", forms.erf_dual, forms.erf_derivatives, forms.erf_diagonal),
    "gelu": Activation("gelu", forms.gelu_dual, forms.gelu_derivatives, forms.gelu_diagonal),
    "sin": Activation("sin", forms.sin_dual, forms.sin_derivatives, forms.sin_diagonal),
    "cos": Activation("cos", forms.cos_dual, forms.cos_derivatives, forms.cos_diagonal),
    "gaussian": Activation("gaussian", forms.gaussian_dual, forms.gaussian_derivatives, forms.gaussian_diagonal),
    "exp": Activation("exp", forms.exp_dual, forms.exp_derivatives, forms.exp_diagonal),
}


def closed_form(name: str) -> Activation:
    """Record of an activation by its name.

    Parameters
    ----------
    name : str
        ========== =====================================================
        relu       max(z, 0)
        leaky_relu z for z >= 0, 0.01 z below; `leaky_relu` for other slopes
        abs        abs(z)
        erf        the error function erf(z), without factors
        gelu       z Phi(z), Phi the normal distribution function (exact, not the tanh approximation)
        sin, cos   sin(z), cos(z)
        gaussian   exp(-z^2 / 2)
        exp        exp(z)
        ========== =====================================================

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        Any other name.

    Examples
    --------
    >>> closed_form("relu").slopes.ratio
    0.5
    """
    if name not in CLOSED_FORMS:
        raise ValueError(f"expected activation to be one of {', '.join(sorted(CLOSED_FORMS))}; got {name!r}")
    return CLOSED_FORMS[name]
