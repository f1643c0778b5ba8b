"""How far inner products of projected Jacobians are from the exact NTK, measured on a sample."""

import math
from typing import Any, NamedTuple

import numpy as np

from .._check import check_choice, check_int, memory_budget, quiet
from .._tree import Tree
from .._typing import Array
from ..autodiff import Autodiff, Checked, SupportsFactors, get_autodiff
from ..empirical import empirical_ntk
from ..empirical.contraction import layer_terms
from ..empirical.ntk import OUTPUTS
from ..empirical.sums import ntk_sum
from ..sketch._base import LinearSketch
from ._base import JacobianSketch
from .jacobian import Cotangents, PerSample, check_cotangents, plan, project_jacobian
from .regression import projected_ntk

__all__ = ["ProjectionError", "projection_error"]

# Rows whose kernels are formed where there are more samples.
DEFAULT_ROWS = 256


class ProjectionError(NamedTuple):
    """Error of a projected NTK against the exact one; ``print`` gives a report.

    Attributes
    ----------
    error : float
        Relative Frobenius error, |K' - K|_F / |K|_F.
    gaussian_error : float
        Root mean square over seeds of that of a `GaussianSketch` of the same width,
        ``sqrt(((tr K)^2 + |K|_F^2) / m) / |K|_F``; for the trace of several outputs an upper bound of it.
    median_error, largest_error : float
        Of |K'_ij - K_ij| / sqrt(K_ii K_jj) over the pairs i <= j: errors of cosines, which theory bounds.
    trace_bias : float
        Relative error of the trace, tr(K' - K) / tr K.
    width : int
        m.
    n_rows : int
        Samples used.
    n_pairs : int
        Entries that the median is of; those of zero gradients are left out.
    """

    error: float
    gaussian_error: float
    median_error: float
    largest_error: float
    trace_bias: float
    width: int
    n_rows: int
    n_pairs: int

    def __str__(self) -> str:
        return (
            f"projection to {self.width} dimensions, {self.n_rows} samples, {self.n_pairs} pairs\n"
            f"relative Frobenius error   {self.error:.3g}  (Gaussian sketch: {self.gaussian_error:.3g})\n"
            f"error of a cosine, median  {self.median_error:.3g}, largest {self.largest_error:.3g}\n"
            f"relative error of trace    {self.trace_bias:+.3g}"
        )


def projection_error(
    fun: Any,
    params: Tree,
    x: Array,
    sketch: JacobianSketch | LinearSketch,
    *,
    cotangents: Cotangents | None = None,
    output: str = "trace",
    n_rows: int | None = None,
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
) -> ProjectionError:
    """Error of the NTK of projected Jacobians against the exact one, on a sample.

    Parameters
    ----------
    fun, params, x, sketch, autodiff, max_memory
        As in `project_jacobian`.
    cotangents : array, shape (n, k), or callable, optional
        As in `project_jacobian`: the kernel is then that of the weighted sums of outputs,
        ``sum_kl c[i, k] Theta[i, j, k, l] c[j, l]``.
    output : {"trace", "diagonal", "full"}
        Kernel of the outputs, as in `ntkfast.empirical.empirical_ntk`; "trace" with `cotangents`.
    n_rows : int, optional
        Samples to use at most, 2 or more; default 256. Of more, every second, third, ... is used.

    Returns
    -------
    ProjectionError

    Raises
    ------
    TypeError, ValueError
        As in `project_jacobian`; `cotangents` with another output than "trace"; a kernel that is zero.
    BackendUnavailableError, MixedBackendError, MemoryBudgetError, OverflowError
        As in `project_jacobian`.

    Notes
    -----
    Error: that of this one seed of the sketch; measure ``dataclasses.replace(sketch, seed=...)`` for more. Arrays that
    a sketch leaves out are missing from K' and not from K.
    Cost: `project_jacobian` and the exact kernel of `n_rows` samples. With `cotangents` that is a kernel of one output
    for networks of layers; of other engines' kernels, all pairs of outputs are formed.
    Memory: the exact kernel and its estimate, each a few times in float64.
    Determinism: as `project_jacobian`; the rows depend on n and `n_rows` only.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> from ntkfast.projection import TensorProjection
    >>> net = Sequential(Dense(64), ReLU(), Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((50, 20))
    >>> params = net.init((20,), seed=0, dtype="float64")
    >>> found = projection_error(net, params, x, TensorProjection(4096, seed=0))
    >>> found.error < 0.1
    True
    >>> found.n_pairs
    1275
    """
    check_choice(output, "output", OUTPUTS)
    if cotangents is not None and output != "trace":
        raise ValueError(f'expected output="trace" with cotangents, which leave one output, got {output!r}')
    limit = DEFAULT_ROWS if n_rows is None else check_int(n_rows, "n_rows", minimum=2)
    engine = get_autodiff(autodiff)
    checked = engine.check(fun, params, x)
    # what does not fit is refused before the network runs
    plan(sketch, {path: array.shape for path, array in checked.entries.items()})
    memory_budget(max_memory, checked.backend)
    rows = slice(None, None, -(-len(checked.x1) // limit))
    some = checked.backend.xp.ascontiguousarray(checked.x1[rows])
    with quiet():
        weights = _weights(engine, fun, params, checked, cotangents, rows, limit)
    phi = project_jacobian(fun, params, some, sketch, cotangents=weights, autodiff=engine, max_memory=max_memory)
    estimate = projected_ntk(phi, output=output)
    if weights is None:
        exact = empirical_ntk(fun, params, some, output=output, autodiff=engine, max_memory=max_memory)
    else:
        with quiet():
            exact = _weighted_ntk(engine, fun, params, engine.check(fun, params, some), weights, max_memory)
    to_numpy = checked.backend.to_numpy
    return _compare(_matrices(to_numpy(estimate)), _matrices(to_numpy(exact)), phi.shape[-1], len(some))


# --- cotangents -----------------------------------------------------------------------------------


def _weights(
    engine: Autodiff, fun: Any, params: Tree, checked: Checked, cotangents: Any, rows: slice, step: int
) -> Array | None:
    """Cotangents of some samples as an array; a plain function of the outputs is given those of all samples."""
    cotangents = check_cotangents(cotangents, checked)
    if cotangents is None:
        return None
    xp = checked.backend.xp
    if not callable(cotangents):
        return xp.ascontiguousarray(cotangents[rows])
    by_sample = isinstance(cotangents, PerSample)
    x = xp.ascontiguousarray(checked.x1[rows]) if by_sample else checked.x1
    tiles = (x[start : start + step] for start in range(0, len(x), step))
    y = xp.concatenate([engine.param_vjp(fun, params, tile)[0] for tile in tiles])
    if by_sample:
        return cotangents.rows(rows)(y)
    return xp.ascontiguousarray(check_cotangents(cotangents(y), checked)[rows])


def _weighted_ntk(
    engine: Autodiff, fun: Any, params: Tree, checked: Checked, weights: Array, max_memory: int | None
) -> Array:
    """The exact kernel of outputs weighted sample by sample, (n, n)."""
    x, backend = checked.x1, checked.backend
    if not isinstance(engine, SupportsFactors):
        full = empirical_ntk(fun, params, x, output="full", autodiff=engine, max_memory=max_memory)
        half = backend.xp.einsum("ijkl,ik->ijl", full, weights)
        return backend.xp.einsum("ijl,jl->ij", half, weights)
    total = ntk_sum("trace", backend, (len(x), 1), (len(x), 1), checked.dtype, symmetric=True)
    budget = memory_budget(max_memory, backend) // 4
    for _, layer in engine.factors(fun, params, x, cotangents=lambda y: weights):
        for term in layer_terms(backend, layer, None, "trace", budget):
            total.add(term)
    return total.result()


# --- comparison -----------------------------------------------------------------------------------


def _matrices(kernel: Any) -> Any:
    """A kernel as matrices over pairs of functions, (b, n, n): one of all, or one of each output."""
    kernel = kernel.astype("float64")
    if kernel.ndim == 2:
        return kernel[None]
    if kernel.ndim == 3:
        return kernel.transpose(2, 0, 1)
    n, k = len(kernel), kernel.shape[-1]
    return kernel.transpose(0, 2, 1, 3).reshape(1, n * k, n * k)


def _compare(estimate: Any, exact: Any, width: int, n_rows: int) -> ProjectionError:
    """The record of a comparison of matrices (b, n, n)."""
    peak = abs(exact).max()
    if peak == 0:
        raise ValueError("expected gradients that are not all zero, got a kernel of zeros")
    exact, difference = exact / peak, (estimate - exact) / peak  # squares stay in range
    squares, diagonal = (exact * exact).sum(), np.einsum("bii->bi", exact)
    traces = diagonal.sum(axis=1)
    scale = np.sqrt(diagonal[:, :, None] * diagonal[:, None, :])
    compared = np.triu(scale > 0)
    relative = abs(difference[compared]) / scale[compared]
    return ProjectionError(
        error=math.sqrt((difference * difference).sum() / squares),
        gaussian_error=math.sqrt(((traces * traces).sum() + squares) / width / squares),
        median_error=float(np.median(relative)),
        largest_error=float(relative.max()),
        trace_bias=float(np.einsum("bii->", difference) / traces.sum()),
        width=width,
        n_rows=n_rows,
        n_pairs=int(compared.sum()),
    )
