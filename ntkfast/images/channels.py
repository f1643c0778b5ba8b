"""Means and scales of channels, and of single images."""

from dataclasses import dataclass

from .._check import array_backend, check_dtype, check_finite, check_images, check_range, quiet
from .._typing import Array
from ..backends import get_backend
from ._blocks import by_blocks, centered, mean_image

__all__ = ["ChannelStatistics", "channel_statistics", "normalize"]


@dataclass(frozen=True, slots=True, eq=False)
class ChannelStatistics:
    """Mean and standard deviation of every channel, made by `channel_statistics`.

    Attributes
    ----------
    mean, std : array, shape (c,), float64
        A channel with std = 0 was constant: it becomes 0 everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> statistics = ChannelStatistics(np.array([0.5, 2.0]), np.array([0.25, 0.0]))
    >>> statistics.apply(np.array([[[[1.0, 7.0]]]]))
    array([[[[2., 0.]]]])
    """

    mean: Array
    std: Array

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("std", self.std)):
            array_backend(value, name)
            check_dtype(value, name)
            check_finite(value, name)
        get_backend(self.mean, self.std)
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape or bool((self.std < 0).any()):
            raise ValueError(
                f"expected mean and std >= 0 of shape (channels,), got {self.mean.shape} and {self.std.shape}"
            )

    def apply(self, x: Array) -> Array:
        """Standardize images: (x - mean) / std.

        Parameters
        ----------
        x : array, shape (n, h, w, c), float32 or float64

        Returns
        -------
        array, shape (n, h, w, c)

        Raises
        ------
        TypeError, ValueError
            Not finite images with c channels in float32 or float64.
        OverflowError
            A result leaves the range of its dtype.
        """
        return by_blocks(self._checked(x, "x"), lambda part: self._scaled(part - self.mean), "standardized images")

    def inverse(self, z: Array) -> Array:
        """Images that `apply` makes `z`: mean + std z. Where a channel was constant, its mean.

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
        return by_blocks(self._checked(z, "z"), lambda part: part * self.std + self.mean, "images")

    def vjp(self, ct: Array) -> Array:
        """Gradient by x of the sum of ``ct * apply(x)``.

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
        return by_blocks(self._checked(ct, "ct"), self._scaled, "the gradient")

    def _checked(self, x: Array, name: str) -> Array:
        x, _ = check_images(x, name)
        if x.shape[3] != self.mean.shape[0]:
            raise ValueError(f"expected {name} of {self.mean.shape[0]} channels, got {x.shape[3]}")
        get_backend(x, self.mean)
        return x

    def _scaled(self, part: Array) -> Array:
        """Over std, and 0 for constant channels."""
        constant = self.std == 0
        return get_backend(part).xp.where(constant, 0.0, part / (self.std + constant))


def channel_statistics(x: Array) -> ChannelStatistics:
    """Mean and standard deviation of every channel over all images and pixels.

    Parameters
    ----------
    x : array, shape (n, h, w, c), float32 or float64
        Training images.

    Returns
    -------
    ChannelStatistics
        Whose ``apply(x)`` has mean 0 and mean square 1 in every channel, but where x is constant: 0.

    Raises
    ------
    TypeError, ValueError
        Not finite images of float32 or float64.
    OverflowError
        A sum leaves the range of float64.

    Notes
    -----
    Cost: two passes over the images. Determinism: bitwise on one backend.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(24.0).reshape(2, 2, 2, 3)
    >>> z = channel_statistics(x).apply(x)
    >>> bool(np.allclose(z.mean(axis=(0, 1, 2)), 0)), bool(np.allclose(z.std(axis=(0, 1, 2)), 1))
    (True, True)
    """
    x, backend = check_images(x, "x")
    with quiet():
        mean = mean_image(x).mean(axis=(0, 1))
        spread = x.max(axis=(0, 1, 2)).astype(mean.dtype) - x.min(axis=(0, 1, 2))
        unit = spread + (spread == 0)  # so that no square leaves the range
        squares = sum(((part / unit) ** 2).sum(axis=0) for part in centered(x, mean))
        std = check_range(unit * (squares.mean(axis=(0, 1)) / len(x)) ** 0.5, "the standard deviation")
    # the mean of a constant channel is rounded, so that what was found may not be 0
    return ChannelStatistics(mean, backend.xp.where(spread == 0, 0.0, std))


def normalize(x: Array) -> Array:
    """Every image by itself to mean 0 and mean square 1 over its pixels and channels.

    Parameters
    ----------
    x : array, shape (n, h, w, c), float32 or float64

    Returns
    -------
    array, shape (n, h, w, c)
        Constant images become 0.

    Raises
    ------
    TypeError, ValueError
        Not finite images of float32 or float64.
    OverflowError
        A sum leaves the range of float64.

    Notes
    -----
    Contrast normalization, common before `zca`, which takes a factor that all images share (mean square 1, or norm 1)
    out again. It drops brightness and contrast of an image and has no inverse.

    References
    ----------
    Coates, Ng, Lee. An analysis of single-layer networks in unsupervised feature learning. AISTATS 2011.

    Examples
    --------
    >>> import numpy as np
    >>> normalize(np.array([[[[1.0], [3.0]]], [[[5.0], [5.0]]]])).reshape(2, 2)
    array([[-1.,  1.],
           [ 0.,  0.]])
    """
    x, _ = check_images(x, "x")
    return by_blocks(x, _normalized, "normalized images")


def _normalized(x: Array) -> Array:
    xp, axes = get_backend(x).xp, (1, 2, 3)
    constant = x.max(axis=axes, keepdims=True) == x.min(axis=axes, keepdims=True)
    x = xp.where(constant, 0.0, x - x.mean(axis=axes, keepdims=True))
    x = x / (abs(x).max(axis=axes, keepdims=True) + constant)  # so that no square leaves the range
    return x / ((x * x).mean(axis=axes, keepdims=True) + constant) ** 0.5
