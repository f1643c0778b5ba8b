"""Random projections of per-sample parameter gradients, and what they are for: kernels, regression, attribution."""

from ._base import JacobianSketch
from .jacobian import project_jacobian
from .kronecker import KroneckerProjection
from .masked import MaskedProjection
from .tensor import TensorProjection

__all__ = [
    "JacobianSketch",
    "KroneckerProjection",
    "MaskedProjection",
    "TensorProjection",
    "project_jacobian",
]
