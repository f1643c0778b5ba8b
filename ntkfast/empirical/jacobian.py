"""The parameters' Jacobian of every sample: as arrays, or as the products it is."""

from typing import Any

from .._check import check_range, memory_budget, quiet
from .._tree import Tree, join
from .._typing import Array
from ..autodiff import Autodiff, Checked, SupportsFactors, get_autodiff
from ..layers import Layer
from ..layers.factors import Factors

__all__ = ["jacobian", "jacobian_factors"]


def jacobian(
    fun: Any,
    params: Tree,
    x: Array,
    *,
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
) -> dict[str, Array]:
    """Jacobian of every sample's outputs by every parameter array.

    Parameters
    ----------
    fun : Layer or callable
        A network of `ntkfast.layers`, or a function of (params, x) for the other engines.
    params : tree
        Dictionaries, tuples and lists of arrays.
    x : array, shape (n, *s)
    autodiff : str or Autodiff
        Engine; see `ntkfast.autodiff.get_autodiff`.
    max_memory : int, optional
        Bytes that temporaries may take beside the result; default a quarter of what is free.

    Returns
    -------
    dict of str to array, shape (n, k, *shape of the parameter)
        By path, in the order of `params`; buffers have no entry.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other, NaN or inf.
    BackendUnavailableError
        The engine's package is missing.
    MemoryBudgetError
        `max_memory` is below twice the Jacobian of one sample.
    OverflowError
        The Jacobian leaves the range of its dtype.

    Notes
    -----
    Cost: a backward pass with k cotangents per sample, and n k numbers per parameter to write. `jacobian_factors` says
    the same in far fewer, and `empirical_ntk` needs neither.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> net = Sequential(Dense(5), ReLU(), Dense(2, b_std=0.1))
    >>> found = jacobian(net, net.init((3,), seed=0), np.ones((4, 3), "float32"))
    >>> {path: array.shape for path, array in found.items()}
    {'0.weight': (4, 2, 3, 5), '2.weight': (4, 2, 5, 2), '2.bias': (4, 2, 2)}
    """
    engine = get_autodiff(autodiff)
    with quiet():
        checked = engine.check(fun, params, x)
        found = _jacobian(engine, fun, params, checked, max_memory)
    return {path: check_range(found[path], f"the Jacobian of {path!r}") for path in checked.entries}


def _jacobian(engine: Autodiff, fun: Any, params: Tree, checked: Checked, max_memory: int | None) -> dict[str, Array]:
    x, k, entries = checked.x1, checked.n_outputs, checked.entries
    # An engine's Jacobian of some samples may be of another order in memory, and copied once.
    sample = 2 * k * sum(array.nbytes for array in entries.values())
    rows = max(1, memory_budget(max_memory, checked.backend, smallest=sample) // sample)
    if rows >= len(x):
        found = engine.param_jacobian(fun, params, x)
        return {path: checked.backend.xp.ascontiguousarray(found[path]) for path in entries}
    out = {path: checked.backend.xp.empty((len(x), k, *a.shape), a.dtype) for path, a in entries.items()}
    for start in range(0, len(x), rows):
        tile = slice(start, start + rows)
        for path, part in engine.param_jacobian(fun, params, x[tile]).items():
            out[path][tile] = part
    return out


def jacobian_factors(net: Layer, params: Tree, x: Array) -> dict[str, Factors]:
    """Jacobian of every sample's outputs by every parameter array, as sums of outer products.

    Parameters
    ----------
    net : Layer
        A network of `ntkfast.layers`.
    params : tree
        As ``net.init`` returns.
    x : array, shape (n, *s)

    Returns
    -------
    dict of str to JacobianFactors or SparseFactors
        By path, in the order of `params`. ``factors.jacobian()`` is the array that `jacobian` returns.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other, NaN or inf.
    OverflowError
        Activations or cotangents leave the range of their dtype.

    Notes
    -----
    Cost: a backward pass with k cotangents per sample. Memory: the layers' inputs, and n k cotangents of their outputs.
    Arrays may be shared with each other, with `x` and with `params`: do not write to them.
    Backends: numpy, cupy.

    References
    ----------
    Novak, Sohl-Dickstein, Schoenholz. Fast finite width neural tangent kernel. ICML 2022, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> net = Sequential(Dense(5), ReLU(), Dense(2))
    >>> found = jacobian_factors(net, net.init((3,), seed=0), np.ones((4, 3), "float32"))
    >>> found["0.weight"].act.shape, found["0.weight"].delta.shape  # (n, t, i), (n, t, k, o)
    ((4, 1, 3), (4, 1, 2, 5))
    """
    engine = get_autodiff("layers")
    assert isinstance(engine, SupportsFactors)
    checked = engine.check(net, params, x)
    with quiet():
        layers = engine.factors(net, params, checked.x1)
        found = {join(path, name): factors for path, layer in layers for name, factors in layer.items()}
    for path, factors in found.items():
        for array in (factors.ct.shared, factors.ct.gate, getattr(factors, "act", None)):
            if hasattr(array, "dtype"):  # else None, or patches of an array that was checked
                check_range(array, f"the factors of {path!r}")
    return {path: found[path] for path in checked.entries}
