"""Records of dual kernels and their derivatives."""

from typing import NamedTuple

from .._typing import Array

__all__ = ["Derivatives", "Diagonal", "Dual"]


class Dual(NamedTuple):
    """Gaussian expectations of an activation at variances (q1, q2) and covariance q12.

    Attributes
    ----------
    k : array
        E[phi(u) phi(v)].
    kdot : array
        E[phi'(u) phi'(v)], the derivative of k with respect to q12.
    """

    k: Array
    kdot: Array


class Derivatives(NamedTuple):
    """`Dual` and its partial derivatives; k_1 is dk/dq1, kdot_12 is dkdot/dq12; dk/dq12 is kdot."""

    k: Array
    kdot: Array
    k_1: Array
    k_2: Array
    kdot_1: Array
    kdot_2: Array
    kdot_12: Array


class Diagonal(NamedTuple):
    """`Dual` at q1 = q2 = q12 = q, and the total derivative `slope` = dk/dq there."""

    k: Array
    kdot: Array
    slope: Array
