"""The neural tangent kernel of finite networks, its gradients, operators and linear models."""

from .gradient import NTKGradient, directional_vjp, empirical_ntk_vjp
from .jacobian import jacobian, jacobian_factors
from .linearize import LinearizedFit, LinearizedModel, linearize
from .ntk import empirical_ntk, layer_ntks
from .operator import ntk_operator
from .trainability import Trainability, trainability

__all__ = [
    "LinearizedFit",
    "LinearizedModel",
    "NTKGradient",
    "Trainability",
    "directional_vjp",
    "empirical_ntk",
    "empirical_ntk_vjp",
    "jacobian",
    "jacobian_factors",
    "layer_ntks",
    "linearize",
    "ntk_operator",
    "trainability",
]
