"""Tensors of a module as arrays over the same memory: of one dtype, on one device, each used once."""

from collections.abc import Callable
from typing import Any

from torch.nn.parameter import is_lazy

from ..._check import FLOAT_DTYPES
from ..._typing import Array
from ...backends import from_dlpack

__all__ = ["Tensors"]


class Tensors:
    """Reads the tensors of one network.

    Attributes
    ----------
    copy : bool
        Whether the network is to have memory of its own.
    """

    def __init__(self, *, copy: bool) -> None:
        self.copy = copy
        self._used: dict[int, str] = {}  # name of every parameter read so far, by its address
        self._first: tuple[str, Any, Any] | None = None  # name, dtype and device of the first tensor

    def of(self, module: Any, path: str) -> Callable[[str], Array]:
        """A reader of the tensors of the module at `path`; ValueError for a parameter that has been read before."""

        def read(name: str) -> Array:
            full = f"{path}.{name}".lstrip(".")
            tensor = getattr(module, name)
            array = self._array(tensor, full)
            if name in module._parameters:
                self._refuse_tied(tensor.data_ptr(), full)
            return array

        return read

    def _refuse_tied(self, address: int, full: str) -> None:
        first = self._used.setdefault(address, full)
        if first is not full:
            got = f"{full!r} used twice" if first == full else f"{first!r} and {full!r} in one memory"
            raise ValueError(
                f"expected untied parameters, got {got}; autodiff='torch' differentiates functions with them"
            )

    def _array(self, tensor: Any, full: str) -> Array:
        if is_lazy(tensor):
            raise ValueError(f"expected initialized parameters, got {full!r} without a shape; call the module once")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in FLOAT_DTYPES:
            raise TypeError(f"expected {full!r} of dtype float32 or float64, got {dtype}; convert the module")
        name, *known = self._first = self._first or (full, dtype, tensor.device)
        if known != [dtype, tensor.device]:
            got = f"{known[0]} on {known[1]} ({name!r}) and {dtype} on {tensor.device} ({full!r})"
            raise TypeError(f"expected tensors of one dtype on one device, got {got}")
        if tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(f"expected tensors on a CPU or a CUDA device, got {full!r} on {tensor.device}")
        array: Array = from_dlpack(tensor.detach())
        return array
