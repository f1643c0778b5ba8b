"""What is known of a value on its way through a PyTorch module, whose axes lie otherwise than ours."""

from dataclasses import dataclass, replace
from typing import Any

from ..._typing import Array

__all__ = ["Value", "rearranged"]


@dataclass(frozen=True, slots=True)
class Value:
    """Where the axes of a value are.

    Ours is (n, *spatial, channels) throughout. PyTorch's is (n, channels, *spatial) around convolutions and
    (n, *spatial, channels) around dense layers and embeddings.

    Attributes
    ----------
    rank : int or None
        Number of spatial axes; None if not known yet.
    order : {"first", "last"} or None
        Where PyTorch has the channels; None if not known yet. Without spatial axes both are the same.
    channels : int or None
        Number of channels, if known.
    shape : tuple of int or None
        Shape of one of our samples, if known.
    blocks : int or None
        After a flattening: PyTorch's features are (channels, positions), with this many channels, and ours are
        (positions, channels).
    pooled : bool
        Whether PyTorch has spatial axes of size 1 that ours has not.
    """

    rank: int | None = None
    order: str | None = None
    channels: int | None = None
    shape: tuple[int, ...] | None = None
    blocks: int | None = None
    pooled: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...] | None, order: str | None) -> "Value":
        """The input of a network."""
        return cls(order=order) if shape is None else cls(rank=len(shape) - 1, order=order).shaped(shape)

    def shaped(self, shape: tuple[int, ...]) -> "Value":
        """The value with the shape of one of our samples."""
        return replace(self, shape=shape, channels=shape[-1] if shape else None)

    def seen_as(self, order: str, rank: int | None, what: str) -> "Value":
        """The value as an operation sees it; ValueError where that contradicts what is known.

        `rank` None stands for any.
        """
        if self.blocks is not None or self.pooled:
            raise ValueError(f"expected a Flatten and a Linear before {what}")
        found = self.rank if rank is None else rank
        if self.rank is not None and self.rank != found:
            raise ValueError(f"expected {found} spatial axes for {what}, got {self.rank}")
        if found is None and self.order not in (None, order):
            found = 0  # only vectors can be seen both ways
        if found != 0 and self.order not in (None, order):
            assert self.order is not None
            raise ValueError(f"expected channels on the {_AXES[order]} for {what}, got them on the {_AXES[self.order]}")
        return replace(self, rank=found, order=order)

    def matches(self, other: "Value") -> bool:
        """Whether two values can be added."""
        pairs: list[tuple[Any, Any]] = [
            (self.rank, other.rank),
            (self.channels, other.channels),
            (self.shape, other.shape),
        ]
        if self.rank != 0:
            pairs.append((self.order, other.order))
        open_or_equal = all(a is None or b is None or a == b for a, b in pairs)
        return open_or_equal and (self.blocks, self.pooled) == (other.blocks, other.pooled)

    def met(self, other: "Value") -> "Value":
        """What is known of the sum of two values."""
        rank = other.rank if self.rank is None else self.rank
        shape = other.shape if self.shape is None else self.shape
        found = replace(self, rank=rank, shape=shape, order=self.order or other.order)
        return replace(found, channels=self.channels or other.channels)


_AXES = {"first": "axis after the samples", "last": "last axis"}


def rearranged(array: Array, blocks: int | None) -> Array:
    """Entries on the last axis from (channels, positions) to (positions, channels); a copy, unless one of them is 1."""
    if blocks is None:
        return array
    parts = array.reshape(*array.shape[:-1], blocks, -1)
    return parts.swapaxes(-1, -2).reshape(array.shape)
