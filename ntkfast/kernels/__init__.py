"""Compute kernels: arrays in, arrays out. Knows NumPy and Numba, and nothing of ntkfast.

``ALL`` enumerates every kernel, so that no test can forget one.
"""

from . import countsketch, hadamard, philox, tensorsketch
from ._kernel import Kernel

__all__ = ["ALL", "Kernel"]

ALL: tuple[Kernel, ...] = (
    countsketch.adjoint,
    countsketch.apply,
    countsketch.apply_sparse,
    hadamard.transform,
    philox.bits,
    philox.bucket_sign,
    philox.normal,
    philox.signs,
    philox.uniform,
    tensorsketch.multiply,
)
