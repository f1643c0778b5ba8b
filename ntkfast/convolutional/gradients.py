"""Gradients of the exact kernels of convolutional networks with respect to the images, derived by hand.

An entry of the kernel depends on two images through <x_p, y_q> of all pairs of pixels, and through the variances before
every activation. Both are followed backwards, one displacement between pixels at a time, as told in
`ntkfast.kernels.displacement_gradient`.

Where an activation's kdot has a kink (positively homogeneous ones at the angles 0 and pi, zero patches), its derivative
with respect to the angle is taken as 0, the mean over both sides. So gradients are finite everywhere, and right for
equal patches, whose angle stays 0 where an image meets itself.
"""

from typing import Any, NamedTuple

from .._check import array_backend, check_choice, check_cotangent, check_images
from .._typing import Array
from ..layers import Layer
from ._gram import Progress, check_image_pair, check_progress
from ._pullback import pull_diagonal, pull_gram
from .architecture import plan

__all__ = ["ImageGradient", "cntk_diagonal_vjp", "cntk_vjp"]

_KINDS = ("nngp", "ntk")


class ImageGradient(NamedTuple):
    """Gradient of sum_ij ct_ij K(x1_i, x2_j).

    Attributes
    ----------
    x1 : array, shape (n1, h, w, c)
        In a symmetric call the sum over both roles of x1.
    x2 : array, shape (n2, h, w, c), or None in a symmetric call
    """

    x1: Array
    x2: Array | None


def cntk_vjp(
    network: Layer,
    x1: Array,
    x2: Array | None,
    ct: Array,
    *,
    kind: str = "ntk",
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> ImageGradient:
    """Vector-Jacobian product of a kernel matrix: gradient of sum_ij ct_ij K(x1_i, x2_j) by the images.

    Parameters
    ----------
    network : ntkfast.layers.Layer
        As for `cntk`.
    x1 : array, shape (n1, h, w, c), float32 or float64
    x2 : array, shape (n2, h, w, c), dtype and backend of `x1`, or None
        None means `x1` in both roles, at half the cost; its gradient is then the sum of both.
    ct : array, shape (n1, n2)
        Cotangent of the kernel matrix, in the dtype of `x1`.
    kind : {"ntk", "nngp"}
    max_memory : int, optional
        Bytes of temporaries beside the result and, per image and layer, sums in float64; default the least of 256 MiB
        and a quarter of what is free.
    progress : callable, optional
        ``progress(done, total)`` is called with numbers of image pairs.

    Returns
    -------
    ImageGradient

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError
        As for `cntk`; a cotangent of another shape or dtype.
    OverflowError
        A gradient leaves the range of its dtype.

    Notes
    -----
    Cost: 2 to 3 times that of `cntk` on the same pairs, zeros in `ct` included; about 5 times with Flatten and no
    pooling, where writing and adding up the gradients of every pair takes longest.
    Memory: a pair of images takes four times its own size and that of its variances; behind pooling or strides also
    the tensors of its pairs of pixels.
    Error: relative to the largest entry about 1e-12 in float64 and 1e-5 in float32. Pairs of patches at a small angle t
    (or pi - t) count with an error of eps / t by their share, because kdot turns there; 0 is used for its direction at
    t = 0 and t = pi.
    Determinism: the same bits for any number of threads; to rounding across `max_memory` and backends.
    Backends: numpy, cupy.

    References
    ----------
    The recursion is that of Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural
    net. NeurIPS 2019. Its gradient is what distilling data sets with kernels needs: Nguyen, Novak, Xiao, Lee. Dataset
    distillation with infinitely wide convolutional networks. NeurIPS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.convolutional import cntk, cntk_vjp, gap_network
    >>> x = np.random.default_rng(0).standard_normal((2, 4, 4, 3))
    >>> gradient = cntk_vjp(gap_network(depth=2), x, None, np.ones((2, 2)))
    >>> gradient.x1.shape
    (2, 4, 4, 3)
    >>> bool(np.isclose((x * gradient.x1).sum(), 2 * cntk(gap_network(depth=2), x).sum()))  # homogeneous of degree 2
    True
    """
    check_choice(kind, "kind", _KINDS)
    check_progress(progress)
    x1, x2, _ = check_image_pair(x1, x2)
    ct = check_cotangent(ct, "ct", (len(x1), len(x1 if x2 is None else x2)), x1)
    return ImageGradient(*pull_gram(plan(network, x1.shape[1:]), x1, x2, ct, kind, max_memory, progress))


def cntk_diagonal_vjp(
    network: Layer,
    x: Array,
    ct: Array,
    *,
    kind: str = "ntk",
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Gradient of sum_i ct_i K(x_i, x_i) by the images.

    Parameters
    ----------
    network, kind, max_memory, progress
        As for `cntk_vjp`.
    x : array, shape (n, h, w, c), float32 or float64
    ct : array, shape (n,)
        Cotangent of the diagonal, in the dtype of `x`.

    Returns
    -------
    array, shape (n, h, w, c), dtype and backend of `x`

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError, OverflowError
        As for `cntk_vjp`.

    Notes
    -----
    Cost: one image pair per image. Memory, error, determinism, backends and references: as for `cntk_vjp`.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.convolutional import cntk_diagonal_vjp, cntk_vjp, gap_network
    >>> x = np.random.default_rng(0).standard_normal((2, 4, 4, 1))
    >>> gradient = cntk_diagonal_vjp(gap_network(), x, np.ones(2))
    >>> bool(np.allclose(gradient, cntk_vjp(gap_network(), x, None, np.eye(2)).x1, rtol=1e-12))
    True
    """
    check_choice(kind, "kind", _KINDS)
    check_progress(progress)
    x, _ = check_images(x, "x")
    return pull_diagonal(plan(network, x.shape[1:]), x, _diagonal(ct, x), kind, max_memory, progress)


def _diagonal(ct: Any, x: Array) -> Array:
    array_backend(ct, "ct")
    if ct.ndim != 1:
        raise ValueError(f"expected ct of shape ({len(x)},), got {ct.shape}")
    return check_cotangent(ct[:, None], "ct", (len(x), 1), x)[:, 0]
