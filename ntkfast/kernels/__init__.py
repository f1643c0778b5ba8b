"""Compute kernels: arrays in, arrays out. Knows NumPy and Numba, and nothing of ntkfast.

``ALL`` enumerates every kernel, so that no test can forget one.
"""

from . import (
    activations,
    arccos,
    countsketch,
    displacement,
    displacement_gradient,
    factors,
    gates,
    gather,
    hadamard,
    patches,
    philox,
    recursion,
    table,
    tensorsketch,
    winograd,
    zonal,
)
from ._kernel import Kernel

__all__ = ["ALL", "Kernel"]

ALL: tuple[Kernel, ...] = (
    activations.slope,
    activations.value,
    arccos.angle,
    arccos.kappa,
    arccos.kappa_of_angle,
    arccos.slope,
    countsketch.add,
    countsketch.apply,
    countsketch.apply_sparse,
    displacement.record,
    displacement.walk,
    displacement_gradient.pull,
    factors.accumulate,
    factors.mirror,
    gates.multiply,
    gather.signed,
    hadamard.transform,
    patches.col2im,
    patches.im2col,
    philox.bits,
    philox.bucket_sign,
    philox.normal,
    philox.signs,
    philox.uniform,
    recursion.walk,
    table.evaluate,
    table.pullback,
    tensorsketch.accumulate,
    tensorsketch.multiply,
    winograd.results,
    winograd.tiles,
    zonal.evaluate,
    zonal.normalize,
)
