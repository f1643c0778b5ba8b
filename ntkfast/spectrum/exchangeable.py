"""Trace and diagonal of a matrix known by its products only: the exchangeable estimators XTrace and XDiag.

They use every random vector as one of Hutchinson's, and as a member of a low-rank approximation of A for the others. So
they are exact for matrices of low rank, and far better than Hutchinson's where the eigenvalues fall.

Leaving out one vector. With A Omega = Q R, Q orthonormal, the range of all columns but the i-th is that of
Q (I - s_i s_i^T), s_i the unit vector orthogonal to all columns of R but r_i: it is proportional to column i of R^-T.
Where A Omega has a lower rank than columns, R is replaced by its singular factors of nonzero singular value, and
s_i = 0 for those columns without which the range stays the same.
"""

from typing import Any, NamedTuple

import numpy as np

from .._check import check_int, check_seed
from .._streams import Stream
from .._typing import Array
from ..kernels import philox
from ._operator import LinearOperator, Products, adopt, rademacher, spherical
from .estimators import Estimate, mean_of

__all__ = ["xdiag", "xtrace"]

# Unit vectors per product where all columns are asked for.
_BLOCK = 64

# A column of R is the only one of its direction if its leverage (the squared length of its row of right singular
# vectors) is 1, up to this.
_ESSENTIAL = 1e-6


def xtrace(operator: LinearOperator, n_vectors: int = 32, *, seed: int) -> Estimate:
    """Estimate a trace by XTrace, with its error.

    Parameters
    ----------
    operator : array or linear operator, shape (n, n)
        A, real, symmetric or not. Anything with a shape and ``operator @ v`` for v of shape (n, m).
    n_vectors : int
        m >= 2 test vectors, uniform on the sphere of radius sqrt(n).
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Returns
    -------
    Estimate
        With 2 m products. Where 2 m >= n the trace is read off n products, without error.

    Raises
    ------
    TypeError, ValueError
        Not a square operator, complex, NaN or inf in it or in its products, bad numbers.
    OverflowError
        The squares of a product leave the range of float64.

    Notes
    -----
    With P_i the projector onto the range of A Omega without column i, the estimate is the mean over i of
    tr(P_i A P_i) + c_i u_i^T A u_i, u_i = (I - P_i) omega_i, where c_i = (n - rank P_i) / |u_i|^2 puts u_i back on the
    sphere of its space. Unbiased, and exact up to rounding for matrices of rank at most m - 1. Given P_i, a term has
    the variance of Hutchinson's estimator of one vector for the residual (I - P_i) A (I - P_i): the error falls as
    the eigenvalues do, and is close to Hutchinson's with m products where they do not fall. The standard error is that
    of the mean of m exchangeable terms, taken as uncorrelated; they are slightly correlated, and it is about a tenth
    to a fifth too small.
    Cost: 2 m products in two blocks, and 10 n m^2 operations; memory: five blocks (n, m).
    Products are in the operator's dtype (float64 if it has none), everything else in float64.
    Determinism: a function of (operator, n_vectors, seed), up to rounding.
    Backends: numpy, cupy (matrices of size m x m go to the host).

    References
    ----------
    Epperly, Tropp, Webber. XTrace: making the most of every sample in stochastic trace estimation. SIAM Journal on
    Matrix Analysis and Applications 45, 2024 (arXiv 2301.07825).

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import xtrace
    >>> x = np.random.default_rng(0).standard_normal((200, 5))
    >>> estimate = xtrace(x @ x.T, 8, seed=0)
    >>> bool(abs(estimate.value - np.trace(x @ x.T)) < 1e-9)
    True
    >>> estimate.n_products
    16
    """
    products, m = adopt(operator), check_int(n_vectors, "n_vectors", minimum=2)
    key = philox.derive_key(check_seed(seed), Stream.XTRACE)
    if 2 * m >= products.n:
        return Estimate(float(_columns_one_by_one(products).sum()), 0.0, products.n)
    return mean_of(_xtrace_terms(products, spherical(products, key, 0, m)), 2 * m)


def _columns_one_by_one(products: Products) -> Array:
    """The diagonal, by products with the unit vectors."""
    xp, n = products.backend.xp, products.n
    diagonal = xp.empty(n, "float64")
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        unit = xp.zeros((n, stop - start), "float64")
        xp.fill_diagonal(unit[start:stop], 1.0)
        diagonal[start:stop] = products(unit)[start:stop].diagonal()
    return diagonal


class _Range(NamedTuple):
    """Orthonormal basis Q (n, r) of the range of Y = A Omega; on the host R (r, m) = Q^T Y and the s_i, S (r, m)."""

    basis: Array
    right: Any
    left_out: Any


def _range(products: Products, y: Array) -> _Range:
    """Orthonormal basis of the columns of y, and for every column the direction that only it reaches."""
    xp, to_numpy = products.backend.xp, products.backend.to_numpy
    basis, r = xp.linalg.qr(y)
    u, sigma, vt = np.linalg.svd(to_numpy(r))
    rank = int((sigma > np.finfo(np.float64).eps * max(y.shape) * sigma[0]).sum())
    u, sigma, vt = u[:, :rank], sigma[:rank], vt[:rank]
    directions = vt / sigma[:, None]
    lengths = np.sqrt((directions**2).sum(axis=0))
    essential = (vt**2).sum(axis=0) > 1 - _ESSENTIAL
    left_out = np.where(essential, directions / np.where(essential, lengths, 1), 0.0)
    return _Range(basis @ xp.asarray(u), sigma[:, None] * vt, left_out)


def _xtrace_terms(products: Products, omega: Array) -> Any:
    """The m exchangeable estimates, from products with the test vectors and with the basis of their images."""
    to_numpy, n = products.backend.to_numpy, products.n
    y = products(omega)
    basis, right, s = _range(products, y)
    if not s.size:  # A Omega = 0
        return np.zeros(omega.shape[1])
    z = products(basis)
    h, w, t = to_numpy(basis.T @ z), to_numpy(basis.T @ omega), to_numpy(z.T @ omega)
    own = to_numpy((omega * y).sum(axis=0))
    inside = np.trace(h) - _dot(s, h @ s)
    x = w - s * _dot(s, w)  # omega_i within the range of the others
    outside = own - _dot(t, x) - _dot(x, right) + _dot(x, h @ x)  # u_i^T A u_i
    space = n - s.shape[0] + s.any(axis=0)
    return inside + outside * space / (n - _dot(x, x))


def _dot(a: Any, b: Any) -> Any:
    """Inner products of columns."""
    return (a * b).sum(axis=0)


def xdiag(operator: LinearOperator, n_vectors: int = 32, *, seed: int) -> Estimate:
    """Estimate the diagonal of a symmetric matrix by XDiag, with its error.

    Parameters
    ----------
    operator : array or linear operator, shape (n, n)
        A, real and symmetric (checked for arrays). Anything with a shape and ``operator @ v`` for v of shape (n, m).
    n_vectors : int
        m >= 2 test vectors of random signs.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Returns
    -------
    Estimate
        Arrays of shape (n,), float64, with 2 m products. Where 2 m >= n the diagonal is read off n products,
        without error.

    Raises
    ------
    TypeError, ValueError
        Not a square operator, an array that is not symmetric, complex, NaN or inf in it or in products, bad numbers.
    OverflowError
        The squares of a product leave the range of float64.

    Notes
    -----
    With P_i the projector onto the range of A Omega without column i, the estimate is the mean over i of
    diag(P_i A) + omega_i * ((I - P_i) A omega_i). Unbiased, exact up to rounding for matrices of rank at most
    m - 1; the variance is that of `hutchinson_diagonal` for the residual (I - P_i) A.
    Cost: 2 m products in two blocks, and 8 n m^2 operations; memory: six blocks (n, m).
    Products are in the operator's dtype (float64 if it has none), everything else in float64.
    Determinism: a function of (operator, n_vectors, seed), up to rounding.
    Backends: numpy, cupy (matrices of size m x m go to the host).

    References
    ----------
    Epperly, Tropp, Webber. XTrace: making the most of every sample in stochastic trace estimation. SIAM Journal on
    Matrix Analysis and Applications 45, 2024 (arXiv 2301.07825), section 2.4.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import xdiag
    >>> x = np.random.default_rng(0).standard_normal((200, 5))
    >>> bool(np.allclose(xdiag(x @ x.T, 8, seed=0).value, (x * x).sum(axis=1)))
    True
    """
    products, m = adopt(operator, symmetric=True), check_int(n_vectors, "n_vectors", minimum=2)
    key = philox.derive_key(check_seed(seed), Stream.XDIAG)
    if 2 * m >= products.n:
        diagonal = _columns_one_by_one(products)
        return Estimate(diagonal, products.backend.xp.zeros_like(diagonal), products.n)
    mean, squares = _xdiag_moments(products, rademacher(products, key, 0, m))
    return Estimate(mean, (squares / (m * (m - 1))) ** 0.5, 2 * m)


def _xdiag_moments(products: Products, omega: Array) -> tuple[Array, Array]:
    """Mean and sum of squared deviations of the m exchangeable estimates of every entry."""
    xp = products.backend.xp
    basis, right, s = _range(products, products(omega))
    if not s.size:  # A Omega = 0
        return xp.zeros(products.n, "float64"), xp.zeros(products.n, "float64")
    z = products(basis)
    directions = basis @ xp.asarray(s)
    # (I - P_i) A omega_i is the part of Q r_i along Q s_i: the range holds the rest.
    rest = directions * xp.asarray(_dot(s, right))
    terms = omega * rest - directions * (z @ xp.asarray(s))
    mean = terms.sum(axis=1) / terms.shape[1]
    return (basis * z).sum(axis=1) + mean, ((terms - mean[:, None]) ** 2).sum(axis=1)
