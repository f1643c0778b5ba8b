"""One eigendecomposition K = Q diag(s) Q^T, from which every ridge and every training time follows."""

import math
from dataclasses import dataclass

from .._check import check_range, check_real, quiet
from .._typing import Array
from ..backends import get_backend
from ..errors import NotPositiveDefiniteError
from ._inputs import check_kernel, check_targets, eps, max_jitter, own
from ._linalg import eigh
from .dual import KernelRidge

__all__ = ["KernelSpectrum", "as_spectrum", "decompose"]


@dataclass(frozen=True, slots=True, eq=False)
class KernelSpectrum:
    """Eigenvalues and eigenvectors of a kernel matrix.

    Attributes
    ----------
    eigenvalues : array, shape (n,)
        s, ascending, >= 0 (rounding below zero is cut off).
    eigenvectors : array, shape (n, n)
        Q, one per column.
    """

    eigenvalues: Array
    eigenvectors: Array

    @property
    def floor(self) -> float:
        """Eigenvalues up to this, eps sqrt(n) of the largest, are indistinguishable from 0.

        Examples
        --------
        >>> import numpy as np
        >>> decompose(np.eye(4)).floor < 1e-15
        True
        """
        return eps(self.eigenvalues) * math.sqrt(self.eigenvalues.shape[0]) * float(self.eigenvalues[-1])

    def inverse(self, reg: float) -> Array:
        """1 / (s + reg), with s + reg raised to `floor` where it is below.

        Raises
        ------
        TypeError, ValueError
            `reg` is not a finite number >= 0.
        NotPositiveDefiniteError
            K = 0 and reg = 0.
        OverflowError
            An inverse leaves the range of the dtype.

        Examples
        --------
        >>> import numpy as np
        >>> decompose(np.diag([1.0, 3.0])).inverse(1.0)
        array([0.5 , 0.25])
        """
        xp, reg = get_backend(self.eigenvalues).xp, check_real(reg, "reg", minimum=0)
        floor = self.floor
        if floor + reg == 0:
            raise NotPositiveDefiniteError("expected K + reg I to be positive definite, got K = 0 and reg = 0")
        with quiet():  # a ridge beyond the dtype is inf, and its inverse 0
            inverse = 1 / xp.maximum(self.eigenvalues + self.eigenvalues.dtype.type(reg), floor)
        return check_range(inverse, "1 / (s + reg)")

    def solve(self, y: Array, reg: float) -> KernelRidge:
        """Kernel ridge regression for one more ridge; 4 n^2 k operations.

        Parameters
        ----------
        y : array, shape (n,) or (n, k)
        reg : float

        Returns
        -------
        KernelRidge

        Examples
        --------
        >>> import numpy as np
        >>> decompose(np.diag([1.0, 3.0])).solve(np.array([2.0, 4.0]), 1.0).dual_coef
        array([1., 1.])
        """
        targets = check_targets(y, self.eigenvectors)
        with quiet():
            rotated = self.inverse(reg)[:, None] * (self.eigenvectors.T @ targets)
            coefficients = self.eigenvectors @ rotated
        return KernelRidge(check_range(coefficients, "the coefficients").reshape(y.shape), float(reg))


def decompose(k_train: Array, *, overwrite: bool = False) -> KernelSpectrum:
    """Eigendecomposition of a kernel matrix.

    Parameters
    ----------
    k_train : array, shape (n, n), float32 or float64
        Symmetric positive semidefinite; the lower triangle is read.
    overwrite : bool
        Use the memory of `k_train`, whose contents are lost (NumPy).

    Returns
    -------
    KernelSpectrum

    Raises
    ------
    TypeError, ValueError
        Not a symmetric matrix, NaN or inf, a read-only matrix with `overwrite`.
    NotPositiveDefiniteError
        An eigenvalue below -1e-6 (float64) or -1e-3 (float32) of the largest: no rounding error.

    Notes
    -----
    Cost: about 9 n^3 operations, some ten times a Cholesky factorization. Memory: three n x n
    matrices with LAPACK's workspace, one less with `overwrite`.
    Accuracy: eigenvalues to a few eps of the largest one; the small ones of float32 kernels
    are noise, so choose ridges above `KernelSpectrum.floor`.
    Determinism: that of LAPACK and BLAS; the same bits for the same library and thread count.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> decompose(np.array([[2.0, 1.0], [1.0, 2.0]])).eigenvalues
    array([1., 3.])
    """
    k, backend = check_kernel(k_train)
    values, vectors = eigh(backend, own(backend, k, k_train, overwrite))
    smallest, largest = float(values[0]), float(values[-1])
    if smallest < -max_jitter(k) * abs(largest):
        raise NotPositiveDefiniteError(
            f"expected a positive semidefinite kernel matrix, got eigenvalues from {smallest:.3g} to {largest:.3g}"
        )
    return KernelSpectrum(backend.xp.maximum(values, 0), vectors)


def as_spectrum(kernel: Array | KernelSpectrum) -> KernelSpectrum:
    """The decomposition itself, or that of a kernel matrix.

    Examples
    --------
    >>> import numpy as np
    >>> as_spectrum(np.eye(2)).eigenvalues
    array([1., 1.])
    """
    return kernel if isinstance(kernel, KernelSpectrum) else decompose(kernel)
