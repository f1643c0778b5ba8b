"""The NTK of a batch as a linear operator, without its matrix.

    Theta(x1, x2) v = J(x1) (J(x2)^T v)

is one pass back over the batch x2 and one tangent pass over the batch x1, whatever the number of pairs: what conjugate
gradients, Lanczos and power iterations need.
"""

from typing import Any

from .._check import check_finite, check_range, quiet
from .._tree import Tree
from .._typing import Array
from ..autodiff import Autodiff, get_autodiff
from ..backends import Backend
from ._passes import Passes

__all__ = ["ntk_operator"]


def ntk_operator(
    fun: Any,
    params: Tree,
    x1: Array,
    x2: Array | None = None,
    *,
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
) -> Any:
    """NTK of two batches as a linear operator; its matrix is never formed.

    Parameters
    ----------
    fun : Layer or callable
        A network of `ntkfast.layers`, or a function of (params, x) for the other engines.
    params : tree
        Dictionaries, tuples and lists of arrays.
    x1 : array, shape (n1, *s)
    x2 : array, shape (n2, *s), optional
        Default: the samples `x1`; the operator is then symmetric and positive semidefinite.
    autodiff : str or Autodiff
        Engine; see `ntkfast.autodiff.get_autodiff`.
    max_memory : int, optional
        Bytes for what forward passes keep, and for products in work; default a quarter of what is free. Passes that do
        not fit are run again in every product.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator, or that of cupyx for CuPy arrays
        Of shape (n1 k, n2 k), in the dtype of the parameters: entry (n k + a, m k + b) is that of output a at sample n
        of `x1` and output b at sample m of `x2`: entry (n, m, a, b) of ``empirical_ntk(..., output="full")``. With
        matvec and matmat, and those of the adjoint.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other, NaN or inf; in a product also vectors that are not of real numbers.
    OverflowError
        In a product: it leaves the range of its dtype.
    BackendUnavailableError
        The engine's package is missing.
    MemoryBudgetError
        `max_memory` is below what one sample or one direction of the parameters needs.

    Notes
    -----
    Cost of a product with one vector: about that of a backward pass over `x2` and two forward passes over `x1`. The
    layer engine passes the columns of a matrix through the network together.
    Memory: what forward passes keep, and one copy of the parameters per column in work (8 at most, 32 on a GPU). What
    engines other than the layers' keep is unknown, and taken to be 100 numbers per input and output.
    Accuracy: rounding in the dtype of the parameters; vectors of another dtype are converted.
    Determinism: that of BLAS; tiles change rounding only.
    Backends: numpy, cupy.
    With a ridge on its diagonal: ``operator + reg * aslinearoperator(scipy.sparse.eye(n1 * k, dtype=operator.dtype))``.

    References
    ----------
    Novak, Sohl-Dickstein, Schoenholz. Fast finite width neural tangent kernel. ICML 2022, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense
    >>> net = Dense(1, W_std=1.0)
    >>> params = net.init((2,), seed=0, dtype="float64")
    >>> ntk_operator(net, params, np.array([[3.0, 4.0], [0.0, 2.0]])) @ np.array([1.0, 1.0])  # x x^T / 2
    array([16.5,  6. ])
    """
    engine = get_autodiff(autodiff)
    with quiet():
        checked = engine.check(fun, params, x1, x2)
        batches = (checked.x1,) if checked.x2 is None else (checked.x1, checked.x2)
        passes = [Passes(engine, fun, params, x, checked, max_memory, share=len(batches)) for x in batches]
    first, second = passes[0], passes[-1]
    product = _Product(first, second, checked.backend, checked.dtype)
    adjoint = product if first is second else _Product(second, first, product.backend, product.dtype)
    shape = tuple(len(checked.x1 if x is None else x) * checked.n_outputs for x in (checked.x1, checked.x2))
    return _linear_operator(checked.backend)(
        shape, matvec=product, matmat=product, rmatvec=adjoint, rmatmat=adjoint, dtype=product.dtype
    )


class _Product:
    """Products of J(x1) J(x2)^T with vectors (n2 k,) and matrices (n2 k, columns)."""

    def __init__(self, first: Passes, second: Passes, backend: Backend, dtype: Any) -> None:
        self.backend, self.dtype = backend, dtype
        self._first, self._second = first, second

    def __call__(self, v: Array) -> Array:
        if v.dtype.kind not in "fiu":
            raise TypeError(f"expected a vector of real numbers, got dtype {v.dtype}")
        check_finite(v, "the vector")
        with quiet():
            return check_range(self._product(v), "the product with the NTK")

    def _product(self, v: Array) -> Array:
        matrix = v.astype(self.dtype, copy=False).reshape(v.shape[0], -1)
        step = min(self._first.columns, self._second.columns)
        blocks = [self._columns(matrix[:, j : j + step]) for j in range(0, matrix.shape[1], step)]
        out = self.backend.xp.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]
        return out.reshape(-1, *v.shape[1:])

    def _columns(self, v: Array) -> Array:
        z = self._first.push(self._second.pull(v.reshape(self._second.n, -1, v.shape[1])))
        return z.reshape(-1, v.shape[1])


def _linear_operator(backend: Backend) -> Any:
    if backend.name == "cupy":
        from cupyx.scipy.sparse.linalg import LinearOperator
    else:
        from scipy.sparse.linalg import LinearOperator
    return LinearOperator
