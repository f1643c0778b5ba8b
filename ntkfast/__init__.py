"""ntkfast: neural tangent kernels, fast, on plain NumPy and CuPy arrays."""

from .backends import Backend, available_backends, get_backend

__version__ = "0.1.0"

__all__ = ["Backend", "__version__", "available_backends", "get_backend"]
