"""Factorizations by LAPACK and BLAS (SciPy) or cuSOLVER and cuBLAS (CuPy).

The one file that knows how the two differ. All matrices are C-contiguous; their transposes are what
LAPACK calls its own order, so nothing is copied to change the order.
"""

from typing import Any

from .._typing import Array
from ..backends import Backend

__all__ = ["add_gram", "cholesky", "eigh", "mirror", "solve_cholesky", "solve_lower"]

# Above this size the divide-and-conquer eigensolver's workspace, 2 n^2 numbers, overflows LAPACK's 32-bit lengths.
_LARGEST_DIVIDE_AND_CONQUER = 32_000

# Rows that `mirror` moves at a time.
_MIRROR_ROWS = 256


def cholesky(backend: Backend, a: Array) -> Array | None:
    """Lower Cholesky factor of `a`, or None where a pivot is not positive.

    Reads the lower triangle alone. NumPy: in place of it, and the strict upper triangle stays as it
    was. CuPy: a new array, and `a` stays as it was.
    """
    if backend.name == "cupy":
        return _cholesky_cupy(backend.xp, a)
    # The upper triangle in LAPACK's order is the lower one in C order.
    _, info = _lapack("potrf", a)(a.T, lower=0, clean=0, overwrite_a=1)
    return a if info == 0 else None


def _cholesky_cupy(xp: Any, a: Array) -> Array | None:
    import cupyx
    from numpy.linalg import LinAlgError

    try:
        with cupyx.errstate(linalg="raise"):
            return xp.linalg.cholesky(a)
    except LinAlgError:
        return None


def solve_cholesky(backend: Backend, lower: Array, b: Array) -> Array:
    """Solve L L^T x = b for b of shape (n,) or (n, k), in b's shape and C order."""
    if backend.name == "cupy":
        half = _solve_triangular_cupy(lower, b, "T")
        return backend.xp.ascontiguousarray(_solve_triangular_cupy(lower, half, "N"))
    x, _ = _lapack("potrs", lower)(lower.T, b, lower=0)
    return backend.xp.ascontiguousarray(x.reshape(b.shape))


def solve_lower(backend: Backend, lower: Array, b: Array) -> Array:
    """Solve L x = b for b of shape (n, k)."""
    if backend.name == "cupy":
        return _solve_triangular_cupy(lower, b, "T")
    from scipy.linalg import get_blas_funcs

    return get_blas_funcs("trsm", (lower,))(1.0, lower.T, b, lower=0, trans_a=1)


def _solve_triangular_cupy(lower: Array, b: Array, trans: str) -> Array:
    """Solve with the upper factor L^T, whose memory order cuBLAS takes without a copy."""
    from cupyx.scipy.linalg import solve_triangular

    return solve_triangular(lower.T, b, trans=trans, lower=False)


def eigh(backend: Backend, a: Array) -> tuple[Array, Array]:
    """Eigenvalues (ascending) and eigenvectors (columns) of `a`, whose lower triangle is read and destroyed.

    Memory of NumPy: `a` becomes the eigenvectors, and the workspace is two more such matrices (one
    beyond n = 32,000, where the slower driver is used).
    """
    if backend.name == "cupy":
        values, vectors = backend.xp.linalg.eigh(a)
        return values, vectors
    from scipy.linalg import eigh as solve

    driver = "evd" if a.shape[0] <= _LARGEST_DIVIDE_AND_CONQUER else "evr"
    values, vectors = solve(a.T, lower=False, overwrite_a=True, check_finite=False, driver=driver)
    return values, vectors


def add_gram(backend: Backend, x: Array, gram: Array) -> None:
    """Add x^T x to the lower triangle of `gram`; on CuPy to all of it, with one matrix of its size as workspace."""
    if backend.name == "cupy":
        gram += x.T @ x
        return
    from scipy.linalg import get_blas_funcs

    get_blas_funcs("syrk", (gram,))(1.0, x.T, beta=1.0, c=gram.T, lower=0, overwrite_c=1)


def mirror(backend: Backend, a: Array, *, upper: bool) -> None:
    """Copy the strict upper triangle of `a` onto the strict lower one by blocks, or the other way round."""
    xp, n = backend.xp, a.shape[0]
    source, target = (a, a.T) if upper else (a.T, a)
    for start in range(0, n, _MIRROR_ROWS):
        stop = min(start + _MIRROR_ROWS, n)
        square = xp.triu(source[start:stop, start:stop], 1)
        target[start:stop, start:stop] = xp.tril(target[start:stop, start:stop]) + square
        target[start:stop, stop:] = source[start:stop, stop:]


def _lapack(name: str, a: Array) -> Any:
    from scipy.linalg import get_lapack_funcs

    return get_lapack_funcs(name, (a,))
