"""Alignment: the cosine between two kernels as vectors of n^2 entries."""

from typing import Any

import numpy as np

from .._check import check_dtype, check_finite
from .._typing import Array
from ..backends import get_backend
from .dense import square

__all__ = ["check_targets", "kernel_alignment", "target_alignment"]


def kernel_alignment(k1: Array, k2: Array, *, centered: bool = True) -> float:
    """Cosine of two kernels over the same points, <K1, K2>_F / (|K1|_F |K2|_F).

    Parameters
    ----------
    k1, k2 : array, shape (n, n), float32 or float64
        Symmetric.
    centered : bool
        Replace K by H K H first, H = I - 1 1^T / n: the kernel of features whose mean over the points is removed.

    Returns
    -------
    float
        In [-1, 1]; in [0, 1] for positive semidefinite kernels. 0 where a kernel is zero, after centering up to
        rounding, as for a single point.

    Raises
    ------
    TypeError, ValueError
        Not symmetric matrices of one size on one backend, NaN or inf.

    Notes
    -----
    Computed in float64. Cost: about 10 n^2 operations; memory: four float64 matrices. Centered, this is the
    "centered kernel alignment" (CKA, HSIC normalized).
    Backends: numpy, cupy.

    References
    ----------
    Cristianini, Shawe-Taylor, Elisseeff, Kandola. On kernel-target alignment. NeurIPS 2001.
    Cortes, Mohri, Rostamizadeh. Algorithms for learning kernels based on centered alignment. JMLR 13, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import kernel_alignment
    >>> round(kernel_alignment(np.eye(3), np.ones((3, 3)), centered=False), 6)
    0.57735
    >>> kernel_alignment(np.eye(3), np.ones((3, 3)))
    0.0
    """
    a, b = _matrix(k1, "k1"), _matrix(k2, "k2")
    get_backend(a, b)
    if a.shape != b.shape:
        raise ValueError(f"expected k1 and k2 of one shape, got {k1.shape} and {k2.shape}")
    a, b = _normalized(a, centered), _normalized(b, centered)
    return min(1.0, max(-1.0, float((a * b).sum())))


def target_alignment(kernel: Array, y: Array, *, centered: bool = True) -> float:
    """Alignment of a kernel with the kernel of the labels or targets.

    Parameters
    ----------
    kernel : array, shape (n, n), float32 or float64
        Symmetric.
    y : array, shape (n,) or (n, k)
        Integers or booleans (n,): classes, whose kernel is 1 for equal and 0 for different ones. Floats: targets,
        with the kernel y y^T.
    centered : bool
        As in `kernel_alignment`.

    Returns
    -------
    float
        As `kernel_alignment`.

    Raises
    ------
    TypeError, ValueError
        Not a symmetric matrix, or `y` of another length, dtype or backend, NaN or inf.

    Notes
    -----
    Cost and memory: as `kernel_alignment`, and n^2 k operations for targets.
    Backends: numpy, cupy.

    References
    ----------
    Cristianini, Shawe-Taylor, Elisseeff, Kandola. On kernel-target alignment. NeurIPS 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.spectrum import target_alignment
    >>> y = np.array([0, 0, 1])
    >>> round(target_alignment(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), y), 6)
    1.0
    """
    matrix = _matrix(kernel, "kernel")
    return kernel_alignment(matrix, _target_kernel(y, check_targets(y, matrix)), centered=centered)


def _matrix(kernel: Array, name: str) -> Array:
    if getattr(kernel, "ndim", 2) != 2:
        raise ValueError(f"expected {name} of shape (n, n), got {kernel.shape}; a full NTK is not centered by points")
    return square(kernel, name)


def check_targets(y: Any, like: Array) -> bool:
    """Refuse labels or targets that do not fit the n rows of `like`; return whether they are labels."""
    if not hasattr(y, "dtype"):
        raise TypeError(f"expected y to be a NumPy or CuPy array, got {type(y).__name__}")
    get_backend(like, y)
    n, is_label = like.shape[0], y.dtype.kind in "iub"
    if y.ndim not in ((1,) if is_label else (1, 2)) or y.shape[0] != n or y.size == 0:
        wanted = f"({n},)" if is_label else f"({n},) or ({n}, k)"
        raise ValueError(f"expected y of shape {wanted}, got {y.shape}")
    if not is_label:
        check_dtype(y, "y")
        check_finite(y, "y")
    return bool(is_label)


def _target_kernel(y: Array, is_label: bool) -> Array:
    """Kernel of labels or targets, float64."""
    if is_label:
        return (y[:, None] == y[None, :]).astype("float64")
    targets = y.reshape(y.shape[0], -1).astype("float64")
    targets = targets / (float(abs(targets).max()) or 1.0)
    return targets @ targets.T


def _normalized(kernel: Array, centered: bool) -> Array:
    """The kernel, perhaps centered, over its Frobenius norm, in float64; 0 if nothing but rounding is left."""
    k = kernel.astype("float64")
    k = k / (float(abs(k).max()) or 1.0)
    before = float((k * k).sum()) ** 0.5
    if centered:
        means = k.sum(axis=1) / k.shape[0]
        k = k - means[:, None] - means[None, :] + means.sum() / k.shape[0]
    norm = float((k * k).sum()) ** 0.5
    rounding = float(np.finfo(str(kernel.dtype)).eps) * before
    return k / norm if norm > rounding else 0.0 * k
