"""ntkfast: neural tangent kernels, fast, on plain NumPy and CuPy arrays.

The parts, each with its own documentation:

- `ntkfast.analytic`: exact kernels of infinitely wide networks, and their gradients;
- `ntkfast.features`: maps phi with phi(x) . phi(y) close to a kernel;
- `ntkfast.regression`: ridge, conjugate gradients, gradient flow, Gaussian processes;
- `ntkfast.sketch`: random linear maps as values;
- `ntkfast.zonal`: the kernel of a bias-free network as one function of the angle;
- `ntkfast.adapters.sklearn`: estimators, imported on request.
"""

from . import analytic, features, regression, sketch, zonal
from .analytic import KernelPair, nngp, nngp_and_ntk, ntk, ntk_hyperparameter_gradient, ntk_vjp
from .backends import Backend, available_backends, get_backend
from .features import OnePassFeatures

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "KernelPair",
    "OnePassFeatures",
    "__version__",
    "analytic",
    "available_backends",
    "features",
    "get_backend",
    "nngp",
    "nngp_and_ntk",
    "ntk",
    "ntk_hyperparameter_gradient",
    "ntk_vjp",
    "regression",
    "sketch",
    "zonal",
]
