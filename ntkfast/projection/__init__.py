"""Random projections of per-sample parameter gradients, and what they are for: kernels, regression, attribution."""

from ._base import JacobianSketch
from .accuracy import ProjectionError, projection_error
from .allocation import allocate_dims
from .attribution import attribution, average_attributions
from .cotangents import cross_entropy, margin, squared_error
from .datamodeling import LinearDatamodelingScore, linear_datamodeling_score
from .jacobian import project_jacobian
from .kronecker import KroneckerProjection
from .masked import MaskedProjection
from .materialized import project
from .regression import ProjectedRegression, projected_ntk, projected_regression
from .tensor import TensorProjection
from .theory import suggest_dim

__all__ = [
    "JacobianSketch",
    "KroneckerProjection",
    "LinearDatamodelingScore",
    "MaskedProjection",
    "ProjectedRegression",
    "ProjectionError",
    "TensorProjection",
    "allocate_dims",
    "attribution",
    "average_attributions",
    "cross_entropy",
    "linear_datamodeling_score",
    "margin",
    "project",
    "project_jacobian",
    "projected_ntk",
    "projected_regression",
    "projection_error",
    "squared_error",
    "suggest_dim",
]
