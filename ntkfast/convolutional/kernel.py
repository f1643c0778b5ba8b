"""Exact kernels of infinitely wide convolutional networks: NNGP and NTK (CNN-GP and CNTK).

With K_0(p, q) = <x_p, y_q> / channels for pixels p of x and q of y, layer by layer

    convolution    K <- W_std^2 C(K) + b_std^2,   Theta <- K + W_std^2 C(Theta)
    activation     K <- E[phi phi],               Theta <- E[phi' phi'] Theta
    pooling        the mean over both pixels' windows, of K and of Theta

where C(A)(p, q) is the mean over the window's offsets s of A(p + s, q + s). How that is done is told in
`ntkfast.kernels.displacement`.
"""

from .._check import check_images
from .._typing import Array
from ..analytic import KernelPair
from ..layers import Layer
from ._gram import Progress, check_image_pair, diagonal, gram
from .architecture import plan

__all__ = ["cnn_gp", "cnn_gp_and_cntk", "cntk", "cntk_diagonal"]


def cntk(
    network: Layer,
    x1: Array,
    x2: Array | None = None,
    *,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> Array:
    r"""Exact NTK of an infinitely wide convolutional network (CNTK).

    Parameters
    ----------
    network : ntkfast.layers.Layer
        The network; numbers of channels play no part. Known are Conv2d (any kernel, stride and padding; groups 1,
        dilation 1), Dense, ReLU, LeakyReLU, Abs, Erf, Identity, AvgPool2d, GlobalAvgPool, Flatten, Residual and
        Sequential, with ``parameterization="ntk"``. `gap_network`, `flatten_network` and `myrtle` make published ones.
    x1 : array, shape (n1, h, w, c), float32 or float64
        Images.
    x2 : array, shape (n2, h, w, c), dtype and backend of `x1`, optional
        None means `x1`, at half the cost; the result is then exactly symmetric.
    max_memory : int, optional
        Bytes of temporaries beside the result; default the least of 512 MiB and a quarter of what is free.
    progress : callable, optional
        ``progress(done, total)`` is called with numbers of image pairs, after every 1024 of them or fewer.

    Returns
    -------
    array, shape (n1, n2), dtype and backend of `x1`

    Raises
    ------
    TypeError, ValueError
        Images or a network that are not as above, an activation without weights before it, or a network whose result is
        still an image.
    MixedBackendError
        `x1` and `x2` are of two backends.
    MemoryBudgetError
        `max_memory` is too small for one pair.
    OverflowError
        The kernel leaves the range of the dtype.

    Notes
    -----
    Cost: with GlobalAvgPool, (h w)^2 pixel pairs per image pair and layer, about 1 ns each on one core in
    float32 and 2.5 ns in float64; `estimate_cost` measures it. With Flatten, h w pixel pairs. A stride before
    the first full-size layer, or pooling, divides the cost of what follows by its fourth power.
    Error: relative to the largest entry about 1e-14 in float64 and 1e-6 in float32. The angle between two patches that
    are nearly, but not exactly equal has an error of sqrt(eps), which counts by the share of such pixel pairs; equal
    patches have the angle 0 exactly. With biases or Erf the kernel does not scale with the images: they have to be
    within the fourth root of the dtype's range, about 1e-9 to 1e9 in float32 and 1e-76 to 1e76 in float64. Angles of
    smaller ones are lost, larger ones are refused.
    Determinism: the same bits for any `max_memory` and number of threads.
    Backends: numpy, cupy.

    References
    ----------
    Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.
    Novak et al. Bayesian deep convolutional networks with many channels are Gaussian processes. ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.convolutional import cntk, gap_network
    >>> x = np.random.default_rng(0).standard_normal((3, 8, 8, 3))
    >>> kernel = cntk(gap_network(depth=2), x)
    >>> kernel.shape, bool((kernel == kernel.T).all()), bool(np.linalg.eigvalsh(kernel).min() > 0)
    ((3, 3), True, True)
    """
    return cnn_gp_and_cntk(network, x1, x2, max_memory=max_memory, progress=progress).ntk


def cnn_gp(
    network: Layer,
    x1: Array,
    x2: Array | None = None,
    *,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Exact NNGP kernel of an infinitely wide convolutional network: the covariance of one output.

    Parameters
    ----------
    network, x1, x2, max_memory, progress
        As for `cntk`.

    Returns
    -------
    array, shape (n1, n2), dtype and backend of `x1`

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError, OverflowError
        As for `cntk`.

    Notes
    -----
    Cost, error, determinism, backends and references: as for `cntk`.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.convolutional import cnn_gp, flatten_network
    >>> cnn_gp(flatten_network(depth=1), np.ones((2, 4, 4, 3))).shape
    (2, 2)
    """
    return cnn_gp_and_cntk(network, x1, x2, max_memory=max_memory, progress=progress).nngp


def cnn_gp_and_cntk(
    network: Layer,
    x1: Array,
    x2: Array | None = None,
    *,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> KernelPair:
    """Both kernels of an infinitely wide convolutional network, at the cost of one.

    Parameters
    ----------
    network, x1, x2, max_memory, progress
        As for `cntk`.

    Returns
    -------
    KernelPair

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError, OverflowError
        As for `cntk`.

    Notes
    -----
    Cost, error, determinism, backends and references: as for `cntk`.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.convolutional import cnn_gp_and_cntk, gap_network
    >>> pair = cnn_gp_and_cntk(gap_network(depth=1), np.ones((1, 4, 4, 3)))
    >>> bool(pair.ntk > pair.nngp)
    True
    """
    x1, x2, _ = check_image_pair(x1, x2)
    return KernelPair(*gram(plan(network, x1.shape[1:]), x1, x2, max_memory, progress))


def cntk_diagonal(
    network: Layer, x: Array, *, max_memory: int | None = None, progress: Progress | None = None
) -> KernelPair:
    """NNGP and NTK of every image with itself.

    Parameters
    ----------
    network, max_memory, progress
        As for `cntk`.
    x : array, shape (n, h, w, c), float32 or float64

    Returns
    -------
    KernelPair
        Its `nngp` and `ntk` have shape (n,): the diagonals of `cnn_gp` and `cntk`.

    Raises
    ------
    TypeError, ValueError, MemoryBudgetError, OverflowError
        As for `cntk`.

    Notes
    -----
    Cost: one image pair per image. Error, determinism, backends and references: as for `cntk`.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.convolutional import cntk, cntk_diagonal, gap_network
    >>> x = np.random.default_rng(0).standard_normal((3, 4, 4, 1))
    >>> bool(np.allclose(cntk_diagonal(gap_network(), x).ntk, np.diag(cntk(gap_network(), x)), rtol=1e-14))
    True
    """
    x, _ = check_images(x, "x")
    return KernelPair(*diagonal(plan(network, x.shape[1:]), x, max_memory, progress))
