"""Backends: which array module, and which field of a kernel record to call.

The arrays of a call choose the backend, once per public function. There is no global backend,
no ``device=`` and no silent transfer.
"""

import os
from types import ModuleType
from typing import Any, NamedTuple

from .._typing import Array
from ..errors import MixedBackendError
from ..kernels import Kernel

__all__ = ["Backend", "available_backends", "from_dlpack", "get_backend"]


class Backend(NamedTuple):
    """A pair (array module, kernel target).

    Attributes
    ----------
    name : str
        ``"numpy"`` or ``"cupy"``.
    xp : module
        The array module, used directly; both speak NumPy 2 names.
    target : str
        The field of a `Kernel` that `launch` calls: ``"cpu"``, ``"cuda"`` or ``"reference"``.
    """

    name: str
    xp: ModuleType
    target: str

    def launch(self, kernel: Kernel, *args: Any) -> None:
        """Run `kernel` on `args`, on CuPy's current stream where the target is ``"cuda"``."""
        if self.target == "cpu":
            kernel.cpu(*args)
        elif self.target == "cuda":
            _launch_cuda(self, kernel, args)
        else:
            kernel.reference(*args)

    def to_numpy(self, x: Array) -> Any:
        """Copy an array of this backend to the host (the array itself for NumPy)."""
        return x.get() if self.name == "cupy" else x

    def synchronize(self) -> None:
        """Wait for the device: for timing, and before arrays go to another stream."""
        if self.name == "cupy":
            self.xp.cuda.get_current_stream().synchronize()


def _launch_cuda(backend: Backend, kernel: Kernel, args: tuple[Any, ...]) -> None:
    if backend.name == "cupy":
        from ._cupy import launch

        launch(kernel, args)
    else:  # NumPy arrays on the CUDA target: the simulator
        kernel.cuda(*args)


_BACKENDS: dict[type, Backend] = {}


def get_backend(*arrays: Array) -> Backend:
    """Backend of the given arrays; None and Python numbers are ignored.

    Parameters
    ----------
    *arrays : array, None or number
        At least one array, all of one backend.

    Returns
    -------
    Backend

    Raises
    ------
    TypeError
        No array was given, or one of a foreign type; the message names the conversion.
    MixedBackendError
        NumPy and CuPy arrays in one call.
    BackendUnavailableError
        A CuPy array arrived, but the CUDA JIT compiler cannot be imported.

    Notes
    -----
    Cost: one dictionary look-up per array, about 100 ns for two.

    Examples
    --------
    >>> import numpy as np
    >>> get_backend(np.zeros(3)).name
    'numpy'
    """
    found: Backend | None = None
    for array in arrays:
        backend = _BACKENDS.get(type(array))
        if backend is None:
            if array is None or isinstance(array, (bool, int, float)):
                continue
            backend = _resolve(type(array))
        if found is None:
            found = backend
        elif found is not backend:
            raise MixedBackendError(
                f"expected arrays of one backend, got {found.name} and {backend.name}; "
                "move them explicitly (cupy.asarray, cupy.asnumpy)"
            )
    if found is None:
        raise TypeError("expected at least one NumPy or CuPy array, got none")
    return found


def _resolve(cls: type) -> Backend:
    """Find the backend of an array class by its name, and remember it."""
    if any(base.__name__ == "MaskedArray" for base in cls.__mro__):  # its sums skip what kernels would read
        raise TypeError("expected an array without a mask, got a masked array; fill it with numpy.ma.filled")
    for base in cls.__mro__:
        root = base.__module__.partition(".")[0]
        if base.__name__ == "ndarray" and root in ("numpy", "cupy"):
            backend = _numpy_backend() if root == "numpy" else _cupy_backend()
            _BACKENDS[cls] = backend
            return backend
    raise TypeError(f"expected a NumPy or CuPy array, got {cls.__module__}.{cls.__qualname__}; {_hint(cls)}")


def _hint(cls: type) -> str:
    root = cls.__module__.partition(".")[0]
    if root == "torch":
        return "convert it with numpy.from_dlpack(x.detach()), or cupy.from_dlpack(x.detach()) on a GPU"
    if root in ("jax", "jaxlib", "tensorflow"):
        return "convert it with numpy.from_dlpack(x), or cupy.from_dlpack(x) on a GPU"
    if root == "scipy":
        return "only functions that say so take sparse matrices"
    return "convert it with numpy.asarray(x)"


def _numpy_backend() -> Backend:
    from ._numpy import backend

    return backend()


def _cupy_backend() -> Backend:
    from ._cupy import backend

    return backend()


def available_backends() -> dict[str, str]:
    """Names of the backends that work here, with a short description each.

    Asks CuPy for a device if CuPy is installed; imports nothing otherwise.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> "numpy" in available_backends()
    True
    """
    import importlib.util

    found = {"numpy": f"kernels on {_numpy_backend().target}"}
    if importlib.util.find_spec("cupy") is not None:
        from ._cupy import describe

        description = describe()
        if description is not None:
            found["cupy"] = description
    return found


_CUDA_DEVICES = (2, 13)  # DLPack's numbers of CUDA memory and CUDA managed memory


def from_dlpack(x: Any) -> Array:
    """Array over the memory of an array of another library; nothing is copied.

    Parameters
    ----------
    x : object with ``__dlpack__`` and ``__dlpack_device__``
        A tensor of PyTorch (detached), an array of JAX, ...

    Returns
    -------
    array
        Of NumPy where the memory is the host's, of CuPy where it is a CUDA device's.

    Raises
    ------
    BufferError
        The memory is neither's, or the dtype has no name in NumPy.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros(3)
    >>> np.shares_memory(from_dlpack(x), x)
    True
    """
    if x.__dlpack_device__()[0] in _CUDA_DEVICES:
        from ._cupy import from_dlpack as load

        return load(x)
    return _numpy_backend().xp.from_dlpack(x)


def _forced_target() -> str | None:
    """Value of NTKFAST_TARGET, the one debugging switch: ``reference`` replaces the target."""
    target = os.environ.get("NTKFAST_TARGET")
    if target not in (None, "", "reference"):
        raise ValueError(f"expected NTKFAST_TARGET to be unset or 'reference', got {target!r}")
    return target or None
