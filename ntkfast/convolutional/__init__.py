"""Exact kernels of infinitely wide convolutional networks: NNGP, NTK (CNTK), and the published networks."""

from .kernel import cnn_gp, cnn_gp_and_cntk, cntk, cntk_diagonal
from .networks import flatten_network, gap_network, myrtle

__all__ = [
    "cnn_gp",
    "cnn_gp_and_cntk",
    "cntk",
    "cntk_diagonal",
    "flatten_network",
    "gap_network",
    "myrtle",
]
