"""What the NTK at initialization says about training a network: the report that architecture search asks for."""

from dataclasses import dataclass, field
from typing import Any

from .._check import check_real, quiet
from .._typing import Array
from ..autodiff import Autodiff, get_autodiff
from ..backends import get_backend
from ..errors import BackendUnavailableError
from ..spectrum import (
    condition_number,
    effective_dimension,
    eigenvalues,
    entropy_rank,
    stable_rank,
    target_alignment,
    variance_rank,
)
from ..spectrum.alignment import check_targets
from .ntk import empirical_ntk

__all__ = ["Trainability", "trainability"]

_BLUE, _GREY = "#0072B2", "#666666"


@dataclass(frozen=True, slots=True, eq=False)
class Trainability:
    """Spectrum of a network's NTK on a batch.

    Attributes
    ----------
    kernel : array, shape (n, n)
        The NTK, mean over the outputs.
    eigenvalues : array, shape (n,)
        Ascending, >= 0 up to rounding.
    condition_number : float
        Largest over smallest eigenvalue; inf where the smallest is within n eps of 0 relative to the largest.
    variance_rank : int
        Number of eigenvalues that explain 1 - `eps` of the trace.
    entropy_rank : float
        exp of the entropy of the eigenvalues' shares.
    stable_rank : float
        Sum of the squared eigenvalues over the largest one squared.
    effective_dimension : float
        Degrees of freedom of ridge regression with the ridge `reg` times the mean eigenvalue; 0 for the zero kernel.
    alignment : float or None
        Centered alignment of the kernel with the labels, None without labels.
    eps, reg : float
        As given.
    n, n_outputs, n_parameters : int
        Samples, outputs of the network, and trainable numbers in it.
    """

    kernel: Array = field(repr=False)
    eigenvalues: Array = field(repr=False)
    condition_number: float
    variance_rank: int
    entropy_rank: float
    stable_rank: float
    effective_dimension: float
    alignment: float | None
    eps: float
    reg: float
    n: int
    n_outputs: int
    n_parameters: int

    def __str__(self) -> str:
        """A table for people."""
        rows = [
            ("condition number", f"{self.condition_number:.4g}"),
            ("largest eigenvalue", f"{float(self.eigenvalues[-1]):.4g}"),
            ("smallest eigenvalue", f"{float(self.eigenvalues[0]):.4g}"),
            (f"rank for {100 * (1 - self.eps):g} % of the trace", f"{self.variance_rank}"),
            ("entropy rank", f"{self.entropy_rank:.2f}"),
            ("stable rank", f"{self.stable_rank:.2f}"),
            (f"effective dimension, ridge {self.reg:g} of the mean", f"{self.effective_dimension:.2f}"),
        ]
        if self.alignment is not None:
            rows.append(("alignment with the labels", f"{self.alignment:.4f}"))
        width = max(len(name) for name, _ in rows)
        title = (
            f"NTK on {_count(self.n, 'sample')} of a network with {_count(self.n_outputs, 'output')} "
            f"and {_count(self.n_parameters, 'parameter')} ({self.kernel.dtype})"
        )
        return "\n".join([title, *(f"  {name:<{width}}  {value:>10}" for name, value in rows)])

    def plot(self, ax: Any = None) -> Any:
        """Draw the eigenvalues, largest first, relative to the largest.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; default the axes of a new figure, which is ``plot().figure`` and not known to pyplot.

        Returns
        -------
        matplotlib.axes.Axes
            Eigenvalues that are 0 have no place on its logarithmic scale, and are counted in its title.

        Raises
        ------
        BackendUnavailableError
            Matplotlib is not installed; the message has the command that installs it.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.layers import Dense
        >>> net = Dense(1)
        >>> report = trainability(net, net.init((3,), seed=0), np.eye(3, dtype="float32"))
        >>> report.plot().figure.savefig("spectrum.png")  # doctest: +SKIP
        """
        ax = _new_axes() if ax is None else ax
        values = get_backend(self.eigenvalues).to_numpy(self.eigenvalues)[::-1]
        positive = values[values > 0]
        if positive.size:
            ax.set_yscale("log")
            ax.plot(range(1, positive.size + 1), positive / positive[0], "o-", color=_BLUE, markersize=4)
            ax.axvline(self.variance_rank, color=_GREY, linestyle="--", linewidth=1)
        zeros = f", {_count(self.n - positive.size, 'eigenvalue')} 0" if positive.size < self.n else ""
        ax.set_title(f"condition number {self.condition_number:.3g}{zeros}")
        ax.set_xlabel(f"index (dashed: {100 * (1 - self.eps):g} % of the trace)")
        ax.set_ylabel("eigenvalue / largest")
        return ax


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _new_axes() -> Any:
    """Axes of a figure without pyplot: no global state, no display."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            'expected the package matplotlib for plot(), got none; pip install "ntkfast[plot]"'
        ) from error
    return Figure(figsize=(4.8, 3.6), layout="constrained").subplots()


def trainability(
    fun: Any,
    params: Any,
    x: Array,
    *,
    y: Array | None = None,
    eps: float = 0.01,
    reg: float = 1e-3,
    method: str = "auto",
    autodiff: str | Autodiff = "layers",
    max_memory: int | None = None,
) -> Trainability:
    """Condition number, effective ranks and label alignment of a network's NTK on a batch.

    Parameters
    ----------
    fun : Layer or callable
        A network of `ntkfast.layers`; with another engine a function ``fun(params, x)`` that maps a batch (n, ...) to
        (n, k), sample by sample.
    params : tree of arrays
        What `fun` takes.
    x : array, shape (n, ...)
        A batch; 16 to 64 samples are usual.
    y : array, shape (n,) or (n, k), optional
        Integer labels (n,) or real targets, on the backend of `x`.
    eps : float
        Share of the trace that `Trainability.variance_rank` may leave out, 0 <= eps < 1.
    reg : float
        Ridge of `Trainability.effective_dimension` in units of the mean eigenvalue, > 0.
    method, autodiff, max_memory
        As in `ntkfast.empirical.empirical_ntk`.

    Returns
    -------
    Trainability

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError
        As in `ntkfast.empirical.empirical_ntk`; also for `y` that does not fit, and numbers out of range.
    OverflowError
        The kernel leaves the range of the dtype.

    Notes
    -----
    Never NaN. The condition number is inf for a singular kernel, such as that of a batch with a sample twice or of a
    network whose outputs do not depend on its parameters; a finite one is at most 1 / (n eps), 2.6e5 for 32 samples in
    float32: give parameters and samples in float64 to tell larger ones apart. The kernel is the mean over outputs;
    TE-NAS differentiates the sum of the outputs instead, which adds the pairs p != q of the full kernel.
    Cost: that of the NTK, and 4/3 n^3 operations.
    Determinism: that of BLAS and LAPACK.
    Backends: numpy, cupy.

    References
    ----------
    Xiao, Pennington, Schoenholz. Disentangling trainability and generalization in deep neural networks. ICML 2020.
    Chen, Gong, Wang. Neural architecture search on ImageNet in four GPU hours: a theoretically inspired perspective
    (TE-NAS). ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> net = Sequential(Dense(64), ReLU(), Dense(10))
    >>> params = net.init((20,), seed=0, dtype="float64")
    >>> x = np.random.default_rng(0).standard_normal((8, 20))
    >>> report = trainability(net, params, x, y=np.arange(8) % 2)
    >>> 1 < report.condition_number < 100
    True
    >>> print(str(report).splitlines()[0])
    NTK on 8 samples of a network with 10 outputs and 1,920 parameters (float64)
    """
    eps, reg = check_real(eps, "eps", minimum=0), check_real(reg, "reg", minimum=0, strict=True)
    if eps >= 1:
        raise ValueError(f"expected eps to be below 1, got {eps}")
    with quiet():
        checked = get_autodiff(autodiff).check(fun, params, x)
    if y is not None:
        check_targets(y, checked.x1)
    kernel = empirical_ntk(fun, params, x, method=method, autodiff=autodiff, max_memory=max_memory)
    values = eigenvalues(kernel)
    mean = float(values.sum(dtype="float64")) / values.shape[0]
    return Trainability(
        kernel=kernel,
        eigenvalues=values,
        condition_number=condition_number(values),
        variance_rank=variance_rank(values, eps),
        entropy_rank=entropy_rank(values),
        stable_rank=stable_rank(values),
        effective_dimension=effective_dimension(values, reg * mean) if reg * mean > 0 else 0.0,
        alignment=None if y is None else target_alignment(kernel, y),
        eps=eps,
        reg=reg,
        n=int(values.shape[0]),
        n_outputs=checked.n_outputs,
        n_parameters=sum(int(entry.size) for entry in checked.entries.values()),
    )
