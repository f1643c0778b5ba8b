"""Nystroem features: the exact kernel between a row and a few landmarks, whitened."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from .._check import check_choice, check_int, check_matrix
from .._typing import Array
from ..analytic import nngp, ntk, ntk_vjp
from ..backends import Backend, get_backend
from ..errors import NotPositiveDefiniteError
from ._base import FeatureMap
from .pivoted_cholesky import random_pivoted_cholesky

__all__ = ["NystroemFeatures", "nystroem"]

KERNELS = {"ntk": ntk, "nngp": nngp}


@dataclass(frozen=True, slots=True, eq=False)
class NystroemFeatures(FeatureMap):
    r"""Features phi(x) = L^{-1} k(Z, x) of landmarks Z, with k(Z, Z) = L L^T.

    phi(x).phi(y) = k(x, Z) k(Z, Z)^{-1} k(Z, y): exact where x or y is a landmark, and k minus a
    positive semidefinite kernel elsewhere. `nystroem` chooses landmarks.

    Parameters
    ----------
    landmarks : array, shape (m, d), float32 or float64
        Rows Z, no two of them (positive multiples of) one another.
    depth, W_std, b_std, activation
        Kernel, as in `ntkfast.analytic.ntk`.
    kind : {"ntk", "nngp"}
        Which kernel.

    Raises
    ------
    TypeError, ValueError
        Landmarks of wrong shape or dtype, or kernel parameters that `ntkfast.analytic.ntk` refuses.
    NotPositiveDefiniteError
        k(Z, Z) is singular within rounding: a landmark is zero, or repeated.

    Notes
    -----
    Error: that of the kernel at landmarks; `nystroem` bounds its mean elsewhere.
    Cost: m^3 / 3 operations in float64 once; n m kernel entries and 2 n m^2 operations for n rows.
    Gradient: exact, through `ntkfast.analytic.ntk_vjp`, whose finite value at a zero row it takes over (with biases
    the kernel is smooth there; without, it is a mean over directions, not 0).
    Zero rows: with b_std > 0 their kernel, and so their features, are not zero.
    Determinism: to rounding. Backends: numpy, cupy; `x` must live where the landmarks do.

    References
    ----------
    Williams, Seeger. Using the Nystroem method to speed up kernel machines. NIPS 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import NystroemFeatures
    >>> x = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> phi = NystroemFeatures(x[:2], depth=2)
    >>> bool(np.allclose(phi(x) @ phi(x[:2]).T, phi.kernel(x, x[:2])))  # exact where one of two is a landmark
    True
    """

    landmarks: Array
    _: KW_ONLY
    depth: int
    W_std: float = math.sqrt(2)
    b_std: float = 0.0
    activation: Any = "relu"
    kind: str = "ntk"
    in_dim: int = field(init=False)
    n_features: int = field(init=False)
    _whitening: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        landmarks, _ = check_matrix(self.landmarks, "landmarks")
        check_choice(self.kind, "kind", KERNELS)
        object.__setattr__(self, "landmarks", landmarks.copy())  # the caller may write to the array later
        object.__setattr__(self, "n_features", landmarks.shape[0])
        object.__setattr__(self, "in_dim", landmarks.shape[1])
        object.__setattr__(self, "_whitening", self._invert_root())

    def _invert_root(self) -> Array:
        """L^{-T} (m, m) in the landmarks' dtype, by way of float64, whose rounding its condition can take."""
        backend = get_backend(self.landmarks)
        gram = backend.to_numpy(self.kernel(self.landmarks.astype(np.float64)))
        root = _cholesky(gram)
        if root is None:
            raise NotPositiveDefiniteError(
                f"expected {self.n_features} landmarks with a positive definite kernel matrix, "
                "got a singular one; nystroem() leaves zero and repeated rows out"
            )
        return backend.xp.asarray(_invert_triangle(root).T, dtype=self.landmarks.dtype, order="C")

    def _kernel(self, x1: Array, x2: Array | None) -> Array:
        return KERNELS[self.kind](x1, x2, **self._parameters())

    def _parameters(self) -> dict[str, Any]:
        return {"depth": self.depth, "W_std": self.W_std, "b_std": self.b_std, "activation": self.activation}

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        landmarks, whitening = self._tables(x)
        backend.xp.matmul(self.kernel(x, landmarks), whitening, out=out)

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        landmarks, whitening = self._tables(x)
        return ntk_vjp(x, landmarks, ct @ whitening.T, kind=self.kind, **self._parameters()).x1

    def _tables(self, x: Array) -> tuple[Array, Array]:
        return self.landmarks.astype(x.dtype, copy=False), self._whitening.astype(x.dtype, copy=False)

    def _row_bytes(self, itemsize: int) -> int:
        return (3 * self.n_features + 2 * self.in_dim) * itemsize


def _cholesky(gram: Any) -> Any | None:
    """Cholesky factor of a float64 matrix, or None where a pivot is nothing but rounding error."""
    try:
        root = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return None
    smallest = 4 * float(np.finfo(np.float64).eps) * math.sqrt(len(gram))
    return root if bool((root.diagonal() ** 2 > smallest * gram.diagonal()).all()) else None


def _invert_triangle(root: Any) -> Any:
    from scipy.linalg.lapack import dtrtri

    inverse, info = dtrtri(root, lower=1)
    assert info == 0, "a Cholesky factor has a positive diagonal"
    return inverse


def nystroem(
    x: Array,
    n_features: int,
    *,
    depth: int,
    W_std: float = math.sqrt(2),
    b_std: float = 0.0,
    activation: Any = "relu",
    kind: str = "ntk",
    seed: int,
    block_size: int = 128,
) -> NystroemFeatures:
    """Nystroem features with landmarks drawn from `x` by randomly pivoted Cholesky.

    Parameters
    ----------
    x : array, shape (n, d), float32 or float64
        Sample to draw the landmarks from.
    n_features : int
        Wanted number of landmarks.
    depth, W_std, b_std, activation, kind
        Kernel, as in `NystroemFeatures`.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.
    block_size : int
        As in `random_pivoted_cholesky`.

    Returns
    -------
    NystroemFeatures
        With fewer features than wanted where fewer rows reproduce the kernel matrix of `x` to
        rounding, for instance because `x` has fewer different rows: look at its `n_features`.

    Raises
    ------
    TypeError, ValueError
        A bad `x` or parameter, or an `x` whose kernel is zero (all rows are zero).

    Notes
    -----
    Error: the mean of trace(K - phi phi^T) over `x` is at most (1 + eps) times that of the best matrix of rank k
    if n_features >= k / eps + k log(1 / (eps eta)); see `random_pivoted_cholesky`.
    Cost: n m kernel entries, n m^2 multiply-adds, n m numbers of memory, m = n_features. The n x n
    kernel matrix is never formed. Draw from a subsample where n m numbers are too many.
    Determinism: the landmarks depend on `x`, seed and block size, and, rarely, on rounding.
    Backends: numpy, cupy.

    References
    ----------
    Chen, Epperly, Tropp, Webber. Randomly pivoted Cholesky: practical approximation of a kernel matrix
    with few entry evaluations. Comm. Pure Appl. Math. 2025 (arXiv 2207.06503).

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import nystroem
    >>> x = np.random.default_rng(0).standard_normal((200, 3))
    >>> phi = nystroem(x, 50, depth=2, seed=0)
    >>> z = phi.landmarks
    >>> bool(np.allclose(phi(x) @ phi(z).T, phi.kernel(x, z)))
    True
    """
    x, _ = check_matrix(x, "x")
    check_int(n_features, "n_features", minimum=1)
    evaluate = KERNELS[check_choice(kind, "kind", KERNELS)]
    parameters = {"depth": depth, "W_std": W_std, "b_std": b_std, "activation": activation}

    def block(rows: Array | None, columns: Array) -> Array:
        return evaluate(x if rows is None else x[rows], x[columns], **parameters)

    diagonal = evaluate(x, diagonal=True, **parameters)
    _, pivots = random_pivoted_cholesky(block, n_features, diagonal=diagonal, seed=seed, block_size=block_size)
    if not len(pivots):
        raise ValueError("expected x with a kernel that is not zero, got rows of zeros")
    return NystroemFeatures(x[pivots], kind=kind, **parameters)
