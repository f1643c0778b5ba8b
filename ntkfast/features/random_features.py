"""Recursive random features of the ReLU NTK: one random ReLU layer, one random step layer per depth."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from .._check import check_choice, check_int, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels.philox import derive_key
from ..sketch import TensorSketch, TensorSRHT
from ._base import ReluNTKMap
from ._weights import SAMPLINGS, directions

__all__ = ["NTKRandomFeatures"]

PRODUCTS: dict[str, type[TensorSRHT] | type[TensorSketch]] = {"tensor_srht": TensorSRHT, "tensor_sketch": TensorSketch}


class _Layer(NamedTuple):
    """What a block of rows leaves behind at layer h, for the pullback."""

    active: Array  # (b, n_relu) of bool: W1 phi^{h-1} > 0
    step: Array  # (b, n_step): b^h
    ntk: Array  # (b, .): psi^{h-1}


@dataclass(frozen=True, slots=True)
class NTKRandomFeatures(ReluNTKMap):
    r"""Random features of the depth-L ReLU NTK, built layer by layer (Zandieh et al. 2021).

    Starting from phi^0 = psi^0 = x, for h = 1, ..., L with independent normal W0, W1

    - b^h = sqrt(2 / n_step) 1(W0 phi^{h-1} > 0), random features of kappa_0;
    - phi^h = sqrt(2 / n_relu) max(W1 phi^{h-1}, 0), random features of the NNGP;
    - psi^h = [phi^h ; S(psi^{h-1} (x) b^h)], with a sketch S of the tensor product,

    so that psi^L(x).psi^L(y) approximates |x| |y| K^L(cos). The features are psi^L times the
    square root of the NTK's scale (W_std^2 / 2)^L W_std^2 / d.

    Parameters
    ----------
    in_dim : int
        Width d of the input.
    n_features : int
        Number of features, n_relu + sketch_dim; at least 2.
    depth : int
        Number L of hidden layers, at least 1.
    W_std : float
        Standard deviation of the weights, as in `ntkfast.analytic.ntk`.
    sampling : {"gaussian", "leverage"}
        Law of W1. "leverage" draws each row w by its leverage score, |w|^2 / d times the normal density;
        the weighted feature then depends on w / |w| alone, uniform on the sphere, so that no
        Gibbs sampler is needed. W0 is normal in both.
    product : {"tensor_srht", "tensor_sketch"}
        Sketch S: subsampled Hadamard transforms multiplied entrywise, or CountSketches convolved.
    n_relu : int, optional
        Width of phi^h; default n_features // 2.
    n_step : int, optional
        Width of b^h; default n_relu. It costs time, not features.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Error: unbiased for L = 1; for L >= 2 a bias of order 1 / n_relu, since phi^{h-1} is random inside kappa_0
    and kappa_1. Standard deviation of order 1 / sqrt(n_relu) + 1 / sqrt(n_step) + 1 / sqrt(sketch_dim),
    growing with L.
    Cost: 2 n (n_relu + n_step) (d + (L - 1) n_relu) operations in matrix products, and
    O(n L m log m) for the sketches. Weights of (n_relu + n_step) (d + (L - 1) n_relu) numbers are kept for
    the maps used last.
    Gradient: that of the map itself. b^h is piecewise constant, so almost everywhere it is a constant
    factor in the vjp; the mean of that gradient is not the gradient of the kernel, whose kappa_0 does vary.
    Determinism: weights depend on the seed alone; features on the rounding of matrix products, which may
    flip a step at a pre-activation within rounding of 0.
    Backends: numpy, cupy.

    References
    ----------
    Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random features.
    NeurIPS 2021. Algorithm of section 4 and its leverage-score distribution.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import NTKRandomFeatures
    >>> x = np.eye(3)
    >>> phi = NTKRandomFeatures(3, 4096, depth=2, seed=0)
    >>> error = phi(x) @ phi(x).T - phi.kernel(x)
    >>> bool(np.abs(error).max() < 0.3 * phi.kernel(x).max())
    True
    """

    in_dim: int
    n_features: int
    _: KW_ONLY
    depth: int
    W_std: float = math.sqrt(2)
    sampling: str = "gaussian"
    product: str = "tensor_srht"
    n_relu: int | None = None
    n_step: int | None = None
    seed: int

    def __post_init__(self) -> None:
        self._check_fields(fewest_features=2)
        check_choice(self.sampling, "sampling", SAMPLINGS)
        check_choice(self.product, "product", PRODUCTS)
        if self.n_relu is not None:
            set_checked(self, n_relu=check_int(self.n_relu, "n_relu", minimum=1, maximum=self.n_features - 1))
        if self.n_step is not None:
            set_checked(self, n_step=check_int(self.n_step, "n_step", minimum=1))

    @property
    def _relu_width(self) -> int:
        return self.n_features // 2 if self.n_relu is None else self.n_relu

    @property
    def _step_width(self) -> int:
        return self._relu_width if self.n_step is None else self.n_step

    def _key(self, h: int, part: int) -> int:
        return derive_key(self.seed, Stream.RANDOM_FEATURES, h, part)

    def _relu_weights(self, backend: Backend, dtype: Any, h: int) -> Array:
        shape = (self.in_dim if h == 1 else self._relu_width, self._relu_width)
        return directions(backend, dtype, shape, sampling=self.sampling, key=self._key(h, 0))

    def _step_weights(self, backend: Backend, dtype: Any, h: int) -> Array:
        shape = (self.in_dim if h == 1 else self._relu_width, self._step_width)
        return directions(backend, dtype, shape, sampling="gaussian", key=self._key(h, 1))

    def _sketch(self, h: int) -> TensorSRHT | TensorSketch:
        """S of layer h, from the width of psi^{h-1} and n_step to n_features - n_relu."""
        in_dims = (self.in_dim if h == 1 else self.n_features, self._step_width)
        return PRODUCTS[self.product](in_dims, self.n_features - self._relu_width, seed=self._key(h, 2))

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        psi = x * x.dtype.type(self._root_scale)
        phi = psi
        for h in range(1, self.depth + 1):
            sketched = self._sketch(h).apply(psi, self._steps(backend, phi, h))
            psi = out if h == self.depth else backend.xp.empty_like(out)
            psi[:, self._relu_width :] = sketched
            phi = backend.xp.maximum(phi @ self._relu_weights(backend, x.dtype, h), 0)
            psi[:, : self._relu_width] = phi

    def _steps(self, backend: Backend, phi: Array, h: int) -> Array:
        """b^h (b, n_step) of the rows phi^{h-1}."""
        steps = (phi @ self._step_weights(backend, phi.dtype, h) > 0).astype(phi.dtype)
        steps *= math.sqrt(2 / self._step_width)
        return steps

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        xp, relu = backend.xp, self._relu_width
        ct_phi = xp.zeros((x.shape[0], relu), x.dtype)  # what reaches phi^h beside its place in psi^h
        for h, layer in reversed(list(enumerate(self._layers(backend, x), 1))):
            ct_phi = ct_phi + ct[:, :relu]
            sketched = xp.ascontiguousarray(ct[:, relu:])
            ct_phi = (ct_phi * layer.active) @ self._relu_weights(backend, x.dtype, h).T
            ct = self._sketch(h).vjp((layer.ntk, layer.step), sketched)[0]
        return (ct + ct_phi) * x.dtype.type(self._root_scale)

    def _layers(self, backend: Backend, x: Array) -> list[_Layer]:
        """The forward pass, kept for the pullback."""
        layers = []
        psi = phi = x * x.dtype.type(self._root_scale)
        for h in range(1, self.depth + 1):
            steps = self._steps(backend, phi, h)
            phi = backend.xp.maximum(phi @ self._relu_weights(backend, x.dtype, h), 0)
            layers.append(_Layer(phi > 0, steps, psi))
            if h < self.depth:
                psi = backend.xp.concatenate((phi, self._sketch(h).apply(psi, steps)), axis=1)
        return layers

    def _row_bytes(self, itemsize: int) -> int:
        kept = self.depth * (self.n_features + 2 * self._step_width)
        return (kept + 4 * self.n_features + 4 * self._step_width + self.in_dim) * itemsize
