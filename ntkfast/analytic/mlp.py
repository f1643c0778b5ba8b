"""Public functions: NNGP and NTK of infinitely wide fully connected networks."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._check import check_int, check_pair, check_real
from .._typing import Array
from ..zonal import zonal
from ._bias_free import zonal_gram
from .activations import Activation, closed_form
from .hermite import expand
from .recursion import Network, gram, prepare

__all__ = ["KernelPair", "check_network", "nngp", "nngp_and_ntk", "ntk"]

# Bias-free kernels of a smaller scale are left to the recursion.
SMALLEST_SCALE = 1e-130


class KernelPair(NamedTuple):
    """Both kernels of one network.

    Attributes
    ----------
    nngp : array, shape (n1, n2), or (n,) for a diagonal
    ntk : array of the same shape
    """

    nngp: Array
    ntk: Array


def ntk(
    x1: Array,
    x2: Array | None = None,
    *,
    depth: int,
    W_std: float = math.sqrt(2),
    b_std: float = 0.0,
    activation: str | Activation | Callable[[Array], Array] = "relu",
    diagonal: bool = False,
    max_memory: int | None = None,
) -> Array:
    r"""Neural tangent kernel of an infinitely wide fully connected network.

    The network is (dense, activation) `depth` times and a last dense layer, with z = (W_std / sqrt(m)) W x + b_std b
    in every dense layer of m inputs and all entries of W and b drawn from N(0, 1) and trained. With
    (u, v) ~ N(0, [[K_h(x, x), K_h(x, y)], [K_h(x, y), K_h(y, y)]]) and d the width of the input,

        K_0         = W_std^2 <x, y> / d + b_std^2
        K_(h+1)     = W_std^2 E[phi(u) phi(v)] + b_std^2
        Theta_0     = K_0
        Theta_(h+1) = K_(h+1) + W_std^2 E[phi'(u) phi'(v)] Theta_h

    and the kernel is Theta_depth.

    Parameters
    ----------
    x1 : array, shape (n1, d), float32 or float64
        Rows are inputs.
    x2 : array, shape (n2, d), optional
        None means `x1`, at half the cost.
    depth : int
        Number of hidden layers, at least 0; 0 is the linear model.
    W_std : float
        Standard deviation of the weights, positive; the default preserves the norm through relu layers.
    b_std : float
        Standard deviation of the biases, at least 0.
    activation : str, Activation or callable
        A name of `closed_form`, a record (`leaky_relu`, `expand`, or the caller's own), or any elementwise function,
        which is expanded in Hermite polynomials with the defaults of `expand` (for smooth functions).
    diagonal : bool
        Return only the entries (x, x), in time linear in n1; needs ``x2=None``.
    max_memory : int, optional
        Bytes that tiles may take, beside the result and a copy of the inputs; a quarter of the free memory by
        default. Its choice changes results by rounding only.

    Returns
    -------
    array, shape (n1, n2), or (n1,) if `diagonal`; dtype and backend of `x1`
        Exactly symmetric if `x2` is None.

    Raises
    ------
    TypeError, ValueError
        Inputs that are not matrices of floats, have NaN or inf, or differ in width or dtype; a negative depth;
        W_std <= 0; b_std < 0; an unknown activation; ``diagonal`` with `x2`; a kernel that exceeds the range of the
        dtype.
    MixedBackendError
        Arrays of two backends.
    MemoryBudgetError
        `max_memory` is too small for a single row.

    Notes
    -----
    Error: exact up to rounding, relative to sqrt(Theta(x, x) Theta(y, y)): about 1e-14 in float64 and 1e-6 in float32
    for depths up to 10, also between equal and opposite points, where relu's kernel has a kink. For activations that
    are not positively homogeneous, nearly equal points of a large variance q = K_h(x, x) lose a factor of about q.
    Cost: a matrix product, and per entry one polynomial whatever the depth (relu, leaky relus and abs without biases),
    about 30 floating-point operations per layer (the same with biases), or array expressions (other activations). With
    biases, pairs nearly parallel or opposite (1 - abs(cos) below 2e-3 in float32, 1e-5 in float64) cost O(d) more.
    Determinism: across runs; to rounding across `max_memory` and backends.
    Backends: numpy, cupy.

    References
    ----------
    Jacot, Gabriel, Hongler. Neural tangent kernel: convergence and generalization in neural networks. NeurIPS 2018,
    theorem 1.
    Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington. Wide neural networks of any depth evolve as linear
    models under gradient descent. NeurIPS 2019 (W_std, b_std).

    Examples
    --------
    >>> import numpy as np
    >>> ntk(np.array([[1.0, 0.0], [0.0, 1.0]]), depth=1).round(4)
    array([[2.    , 0.3183],
           [0.3183, 2.    ]])
    """
    _, kernel = _kernels(x1, x2, depth, W_std, b_std, activation, diagonal, max_memory, (False, True))
    return kernel


def nngp(
    x1: Array,
    x2: Array | None = None,
    *,
    depth: int,
    W_std: float = math.sqrt(2),
    b_std: float = 0.0,
    activation: str | Activation | Callable[[Array], Array] = "relu",
    diagonal: bool = False,
    max_memory: int | None = None,
) -> Array:
    """Covariance of an infinitely wide network's output under random parameters (NNGP kernel).

    K_depth of the recursion in `ntk`, where the parameters, errors, cost and references are given.

    Parameters
    ----------
    x1, x2, depth, W_std, b_std, activation, diagonal, max_memory
        As for `ntk`.

    Returns
    -------
    array, shape (n1, n2), or (n1,) if `diagonal`; dtype and backend of `x1`

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError
        As for `ntk`.

    Notes
    -----
    Error, cost, determinism and backends: as for `ntk`.

    References
    ----------
    Lee, Bahri, Novak, Schoenholz, Pennington, Sohl-Dickstein. Deep neural networks as Gaussian processes. ICLR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> nngp(np.array([[3.0, 4.0]]), depth=5)
    array([[25.]])
    """
    kernel, _ = _kernels(x1, x2, depth, W_std, b_std, activation, diagonal, max_memory, (True, False))
    return kernel


def nngp_and_ntk(
    x1: Array,
    x2: Array | None = None,
    *,
    depth: int,
    W_std: float = math.sqrt(2),
    b_std: float = 0.0,
    activation: str | Activation | Callable[[Array], Array] = "relu",
    diagonal: bool = False,
    max_memory: int | None = None,
) -> KernelPair:
    """Both kernels from one pass, at little more than the cost of one.

    Parameters
    ----------
    x1, x2, depth, W_std, b_std, activation, diagonal, max_memory
        As for `ntk`.

    Returns
    -------
    KernelPair

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError
        As for `ntk`.

    Notes
    -----
    Cost: the products and angles of one kernel, and the polynomials or layers of both. Error, determinism, backends and
    references: as for `ntk` and `nngp`.

    Examples
    --------
    >>> import numpy as np
    >>> pair = nngp_and_ntk(np.ones((2, 3)), depth=2, activation="erf", b_std=0.1)
    >>> pair.nngp.shape, bool((pair.ntk > pair.nngp).all())
    ((2, 2), True)
    """
    return KernelPair(*_kernels(x1, x2, depth, W_std, b_std, activation, diagonal, max_memory, (True, True)))


def check_network(depth: Any, W_std: Any, b_std: Any, activation: Any) -> Network:
    """Check the hyperparameters that all functions of this package share."""
    depth = check_int(depth, "depth", minimum=0)
    W_std = check_real(W_std, "W_std", minimum=0.0, strict=True)
    b_std = check_real(b_std, "b_std", minimum=0.0)
    if isinstance(activation, str):
        activation = closed_form(activation)
    elif not isinstance(activation, Activation):
        activation = expand(activation)
    return Network(depth, W_std, b_std, activation)


def _kernels(
    x1: Array,
    x2: Array | None,
    depth: Any,
    W_std: Any,
    b_std: Any,
    activation: Any,
    diagonal: bool,
    max_memory: Any,
    wanted: tuple[bool, bool],
) -> tuple[Any, Any]:
    network = check_network(depth, W_std, b_std, activation)
    x1, x2, _ = check_pair(x1, x2)
    if diagonal:
        if x2 is not None:
            raise ValueError("expected x2=None with diagonal=True, got an array")
        points = prepare(x1, "x1", network)
        return points.variances[-1].astype(x1.dtype), points.ntk.astype(x1.dtype)
    if _is_zonal(x1, x2, network):
        return _zonal_kernels(x1, x2, network, max_memory, wanted)
    return gram(x1, x2, network, nngp=wanted[0], ntk=wanted[1], max_memory=max_memory)


def _is_zonal(x1: Array, x2: Array | None, network: Network) -> bool:
    """No biases, and a positively homogeneous activation: the kernel is scale |x| |y| k(angle).

    Kernels near the ends of the dtype's range are left to the recursion, which checks them point by point.
    """
    slopes = network.activation.slopes
    if network.b_std > 0 or slopes is None:
        return False
    scale = slopes.scale(network.depth, network.W_std, x1.shape[1])
    if not SMALLEST_SCALE < scale < math.inf:
        return False
    largest = max(float(side) for x in (x1, x2) if x is not None for side in (x.max(), -x.min()))
    growth = 2 * math.log(max(largest, 1e-300)) + math.log(x1.shape[1] * (network.depth + 1))
    return math.log(scale) + max(growth, 0.0) < math.log(np.finfo(str(x1.dtype)).max) / 2


def _zonal_kernels(
    x1: Array, x2: Array | None, network: Network, max_memory: Any, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    slopes = network.activation.slopes
    assert slopes is not None
    scale = slopes.scale(network.depth, network.W_std, x1.shape[1])
    kinds = [kind for kind, want in zip(("nngp", "ntk"), wanted, strict=True) if want]
    functions = [zonal(network.depth, activation="leaky_relu", leak=slopes.leak, kind=kind) for kind in kinds]
    found = dict(zip(kinds, zonal_gram(x1, x2, functions, scale=scale, max_memory=max_memory), strict=True))
    return found.get("nngp"), found.get("ntk")
