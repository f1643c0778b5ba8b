"""Checks shared by the solvers: kernel matrices, targets, and lists of ridges or times."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._check import check_dtype, check_finite, check_real
from .._typing import Array
from ..backends import Backend, get_backend
from ..errors import NotPositiveDefiniteError

__all__ = [
    "check_array",
    "check_cross",
    "check_kernel",
    "check_like",
    "check_targets",
    "check_values",
    "eps",
    "fill_diagonal",
    "max_jitter",
    "own",
]

# Largest jitter, relative to the mean of the diagonal, that may repair a kernel matrix unasked.
# What rounding does to the eigenvalues of a kernel is far below; more would change the problem.
_MAX_JITTER = {"float32": 1e-3, "float64": 1e-6}

# Rows and columns of the squares that are compared at a time: one that stays in cache, and on a device
# one that is worth a launch and a synchronization.
_BLOCK = 256
_DEVICE_BLOCK = 4096


def eps(x: Array) -> float:
    """Machine epsilon of the dtype of `x`."""
    return float(np.finfo(str(x.dtype)).eps)


def max_jitter(x: Array) -> float:
    """Largest relative jitter for the dtype of `x`."""
    return _MAX_JITTER[str(x.dtype)]


def check_kernel(k: Array, name: str = "k_train") -> tuple[Array, Backend]:
    """Check a symmetric kernel matrix and return it C-contiguous, with its backend.

    A Fortran-ordered matrix is returned as its transpose, without a copy. Asymmetry up to
    sqrt(eps) of the largest diagonal entry passes; the lower triangle is what the solvers read.
    """
    backend = check_array(k, name, 2)
    if k.shape[0] != k.shape[1] or k.size == 0:
        raise ValueError(f"expected {name} of shape (n, n) with n >= 1, got {k.shape}")
    if k.flags.f_contiguous and not k.flags.c_contiguous:
        k = k.T
    k = backend.xp.ascontiguousarray(k)
    _check_symmetric(backend, k, name)
    return k, backend


def check_array(x: Any, name: str, ndim: int) -> Backend:
    """Check that `x` is a finite array of floats with `ndim` axes, and return its backend."""
    if not hasattr(x, "dtype"):
        raise TypeError(f"expected {name} to be a NumPy or CuPy array, got {type(x).__name__}")
    backend = get_backend(x)
    check_dtype(x, name)
    if x.ndim != ndim:
        raise ValueError(f"expected {name} with {ndim} axes, got shape {x.shape}")
    check_finite(x, name)
    return backend


def _check_symmetric(backend: Backend, k: Array, name: str) -> None:
    diagonal = k.diagonal()
    if float(diagonal.min()) < 0:
        raise NotPositiveDefiniteError(
            f"expected {name} with a non-negative diagonal, got {float(diagonal.min()):g} at {int(diagonal.argmin())}"
        )
    allowed = eps(k) ** 0.5 * float(diagonal.max())
    block = _BLOCK if backend.name == "numpy" else _DEVICE_BLOCK
    for start in range(0, k.shape[0], block):
        for left in range(0, start + 1, block):
            rows, columns = slice(start, start + block), slice(left, left + block)
            lower, upper = k[rows, columns], k[columns, rows].T
            if bool((lower == upper).all()):  # the usual case, at a tenth of the time of the difference
                continue
            worst = float(backend.xp.abs(lower - upper).max())
            if worst > allowed:
                raise ValueError(
                    f"expected {name} to be symmetric, got entries ({name}[i, j], {name}[j, i]) that differ "
                    f"by {worst:g}, above {allowed:g}"
                )


def check_like(x: Array, name: str, like: Array) -> None:
    """Refuse an array of another backend or dtype than `like`, or with NaN or inf."""
    if not hasattr(x, "dtype"):
        raise TypeError(f"expected {name} to be a NumPy or CuPy array, got {type(x).__name__}")
    get_backend(x, like)
    check_dtype(x, name)
    if x.dtype != like.dtype:
        raise TypeError(f"expected {name} of dtype {like.dtype}, as the kernel, got {x.dtype}")
    check_finite(x, name)


def check_targets(y: Array, like: Array, name: str = "y") -> Array:
    """Check targets of shape (n,) or (n, k), n the rows of `like`, and return them as (n, k)."""
    check_like(y, name, like)
    n = like.shape[0]
    if y.ndim not in (1, 2) or y.shape[0] != n or y.size == 0:
        raise ValueError(f"expected {name} of shape ({n},) or ({n}, k), got {y.shape}")
    return y.reshape(n, -1)


def check_cross(k: Array, like: Array, name: str = "k_test_train") -> None:
    """Check a kernel between any points and the n training points, (m, n), m >= 1; n the rows of `like`."""
    check_like(k, name, like)
    if k.ndim != 2 or k.shape[1] != like.shape[0] or k.size == 0:
        raise ValueError(f"expected {name} of shape (m, {like.shape[0]}), got {k.shape}")


def check_values(values: Any, name: str) -> tuple[float, ...]:
    """Check a non-empty sequence of finite numbers >= 0."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise TypeError(f"expected {name} to be a sequence of numbers, got {values!r}")
    checked = tuple(check_real(value, f"{name}[{i}]", minimum=0) for i, value in enumerate(values))
    if not checked:
        raise ValueError(f"expected {name} with at least one number, got none")
    return checked


def own(backend: Backend, k: Array, original: Array, overwrite: bool) -> Array:
    """Memory to factorize in: that of `original` where the caller gave it away, else a copy of `k`."""
    if not backend.xp.may_share_memory(k, original):
        return k  # a change of the memory order has copied it already
    if not overwrite:
        return k.copy()
    if backend.name == "numpy" and not k.flags.writeable:
        raise ValueError("expected a writeable kernel matrix with overwrite=True, got a read-only one")
    return k


def fill_diagonal(k: Array, values: Array) -> None:
    """Write the diagonal of a C-contiguous square matrix."""
    k.reshape(-1)[:: k.shape[0] + 1] = values
