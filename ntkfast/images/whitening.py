"""Regularized ZCA whitening.

Letters: n images of d = h w c entries; S (m,) eigenvalues and V (d, m) eigenvectors of their covariance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .._check import (
    array_backend,
    check_dtype,
    check_finite,
    check_images,
    check_range,
    check_real,
    quiet,
    set_checked,
)
from .._typing import Array
from ..backends import get_backend
from ._blocks import by_blocks, centered, mean_image

__all__ = ["ZCA", "zca"]

_EPS = 2.0**-52
_LEAST_VARIANCE = 1e-290  # below it, squares lose digits


@dataclass(frozen=True, slots=True, eq=False)
class ZCA:
    r"""Regularized whitening z = V (S + r)^{-1/2} V^T (x - mean), made by `zca`.

    S and V are eigenvalues and eigenvectors of the covariance of the training images: the images of the fit have
    covariance V S (S + r)^{-1} V^T afterwards, which is 1 where S is far above r and 0 far below. Of all matrices that
    do this, the symmetric one leaves images closest to what they were.

    Attributes
    ----------
    mean : array, shape (h, w, c), float64
    eigenvalues : array, shape (m,), float64
        S, ascending; those that are 0 within rounding are left out.
    eigenvectors : array, shape (d, m), float64
        V, one per column.
    shift : float
        r > 0.

    Notes
    -----
    All but the m directions are scaled alike, by r^{-1/2}, so that the matrix is never needed:
    r^{-1/2} (I + V ((1 + S / r)^{-1/2} - 1) V^T). Cost: 4 n d m operations for n images, or 2 d^2 (n + m) if that is
    less. Determinism: to rounding. Backends: numpy, cupy, the one of the images of the fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).reshape(4, 1, 2, 1)  # S = 4.5 and 0.5
    >>> whitening = zca(x, reg=0.2)
    >>> whitening.apply(x).reshape(4, 2).round(3)
    array([[ 1.342,  0.   ],
           [-1.342,  0.   ],
           [ 0.   ,  1.   ],
           [ 0.   , -1.   ]])
    """

    mean: Array
    eigenvalues: Array
    eigenvectors: Array
    shift: float

    def __post_init__(self) -> None:
        for name, value in (
            ("mean", self.mean),
            ("eigenvalues", self.eigenvalues),
            ("eigenvectors", self.eigenvectors),
        ):
            array_backend(value, name)
            check_dtype(value, name)
            check_finite(value, name)
        get_backend(self.mean, self.eigenvalues, self.eigenvectors)
        set_checked(self, shift=check_real(self.shift, "shift", minimum=0, strict=True))
        shapes = self.mean.shape, self.eigenvalues.shape, self.eigenvectors.shape
        if len(shapes[0]) != 3 or shapes[1] != shapes[2][1:] or shapes[2][:1] != (self.mean.size,):
            raise ValueError(f"expected mean (h, w, c), eigenvalues (m,), eigenvectors (h w c, m), got shapes {shapes}")
        if bool((self.eigenvalues < 0).any()):
            raise ValueError(f"expected eigenvalues of at least 0, got {float(self.eigenvalues.min())}")

    @property
    def matrix(self) -> Array:
        """V (S + r)^{-1/2} V^T of shape (d, d), float64: 2 d^2 m operations."""
        xp, v = get_backend(self.mean).xp, self.eigenvectors
        return (xp.eye(v.shape[0]) + xp.matmul(v * (1 / self._roots() - 1), v.T)) * self.shift**-0.5

    def apply(self, x: Array) -> Array:
        """Whiten images.

        Parameters
        ----------
        x : array, shape (n, h, w, c), float32 or float64

        Returns
        -------
        array, shape (n, h, w, c)

        Raises
        ------
        TypeError, ValueError
            Not finite images of the shape of the fit in float32 or float64.
        OverflowError
            A result leaves the range of its dtype.
        """
        x = self._checked(x, "x")
        act = self._map(len(x), 1 / self._roots() - 1, self.shift**-0.5)
        return by_blocks(x, lambda part: act(part - self.mean), "whitened images")

    def inverse(self, z: Array) -> Array:
        """Images that `apply` makes `z`: mean + V (S + r)^{1/2} V^T z.

        Parameters
        ----------
        z : array, shape (n, h, w, c), float32 or float64

        Returns
        -------
        array, shape (n, h, w, c)

        Raises
        ------
        TypeError, ValueError, OverflowError
            As in `apply`.
        """
        z = self._checked(z, "z")
        act = self._map(len(z), self._roots() - 1, self.shift**0.5)
        return by_blocks(z, lambda part: act(part) + self.mean, "images")

    def vjp(self, ct: Array) -> Array:
        """Gradient by x of the sum of ``ct * apply(x)``: the matrix, which is symmetric, times ct.

        Parameters
        ----------
        ct : array, shape (n, h, w, c), float32 or float64

        Returns
        -------
        array, shape (n, h, w, c)

        Raises
        ------
        TypeError, ValueError, OverflowError
            As in `apply`.
        """
        ct = self._checked(ct, "ct")
        return by_blocks(ct, self._map(len(ct), 1 / self._roots() - 1, self.shift**-0.5), "the gradient")

    def _roots(self) -> Array:
        """(1 + S / r)^{1/2}."""
        return (1 + self.eigenvalues / self.shift) ** 0.5

    def _map(self, n: int, weights: Array, factor: float) -> Callable[[Array], Array]:
        """The map x -> factor (x + V diag(weights) V^T x), in the order that is cheaper for n images."""
        v = self.eigenvectors
        d, m = v.shape
        right = (v * weights).T
        whole = v @ right if d * (n + m) < 2 * n * m else None

        def act(x: Array) -> Array:
            rows = x.reshape(len(x), d)
            moved = rows @ v @ right if whole is None else rows @ whole
            return (factor * (rows + moved)).reshape(x.shape)

        return act

    def _checked(self, x: Array, name: str) -> Array:
        x, _ = check_images(x, name, self.mean.shape)
        get_backend(x, self.mean)
        return x


def zca(x: Array, reg: float = 0.1) -> ZCA:
    """Fit regularized ZCA whitening.

    Parameters
    ----------
    x : array, shape (n, h, w, c), float32 or float64
        Training images, n >= 2, best after `channel_statistics` or `normalize`.
    reg : float
        The shift r in units of the mean of all d eigenvalues of the covariance, > 0. Directions with less variance
        than r are not raised to 1, because they are mostly noise.

    Returns
    -------
    ZCA

    Raises
    ------
    TypeError, ValueError
        Not finite images of float32 or float64, images that are all equal, or `reg` not above the rounding of the
        largest eigenvalue.
    OverflowError
        A covariance leaves the range of float64.

    Notes
    -----
    Cost: 2 min(n, d)^2 max(n, d) operations for the covariance, or for inner products of images if there are fewer of
    those than entries of an image, and about 9 min(n, d)^3 for its eigenvectors. Memory: two matrices of min(n, d)^2
    numbers, and one of n d where n < d.
    Error: about 2e-16 S_max / r relative to the whitening's norm, r^{-1/2}.

    References
    ----------
    Bell, Sejnowski. The "independent components" of natural scenes are edge filters. Vision Research 37, 1997.
    Nguyen, Novak, Xiao, Lee. Dataset distillation with infinitely wide convolutional networks. NeurIPS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).random((50, 4, 4, 3), np.float32)
    >>> whitening = zca(x, reg=0.1)
    >>> z = whitening.apply(x)
    >>> bool(np.allclose(whitening.inverse(z), x, atol=1e-5))
    True
    """
    x, _ = check_images(x, "x")
    reg, d = check_real(reg, "reg", minimum=0, strict=True), math.prod(x.shape[1:])
    if bool((x.max(axis=0) == x.min(axis=0)).all()):
        raise ValueError(f"expected x of different images, got {len(x)} that are all equal")
    with quiet():
        mean = check_range(mean_image(x), "the mean")
        values, vectors = _spectrum(x, mean)
    average = float(values.sum()) / d
    if average < _LEAST_VARIANCE:
        raise ValueError(f"expected x with a mean variance of at least {_LEAST_VARIANCE:.0e}, got {average:.1e}")
    least = _EPS * float(values[-1]) / average
    if reg <= least:
        raise ValueError(f"expected reg above {least:.1e}, the rounding of the largest eigenvalue, got {reg:.1e}")
    return ZCA(mean, values, vectors, reg * average)


def _spectrum(x: Array, mean: Array) -> tuple[Array, Array]:
    """Eigenvalues (m,) and eigenvectors (d, m) of the covariance, without those that are 0 within rounding.

    Of fewer images than entries, X X^T has the same eigenvalues as X^T X, and X^T carries its eigenvectors over.
    """
    xp, (n, d) = get_backend(x).xp, (x.shape[0], mean.size)
    if n >= d:
        parts = (part.reshape(-1, d) for part in centered(x, mean))
        gram = sum(xp.matmul(part.T, part) for part in parts)
    else:
        rows = (x.astype(xp.float64) - mean).reshape(n, d)
        gram = xp.matmul(rows, rows.T)
    values, vectors = xp.linalg.eigh(check_range(gram / n, "the covariance"))
    rank = int((values > 4 * max(n, d) * _EPS * values[-1]).sum())
    values, vectors = values[len(values) - rank :], vectors[:, len(values) - rank :]
    return values, vectors if n >= d else xp.matmul(rows.T, vectors / (n * values) ** 0.5)
