"""Feature maps: phi(x) such that phi(x) . phi(y) approximates a neural tangent kernel."""

from ._base import FeatureMap
from .accuracy import GramError, gram_error, suggest_n_features
from .arccosine import ArcCosineFeatures
from .convolutional import CNTKGradientFeatures, CNTKRandomFeatures, CNTKSketch, cntk_features
from .ntk_sketch import NTKSketch
from .nystroem import NystroemFeatures, nystroem
from .one_pass import OnePassFeatures
from .pivoted_cholesky import PivotedCholesky, random_pivoted_cholesky
from .polynomial_sketch import NTKPolynomialSketch
from .random_features import NTKRandomFeatures

__all__ = [
    "ArcCosineFeatures",
    "CNTKGradientFeatures",
    "CNTKRandomFeatures",
    "CNTKSketch",
    "FeatureMap",
    "GramError",
    "NTKPolynomialSketch",
    "NTKRandomFeatures",
    "NTKSketch",
    "NystroemFeatures",
    "OnePassFeatures",
    "PivotedCholesky",
    "cntk_features",
    "gram_error",
    "nystroem",
    "random_pivoted_cholesky",
    "suggest_n_features",
]
