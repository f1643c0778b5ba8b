"""Sketches: frozen values that are random linear or multilinear maps, made anew from their seed anywhere.

Two sketches with equal fields are equal, hash equally, and are the same map on every backend. Rows are samples; the
inner product of two sketched rows estimates, without bias, that of the rows (or its powers, or products).
"""

from .block_srht import BlockSRHT
from .composition import Composition
from .countsketch import CountSketch, SparseJL
from .dense import GaussianSketch, RademacherSketch
from .mask import CoordinateMask
from .poly import PolySketch
from .srht import SRHT
from .tensor import TensorSketch, TensorSRHT

__all__ = [
    "SRHT",
    "BlockSRHT",
    "Composition",
    "CoordinateMask",
    "CountSketch",
    "GaussianSketch",
    "PolySketch",
    "RademacherSketch",
    "SparseJL",
    "TensorSRHT",
    "TensorSketch",
]
