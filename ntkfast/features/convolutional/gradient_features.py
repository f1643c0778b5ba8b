"""Sketched gradients of random wide networks as features of the convolutional NTK."""

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

from ..._check import check_int, check_range, set_checked
from ..._streams import Stream
from ..._typing import Array
from ...backends import Backend, get_backend
from ...convolutional import cntk_diagonal
from ...convolutional.gradients import cntk_diagonal_vjp
from ...kernels.philox import derive_key
from ...layers import Cotangent, Layer
from ...layers.motion import Pair, SharedMotion
from ._base import ImageFeatureMap
from ._guided_networks import RandomNetwork, widened
from ._guided_sketch import GuidedSketch

__all__ = ["CNTKGradientFeatures"]

# Networks and channels by default; the fewest features that are worth a network, and the most that one can use.
N_NETWORKS, CHANNELS, FEWEST, MOST = 12, 48, 16, 341


@dataclass(frozen=True, slots=True)
class CNTKGradientFeatures(ImageFeatureMap):
    r"""Features of the convolutional NTK: gradients of random networks by their parameters, sketched.

    The kernel is the limit of ``J(x) . J(y)`` for wide networks, J being the gradient of one output by all
    parameters. With independent networks t = 1, ..., T and sketches S_t,

        psi(x) = [S_1 J_1(x), ..., S_T J_T(x)] / sqrt(T),     phi(x) = psi(x) sqrt(Theta(x, x)) / |psi(x)|.

    Three things make these networks and sketches better than independent normal ones, and none of them costs time:

    - ``Theta(x, x)`` is exact (one entry of the exact kernel per image), so that only angles are estimated;
    - channels are drawn together, such that what varies most between networks does not vary at all: orthogonal
      frames in pairs w and -w within the leading directions of a layer's inputs, signs in those of its cotangents;
    - the leading directions of the gradients are taken exactly, and a CountSketch takes what is left.

    Which directions lead is measured on random images with the spectrum of natural ones, not on data.

    Parameters
    ----------
    network : Layer
        `layers.Sequential` of Conv2d, Dense, ReLU, AvgPool2d, GlobalAvgPool and Flatten, that ends in
        Dense, or in Conv2d and pooling to one pixel. Its channels play no role.
    in_shape : (int, int, int)
        Height, width and channels of the images.
    n_features : int
        Number m of features.
    n_networks : int, optional
        Number T of networks, at most `n_features`; default 12, fewer where m < 192, and m / 341 where m > 4096.
        Afterwards the number taken.
    channels : int, optional
        Even number C of channels of every hidden layer; default 48. Afterwards the number taken.
    normalize : bool, optional
        Whether features have the exact norms; default True.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed; a layer that is not supported, by name.

    Notes
    -----
    Error: ``psi(x) . psi(y)`` has a bias of order 1 / C, a variance of order 1 / (C T) from the networks, and
    at most ``(|r(x)|^2 |r(y)|^2 + <r(x), r(y)>^2) / (m - k T)`` from the sketches, r being what the k = 8 leading
    directions per network leave of a gradient: 1 to 3 percent of the squares for photographs. So networks decide
    from m = 1024 on, and a regression that has to tell images apart needs both, more features and more networks.
    With exact norms it is the angle that varies. Relative Frobenius errors of the Gram matrix of 32 CIFAR-10 images,
    three 3 x 3 convolutions and global average, 12 networks:

                                m = 1024    m = 4096            m = 16384   m = 4096, normalize=False
        standardized images     0.007       0.004 to 0.007      0.007       0.015 to 0.024
        pixels in [0, 1]        0.003       0.002 to 0.003      0.002       0.013 to 0.041

    Ridge regression on 2,000 of them, reduced to 16 x 16 pixels, classifies 48.0 % of 800 others with the exact kernel,
    45.4 % and 45.9 % with m = 4096 and 16384 and 12 networks, and 48.3 % with m = 16384 and 64 networks.

    Most of such a matrix is what all images have in common. Of what is left after subtracting the mean features,
    the error is 0.02 to 0.04. Elsewhere, of 16 images, with m = 4096 and two seeds each (in brackets what is left):
    white noise 0.0001 (0.05), single pixels 0.003 to 0.004 (0.03 to 0.04), strokes on black 0.0006 (0.01), biases 0.005
    (0.03), eight convolutions 0.005 (0.04), `myrtle` (5) 0.004 to 0.005 (0.025). With Flatten instead of the average
    it is 0.03 to 0.045 (0.05 to 0.08), no better than `CNTKRandomFeatures` with exact diagonals: nothing is averaged
    over pixels, and many directions are left to the networks' variance. With m = 64 it is 0.01 to 0.02 (0.06 to 0.08).

    Cost: per image and network three matrix products for every convolution (forward, cotangent, gradient), of
    2 C^2 taps pixels operations; linear in pixels, channels squared and T, and on m only through T. With `normalize`
    also one entry of the exact kernel per image, which is quadratic in the number of pixels.
    Memory: weights, directions and tables, 11 numbers for each of the T taps C^2 parameters of a layer, kept for the
    maps used last; they are made at the first call, which takes about as long as 50 images.
    Gradient: that of the map itself. Steps 1(z > 0) are constant almost everywhere, so that it lacks what the kernel
    owes to their change, but for that of its diagonal.
    Determinism: weights are a function of the seed, up to the rounding of linear algebra in float64; features up to
    that of matrix products.
    Backends: numpy, cupy.

    References
    ----------
    Jacot, Gabriel, Hongler. Neural tangent kernel: convergence and generalization in neural networks. NeurIPS 2018.
    Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.
    Charikar, Chen, Farach-Colton. Finding frequent items in data streams. Theoretical Computer Science 312, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Conv2d, Dense, GlobalAvgPool, ReLU, Sequential
    >>> net = Sequential(Conv2d(1, 3), ReLU(), GlobalAvgPool(), Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((5, 8, 8, 3))
    >>> features = CNTKGradientFeatures(net, (8, 8, 3), 512, seed=0)
    >>> phi, exact = features(x), features.kernel(x)
    >>> bool(np.linalg.norm(phi @ phi.T - exact) < 0.05 * np.linalg.norm(exact))
    True
    """

    network: Layer
    in_shape: tuple[int, int, int]
    n_features: int
    _: KW_ONLY
    n_networks: int | None = None
    channels: int | None = None
    normalize: bool = True
    seed: int

    def __post_init__(self) -> None:
        self._check_fields()
        default = max(1, min(N_NETWORKS, self.n_features // FEWEST), self.n_features // MOST)
        n_networks = default if self.n_networks is None else self.n_networks
        set_checked(self, n_networks=check_int(n_networks, "n_networks", minimum=1, maximum=self.n_features))
        channels = CHANNELS if self.channels is None else self.channels
        set_checked(self, channels=check_int(channels, "channels", minimum=2))
        if self._channels % 2:
            raise ValueError(f"expected an even number of channels, got {self.channels}")
        if not isinstance(self.normalize, bool):
            raise TypeError(f"expected normalize to be True or False, got {self.normalize!r}")
        widened(self.network, self.in_shape, self._channels)

    @property
    def _n_networks(self) -> int:
        assert self.n_networks is not None
        return self.n_networks

    @property
    def _channels(self) -> int:
        assert self.channels is not None
        return self.channels

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        self._write_raw(x, out)
        if self.normalize:
            out *= _ratio(backend, _exact_norms(self.network, x), _norms(backend, out))[:, None]

    def _write_raw(self, x: Array, out: Array) -> None:
        """psi(x)."""
        scale = 1.0 / math.sqrt(self._n_networks)
        for sketch, columns in self._sketches():
            out[:, columns] = scale * sketch.of_gradients(x)

    def _sketches(self) -> Iterator[tuple[GuidedSketch, slice]]:
        """The sketch of every network's gradient, and its place among the features."""
        network, stop = widened(self.network, self.in_shape, self._channels), 0
        for t in range(self._n_networks):
            start, stop = stop, self.n_features * (t + 1) // self._n_networks
            key = derive_key(self.seed, Stream.CNTK_GRADIENT, t)
            yield GuidedSketch(RandomNetwork(network, self.in_shape, key), stop - start), slice(start, stop)

    # --- gradient -------------------------------------------------------------------------------

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        if not self.normalize:
            return self._pullback_raw(x, ct)
        psi = backend.xp.empty((len(x), self.n_features), x.dtype)
        self._write_raw(x, psi)
        exact, found = _exact_norms(self.network, x), _norms(backend, psi)
        unit = psi * _ratio(backend, backend.xp.ones_like(found), found)[:, None]
        along = (ct * unit).sum(axis=1)
        across = (ct - along[:, None] * unit) * _ratio(backend, exact, found)[:, None]
        slope = along * _ratio(backend, backend.xp.ones_like(exact), 2 * exact)
        return self._pullback_raw(x, across) + cntk_diagonal_vjp(self.network, x, check_range(slope, "the gradient"))

    def _pullback_raw(self, x: Array, ct: Array) -> Array:
        """Gradient of sum(ct * psi(x)): directional derivatives of the networks along the sketches' adjoints."""
        out = get_backend(x).xp.zeros_like(x)
        scale = 1.0 / math.sqrt(self._n_networks)
        for sketch, columns in self._sketches():
            directions = sketch.adjoint(scale * ct[:, columns])
            for i in range(len(x)):  # every image has a direction of its own
                out[i : i + 1] += _directional_gradient(sketch.network, x[i : i + 1], directions[i])
        return out

    def _image_bytes(self, itemsize: int) -> int:
        network = widened(self.network, self.in_shape, self._channels)
        leaves = [
            (math.prod(layer.out_shape(shape)), layer, shape) for _, layer, shape in network.leaves(self.in_shape)
        ]
        shapes = [(size, layer.parameter_shapes(shape).get("weight")) for size, layer, shape in leaves]
        outputs = [size for size, _ in shapes]
        # the inputs of a layer at all places of its output, and its gradient
        patches = [size // w[-1] * math.prod(w[:-1]) + 2 * math.prod(w) for size, w in shapes if w is not None]
        gradient = sum(math.prod(w) for _, w in shapes if w is not None)
        # what layers keep: in the pullback also their tangents and cotangents
        return itemsize * (3 * sum(outputs) + 2 * max(outputs) + max(patches) + gradient + 3 * self.n_features)


def _directional_gradient(random: RandomNetwork, x: Array, direction: Array) -> Array:
    """Gradient with respect to one image x (1, h, w, c) of <direction, dy/dparams>, direction being (N,)."""
    params = random.params(get_backend(x), x.dtype)
    motion = SharedMotion(_by_layer(random, direction))
    _, saved = random.network.forward(params, x)
    _, tangents = random.network.pair_jvp(params, saved, None, motion)
    head = Cotangent(get_backend(x).xp.ones((1, 1, 1), x.dtype))
    value = random.network.pair_vjp(params, saved, tangents, Pair(None, head), motion).value
    if value is None:
        return get_backend(x).xp.zeros_like(x)
    return value.dense(1, x.shape[1:-1])[..., 0, :]


def _by_layer(random: RandomNetwork, direction: Array) -> dict[str, dict[str, Array]]:
    """Directions of the parameters by path and name, from all in a row, output layer first."""
    found: dict[str, dict[str, Array]] = {}
    start = 0
    for i, shapes in reversed(list(enumerate(random.shapes()))):
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            found.setdefault(str(i), {})[name] = direction[start:stop].reshape(shape)
            start = stop
    return found


def _exact_norms(network: Layer, x: Array) -> Array:
    """sqrt(Theta(x, x)) of every image."""
    return get_backend(x).xp.sqrt(cntk_diagonal(network, x).ntk)


def _norms(backend: Backend, rows: Array) -> Array:
    """Norms of rows."""
    return backend.xp.sqrt((rows * rows).sum(axis=1))


def _ratio(backend: Backend, numerator: Array, denominator: Array) -> Array:
    """Quotient, 0 where the denominator is: an image of zeros has no gradient."""
    safe = backend.xp.where(denominator > 0, denominator, 1)
    return backend.xp.where(denominator > 0, numerator / safe, 0).astype(denominator.dtype)
