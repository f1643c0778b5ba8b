"""Spectra of kernels: eigenvalues, condition numbers and ranks, alignment, and estimators that need products only."""

from .alignment import kernel_alignment, target_alignment
from .dense import as_matrix, condition_number, eigenvalues
from .estimators import Estimate, hutchinson_diagonal, hutchinson_trace
from .exchangeable import xdiag, xtrace
from .lanczos import SpectralDensity, log_determinant, spectral_density
from .ranks import effective_dimension, entropy_rank, intrinsic_dimension, stable_rank, variance_rank

__all__ = [
    "Estimate",
    "SpectralDensity",
    "as_matrix",
    "condition_number",
    "effective_dimension",
    "eigenvalues",
    "entropy_rank",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "intrinsic_dimension",
    "kernel_alignment",
    "log_determinant",
    "spectral_density",
    "stable_rank",
    "target_alignment",
    "variance_rank",
    "xdiag",
    "xtrace",
]
