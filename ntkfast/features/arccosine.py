"""Random features of the arc-cosine kernels of order 0 and 1: one random layer of steps or ReLUs."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from .._angles import angles, unit_rows
from .._check import check_choice, check_int, check_pair, check_range, check_seed, quiet, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import Backend
from ..kernels.philox import derive_key
from ..zonal import zonal
from ._base import FeatureMap
from ._weights import SAMPLINGS, directions

__all__ = ["ArcCosineFeatures"]


@dataclass(frozen=True, slots=True)
class ArcCosineFeatures(FeatureMap):
    r"""Random features of the arc-cosine kernel of order 0 or 1.

    With w_1, ..., w_m drawn from N(0, I) and t the angle between x and y,

    - order 0: phi_i(x) = sqrt(2 / m) 1(w_i.x > 0), and E phi(x).phi(y) = kappa_0(cos t) = 1 - t / pi;
    - order 1: phi_i(x) = sqrt(2 / m) max(w_i.x, 0), and E phi(x).phi(y) = |x| |y| kappa_1(cos t),
      kappa_1(cos t) = (sin t + (pi - t) cos t) / pi.

    Parameters
    ----------
    in_dim : int
        Width d of the input.
    n_features : int
        Number m of features.
    order : {0, 1}
        0 for steps, 1 for ReLUs.
    sampling : {"gaussian", "leverage"}
        "leverage" draws w by its leverage score for order 1, |w|^2 / d times the normal density;
        since that law is isotropic, the weighted features are ReLUs of directions uniform on
        the sphere of radius sqrt(d). Without influence on order 0, which sees directions only.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Error: unbiased. The variance is (2 kappa_0 - kappa_0^2) / m at order 0 and
    (4 E relu(w.x)^2 relu(w.y)^2 - (|x||y| kappa_1)^2) / m at order 1, where for x = y the first term
    is 6 |x|^4, and 6 |x|^4 d / (d + 2) with leverage scores.
    Cost: one matrix product, 2 n d m operations; d m weights are kept for the last few maps used.
    Determinism: weights depend on the seed alone; features on the rounding of the matrix product.
    Backends: numpy, cupy.

    References
    ----------
    Cho, Saul. Kernel methods for deep learning. NeurIPS 2009.
    Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random
    features. NeurIPS 2021 (leverage scores).

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import ArcCosineFeatures
    >>> x = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> phi = ArcCosineFeatures(2, 4096, order=1, seed=0)
    >>> bool(np.abs(phi(x) @ phi(x).T - phi.kernel(x)).max() < 0.5)
    True
    """

    in_dim: int
    n_features: int
    _: KW_ONLY
    order: int
    sampling: str = "gaussian"
    seed: int

    def __post_init__(self) -> None:
        set_checked(self, in_dim=check_int(self.in_dim, "in_dim", minimum=1))
        set_checked(self, n_features=check_int(self.n_features, "n_features", minimum=1))
        set_checked(self, order=check_int(self.order, "order", minimum=0, maximum=1))
        check_choice(self.sampling, "sampling", SAMPLINGS)
        set_checked(self, seed=check_seed(self.seed))

    def _kernel(self, x1: Array, x2: Array | None) -> Array:
        x1, x2, _ = check_pair(x1, x2)
        unit1, norms1 = unit_rows(x1)
        unit2, norms2 = (unit1, norms1) if x2 is None else unit_rows(x2)
        t = angles(unit1, None if x2 is None else unit2)
        if self.order == 1:
            with quiet():
                return check_range(zonal(1, kind="nngp").of_angle(t) * norms1[:, None] * norms2, "the kernel")
        return (1 - t / math.pi) * (norms1 > 0)[:, None] * (norms2 > 0)

    def _weights(self, backend: Backend, dtype: Any) -> Array:
        key = derive_key(self.seed, Stream.ARC_COSINE, self.order)
        return directions(backend, dtype, (self.in_dim, self.n_features), sampling=self.sampling, key=key)

    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        xp = backend.xp
        xp.matmul(x, self._weights(backend, x.dtype), out=out)
        if self.order == 1:
            xp.maximum(out, 0, out=out)
        else:
            out[...] = out > 0
            out *= math.sqrt(2 / self.n_features)

    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        if self.order == 0:
            return backend.xp.zeros_like(x)
        weights = self._weights(backend, x.dtype)
        return (ct * (x @ weights > 0)) @ weights.T

    def _row_bytes(self, itemsize: int) -> int:
        return 2 * self.n_features * itemsize
