"""Feature maps of convolutional NTKs: random networks' gradients, random features and sketches, pixel by pixel."""

from .choice import cntk_features
from .gradient_features import CNTKGradientFeatures
from .random_features import CNTKRandomFeatures
from .sketch import CNTKSketch

__all__ = ["CNTKGradientFeatures", "CNTKRandomFeatures", "CNTKSketch", "cntk_features"]
