"""Exact kernels of infinitely wide fully connected networks: NNGP, NTK, and their gradients."""

from .activations import Activation, closed_form, leaky_relu
from .gradients import HyperparameterGradient, KernelGradient, ntk_hyperparameter_gradient, ntk_vjp
from .hermite import expand
from .mlp import KernelPair, nngp, nngp_and_ntk, ntk

__all__ = [
    "Activation",
    "HyperparameterGradient",
    "KernelGradient",
    "KernelPair",
    "closed_form",
    "expand",
    "leaky_relu",
    "nngp",
    "nngp_and_ntk",
    "ntk",
    "ntk_hyperparameter_gradient",
    "ntk_vjp",
]
