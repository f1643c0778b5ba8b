"""Random features of the convolutional NTK: a random network, and beside it a random linear network that it gates."""

import math
from dataclasses import KW_ONLY, dataclass

from ..._check import check_choice, check_int, set_checked
from ..._streams import Stream
from ..._typing import Array
from ...backends import Backend
from ...kernels.philox import derive_key
from ...layers import Layer
from .._weights import FILTERS
from ._base import ImageFeatureMap
from ._network import Conv, Flat, Mean, Relu, Step, without_head
from ._pixels import Flattened, Pooled, Readout, Stage, Stages
from ._random_network import Gate, GatedMean, RandomConv

__all__ = ["CNTKRandomFeatures"]


@dataclass(frozen=True, slots=True)
class CNTKRandomFeatures(ImageFeatureMap):
    r"""Random features of the infinite-width convolutional NTK, built layer by layer at every pixel.

    phi is a random convolutional network with m channels, whose weights all pixels share, and psi is a linear one with
    s channels beside it. With u_p = [W_std / sqrt(taps) phi_{p + a} for all taps a ; b_std] and independent random
    filters W and sketches S, R,

    - a convolution makes phi_p <- sqrt(K(p, p) / (m |u_p|^2)) W u_p and
      psi_p <- S [W_std / sqrt(taps) psi_{p + a} for all taps a] + R u_p;
    - ReLU makes psi_p <- b_p psi_p with the steps b_p = 1(phi_p > 0), repeated or cut to s channels, and
      phi_p <- max(phi_p, 0);
    - pools take means, and before a mean over all pixels psi (x) b is not sketched at all: the sum over pixels of
      psi_p b_p^T is one matrix product per image, s m numbers that a single SRHT brings to n_features.

    K(p, p) is known exactly up to the first pool (a box sum per layer), which removes most of the fluctuation of scale
    of a random network.

    Parameters
    ----------
    network : layers.Sequential
        Conv2d, Dense, ReLU, AvgPool2d, GlobalAvgPool and Flatten in a row; channels play no role.
    in_shape : (int, int, int)
        Height, width and channels of the images.
    n_features : int
        Number of features.
    channels : int, optional
        Channels m of phi; more cost time, not features. Default: the larger of 64 and 4 sqrt(n_features).
    width : int, optional
        Channels s of psi; default m.
    sampling : {"orthogonal", "gaussian"}
        Law of the filters W: of one length, and orthogonal to each other as far as they can be; or normal numbers.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed; a layer that is not supported, by name.

    Notes
    -----
    Error: a standard deviation of order (1 / sqrt(m) + 1 / sqrt(s)) depth + 1 / sqrt(n_features), mostly a factor that
    all entries of the kernel share; a bias of order 1 / m for more than one layer. For three layers of 3 x 3, a mean
    over all pixels and 32 x 32 CIFAR-10 images, the relative Frobenius error of a Gram matrix is 0.08 with 1024
    features and 0.03 to 0.04 with 4096; 0.04 and 0.02 after one factor for all entries, 0.03 and 0.015 with exact
    diagonals.
    With 16384 features but still 256 channels it is that of 4096, so that more features need more channels.
    `CNTKGradientFeatures` have a fraction of that error in comparable time (0.004 with 4096 features), and are the
    default of `cntk_features`. These here are for few images (there is little to set up), for gradients by images (one
    pass for a block, not one for every image and network), for networks that end in ReLU and a mean, which those do not
    take, and in Flatten and Dense, where these are as close once they have exact norms (`cntk_diagonal`).
    Cost per image, linear in pixels: 2 pixels taps m^2 operations in matrix products and O(pixels taps (m + s)) others
    for each convolution, 2 pixels s m before a mean over all pixels, O(s m log(s m)) for the readout.
    Gradient: that of the map itself; b is piecewise constant, as in `NTKRandomFeatures`.
    Determinism: weights depend on the seed alone; features on the rounding of matrix products, which may flip a step
    at a pre-activation within rounding of 0.
    Backends: numpy, cupy.

    References
    ----------
    Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.
    Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random features.
    NeurIPS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import CNTKRandomFeatures
    >>> from ntkfast.layers import Conv2d, Dense, GlobalAvgPool, ReLU, Sequential
    >>> network = Sequential(Conv2d(1, 3), ReLU(), Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1))
    >>> phi = CNTKRandomFeatures(network, (8, 8, 3), 256, seed=0)
    >>> phi(np.ones((2, 8, 8, 3))).shape
    (2, 256)
    """

    network: Layer
    in_shape: tuple[int, int, int]
    n_features: int
    _: KW_ONLY
    channels: int | None = None
    width: int | None = None
    sampling: str = "orthogonal"
    seed: int

    def __post_init__(self) -> None:
        self._check_fields()
        if self.channels is not None:
            set_checked(self, channels=check_int(self.channels, "channels", minimum=2))
        if self.width is not None:
            set_checked(self, width=check_int(self.width, "width", minimum=1))
        check_choice(self.sampling, "sampling", FILTERS)

    @property
    def _channels(self) -> int:
        return max(64, 4 * math.isqrt(self.n_features)) if self.channels is None else self.channels

    @property
    def _width(self) -> int:
        return self._channels if self.width is None else self.width

    def _key(self, number: int, part: int) -> int:
        return derive_key(self.seed, Stream.CNTK_RANDOM_FEATURES, number, part)

    @property
    def _plan(self) -> Stages:
        """The stages of the network, with the widths of nngp and ntk between them."""
        steps, last = without_head(self._steps)
        stages: list[Stage] = []
        widths = (self.in_shape[2], 0)
        for number, step in enumerate(steps):
            follower = steps[number + 1] if number + 1 < len(steps) else None
            stage, widths = self._stage(number, step, follower, widths)
            if stage is not None:
                stages.append(stage)
        return Stages(tuple(stages), Readout(last, widths, self.n_features, self._key(len(steps), 3)))

    def _stage(
        self, number: int, step: Step, follower: Step | None, widths: tuple[int, int]
    ) -> tuple[Stage | None, tuple[int, int]]:
        """The stage of a step, and the widths of nngp and ntk above it."""
        m, s = self._channels, self._width
        if isinstance(step, Conv):
            keys = (self._key(number, 0), self._key(number, 1), self._key(number, 2))
            return RandomConv(step, widths, m, s, self.sampling, keys), (m, s)
        if isinstance(step, Relu):
            if isinstance(follower, Mean) and Pooled(follower.window).is_global:
                return GatedMean(follower.window), (widths[0], widths[0] * widths[1])
            return Gate(), widths
        if isinstance(step, Flat):
            pixels = math.prod(step.size)
            return Flattened(step.size), (widths[0] * pixels, widths[1] * pixels)
        is_done = Pooled(step.window).is_global and number and isinstance(self._steps[number - 1], Relu)
        return (None if is_done else Pooled(step.window)), widths

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        out[...] = self._plan.features(backend, x)

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        return self._plan.pullback(backend, x, ct)

    def _image_bytes(self, itemsize: int) -> int:
        m, s = self._channels, self._width
        numbers = [2 * s * m + 4 * self.n_features]
        for step in self._steps:
            if isinstance(step, Conv):
                taps, places = step.window.taps, math.prod(step.window.places)
                numbers += [places * (2 * taps * max(m, s, self.in_shape[2]) + 4 * (m + s))]
        return (sum(numbers) + math.prod(self.in_shape)) * itemsize
