"""What every feature map of images shares: the interface, the checks and the blocks of images.

An image map is a frozen dataclass that derives from `ImageFeatureMap` and supplies

- ``_write(backend, x, out)``: the features of a block of checked images;
- ``_pullback(backend, x, ct)``: their vector-Jacobian product;
- ``_image_bytes(itemsize)``: bytes of temporaries per image, so that blocks obey ``max_memory``.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import Any

from ..._check import (
    check_cotangent,
    check_images,
    check_int,
    check_range,
    check_seed,
    quiet,
    set_checked,
)
from ..._typing import Array
from ...backends import Backend
from ...convolutional import cntk
from ...layers import Layer
from .._base import row_blocks
from ._network import Conv, Step, image_steps

__all__ = ["ImageFeatureMap"]

# Bytes of temporaries of a block of images on the CPU: more would only leave the cache.
CPU_BYTES = 2**25


class ImageFeatureMap(abc.ABC):
    """A map phi of images such that phi(x) . phi(y) approximates the infinite-width NTK of a convolutional network.

    Attributes
    ----------
    network : Layer
        `layers.Sequential` of Conv2d, Dense, ReLU, AvgPool2d, GlobalAvgPool and Flatten; channels play no role.
    in_shape : (int, int, int)
        Height, width and channels of the images.
    n_features : int
        Width m of the rows that the map returns.
    seed : int
        Key of the random stream.
    """

    __slots__ = ()

    network: Layer
    in_shape: tuple[int, int, int]
    n_features: int
    seed: int

    def __call__(self, x: Array, *, max_memory: int | None = None) -> Array:
        """Features of the images `x`; the same as `apply`."""
        return self.apply(x, max_memory=max_memory)

    def apply(self, x: Array, *, max_memory: int | None = None) -> Array:
        """Features of the images `x`.

        Parameters
        ----------
        x : array, shape (n, *in_shape), float32 or float64
            Images, channels last.
        max_memory : int, optional
            Bytes that temporaries may take, the result and the map's own weights not counted;
            default a quarter of what is free.

        Returns
        -------
        array, shape (n, n_features), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError
            `x` is not such an array, or has NaN or inf.
        MemoryBudgetError
            `max_memory` is below what one image needs.
        OverflowError
            The features leave the range of the dtype, or with biases the squares of pixels do.

        Notes
        -----
        Determinism: does not depend on `max_memory`, up to the rounding of matrix products.
        """
        x, backend = check_images(x, "x", self.in_shape)
        out = backend.xp.empty((x.shape[0], self.n_features), x.dtype)
        for images in self._blocks(x, backend, max_memory):
            with quiet():
                unit, exponents = self._scaled(backend, x[images])
                self._write(backend, unit, out[images])
                if exponents is not None:
                    out[images] = backend.xp.ldexp(out[images], exponents[:, None])
        return check_range(out, "the features")

    def vjp(self, x: Array, ct: Array, *, max_memory: int | None = None) -> Array:
        """Vector-Jacobian product: the gradient of sum(ct * phi(x)) with respect to the images.

        Parameters
        ----------
        x : array, shape (n, *in_shape), float32 or float64
        ct : array, shape (n, n_features), dtype and backend of `x`
            Cotangent of the features.
        max_memory : int, optional
            As in `apply`.

        Returns
        -------
        array, shape (n, *in_shape), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError, MixedBackendError
            Arrays of wrong shape or dtype, of two backends, or with NaN or inf.
        MemoryBudgetError, OverflowError
            As `apply`.
        """
        x, backend = check_images(x, "x", self.in_shape)
        ct = check_cotangent(ct, "ct", (x.shape[0], self.n_features), x)
        out = backend.xp.empty_like(x)
        for images in self._blocks(x, backend, max_memory):
            with quiet():
                unit, _ = self._scaled(backend, x[images])  # the gradient of what has degree 1 has degree 0
                out[images] = self._pullback(backend, unit, ct[images])
        return check_range(out, "the gradient")

    def kernel(self, x1: Array, x2: Array | None = None) -> Array:
        """Exact kernel that phi(x1) @ phi(x2).T approximates: `convolutional.cntk` of the network.

        Parameters
        ----------
        x1 : array, shape (n1, *in_shape), float32 or float64
        x2 : array, shape (n2, *in_shape), optional
            None means `x1`.

        Returns
        -------
        array, shape (n1, n2), dtype and backend of `x1`

        Raises
        ------
        TypeError, ValueError, MixedBackendError, OverflowError
            As `ntkfast.convolutional.cntk`.

        Notes
        -----
        Cost: quadratic in the number of pixels of an image, where the features are linear.
        """
        check_images(x1, "x1", self.in_shape)
        if x2 is not None:
            check_images(x2, "x2", self.in_shape)
        return cntk(self.network, x1, x2)

    def _check_fields(self, fewest_features: int = 1) -> None:
        """Check and store the fields that all these maps have."""
        set_checked(self, in_shape=check_in_shape(self.in_shape))
        set_checked(self, n_features=check_int(self.n_features, "n_features", minimum=fewest_features))
        set_checked(self, seed=check_seed(self.seed))
        if not isinstance(self.network, Layer):
            raise TypeError(f"expected network to be a layer such as Sequential, got {type(self.network).__name__}")
        image_steps(self.network, self.in_shape)

    @property
    def _steps(self) -> tuple[Step, ...]:
        """The network as a row of simple steps."""
        return image_steps(self.network, self.in_shape)

    def _blocks(self, x: Array, backend: Backend, max_memory: int | None) -> Iterator[slice]:
        each = self._image_bytes(x.dtype.itemsize)
        return row_blocks(x.shape[0], each, backend, max_memory, cpu_rows=max(1, CPU_BYTES // max(1, each)))

    def _scaled(self, backend: Backend, x: Array) -> tuple[Array, Array | None]:
        """Images times powers of two that bring them near 1, whose squares leave no range, and exponents to undo it.

        Only where features scale with the images: without biases.
        """
        if any(isinstance(step, Conv) and step.b_std > 0 for step in self._steps):
            return x, None
        _, exponents = backend.xp.frexp(abs(x).max(axis=(1, 2, 3)))
        return backend.xp.ldexp(x, -exponents[:, None, None, None]), exponents

    @abc.abstractmethod
    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        """Write the features of the checked images `x` (b, h, w, c) into `out` (b, m), both C-contiguous."""

    @abc.abstractmethod
    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        """Gradient (b, h, w, c) of sum(ct * phi(x)) for checked images `x` (b, h, w, c), `ct` (b, m)."""

    @abc.abstractmethod
    def _image_bytes(self, itemsize: int) -> int:
        """Bytes of temporaries that one image of a block takes in `_write` or `_pullback`."""


def check_in_shape(in_shape: Any) -> tuple[int, int, int]:
    """Return the shape of an image as (height, width, channels)."""
    if not isinstance(in_shape, Sequence) or isinstance(in_shape, str) or len(in_shape) != 3:
        raise ValueError(f"expected in_shape to be (height, width, channels), got {in_shape!r}")
    h, w, c = (check_int(size, "in_shape", minimum=1) for size in in_shape)
    return h, w, c
