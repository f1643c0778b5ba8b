"""Random projections of per-sample parameter gradients, and what they are for: kernels, regression, attribution."""

from ._base import JacobianSketch
from .attribution import attribution, average_attributions
from .datamodeling import LinearDatamodelingScore, linear_datamodeling_score
from .jacobian import project_jacobian
from .kronecker import KroneckerProjection
from .masked import MaskedProjection
from .materialized import project
from .regression import ProjectedRegression, projected_ntk, projected_regression
from .tensor import TensorProjection

__all__ = [
    "JacobianSketch",
    "KroneckerProjection",
    "LinearDatamodelingScore",
    "MaskedProjection",
    "ProjectedRegression",
    "TensorProjection",
    "attribution",
    "average_attributions",
    "linear_datamodeling_score",
    "project",
    "project_jacobian",
    "projected_ntk",
    "projected_regression",
]
