"""Tables and weights that are functions of a value: made at the first use, kept for the next.

Sketches and feature maps are values that hold no arrays. What they draw from their seed lives here, by value, backend
and dtype, for all of them together; so the library's memory beside the caller's has one bound.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from ._typing import Array
from .backends import Backend

__all__ = ["CACHE", "ArrayCache", "memoised"]

Arrays = tuple[Array, ...]
Value = TypeVar("Value", bound=Hashable)


class ArrayCache:
    """Arrays by key, least recently used first out, bounded by bytes; may be used from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[Hashable, Arrays] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, build: Callable[[], Arrays]) -> Arrays:
        """Arrays of `key`, built at the first request. Those larger than the bound are not kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        arrays = build()  # outside the lock: two threads may build the same arrays, to the same bits
        with self._lock:
            if key not in self._held and _size(arrays) <= self.max_bytes:
                self._held[key] = arrays
                self._bytes += _size(arrays)
                while self._bytes > self.max_bytes:
                    _, oldest = self._held.popitem(last=False)
                    self._bytes -= _size(oldest)
        return arrays

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._held.clear()
            self._bytes = 0


def _size(arrays: Arrays) -> int:
    return sum(int(array.nbytes) for array in arrays)


# 1 GiB: the weights of three maps of 8192 random features at depth 3 in float32, or the hash tables of 100 million
# columns.
CACHE = ArrayCache(2**30)


def memoised(value: Value, build: Callable[[Value, Backend, Any], Arrays], backend: Backend, dtype: Any) -> Arrays:
    """Arrays ``build(value, backend, dtype)``, kept per value, function, backend, target, device and dtype."""
    device = backend.xp.cuda.runtime.getDevice() if backend.name == "cupy" else 0
    key = (build, value, backend.name, backend.target, device, str(dtype))

    def built() -> Arrays:
        arrays = build(value, backend, dtype)
        backend.synchronize()  # the next caller may use another stream of the device
        return arrays

    return CACHE.get(key, built)
