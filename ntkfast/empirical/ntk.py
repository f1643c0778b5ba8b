"""The empirical NTK of a finite network, by whichever of three algorithms is cheapest.

Theta[n, m, p, q] = sum over all parameters w of (d f_p(x1_n) / d w) (d f_q(x2_m) / d w)
"""

from collections.abc import Callable
from typing import Any

from .._check import check_choice, check_int, check_range, quiet
from .._typing import Array
from ..autodiff import Autodiff, Checked, SupportsFactors, get_autodiff
from .choice import explain_choice
from .jacobian_contraction import jacobian_contraction, jacobian_contraction_by_entry
from .ntk_vector_products import ntk_vector_products, ntk_vector_products_by_entry
from .structured_derivatives import structured_derivatives, structured_derivatives_by_entry

__all__ = ["METHODS", "OUTPUTS", "empirical_ntk", "layer_ntks"]

OUTPUTS = ("trace", "diagonal", "full")

# name -> (the kernel, the kernels by parameter array)
_ALGORITHMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "structured_derivatives": (structured_derivatives, structured_derivatives_by_entry),
    "jacobian_contraction": (jacobian_contraction, jacobian_contraction_by_entry),
    "ntk_vector_products": (ntk_vector_products, ntk_vector_products_by_entry),
}
METHODS = ("auto", *_ALGORITHMS)


def empirical_ntk(
    fun: Any,
    params: Any,
    x1: Array,
    x2: Array | None = None,
    *,
    output: str = "trace",
    method: str = "auto",
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
    explain: bool = False,
) -> Any:
    """Empirical neural tangent kernel of a finite network, Theta = J(x1) J(x2)^T.

    Parameters
    ----------
    fun : Layer or callable
        A network of `ntkfast.layers`; with another engine a function ``fun(params, x)`` that maps a batch (n, ...) to
        (n, k), sample by sample.
    params : tree of arrays
        What `fun` takes: dictionaries, tuples and lists of float32 or float64 arrays. Every array is a parameter
        (weights and biases alike), but for the running statistics of a `BatchNorm`.
    x1 : array, shape (n1, ...)
        Samples; images are (n, height, width, channels).
    x2 : array, shape (n2, ...), optional
        Default: `x1`, at half the work.
    output : {"trace", "diagonal", "full"}
        "full": Theta[n, m, p, q], all pairs of outputs. "diagonal": p = q. "trace": the mean over p = q.
    method : {"auto", "structured_derivatives", "jacobian_contraction", "ntk_vector_products"}
        "auto" takes what a cost model predicts to be fastest; structured derivatives need ``autodiff="layers"``.
    autodiff : {"layers", "autograd", "jax", "torch"}, other name, or engine
        What differentiates `fun`; see `ntkfast.autodiff`.
    max_memory : int, optional
        Bytes that temporaries may take, the result not counted; default a quarter of what is free.
    explain : bool
        Return the cost model's `Explanation` of this call instead of the kernel.

    Returns
    -------
    array, shape (n1, n2), (n1, n2, k) or (n1, n2, k, k); dtype and backend of `params`

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other: samples and network (names the layer), parameters and network (names
        the entry), NaN or inf, arrays of several dtypes, one array in two places (tied weights), outputs that are not
        (n, k).
    MixedBackendError
        NumPy and CuPy arrays in one call.
    MemoryBudgetError
        `max_memory` is below what one sample needs.
    OverflowError
        The kernel leaves the range of its dtype.

    Notes
    -----
    Cost, for N samples, k outputs, and a forward pass of [FP] operations per sample: structured derivatives take
    N (k + 1) [FP] and, per dense layer of width W, N^2 k^2 W (full) or N^2 k W (trace); Jacobian contraction N^2 k^2 P
    with P parameters; NTK-vector products N^2 k [FP].
    Memory of structured derivatives: the activations of all layers, the k cotangents of one layer, and one layer's
    Jacobian where a convolution needs it; never the Jacobian of the network.
    Error: rounding. Methods, engines, and block sizes agree up to rounding.
    relu has the derivative 0 at 0.

    References
    ----------
    Novak, Sohl-Dickstein, Schoenholz. Fast finite width neural tangent kernel. ICML 2022, arXiv 2206.08720.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> net = Sequential(Dense(512, b_std=0.1), ReLU(), Dense(10, b_std=0.1))
    >>> params = net.init((20,), seed=0)
    >>> x = np.random.default_rng(0).standard_normal((8, 20)).astype("float32")
    >>> empirical_ntk(net, params, x).shape
    (8, 8)
    >>> empirical_ntk(net, params, x[:3], x, output="full").shape
    (3, 8, 10, 10)
    """
    with quiet():
        engine, checked = _check(fun, params, x1, x2, output, method, autodiff, max_memory)
        if explain or method == "auto":
            explanation = explain_choice(engine, fun, params, checked, output)
            if explain:
                return explanation
            method = explanation.method
        kernel = _ALGORITHMS[method][0](engine, fun, params, checked, output=output, max_memory=max_memory)
    return check_range(kernel, "the NTK")


def layer_ntks(
    fun: Any,
    params: Any,
    x1: Array,
    x2: Array | None = None,
    *,
    output: str = "trace",
    method: str = "auto",
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
) -> dict[str, Array]:
    """Empirical NTK of each parameter array by itself; they sum to `empirical_ntk`.

    Parameters
    ----------
    fun, params, x1, x2, output, method, autodiff, max_memory
        As in `empirical_ntk`.

    Returns
    -------
    dict of str to array
        Kernels by the path of the parameter, "0.weight", in the order of the tree.

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError, OverflowError
        As in `empirical_ntk`.

    Notes
    -----
    Cost: that of `empirical_ntk`; memory: one result per parameter array.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> net = Sequential(Dense(32), ReLU(), Dense(1))
    >>> params = net.init((5,), seed=0)
    >>> x = np.ones((2, 5), np.float32)
    >>> parts = layer_ntks(net, params, x)
    >>> sorted(parts)
    ['0.weight', '2.weight']
    >>> bool(np.allclose(sum(parts.values()), empirical_ntk(net, params, x)))
    True
    """
    with quiet():
        engine, checked = _check(fun, params, x1, x2, output, method, autodiff, max_memory)
        if method == "auto":
            method = explain_choice(engine, fun, params, checked, output).method
        parts = _ALGORITHMS[method][1](engine, fun, params, checked, output=output, max_memory=max_memory)
    return {path: check_range(parts[path], f"the NTK of {path!r}") for path in checked.entries}


def _check(
    fun: Any,
    params: Any,
    x1: Array,
    x2: Array | None,
    output: str,
    method: str,
    autodiff: str | Autodiff,
    max_memory: int | None,
) -> tuple[Autodiff, Checked]:
    """The engine, and the arguments found to fit each other."""
    check_choice(output, "output", OUTPUTS)
    check_choice(method, "method", METHODS)
    if max_memory is not None:
        check_int(max_memory, "max_memory", minimum=1)
    engine = get_autodiff(autodiff)
    if method == "structured_derivatives" and not isinstance(engine, SupportsFactors):
        raise ValueError(f"expected autodiff='layers' for structured derivatives, got the engine {engine.name!r}")
    return engine, engine.check(fun, params, x1, x2)
