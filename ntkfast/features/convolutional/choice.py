"""The feature maps of the convolutional NTK under one name."""

from collections.abc import Sequence
from typing import Any

from ..._check import check_choice
from ...layers import Layer
from ._base import ImageFeatureMap
from .gradient_features import CNTKGradientFeatures
from .random_features import CNTKRandomFeatures
from .sketch import CNTKSketch

__all__ = ["cntk_features"]

METHODS: dict[str, type[ImageFeatureMap]] = {
    "gradient": CNTKGradientFeatures,
    "random": CNTKRandomFeatures,
    "sketch": CNTKSketch,
}


def cntk_features(
    network: Layer, in_shape: Sequence[int], n_features: int, *, method: str = "gradient", seed: int, **options: Any
) -> ImageFeatureMap:
    """Feature map phi with phi(x) . phi(y) close to the convolutional NTK of `network`.

    Parameters
    ----------
    network : Layer
        `layers.Sequential` of Conv2d, Dense, ReLU, AvgPool2d, GlobalAvgPool and Flatten; channels play no role.
    in_shape : (int, int, int)
        Height, width and channels of the images.
    n_features : int
        Number of features.
    method : {"gradient", "random", "sketch"}
        `CNTKGradientFeatures`, `CNTKRandomFeatures` or `CNTKSketch`.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.
    **options
        Further arguments of the method's class.

    Returns
    -------
    ImageFeatureMap

    Raises
    ------
    TypeError, ValueError
        As the method's class.

    Notes
    -----
    Why "gradient" is the default: its norms are exact; its networks are drawn so that what varies most does not vary;
    it has no polynomials, whose degree bounds the accuracy of "sketch" however many features it has; and nothing is
    sketched between layers. Relative Frobenius errors of the Gram matrix of 8 CIFAR-10 images, three 3 x 3
    convolutions and global average, 4096 features, with 6 networks for "gradient", which then takes as long as the
    others with their defaults; and with the rows of all three brought to their exact norms:

                    gradient    random      sketch
        as it is    0.025       0.027       0.072       (normalize=False)
        exact norms 0.005       0.012       0.021

    With the 12 networks of the default, "gradient" takes 52 ms of processor time per image, mostly matrix products that
    cores share, "random" 28 and "sketch" 25.

    Take "random" for Flatten and Dense at the end, where it is as close and faster, for ReLU and a mean at the end,
    which "gradient" does not take, and for maps that see few images, as the setup of "gradient" takes as long as
    50 of them; "sketch" for features that are smooth in the image.

    All cost time linear in the pixels, but for the exact norms of "gradient": one entry of the exact kernel per image,
    which is quadratic, and small beside the rest up to about 64 x 64 pixels.

    Examples
    --------
    >>> from ntkfast.layers import Conv2d, Dense, GlobalAvgPool, ReLU, Sequential
    >>> network = Sequential(Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1))
    >>> type(cntk_features(network, (8, 8, 3), 256, seed=0)).__name__
    'CNTKGradientFeatures'
    """
    check_choice(method, "method", tuple(METHODS))
    return METHODS[method](network, in_shape, n_features, seed=seed, **options)  # type: ignore[call-arg]
