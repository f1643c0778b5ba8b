"""Eigenvalues and condition number of a kernel matrix."""

import math
from typing import Any

import numpy as np

from .._check import check_dtype, check_finite, check_range, check_real, quiet
from .._typing import Array
from ..backends import get_backend
from ..errors import NotPositiveDefiniteError
from ._operator import check_symmetric

__all__ = ["as_matrix", "condition_number", "eigenvalues", "nonnegative_spectrum", "scaled_spectrum", "square"]

# Negative eigenvalues down to this share of the largest are taken for rounding errors of the kernel's entries.
_INDEFINITE = {"float32": 1e-3, "float64": 1e-6}


def as_matrix(kernel: Array) -> Array:
    """A kernel as one matrix: full NTKs (n, n, k, k) become (n k, n k), matrices stay as they are.

    Parameters
    ----------
    kernel : array, shape (n1, n2) or (n1, n2, k, k), float32 or float64

    Returns
    -------
    array, shape (n1, n2) or (n1 k, n2 k)
        Row sample * k + output, the order of `ntkfast.empirical.ntk_operator`. A copy for k > 1 and n2 > 1.

    Raises
    ------
    TypeError, ValueError
        Not an array of floats of one of these shapes, empty, NaN or inf.

    Notes
    -----
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import as_matrix
    >>> as_matrix(np.ones((2, 2, 3, 3))).shape
    (6, 6)
    """
    _check_array(kernel, "kernel")
    if kernel.size == 0 or kernel.ndim not in (2, 4) or (kernel.ndim == 4 and kernel.shape[2] != kernel.shape[3]):
        raise ValueError(f"expected a kernel of shape (n1, n2) or (n1, n2, k, k), not empty, got {kernel.shape}")
    if kernel.ndim == 2:
        return kernel
    n1, n2, k, _ = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(n1 * k, n2 * k)


def _check_array(x: Any, name: str) -> None:
    if not hasattr(x, "dtype"):
        raise TypeError(f"expected {name} to be a NumPy or CuPy array, got {type(x).__name__}")
    get_backend(x)
    check_dtype(x, name)
    check_finite(x, name)


def square(kernel: Array, name: str = "kernel") -> Array:
    """A symmetric kernel as one square matrix, checked."""
    matrix = as_matrix(kernel)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"expected {name} of shape (n, n) or (n, n, k, k), got {kernel.shape}")
    check_symmetric(matrix, name)
    return matrix


def eigenvalues(kernel: Array) -> Array:
    """Eigenvalues of a symmetric kernel, ascending.

    Parameters
    ----------
    kernel : array, shape (n, n) or (n, n, k, k), float32 or float64
        Symmetric up to sqrt(eps) of its largest entry (the lower triangle is read); need not be definite. A full
        NTK stands for its matrix `as_matrix`.

    Returns
    -------
    array, shape (n,) or (n k,)
        In the dtype of `kernel`. Negative ones within n eps of the largest magnitude are rounding errors and
        become 0; others stay.

    Raises
    ------
    TypeError, ValueError
        Not a symmetric array of floats of such a shape, empty, NaN or inf.
    OverflowError
        An eigenvalue leaves the range of the dtype.

    Notes
    -----
    Computed in float64 also for float32 kernels: errors are those of the entries, a few eps of the largest eigenvalue.
    Cost: 4/3 n^3 operations. Memory: two float64 matrices.
    Determinism: that of LAPACK or cuSOLVER.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import eigenvalues
    >>> eigenvalues(np.array([[2.0, 1.0], [1.0, 2.0]]))
    array([1., 3.])
    """
    matrix = square(kernel)
    xp = get_backend(matrix).xp
    # Entries near the largest number would overflow on the way; a power of two changes no digit.
    size = 2.0 ** (math.frexp(float(xp.abs(matrix).max()))[1] - 1)
    values = xp.linalg.eigvalsh(matrix.astype("float64") / size)
    values = xp.where((values < 0) & (values >= -_floor(matrix, values)), 0.0, values)
    with quiet():
        return check_range((values * size).astype(matrix.dtype), "eigenvalues")


def _floor(like: Array, values: Array) -> float:
    """Magnitude up to which eigenvalues are indistinguishable from 0 in the dtype of `like`: n eps of the largest."""
    return float(np.finfo(str(like.dtype)).eps) * int(values.shape[0]) * float(abs(values).max())


def nonnegative_spectrum(kernel: Array) -> Any:
    """`scaled_spectrum` without the scale."""
    return scaled_spectrum(kernel)[0]


def scaled_spectrum(kernel: Array) -> tuple[Any, float]:
    """Eigenvalues over the largest one, and the largest one; of a kernel, or from its eigenvalues in any order.

    On the host, float64, ascending, >= 0; all 0 for a zero kernel.
    """
    _check_array(kernel, "kernel")
    values = kernel if kernel.ndim == 1 else eigenvalues(kernel)
    if values.size == 0:
        raise ValueError(f"expected at least one eigenvalue, got shape {values.shape}")
    host = np.sort(get_backend(values).to_numpy(values).astype(np.float64))
    smallest, largest = float(host[0]), float(np.abs(host).max())
    if smallest < -_INDEFINITE[str(values.dtype)] * largest:
        raise NotPositiveDefiniteError(
            f"expected a positive semidefinite kernel, got eigenvalues from {smallest:.3g} to {host[-1]:.3g}"
        )
    return np.maximum(host, 0) / (largest or 1.0), largest


def condition_number(kernel: Array, *, rtol: float | None = None) -> float:
    """Largest over smallest eigenvalue of a positive semidefinite kernel; infinite where it is singular.

    Parameters
    ----------
    kernel : array, shape (n, n), (n, n, k, k) or (n,), float32 or float64
        The kernel, or its eigenvalues in any order.
    rtol : float, optional
        Smallest eigenvalues up to rtol times the largest count as 0; default n eps of the dtype, what rounding of
        the entries can do.

    Returns
    -------
    float
        At least 1; inf, without a warning, for singular kernels, the zero kernel among them. So a finite result is at
        most 1 / rtol.

    Raises
    ------
    TypeError, ValueError
        Not a kernel or eigenvalues as above, or a negative `rtol`.
    NotPositiveDefiniteError
        An eigenvalue below -1e-6 (float64) or -1e-3 (float32) of the largest: no rounding error.

    Notes
    -----
    Cost: that of `eigenvalues`; with eigenvalues given, n log n.
    Backends: numpy, cupy (the eigenvalues go to the host).

    References
    ----------
    Xiao, Pennington, Schoenholz. Disentangling trainability and generalization in deep neural networks. ICML 2020: the
    learning rate can be at most 2 / lambda_max, and the slowest mode then takes a number of steps proportional to this.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import condition_number
    >>> condition_number(np.array([[2.0, 1.0], [1.0, 2.0]]))
    3.0
    >>> condition_number(np.ones((2, 2)))
    inf
    """
    spectrum, largest = scaled_spectrum(kernel)
    eps = float(np.finfo(str(kernel.dtype)).eps)
    floor = spectrum.size * eps if rtol is None else check_real(rtol, "rtol", minimum=0)
    smallest = float(spectrum[0])
    if largest == 0 or smallest <= floor:
        return math.inf
    return float(1 / smallest)
