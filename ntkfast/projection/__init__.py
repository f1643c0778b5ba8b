"""Random projections of per-sample parameter gradients, and what they are for: kernels, regression, attribution."""

from ._base import JacobianSketch
from .jacobian import project_jacobian
from .tensor import TensorProjection

__all__ = [
    "JacobianSketch",
    "TensorProjection",
    "project_jacobian",
]
