"""Regression on kernel matrices and feature blocks: ridge and its choice, gradient flow, Gaussian processes."""

from .choice import RidgeChoice
from .dual import CholeskyFactor, KernelRidge, factorize, kernel_ridge
from .eigen import KernelSpectrum, decompose
from .flow import Ensemble, GradientFlow, gradient_flow
from .gp import GaussianProcess, gaussian_process
from .operators import KernelOperator
from .pcg import IterativeSolution, conjugate_gradient
from .preconditioner import LowRankPreconditioner, low_rank_preconditioner, random_preconditioner
from .primal import NormalEquations
from .ridge import Ridge
from .ridge_path import RidgePath
from .selection import k_fold, leave_one_out

__all__ = [
    "CholeskyFactor",
    "Ensemble",
    "GaussianProcess",
    "GradientFlow",
    "IterativeSolution",
    "KernelOperator",
    "KernelRidge",
    "KernelSpectrum",
    "LowRankPreconditioner",
    "NormalEquations",
    "Ridge",
    "RidgeChoice",
    "RidgePath",
    "conjugate_gradient",
    "decompose",
    "factorize",
    "gaussian_process",
    "gradient_flow",
    "k_fold",
    "kernel_ridge",
    "leave_one_out",
    "low_rank_preconditioner",
    "random_preconditioner",
]
