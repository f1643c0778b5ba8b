"""Effective ranks: how many eigenvalues of a kernel matter, in five senses.

All take a positive semidefinite kernel, or its eigenvalues lambda_1 >= ... >= lambda_n >= 0, and lie between 0 (the
zero kernel only) and n. All but `effective_dimension` do not change with the scale of the kernel.
"""

import numpy as np

from .._check import check_real
from .._typing import Array
from .dense import nonnegative_spectrum, scaled_spectrum

__all__ = ["effective_dimension", "entropy_rank", "intrinsic_dimension", "stable_rank", "variance_rank"]


def variance_rank(kernel: Array, eps: float = 0.01) -> int:
    """Smallest number of eigenvalues that explain 1 - eps of the trace.

    Parameters
    ----------
    kernel : array, shape (n, n), (n, n, k, k) or (n,), float32 or float64
        The kernel, or its eigenvalues in any order.
    eps : float
        Share of the trace that may be missing, 0 <= eps < 1. With 0, all eigenvalues that are above the rounding
        error of their sum count.

    Returns
    -------
    int
        0 for the zero kernel.

    Raises
    ------
    TypeError, ValueError
        Not a kernel or eigenvalues as above, or `eps` outside [0, 1).
    NotPositiveDefiniteError
        As `condition_number`.

    Notes
    -----
    Cost and backends: as `condition_number`.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import variance_rank
    >>> variance_rank(np.array([0.001, 0.1, 1.0]), 0.01)
    2
    """
    eps = check_real(eps, "eps", minimum=0)
    if eps >= 1:
        raise ValueError(f"expected eps to be below 1, got {eps}")
    explained = nonnegative_spectrum(kernel)[::-1].cumsum()
    total = explained[-1]
    return int((explained < (1 - eps) * total).sum()) + 1 if total > 0 else 0


def entropy_rank(kernel: Array) -> float:
    """Exponential of the entropy of the normalized eigenvalues, p_i = lambda_i / trace.

    Parameters
    ----------
    kernel : array, shape (n, n), (n, n, k, k) or (n,), float32 or float64
        The kernel, or its eigenvalues in any order.

    Returns
    -------
    float
        exp(-sum_i p_i log p_i): r for r equal eigenvalues beside zeros, 0 for the zero kernel.

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        As `condition_number`.

    Notes
    -----
    Cost and backends: as `condition_number`.

    References
    ----------
    Roy, Vetterli. The effective rank: a measure of effective dimensionality. EUSIPCO 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import entropy_rank
    >>> round(entropy_rank(np.array([0.0, 2.0, 2.0])), 12)
    2.0
    """
    spectrum = nonnegative_spectrum(kernel)
    shares = spectrum[spectrum > 0]
    if shares.size == 0:
        return 0.0
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def effective_dimension(kernel: Array, reg: float) -> float:
    """Degrees of freedom of kernel ridge regression, the sum of lambda_i / (lambda_i + reg).

    Parameters
    ----------
    kernel : array, shape (n, n), (n, n, k, k) or (n,), float32 or float64
        The kernel, or its eigenvalues in any order.
    reg : float
        Ridge, > 0, in the units of the kernel: tr K (K + reg I)^-1.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        As `condition_number`; also where `reg` is not a number > 0.

    Notes
    -----
    Cost and backends: as `condition_number`.

    References
    ----------
    Zhang. Learning bounds for kernel regression using effective data dimensionality. Neural Computation 17, 2005.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import effective_dimension
    >>> effective_dimension(np.array([0.0, 1.0, 3.0]), 1.0)
    1.25
    """
    reg = check_real(reg, "reg", minimum=0, strict=True)
    spectrum, largest = scaled_spectrum(kernel)
    if largest == 0:
        return 0.0
    return float((spectrum / (spectrum + reg / largest)).sum())


def stable_rank(kernel: Array) -> float:
    """|K|_F^2 / |K|_2^2, the sum of the squared eigenvalues over the largest one squared.

    Parameters
    ----------
    kernel : array, shape (n, n), (n, n, k, k) or (n,), float32 or float64
        The kernel, or its eigenvalues in any order.

    Returns
    -------
    float
        At most the rank; 0 for the zero kernel. (That of the Jacobian J, K = J J^T, is `intrinsic_dimension` of K.)

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        As `condition_number`.

    Notes
    -----
    Cost and backends: as `condition_number`.

    References
    ----------
    Rudelson, Vershynin. Sampling from large matrices. Journal of the ACM 54, 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import stable_rank
    >>> stable_rank(np.array([1.0, 2.0]))
    1.25
    """
    return float((nonnegative_spectrum(kernel) ** 2).sum())


def intrinsic_dimension(kernel: Array) -> float:
    """Trace over the largest eigenvalue, the stable rank of every J with K = J J^T.

    Parameters
    ----------
    kernel : array, shape (n, n), (n, n, k, k) or (n,), float32 or float64
        The kernel, or its eigenvalues in any order.

    Returns
    -------
    float
        At most the rank; 0 for the zero kernel.

    Raises
    ------
    TypeError, ValueError, NotPositiveDefiniteError
        As `condition_number`.

    Notes
    -----
    Cost and backends: as `condition_number`.

    References
    ----------
    Tropp. An introduction to matrix concentration inequalities. Foundations and Trends in Machine Learning 8, 2015,
    section 7.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import intrinsic_dimension
    >>> intrinsic_dimension(np.array([1.0, 2.0]))
    1.5
    """
    return float(nonnegative_spectrum(kernel).sum())
