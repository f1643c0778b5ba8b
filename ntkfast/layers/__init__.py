"""Layers with hand-derived derivatives, whose parameter Jacobians stay products."""

from ._base import Layer
from .activations import (
    GELU,
    Abs,
    Elementwise,
    Erf,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Sin,
    SmoothElementwise,
    Softplus,
    Tanh,
)
from .containers import Residual, Sequential
from .dense import Dense
from .embedding import Embedding
from .factors import Cotangent, JacobianFactors, SparseFactors
from .normalization import BatchNorm, LayerNorm

__all__ = [
    "GELU",
    "Abs",
    "BatchNorm",
    "Cotangent",
    "Dense",
    "Elementwise",
    "Embedding",
    "Erf",
    "Identity",
    "JacobianFactors",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Sin",
    "SmoothElementwise",
    "Softplus",
    "SparseFactors",
    "Tanh",
]
