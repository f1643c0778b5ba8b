"""Layers with hand-derived derivatives, whose parameter Jacobians stay products."""

from ._base import Layer
from .activations import ReLU
from .containers import Residual, Sequential
from .dense import Dense
from .factors import Cotangent, JacobianFactors, SparseFactors

__all__ = ["Cotangent", "Dense", "JacobianFactors", "Layer", "ReLU", "Residual", "Sequential", "SparseFactors"]
