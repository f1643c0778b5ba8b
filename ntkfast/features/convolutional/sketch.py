"""CNTKSketch: the recursion of the convolutional NTK carried out on sketches, pixel by pixel."""

import math
from dataclasses import KW_ONLY, dataclass

from ..._check import check_choice, check_int, set_checked
from ..._streams import Stream
from ..._typing import Array
from ...backends import Backend
from ...kernels.philox import derive_key
from ...layers import Layer
from ...sketch.poly import MAX_DEGREE
from .._polynomial import kappa_polynomial, layer_polynomial
from ._base import ImageFeatureMap
from ._network import Conv, Mean, Relu, Step, without_head
from ._pixels import Flattened, Pooled, Readout, Stage, Stages
from ._sketched_network import ArcCosinePart, Part, PolynomialPart, SketchedConv, SketchedRelu

__all__ = ["CNTKSketch"]

EXPANSIONS = ("arccosine", "polynomial", "taylor")


@dataclass(frozen=True, slots=True)
class CNTKSketch(ImageFeatureMap):
    r"""Sketch of the infinite-width convolutional NTK by recursion over the layers at every pixel (Zandieh 2021).

    At every pixel p there are phi_p for the NNGP and psi_p for the NTK:

    - a convolution makes phi_p <- R [W_std / sqrt(taps) phi_{p + a} for all taps a ; b_std] and
      psi_p <- S [W_std / sqrt(taps) psi_{p + a} for all taps a ; phi_p], R and S SRHTs to `width` columns;
    - ReLU makes phi_p <- sqrt(K(p, p) / 2) z_1(u_p) and psi_p <- T(psi_p (x) z_0(u_p)) / sqrt(2), where
      u_p = phi_p / |phi_p|, z_1 and z_0 are features of kappa_1 and kappa_0, and T is a TensorSRHT;
    - pools take means of phi and psi; `Flatten` puts all pixels in one vector;
    - a last dense layer makes [W_std psi ; W_std phi ; b_std], which an SRHT brings to n_features.

    The variances K(p, p) are exact up to the first pool: a box sum per layer.

    Parameters
    ----------
    network : layers.Sequential
        Conv2d, Dense, ReLU, AvgPool2d, GlobalAvgPool and Flatten in a row; channels play no role.
    in_shape : (int, int, int)
        Height, width and channels of the images.
    n_features : int
        Number of features.
    degree : int
        Degree of the polynomials, by default the published one; without effect on "arccosine". Higher degrees have less
        bias and more variance, which a larger width must make up for.
    width : int
        Width of all inner sketches, at least 2.
    expansion : {"polynomial", "taylor", "arccosine"}
        Features of kappa_1 and kappa_0: PolySketches of polynomials with non-negative coefficients, fitted for each
        layer on the interval of cosines that it meets, or cut off from the power series; or random ReLUs and steps.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed; a layer that is not supported, by name.

    Notes
    -----
    Error: that of the polynomials, largest at coincident pixels (none with "arccosine"), plus a standard deviation of
    order sqrt(degree / width) that grows with the number of layers, and 1 / sqrt(n_features) of the readout. For three
    layers of 3 x 3, a mean over all pixels, 32 x 32 CIFAR-10 images and 4096 features the relative Frobenius error of
    a Gram matrix is 0.07 (degree 4: 0.15; "arccosine": 0.12), and 0.05 (0.07; 0.06) after one factor for all entries.
    Width 256 in place of 128 takes 1.5 times the time for 0.8 of the latter, and the former stays: one factor that
    psi's sketches share. `CNTKRandomFeatures` and above all `CNTKGradientFeatures` (0.004), the default of
    `cntk_features`, are closer in the same time. This map is for comparison with the published method, and for
    features that change smoothly with the image and have an exact gradient.
    Cost per image, linear in pixels: O(pixels width (taps log(taps width) + (q log q) log width)) a layer, q = degree.
    Departures from the paper: `width` is not n_features, and before a mean over all pixels the product psi (x) z_0 is
    not sketched (a sum over pixels of outer products is one matrix product per image, which the readout shortens).
    Gradient: exact, but for the steps of "arccosine", which are constant almost everywhere.
    Determinism: the sketches depend on the seed alone, and features on the rounding of matrix products.
    Backends: numpy, cupy.

    References
    ----------
    Zandieh. Learning with neural tangent kernels in near input sparsity time. arXiv 2104.00415.
    Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random features.
    NeurIPS 2021. Algorithm CNTKSketch.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import CNTKSketch
    >>> from ntkfast.layers import Conv2d, Dense, GlobalAvgPool, ReLU, Sequential
    >>> network = Sequential(Conv2d(1, 3), ReLU(), Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1))
    >>> phi = CNTKSketch(network, (8, 8, 3), 256, width=32, seed=0)
    >>> phi(np.ones((2, 8, 8, 3))).shape
    (2, 256)
    """

    network: Layer
    in_shape: tuple[int, int, int]
    n_features: int
    _: KW_ONLY
    degree: int = 2
    width: int = 128
    expansion: str = "polynomial"
    seed: int

    def __post_init__(self) -> None:
        self._check_fields()
        set_checked(self, degree=check_int(self.degree, "degree", minimum=1, maximum=MAX_DEGREE))
        set_checked(self, width=check_int(self.width, "width", minimum=2))
        check_choice(self.expansion, "expansion", EXPANSIONS)

    def _key(self, number: int, part: int) -> int:
        return derive_key(self.seed, Stream.CNTK_SKETCH, number, part)

    @property
    def _plan(self) -> Stages:
        """The stages of the network, with the widths of phi and psi between them."""
        steps, head = without_head(self._steps)
        stages: list[Stage] = []
        widths, depth, skip = (self.in_shape[2], 0), 0, False
        for number, step in enumerate(steps):
            if skip:  # the mean is part of the ReLU before it
                skip = False
                continue
            depth += isinstance(step, Relu)
            skip = isinstance(step, Relu) and _is_global(steps[number + 1 : number + 2])
            stage, widths = self._stage(number, step, steps[number + 1] if skip else None, widths, depth)
            stages.append(stage)
        return Stages(tuple(stages), Readout(head, widths, self.n_features, self._key(len(steps), 0)))

    def _stage(
        self, number: int, step: Step, pool: Step | None, widths: tuple[int, int], depth: int
    ) -> tuple[Stage, tuple[int, int]]:
        """The stage of a step, and the widths of phi and psi above it."""
        if isinstance(step, Conv):
            conv = SketchedConv(step, widths, self.width, self._key(number, 0))
            return conv, conv.above
        if isinstance(step, Relu):
            window = pool.window if isinstance(pool, Mean) else None
            relu = SketchedRelu(self._part(number, widths[0], depth), widths[1], window, self._key(number, 1))
            return relu, relu.above
        if isinstance(step, Mean):
            return Pooled(step.window), widths
        pixels = math.prod(step.size)
        return Flattened(step.size), (widths[0] * pixels, widths[1] * pixels)

    def _part(self, number: int, in_dim: int, depth: int) -> Part:
        key = self._key(number, 0)
        if self.expansion == "arccosine":
            return ArcCosinePart(in_dim, self.width, key)
        if self.expansion == "taylor":
            kappa_0, kappa_1 = (kappa_polynomial(order, self.degree, "taylor") for order in (0, 1))
        else:
            kappa_0, kappa_1 = (layer_polynomial(order, self.degree, depth) for order in (0, 1))
        return PolynomialPart(in_dim, self.width, (kappa_0, kappa_1), key)

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        out[...] = self._plan.features(backend, x)

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        return self._plan.pullback(backend, x, ct)

    def _image_bytes(self, itemsize: int) -> int:
        kept = 2 * self.width**2 + 4 * self.n_features + 4 * math.prod(self.in_shape)
        passing = 0  # the taps of one convolution, or the powers of one activation
        for step in self._steps:
            if isinstance(step, Conv):
                pixels, taps = math.prod(step.window.places), 4 * step.window.taps * max(self.width, self.in_shape[2])
                kept += pixels * 8 * self.width
                passing = max(passing, pixels * max(taps, 9 * self.degree * self.width))
        return (kept + passing) * itemsize


def _is_global(steps: tuple[Step, ...]) -> bool:
    """Whether a mean over all pixels comes first."""
    return bool(steps) and isinstance(steps[0], Mean) and Pooled(steps[0].window).is_global
