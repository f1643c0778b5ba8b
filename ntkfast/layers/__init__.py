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
from .conv import Conv1d, Conv2d
from .dense import Dense
from .embedding import Embedding
from .factors import Cotangent, JacobianFactors, SparseFactors
from .flatten import Flatten
from .normalization import BatchNorm, LayerNorm
from .pooling import AvgPool2d, GlobalAvgPool, MaxPool2d

__all__ = [
    "GELU",
    "Abs",
    "AvgPool2d",
    "BatchNorm",
    "Conv1d",
    "Conv2d",
    "Cotangent",
    "Dense",
    "Elementwise",
    "Embedding",
    "Erf",
    "Flatten",
    "GlobalAvgPool",
    "Identity",
    "JacobianFactors",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "MaxPool2d",
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
