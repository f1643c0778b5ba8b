"""ntkfast: neural tangent kernels, fast, on plain NumPy and CuPy arrays.

The parts, each with its own documentation:

- `ntkfast.analytic`: exact kernels of infinitely wide networks, and their gradients;
- `ntkfast.convolutional`: the same of convolutional networks (CNTK, CNN-GP), and published architectures;
- `ntkfast.images`: standardization, whitening and flips of images;
- `ntkfast.empirical`: the kernel of a finite network, its gradients, operators and linear models;
- `ntkfast.layers`: networks with hand-derived derivatives;
- `ntkfast.autodiff`: engines that differentiate other functions;
- `ntkfast.projection`: random projections of per-sample gradients, from their factors; kernels and attribution;
- `ntkfast.spectrum`: eigenvalues, ranks, alignment; traces and densities from products alone;
- `ntkfast.features`: maps phi with phi(x) . phi(y) close to a kernel;
- `ntkfast.regression`: ridge, conjugate gradients, gradient flow, Gaussian processes;
- `ntkfast.sketch`: random linear maps as values;
- `ntkfast.zonal`: the kernel of a bias-free network as one function of the angle;
- `ntkfast.adapters.sklearn`, `ntkfast.adapters.torch`: estimators, and networks from PyTorch, imported on request;
- `ntkfast.testing`: conformance checks for layers and engines, imported on request.
"""

from . import (
    analytic,
    autodiff,
    convolutional,
    empirical,
    features,
    images,
    layers,
    projection,
    regression,
    sketch,
    spectrum,
    zonal,
)
from .analytic import KernelPair, nngp, nngp_and_ntk, ntk, ntk_hyperparameter_gradient, ntk_vjp
from .backends import Backend, available_backends, get_backend
from .convolutional import cntk
from .empirical import empirical_ntk, empirical_ntk_vjp, layer_ntks, linearize, ntk_operator, trainability
from .features import OnePassFeatures
from .projection import project_jacobian

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "KernelPair",
    "OnePassFeatures",
    "__version__",
    "analytic",
    "autodiff",
    "available_backends",
    "cntk",
    "convolutional",
    "empirical",
    "empirical_ntk",
    "empirical_ntk_vjp",
    "features",
    "get_backend",
    "images",
    "layer_ntks",
    "layers",
    "linearize",
    "nngp",
    "nngp_and_ntk",
    "ntk",
    "ntk_hyperparameter_gradient",
    "ntk_operator",
    "ntk_vjp",
    "project_jacobian",
    "projection",
    "regression",
    "sketch",
    "spectrum",
    "trainability",
    "zonal",
]
