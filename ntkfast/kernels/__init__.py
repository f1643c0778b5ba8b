"""Compute kernels: arrays in, arrays out. Knows NumPy and Numba, and nothing of ntkfast.

``ALL`` enumerates every kernel, so that no test can forget one.
"""

from . import philox
from ._kernel import Kernel

__all__ = ["ALL", "Kernel"]

ALL: tuple[Kernel, ...] = (
    philox.bits,
    philox.bucket_sign,
    philox.normal,
    philox.signs,
    philox.uniform,
)
