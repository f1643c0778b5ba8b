"""Attribution of predictions to training samples by projected gradients: the score of TRAK.

    tau = Phi_test (Phi^T Phi + reg I)^-1 Phi^T diag(weights)

phi(x) is the projected gradient of the margin log(p / (1 - p)) of the right class of x, at the trained parameters, and
the weight of a training sample is 1 - p. Then tau[j, i] predicts by how much the margin of the test sample j grows
because sample i was trained on. With fewer training samples than columns the same is

    tau = Phi_test Phi^T (Phi Phi^T + reg I)^-1 diag(weights).
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from .._check import array_backend, check_range, check_real, memory_budget, quiet
from .._typing import Array
from ..backends import Backend, get_backend
from ..empirical._inputs import check_like
from ..regression._linalg import add_gram, mirror
from ..regression.dual import CholeskyFactor, factorize_in_place, jitter_ladder
from .regression import check_features

__all__ = ["attribution", "average_attributions"]

Tiles: TypeAlias = Iterator[tuple[slice, slice, Array]]

# Rows taken at a time at most: enough for matrix products to run at full speed.
_ROWS = 4096

# Bytes of a float64, in which the small matrix is formed, factorized and solved with.
_WIDE = 8

# Rows of the squares by which `mirror` fills a triangle: what it takes beside the matrix is four times as many rows.
_SQUARE = 256


def attribution(
    phi_train: Array | Iterable[Array],
    phi_test: Array | Iterable[Array],
    *,
    reg: float = 0.0,
    weights: Array | None = None,
    max_jitter: float | None = None,
    max_memory: int | None = None,
    out: Array | None = None,
) -> Array:
    """Scores of training samples for the predictions on test samples (TRAK).

    Parameters
    ----------
    phi_train : array, shape (n, m), float32 or float64
        Projected gradients of the training samples, by the same sketch and parameters as `phi_test`: an array, a
        `numpy.memmap`, or arrays of consecutive rows in a list or any other iterable that can be read several times
        (so not a generator).
    phi_test : array, shape (n_test, m)
        The same of the test samples.
    reg : float
        Ridge, absolute, >= 0: what is added to the eigenvalues of Phi^T Phi.
    weights : array, shape (n,), optional
        One per training sample; TRAK's is 1 - p, p the probability of the right class. Default ones.
    max_jitter : float, optional
        Largest jitter that a singular matrix may be repaired by; see `ntkfast.regression.factorize`. 0 allows none.
    max_memory : int, optional
        Bytes that temporaries may take, the result not counted; default a quarter of what is free.
    out : array, shape (n_test, n), optional
        Where to write the scores: an array, or a `numpy.memmap` for those that do not fit into memory. It shares no
        memory with other arguments. Its contents have no meaning if an error is raised.

    Returns
    -------
    array, shape (n_test, n); dtype and backend of `phi_train`
        `out`, if given.

    Raises
    ------
    TypeError, ValueError
        Arrays that do not fit each other, NaN or inf, negative `reg`, blocks that can be read only once.
    MixedBackendError
        NumPy and CuPy arrays in one call.
    MemoryBudgetError
        `max_memory` is below the small matrix and one row; the message has the bytes.
    NotPositiveDefiniteError
        Phi^T Phi + reg I has no Cholesky factor, even with the jitter.
    OverflowError
        The matrix or the scores leave the range of their dtype.

    Notes
    -----
    With s = min(n, m). Cost: n m s + s^3 / 3 + n_test s^2 multiply-adds in float64, and n_test n m in the dtype of
    `phi_train` (in float64, where n < m). Memory: s^2 float64 numbers (three times that with CuPy), and blocks of rows
    in what is left. `phi_train` is read twice, and once per block of at most 4096 test samples; where n < m, also once
    per block of its own. A budget of little more than the small matrix makes blocks of few rows, which is slow.
    Scale: that of the gradients does not matter with reg = 0; otherwise `reg` goes with its square.
    Accuracy: relative error about the unit roundoff of the dtype times the root of the condition number of
    Phi^T Phi + reg I, plus that of float64 times the condition number.
    Determinism: that of LAPACK and BLAS; blocks and `max_memory` change the rounding only.
    Several checkpoints: see `average_attributions`.
    Backends: numpy, cupy.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc, Madry. TRAK: attributing model behavior at scale. ICML 2023, arXiv 2303.14186.

    Examples
    --------
    >>> import numpy as np
    >>> phi_train = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> attribution(phi_train, np.array([[1.0, 1.0]]))
    array([[0.5, 0.5, 0.5]])
    """
    if out is not None:
        array_backend(out, "out")
    train, test = _Rows(phi_train, "phi_train", out), _Rows(phi_test, "phi_test", out)
    train.check_fits(test)
    reg = check_real(reg, "reg", minimum=0)
    if weights is not None:
        weights = check_like(weights, "weights", (train.n,), train.like)
        _check_apart(weights, "weights", out)
    out = _result(out, test.n, train)
    tiles = _primal_tiles if train.m <= train.n else _dual_tiles
    with quiet():
        for rows, columns, tile in tiles(train, test, reg, max_jitter, max_memory):
            if weights is not None:
                train.backend.xp.multiply(tile, weights[columns], out=tile)
            out[rows, columns] = check_range(tile, "the scores")
    return out


def average_attributions(scores: Iterable[Array], weights: Iterable[Array] | None = None) -> Array:
    """Scores of several checkpoints or models: mean scores times mean weights.

    TRAK averages the two separately: give `attribution` no weights, and this function those of all checkpoints.

    Parameters
    ----------
    scores : iterable of arrays, shape (n_test, n)
        One `attribution` per checkpoint, without weights. From a generator, one of them is in memory at a time.
    weights : iterable of arrays, shape (n,), optional
        As many.

    Returns
    -------
    array, shape (n_test, n)

    Raises
    ------
    TypeError, ValueError
        Arrays that do not fit each other, NaN or inf, none at all, not as many weights as scores.
    MixedBackendError
        NumPy and CuPy arrays in one call.
    OverflowError
        The sum leaves the range of the dtype.

    Notes
    -----
    TRAK's optional soft thresholding of the result is left to the caller.
    Backends: numpy, cupy.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc, Madry. TRAK: attributing model behavior at scale. ICML 2023, arXiv 2303.14186.

    Examples
    --------
    >>> import numpy as np
    >>> scores = (np.full((1, 2), value) for value in (1.0, 3.0))
    >>> average_attributions(scores, [np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    array([[1., 2.]])
    """
    with quiet():
        mean, count = _mean(scores, "scores", ndim=2)
        if weights is not None:
            factor, found = _mean(weights, "weights", ndim=1)
            if found != count:
                raise ValueError(f"expected as many weights as scores, {count}, got {found}")
            mean *= check_like(factor, "the mean weights", mean.shape[1:], mean)
    return check_range(mean, "the mean scores")


def _mean(arrays: Iterable[Array], name: str, ndim: int) -> tuple[Array, int]:
    """Mean of arrays of one shape, and their number."""
    if not isinstance(arrays, Iterable):
        raise TypeError(f"expected {name} to be an iterable of arrays, got {type(arrays).__name__}")
    total, count = None, 0
    for array in arrays:
        array_backend(array, f"{name}[{count}]")
        if total is None and (array.ndim != ndim or array.size == 0):
            raise ValueError(f"expected {name}[0] with {ndim} axes, not empty, got shape {array.shape}")
        like = array if total is None else total
        checked = check_like(array, f"{name}[{count}]", like.shape, like)
        if total is None:
            total = checked.copy()
        else:
            total += checked
        count += 1
    if total is None:
        raise ValueError(f"expected at least one array of {name}, got none")
    total /= count
    return total, count


class _Rows:
    """Rows of features, in one array or in blocks; one pass checks and counts them."""

    def __init__(self, phi: Any, name: str, out: Array | None) -> None:
        whole = hasattr(phi, "dtype")
        blocks = (phi,) if whole else phi
        if not isinstance(blocks, Iterable) or iter(blocks) is blocks:
            raise TypeError(
                f"expected {name} to be an array, or arrays that can be read several times, got {type(phi).__name__}"
            )
        self._name, self._blocks, self._out = name, blocks, out
        self.n, self.m = 0, 0
        self.like: Any = None
        for i, block in enumerate(blocks):
            self._count(block, name if whole else f"{name}[{i}]")
        if self.n == 0:
            raise ValueError(f"expected {name} with at least one block, got none")

    def _count(self, block: Any, name: str) -> None:
        backend = check_features(block, name, ndims=(2,))
        if self.like is None:
            self.backend, self.m, self.like = backend, int(block.shape[1]), block[:0].copy()
        _check_agreement(block, name, self.like)
        _check_apart(block, name, self._out)
        self.n += len(block)

    def check_fits(self, other: "_Rows") -> None:
        """Refuse other rows of another width, dtype or backend."""
        _check_agreement(other.like, other._name, self.like)

    def pieces(self, rows: int, dtype: Any = None) -> Iterator[tuple[slice, Array]]:
        """At most `rows` consecutive rows at a time, C-contiguous, in `dtype`, and where they are."""
        offset = 0
        for block in self._blocks:
            for start in range(0, len(block), rows):
                piece = self.backend.xp.ascontiguousarray(block[start : start + rows], dtype)
                yield slice(offset, offset + len(piece)), piece
                offset += len(piece)
        if offset != self.n:
            raise ValueError(f"expected the same {self.n} rows at every pass over {self._name}, got {offset}")


def _check_agreement(block: Array, name: str, like: Array) -> None:
    get_backend(block, like)
    if block.shape[1] != like.shape[1]:
        raise ValueError(f"expected {name} of shape (n, {like.shape[1]}), got (n, {block.shape[1]})")
    if block.dtype != like.dtype:
        raise TypeError(f"expected {name} of dtype {like.dtype}, got {block.dtype}")


def _check_apart(array: Array, name: str, out: Array | None) -> None:
    """Refuse an argument that would be overwritten by the result."""
    if out is not None and get_backend(array, out).xp.may_share_memory(array, out):
        raise ValueError(f"expected out in memory of its own, got memory of {name}")


def _result(out: Array | None, n_test: int, train: _Rows) -> Array:
    """Memory for the scores."""
    shape, dtype = (n_test, train.n), train.like.dtype
    if out is None:
        return train.backend.xp.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"expected out of shape {shape} and dtype {dtype}, got {out.shape} and {out.dtype}")
    if train.backend.name == "numpy" and not out.flags.writeable:
        raise ValueError("expected a writeable out, got a read-only one")
    return out


def _room(backend: Backend, side: int, row: int, max_memory: int | None) -> int:
    """Bytes left beside a float64 matrix that is formed and factorized; at least those of a `row`."""
    # Products and factors are new arrays with CuPy.
    numbers = 3 * side * side if backend.name == "cupy" else side * side + 4 * min(_SQUARE, side) * side
    return memory_budget(max_memory, backend, smallest=_WIDE * numbers + row) - _WIDE * numbers


def _factorize(backend: Backend, matrix: Array, reg: float, max_jitter: float | None) -> CholeskyFactor:
    """Factor in the memory of `matrix`, whose lower triangle is given."""
    mirror(backend, matrix, upper=False)
    return factorize_in_place(backend, matrix, reg, jitter_ladder(matrix, max_jitter))


def _fitting(room: int, row: int) -> int:
    return max(1, min(_ROWS, room // row))


def _solve_rows(factor: CholeskyFactor, rows: Array, dtype: Any) -> Array:
    """Rows times the inverse of the factorized matrix."""
    return get_backend(rows).xp.ascontiguousarray(factor.solve(rows.T).T, dtype)


def _primal_tiles(train: _Rows, test: _Rows, reg: float, max_jitter: float | None, max_memory: int | None) -> Tiles:
    """Tiles Z Phi^T, where Z = Phi_test (Phi^T Phi + reg I)^-1."""
    backend, m, itemsize = train.backend, train.m, int(train.like.dtype.itemsize)
    per_test = 3 * _WIDE * m  # a row, its copy in the solver, and its solution
    room = _room(backend, m, 2 * per_test, max_memory)
    gram = backend.xp.zeros((m, m), "float64")
    for _, piece in train.pieces(_fitting(room, _WIDE * m), "float64"):
        add_gram(backend, piece, gram)
    factor = _factorize(backend, gram, reg, max_jitter)
    for rows, piece in test.pieces(_fitting(room // 2, per_test), "float64"):
        solved = _solve_rows(factor, piece, train.like.dtype)
        per_train = itemsize * (m + 2 * len(solved))  # the tile before is still the caller's
        for columns, block in train.pieces(_fitting(room // 2, per_train)):
            yield rows, columns, solved @ block.T


def _dual_tiles(train: _Rows, test: _Rows, reg: float, max_jitter: float | None, max_memory: int | None) -> Tiles:
    """Tiles of all columns, Phi_test Phi^T (Phi Phi^T + reg I)^-1."""
    backend, n, m = train.backend, train.n, train.m
    per_test = _WIDE * (m + 5 * n)  # a row, three of the solver, the scores, and those of the tile before
    room = _room(backend, n, 2 * max(per_test, _WIDE * (m + 1)), max_memory)
    gram = backend.xp.zeros((n, n), "float64")
    size = _fitting(room, _WIDE * (2 * m + n))
    for rows, piece in train.pieces(size, "float64"):
        _cross(train, piece, size, gram[rows, : rows.stop])
    factor = _factorize(backend, gram, reg, max_jitter)
    for rows, piece in test.pieces(_fitting(room // 2, per_test), "float64"):
        cross = backend.xp.empty((len(piece), n), "float64")
        _cross(train, piece, _fitting(room // 2, _WIDE * (m + len(piece))), cross)
        yield rows, slice(None), _solve_rows(factor, cross, train.like.dtype)


def _cross(train: _Rows, left: Array, size: int, out: Array) -> None:
    """Write the products of `left` with the first training rows, as many as `out` has columns."""
    for columns, block in train.pieces(size, "float64"):
        if columns.start >= out.shape[1]:
            break
        out[:, columns] = (left @ block.T)[:, : out.shape[1] - columns.start]
