"""Windows that slide over images: sizes, padding, and the pixels that a tap reads.

Letters: (h, w) pixels of the input, (rows, columns) places of the window; everything is a pair, one per axis.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .._check import check_int
from ._base import Shape

__all__ = ["Padding", "Pair", "Window", "as_padding", "as_sizes", "check_image", "window"]

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = str | tuple[Pair, ...]  # "SAME", "VALID", "CIRCULAR", or (before, after) per axis


def as_sizes(value: Any, name: str, axes: int) -> tuple[int, ...]:
    """A positive integer per axis; one integer stands for all axes."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        value = (value,) * axes
    if len(value) != axes:
        raise ValueError(f"expected {name} to be an integer or {axes} of them, got {value!r}")
    return tuple(check_int(size, name, minimum=1) for size in value)


def as_padding(value: Any, axes: int, names: tuple[str, ...] = ("SAME", "VALID")) -> Padding:
    """Padding as one of `names` or a pair (before, after) per axis; one integer stands for all four sides."""
    if isinstance(value, str):
        if value not in names:
            raise ValueError(f"expected padding to be {_spec(axes, names)}; got {value!r}")
        return value
    if not isinstance(value, Sequence):
        amount = check_int(value, "padding")
        return ((amount, amount),) * axes
    pairs = (value,) if axes == 1 and not any(isinstance(side, Sequence) for side in value) else tuple(value)
    if len(pairs) != axes or any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"expected padding to be {_spec(axes, names)}; got {value!r}")
    return tuple((check_int(pair[0], "padding"), check_int(pair[1], "padding")) for pair in pairs)


def _spec(axes: int, names: tuple[str, ...]) -> str:
    pairs = "(before, after)" if axes == 1 else "((top, bottom), (left, right))"
    return f"{', '.join(map(repr, names))}, an integer, or {pairs}"


@dataclass(frozen=True, slots=True)
class Window:
    """Places of a window on an image.

    Tap (a, b) at place (r, s) reads pixel (r stride[0] + a dilation[0] - before[0], ...); zeros outside of the image,
    or, if circular, the image again: pixels modulo its size.

    Attributes
    ----------
    size : (h, w) of the input
    kernel, stride, dilation, before : pairs
    places : (rows, columns) of the output
    is_circular : bool
    """

    size: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    places: Pair
    is_circular: bool = False

    @property
    def taps(self) -> int:
        """Number of taps of the kernel."""
        return math.prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether every place reads its own pixel and no other."""
        return self.taps == 1 and self.stride == (1, 1) and self.before == (0, 0) and self.places == self.size

    @property
    def is_tiling(self) -> bool:
        """Whether every pixel belongs to exactly one place."""
        covered = all(p * k == s for p, k, s in zip(self.places, self.kernel, self.size, strict=True))
        return covered and self.stride == self.kernel and self.dilation == (1, 1) and self.before == (0, 0)

    @property
    def _reach(self) -> Pair:
        """Pixels from the first tap to the last."""
        return (self.kernel[0] - 1) * self.dilation[0], (self.kernel[1] - 1) * self.dilation[1]

    def rows(self, first: int, last: int) -> "Window":
        """The window at some rows of its places, still on the whole image."""
        before = (self.before[0] - first * self.stride[0], self.before[1])
        places = (last - first, self.places[1])
        return Window(self.size, self.kernel, self.stride, self.dilation, before, places, self.is_circular)

    def transposed(self) -> "Window":
        """For stride 1: the window on the output that reads, with its taps reversed, what reaches a pixel."""
        reach = self._reach
        before = (reach[0] - self.before[0], reach[1] - self.before[1])
        return Window(self.places, self.kernel, self.stride, self.dilation, before, self.size, self.is_circular)

    def unrolled(self) -> "Window":
        """For a circular window: the same places on an image that holds what they read in a row, without padding."""
        size = [(p - 1) * t + r + 1 for p, t, r in zip(self.places, self.stride, self._reach, strict=True)]
        return Window(_pair(size), self.kernel, self.stride, self.dilation, (0, 0), self.places)

    def blocks(self) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """For a circular window: the blocks of pixels that the unrolled image consists of, and where they are in it."""
        size = self.unrolled().size
        for y, r in _runs(-self.before[0], size[0], self.size[0]):
            for z, s in _runs(-self.before[1], size[1], self.size[1]):
                yield (y, z), (r, s)

    def slices(self) -> Iterator[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
        """For every tap that reads the image: its number, the pixels it reads, and the places at which it does."""
        for tap in range(self.taps):
            a, b = divmod(tap, self.kernel[1])
            y, r = self._along(0, a)
            z, s = self._along(1, b)
            if r.start < r.stop and s.start < s.stop:
                yield tap, (y, z), (r, s)

    def _along(self, axis: int, tap: int) -> tuple[slice, slice]:
        offset, stride = tap * self.dilation[axis] - self.before[axis], self.stride[axis]
        first = max(-(offset // stride), 0)
        last = min((self.size[axis] - 1 - offset) // stride, self.places[axis] - 1)
        start = first * stride + offset
        return slice(start, start + (last - first) * stride + 1, stride), slice(first, last + 1)


def _runs(first: int, count: int, size: int) -> Iterator[tuple[slice, slice]]:
    """`count` pixels from `first` on, modulo `size`: runs of pixels, and where they are among the `count`."""
    done = 0
    while done < count:
        start = (first + done) % size
        step = min(size - start, count - done)
        yield slice(start, start + step), slice(done, done + step)
        done += step


def window(size: Shape, kernel: Shape, stride: Shape, dilation: Shape, padding: Padding) -> Window:
    """Place a window on an image of `size`; one axis becomes the columns of an image with one row.

    Raises
    ------
    ValueError
        The window does not fit in the padded image, or does not go round it in whole strides.
    """
    before, places, wraps = [], [], False
    for axis, (s, k, t, d) in enumerate(zip(size, kernel, stride, dilation, strict=True)):
        reach = (k - 1) * d + 1
        if padding == "CIRCULAR":
            _check_round(axis, s, k, t, d)
        first, last = _sides(padding, axis, s, reach, t)
        if s + first + last < reach:
            raise ValueError(
                f"expected images of at least {reach - first - last} pixels along spatial axis {axis} "
                f"(kernel {k}, dilation {d}, padding {first} + {last}), got {s}"
            )
        before.append(first)
        places.append((s + first + last - reach) // t + 1)
        wraps |= padding == "CIRCULAR" and last > 0
    if len(size) == 1:
        size, kernel, stride, dilation = ((1, *each) for each in (size, kernel, stride, dilation))
        before, places = [0, *before], [1, *places]
    return Window(_pair(size), _pair(kernel), _pair(stride), _pair(dilation), _pair(before), _pair(places), wraps)


def _check_round(axis: int, size: int, kernel: int, stride: int, dilation: int) -> None:
    """Refuse images around which a circular window does not go in whole strides, or that it covers twice."""
    if size % stride:
        raise ValueError(
            f"expected images of a multiple of {stride} pixels along spatial axis {axis} "
            f"(circular padding, stride {stride}), got {size}"
        )
    if size < (kernel - 1) * dilation + 1:
        raise ValueError(
            f"expected images of at least {(kernel - 1) * dilation + 1} pixels along spatial axis {axis} "
            f"(kernel {kernel}, dilation {dilation}, circular padding), got {size}"
        )


def _pair(values: Sequence[int]) -> Pair:
    return values[0], values[1]


def _sides(padding: Padding, axis: int, size: int, reach: int, stride: int) -> Pair:
    """Padding before and after along one axis."""
    if padding == "VALID":
        return 0, 0
    if padding in ("SAME", "CIRCULAR"):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        return total // 2, total - total // 2
    assert not isinstance(padding, str)
    return padding[axis]


def check_image(in_shape: Shape, axes: int, name: str) -> None:
    """Refuse samples that do not have `axes` spatial axes and channels."""
    if len(in_shape) != axes + 1:
        wanted = "(height, width, channels)" if axes == 2 else "(length, channels)"
        raise ValueError(f"expected samples of shape {wanted} for {name}, got {in_shape}")
