"""Compute kernels: arrays in, arrays out. Knows NumPy and Numba, and nothing of ntkfast.

``ALL`` enumerates every kernel, so that no test can forget one.
"""

from ._kernel import Kernel

__all__ = ["ALL", "Kernel"]

ALL: tuple[Kernel, ...] = ()
