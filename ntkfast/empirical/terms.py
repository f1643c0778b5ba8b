"""Terms of an NTK: what the contraction of a parameter block comes down to, before it is added up.

Letters: n and m samples, k and q outputs, w and i parameters, o channels of a cotangent.
"""

from typing import NamedTuple, TypeAlias

from .._typing import Array

__all__ = ["Direct", "Product", "SharedProduct", "Term"]


class Product(NamedTuple):
    """Theta[n, m, k, q] += scale a[n, m] <left[n, k], right[m, q]>.

    Attributes
    ----------
    left, right : array, shape (n, k, w)
        With output "trace" the outputs may have been merged into w. The same object where the samples are the same.
    a : array, shape (n, m), optional
        None means ones.
    scale : float
    """

    left: Array
    right: Array
    a: Array | None = None
    scale: float = 1.0


class SharedProduct(NamedTuple):
    """Theta[n, m, k, q] += scale a[n, m] sum_o <x1[n, o], x2[m, o]> s1[k, o] s2[q, o].

    Attributes
    ----------
    s1, s2 : array, shape (k, o)
    x1, x2 : array, shape (n, o, i), optional
        None means that <x1, x2> is one.
    a : array, shape (n, m), optional
    scale : float
    """

    s1: Array
    s2: Array
    x1: Array | None = None
    x2: Array | None = None
    a: Array | None = None
    scale: float = 1.0


class Direct(NamedTuple):
    """Theta[rows][:, columns] += values, in the shape of the output; a trace is not divided by k."""

    values: Array
    rows: Array | slice
    columns: Array | slice


Term: TypeAlias = Product | SharedProduct | Direct
