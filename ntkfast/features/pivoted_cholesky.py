"""Randomly pivoted partial Cholesky factorization: A ~ F F^T from a few columns of A.

A pivot is drawn with probability proportional to the diagonal of the residual A - F F^T, and the
residual is eliminated at it. Drawing b proposals at once from one residual and then thinning them,
proposal i kept with probability (its residual now) / (its residual when proposed), gives pivots of
the same law, but the work becomes matrix products (Epperly, Tropp and Webber's accelerated form).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._check import check_dtype, check_finite, check_int, check_real, check_seed
from .._streams import Stream
from .._typing import Array
from ..backends import Backend, get_backend
from ..errors import NotPositiveDefiniteError
from ..kernels import philox

__all__ = ["PivotedCholesky", "random_pivoted_cholesky"]

KernelBlock: TypeAlias = Callable[[Array | None, Array], Array]


class PivotedCholesky(NamedTuple):
    """A ~ factor @ factor.T; `factor[pivots]` is lower triangular and exact for A at the pivots.

    Attributes
    ----------
    factor : array, shape (n, r)
        F. trace(A - F F^T) = trace(A) - sum(F ** 2).
    pivots : array of int64, shape (r,)
        Chosen rows, in order, all different.
    """

    factor: Array
    pivots: Array


class _Draws(NamedTuple):
    """Proposals of one round: indices, the residual they were drawn with, and the numbers that thin them."""

    index: Any
    residual: Any
    uniform: Any


def random_pivoted_cholesky(
    kernel: Array | KernelBlock,
    rank: int,
    *,
    diagonal: Array | None = None,
    seed: int,
    block_size: int = 128,
    tolerance: float | None = None,
) -> PivotedCholesky:
    """Partial Cholesky factor of a positive semidefinite matrix, from randomly chosen columns.

    Parameters
    ----------
    kernel : array, shape (n, n), or callable
        The matrix A, or ``kernel(rows, columns)`` returning A[rows][:, columns]; `rows` is an index
        array or None (all rows), `columns` an index array of at most `block_size` entries.
        A itself is never formed from a callable.
    rank : int
        Wanted number r of columns; at most n are used.
    diagonal : array, shape (n,)
        Diagonal of A, needed (and only taken) with a callable.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.
    block_size : int
        Proposals per round. It changes which pivots are drawn, not their law.
    tolerance : float, optional
        Point i is finished when its residual falls to tolerance * A[i, i]; default
        8 eps sqrt(rank), about the rounding error of the residual.

    Returns
    -------
    PivotedCholesky (factor (n, r), pivots (r,))
        With fewer than `rank` columns where every point is finished before: what is left of A
        is then rounding error. Rows of zeros and repeated rows are never pivots twice.

    Raises
    ------
    TypeError, ValueError
        A non-square matrix, wrong dtypes, NaN or inf, `rank` or `block_size` below 1,
        a callable without `diagonal`, or whose results are not such arrays.
    NotPositiveDefiniteError
        A negative entry on the diagonal.

    Notes
    -----
    Error: for r >= k / eps + k log(1 / (eps eta)), with eta the relative trace error of the best rank-k
    matrix, E trace(A - F F^T) <= (1 + eps) times the trace of the best rank-k residual (Chen et al.).
    Cost: n r entries of A, plus block_size^2 per round; n r^2 multiply-adds in matrix products; n r numbers of memory.
    Determinism: the same pivots for the same A, seed and block size. Another backend or thread count
    rounds A differently and may so, rarely, flip a draw.
    Backends: numpy, cupy (draws and the block_size x block_size thinning run on the host).

    References
    ----------
    Chen, Epperly, Tropp, Webber. Randomly pivoted Cholesky: practical approximation of a kernel matrix
    with few entry evaluations. Comm. Pure Appl. Math. 2025 (arXiv 2207.06503), Algorithm 1.
    Epperly, Tropp, Webber. Embrace rejection: kernel matrix approximation by accelerated randomly
    pivoted Cholesky. 2024 (arXiv 2410.03969).

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import random_pivoted_cholesky
    >>> x = np.random.default_rng(0).standard_normal((100, 3))
    >>> factor, pivots = random_pivoted_cholesky(x @ x.T, 10, seed=0)
    >>> factor.shape  # A has rank 3, so three columns are all there is
    (100, 3)
    >>> bool(np.allclose(factor @ factor.T, x @ x.T))
    True
    """
    block, diagonal = _check_kernel(kernel, diagonal)
    backend, n = get_backend(diagonal), diagonal.shape[0]
    rank = min(check_int(rank, "rank", minimum=1), n)
    block_size = check_int(block_size, "block_size", minimum=1)
    if tolerance is None:
        tolerance = 8 * float(np.finfo(str(diagonal.dtype)).eps) * math.sqrt(rank)
    floor = check_real(tolerance, "tolerance", minimum=0) * backend.to_numpy(diagonal).astype(np.float64)
    key = philox.derive_key(check_seed(seed), Stream.PIVOTS)
    return _factorize(backend, block, diagonal, floor, rank, block_size, key)


def _check_kernel(kernel: Any, diagonal: Array | None) -> tuple[KernelBlock, Array]:
    if callable(kernel):
        if diagonal is None:
            raise ValueError("expected diagonal= with a callable kernel, got None")
        get_block: KernelBlock = _checked_block(kernel, diagonal)
    else:
        diagonal, get_block = _check_square(kernel, diagonal)
    get_backend(diagonal)
    check_dtype(diagonal, "diagonal")
    if diagonal.ndim != 1 or diagonal.shape[0] == 0:
        raise ValueError(f"expected diagonal of shape (n,), got {diagonal.shape}")
    check_finite(diagonal, "diagonal")
    if float(diagonal.min()) < 0:
        raise NotPositiveDefiniteError(f"expected a non-negative diagonal, got {float(diagonal.min()):g}")
    return get_block, diagonal


def _checked_block(kernel: KernelBlock, diagonal: Array) -> KernelBlock:
    """The callable, with its results checked: a NaN would be proposed and thinned for ever."""

    def block(rows: Array | None, columns: Array) -> Array:
        out = kernel(rows, columns)
        expected = (len(diagonal) if rows is None else len(rows), len(columns))
        if getattr(out, "shape", None) != expected:
            raise ValueError(f"expected kernel(rows, columns) of shape {expected}, got {getattr(out, 'shape', out)}")
        get_backend(out, diagonal)
        check_dtype(out, "kernel(rows, columns)")
        check_finite(out, "kernel(rows, columns)")
        return out

    return block


def _check_square(matrix: Array, diagonal: Array | None) -> tuple[Array, KernelBlock]:
    get_backend(matrix)
    check_dtype(matrix, "kernel")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"expected kernel of shape (n, n), got {matrix.shape}")
    if diagonal is not None:
        raise ValueError("expected diagonal=None with a matrix, whose own diagonal is taken")
    check_finite(matrix, "kernel")

    def block(rows: Array | None, columns: Array) -> Array:
        return matrix[:, columns] if rows is None else matrix[rows][:, columns]

    return matrix.diagonal(), block


def _factorize(
    backend: Backend, block: KernelBlock, diagonal: Array, floor: Any, rank: int, block_size: int, key: int
) -> PivotedCholesky:
    """Rounds of propose, thin, eliminate, until `rank` columns or no residual above `floor`."""
    xp = backend.xp
    # Fortran order: a round reads the columns found so far and writes the next ones as one piece.
    factor = xp.empty((diagonal.shape[0], rank), diagonal.dtype, order="F")
    residual = backend.to_numpy(diagonal).astype(np.float64)
    residual[residual <= floor] = 0
    pivots: list[int] = []
    drawn = 0
    while len(pivots) < rank and residual.any():
        done = factor[:, : len(pivots)]
        draws = _propose(residual, block_size, key, drawn)
        drawn += 2 * block_size
        kept, triangle = _thin(backend, block, done, draws, floor, rank - len(pivots), residual)
        if not len(kept):
            continue
        new = factor[:, len(pivots) : len(pivots) + len(kept)]
        _eliminate(backend, block, done, kept, triangle, new)
        pivots.extend(int(i) for i in kept)
        residual -= backend.to_numpy((new * new).sum(axis=1)).astype(np.float64)
        residual[residual <= floor] = 0
        residual[kept] = 0
    return PivotedCholesky(xp.ascontiguousarray(factor[:, : len(pivots)]), xp.asarray(pivots, dtype=np.int64))


def _propose(residual: Any, count: int, key: int, drawn: int) -> _Draws:
    """Draw `count` indices with probability proportional to `residual`, by its distribution function."""
    uniform = np.empty(2 * count)
    get_backend(uniform).launch(philox.uniform, key, drawn, uniform)
    cumulative = np.cumsum(residual)
    # Strictly below the total, so that a zero residual, where the function is flat, is never hit.
    level = np.minimum(uniform[:count] * cumulative[-1], np.nextafter(cumulative[-1], 0))
    index = np.searchsorted(cumulative, level, side="right")
    return _Draws(index, residual[index], uniform[count:])


def _thin(
    backend: Backend, block: KernelBlock, done: Array, draws: _Draws, floor: Any, most: int, residual: Any
) -> tuple[Any, Any]:
    """Kept proposals, in order, and the Cholesky factor of the residual matrix at them.

    A proposal whose residual is used up by the others is finished: `residual` becomes 0 there, so
    that rounding cannot propose it for ever.
    """
    index = backend.xp.asarray(draws.index)
    at = done[index]
    matrix = backend.to_numpy(block(index, index) - at @ at.T).astype(np.float64)
    columns = np.zeros_like(matrix)
    kept: list[int] = []
    for i, j in enumerate(draws.index):
        left = matrix[i, i]
        if left <= floor[j]:
            residual[j] = 0
        elif left > draws.uniform[i] * draws.residual[i] and len(kept) < most:
            column = matrix[:, i] / math.sqrt(left)
            matrix[i:, i:] -= np.outer(column[i:], column[i:])
            columns[i:, len(kept)] = column[i:]
            kept.append(i)
    return draws.index[kept], columns[kept, : len(kept)]


def _eliminate(backend: Backend, block: KernelBlock, done: Array, kept: Any, triangle: Any, new: Array) -> None:
    """Write the columns F_new with F_new triangle^T = residual columns at `kept`."""
    xp = backend.xp
    index = xp.asarray(kept)
    columns = block(None, index) - done @ done[index].T
    new[...] = xp.linalg.solve(xp.asarray(triangle, dtype=columns.dtype), columns.T).T
