"""Exact kernels of infinitely wide convolutional networks, NNGP and NTK (CNTK), and their gradients by the images."""

from .cost import CostEstimate, estimate_cost
from .gradients import ImageGradient, cntk_diagonal_vjp, cntk_vjp
from .kernel import cnn_gp, cnn_gp_and_cntk, cntk, cntk_diagonal
from .networks import flatten_network, gap_network, myrtle

__all__ = [
    "CostEstimate",
    "ImageGradient",
    "cnn_gp",
    "cnn_gp_and_cntk",
    "cntk",
    "cntk_diagonal",
    "cntk_diagonal_vjp",
    "cntk_vjp",
    "estimate_cost",
    "flatten_network",
    "gap_network",
    "myrtle",
]
