"""Exact kernels of infinitely wide convolutional networks: NNGP, NTK (CNTK), and the published networks."""

from .cost import CostEstimate, estimate_cost
from .kernel import cnn_gp, cnn_gp_and_cntk, cntk, cntk_diagonal
from .networks import flatten_network, gap_network, myrtle

__all__ = [
    "CostEstimate",
    "cnn_gp",
    "cnn_gp_and_cntk",
    "cntk",
    "cntk_diagonal",
    "estimate_cost",
    "flatten_network",
    "gap_network",
    "myrtle",
]
