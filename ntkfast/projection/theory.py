"""How wide a sketch must be for a wanted error of inner products, for any gradients.

Letters: g, g' gradients, m the width, eps and delta the wanted error and its probability.
"""

import math
from typing import Any

from .._check import check_int, check_real

__all__ = ["suggest_dim"]

# Widest sketch there is: columns are indexed by 32 bits.
_WIDEST = 2**31 - 1

# Sketches by the largest m Var <S g, S g'> / (|g|^2 |g'|^2), as a + b / m.
_VARIANCE = {
    "GaussianSketch": (2.0, 0.0),
    "RademacherSketch": (2.0, 0.0),
    "CountSketch": (2.0, 0.0),
    "SparseJL": (2.0, 0.0),
    "SRHT": (2.0, 0.0),
    "BlockSRHT": (2.0, 0.0),
    "TensorProjection": (6.0, 4.0),
}

# Those whose norms are as concentrated as a chi-squared variable, or more.
_CONCENTRATED = ("GaussianSketch", "RademacherSketch")

# Widths of `SparseJL` are divisible by its default number of nonzeros, so that its blocks are equal.
_MULTIPLE = {"SparseJL": 4}

# Those whose error depends on the shapes of the arrays, or on where a gradient has its mass.
_SHAPED = ("KroneckerProjection", "MaskedProjection", "CoordinateMask", "Composition")


def suggest_dim(eps: float, delta: float, *, sketch: Any = "TensorProjection", n_pairs: int = 1) -> int:
    """Smallest width that theory promises to be enough: ``|<S g, S g'> - <g, g'>| <= eps |g| |g'|`` but for chance.

    Parameters
    ----------
    eps : float
        Largest error, relative to the product of the norms, greater than 0.
    delta : float
        Probability over seeds with which a larger one may occur, between 0 and 1.
    sketch : type or str
        `TensorProjection` (one whose arrays are added), `GaussianSketch`, `RademacherSketch`, `CountSketch`, `SparseJL`
        (with 4 nonzeros, or another number that divides the width), `SRHT` or `BlockSRHT`; the class or its name.
    n_pairs : int
        Number of pairs of gradients for all of which the error shall hold at once; n (n + 1) / 2 for a Gram matrix.

    Returns
    -------
    int
        m.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed; no sketch of at most 2**31 - 1 columns has such a promise.

    Notes
    -----
    The gradients are any that do not depend on the seed. Two bounds, of which the smaller width counts:

    - Chebyshev's inequality, ``P <= Var / (eps |g| |g'|)^2``, with the largest variance there is. A hash of every
      entry and matrices with independent entries have ``Var <= (|g|^2 |g'|^2 + <g, g'>^2) / m <= 2 |g|^2 |g'|^2 / m``,
      sampled Hadamard rows at most that. `TensorProjection` has three kinds of pairs of entries of a matrix that may
      meet in a bucket: in one row, in one column, and neither; each adds 2 / m in the worst case. Of the last kind,
      (a, b) with (a', b') and (a, b') with (a', b) meet together with probability 2 / m^2 (m even), which adds
      4 / m^2: ``(6 + 4 / m) / m``, in the limit of flat gradients of rank one. Arrays added have no more.
    - Johnson and Lindenstrauss's, for Gaussian and Rademacher sketches: for unit vectors
      ``4 <S g, S g'> = |S (g + g')|^2 - |S (g - g')|^2``, and ``|S v|^2`` is above (1 + eps) |v|^2, or below
      (1 - eps) |v|^2, with a probability of at most ``exp(-m (eps^2 / 4 - eps^3 / 6))``. As
      ``|g + g'|^2 + |g - g'|^2 = 4``, the error is above eps with at most four times that.

    For n_pairs the union bound divides delta. These are bounds for the worst gradients: measured errors are often
    several times smaller, above all by `SRHT` next to the full width; `projection_error` measures them.
    A sketch with ``combine="concatenate"`` keeps the promise if each array has the suggested width.
    `KroneckerProjection` and masks have no such width: what they do to a gradient of rank one, or with few nonzero
    entries, depends on the shapes of the arrays.

    References
    ----------
    Dasgupta, Gupta. An elementary proof of a theorem of Johnson and Lindenstrauss. Random Structures and Algorithms 22,
    2003.
    Achlioptas. Database-friendly random projections. Journal of Computer and System Sciences 66, 2003 (signs).
    Avron, Nguyen, Woodruff. Subspace embeddings for the polynomial kernel. NIPS 2014 (tensors; a larger constant).

    Examples
    --------
    >>> from ntkfast.sketch import CountSketch, GaussianSketch
    >>> suggest_dim(0.1, 0.01, sketch=CountSketch)
    20000
    >>> suggest_dim(0.1, 0.01, sketch=GaussianSketch)
    2568
    >>> suggest_dim(0.1, 0.01, sketch=GaussianSketch, n_pairs=1000)
    5529
    >>> suggest_dim(0.1, 0.01)
    60001
    """
    eps = check_real(eps, "eps", minimum=0.0, strict=True)
    delta = check_real(delta, "delta", minimum=0.0, strict=True)
    if delta >= 1:
        raise ValueError(f"expected delta to be between 0 and 1, got {delta:g}")
    name = _name(sketch)
    chance = delta / check_int(n_pairs, "n_pairs", minimum=1, maximum=2**63)
    width = _by_variance(name, eps * eps * chance)
    if name in _CONCENTRATED:
        width = min(width, _by_tails(min(eps, 1.0), chance))
    if width > _WIDEST:
        raise ValueError(f"expected eps and delta that a sketch of at most {_WIDEST} columns meets, got a larger width")
    return int(width)


def _by_variance(name: str, least: float) -> float:
    """Smallest width with (a + b / m) / m <= least, the root of a quadratic; inf where there is none."""
    a, b = _VARIANCE[name]
    multiple = _MULTIPLE.get(name, 1)
    if least == 0:
        return math.inf
    least = min(least, a + b)  # one column does
    root = (a + math.sqrt(a * a + 4 * b * least)) / (2 * least)
    return _rounded(root / multiple) * multiple


def _by_tails(eps: float, delta: float) -> float:
    """Smallest width with 4 exp(-m (eps^2 / 4 - eps^3 / 6)) <= delta; inf where there is none."""
    rate = eps * eps * (1 / 4 - eps / 6)
    return _rounded(math.log(4 / delta) / rate) if rate > 0 and delta > 0 else math.inf


def _rounded(width: float) -> float:
    """The next integer, but for the rounding of floats; at least 1."""
    return max(1, math.ceil(width * (1 - 1e-12))) if math.isfinite(width) else math.inf


def _name(sketch: Any) -> str:
    """Name of a class of sketches that has a promise."""
    name = sketch.__name__ if isinstance(sketch, type) else sketch
    if not isinstance(name, str):
        raise TypeError(f"expected sketch to be a class of sketches or its name, got a {type(sketch).__name__}")
    if name in _SHAPED:
        raise ValueError(
            f"expected a sketch whose width alone bounds its error, got {name}: its error depends on the shapes of the "
            "arrays and on the gradients; measure it with projection_error"
        )
    if name not in _VARIANCE:
        raise ValueError(f"expected sketch to be one of {', '.join(_VARIANCE)}; got {name!r}")
    return name
