"""What an autodiff engine offers to the algorithms above it.

Letters: n samples, *s their shape, k outputs, m cotangents or directions.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from .._tree import Tree
from .._typing import Array
from ..backends import Backend
from ..layers.factors import Factors

__all__ = [
    "Autodiff",
    "Checked",
    "InputPullback",
    "ParamPullback",
    "Pushforward",
    "Pushforwards",
    "SupportsDirections",
    "SupportsFactors",
]

InputPullback: TypeAlias = Callable[[Array], Array]  # (n, k) -> like x
ParamPullback: TypeAlias = Callable[[Array], Tree]  # (n, k) -> tree like params
Pushforward: TypeAlias = Callable[[Tree], Array]  # tree like params -> (n, k)
Pushforwards: TypeAlias = Callable[[Mapping[str, Array]], Array]  # path -> (m, *shape), to (m, n, k)


@dataclass(frozen=True, slots=True)
class Checked:
    """The arguments of a call, after they were found to fit each other.

    Attributes
    ----------
    x1 : array, shape (n1, *s), C-contiguous
    x2 : array, shape (n2, *s), C-contiguous, or None
        None: the same samples as `x1`.
    backend : Backend
    entries : dict of str to array
        The arrays that are differentiated, by path, in the tree's order; no buffers.
    n_outputs : int
        k.
    """

    x1: Array
    x2: Array | None
    backend: Backend
    entries: dict[str, Array]
    n_outputs: int

    @property
    def dtype(self) -> Any:
        """Dtype of the entries, and of all results."""
        return next(iter(self.entries.values())).dtype


@runtime_checkable
class Autodiff(Protocol):
    """An engine: derivatives of ``fun(params, x)``, sample by sample.

    `fun` takes a tree of parameters and a batch x (n, *s), and returns (n, k). Samples are independent: ``fun(params,
    x)[i]`` depends on ``x[i]`` alone. Arrays that go in and come out are NumPy or CuPy arrays of one dtype; an
    engine converts them for its framework, and does not change them. All methods but `check` take arguments that
    `check` has accepted.

    Returned trees are like `params`, less the buffers (running means of a BatchNorm, for example) that an engine
    knows to be no parameters.

    An engine is stateless, so that one object serves all threads. `ntkfast.testing.check_autodiff` tests one.
    Packages offer engines through entry points of the group ``ntkfast.autodiff``.
    """

    @property
    def name(self) -> str:
        """Name in messages."""

    def check(self, fun: Any, params: Tree, x1: Array, x2: Array | None = None) -> Checked:
        """Compare all arguments with each other, before any work.

        Raises TypeError (wrong kind of `fun`, foreign arrays, wrong or mixed dtypes) or ValueError (shapes that do not
        fit, no samples, NaN or inf, an output that is not (n, k), one array at two places of the tree).
        """

    def param_jacobian(self, fun: Any, params: Tree, x: Array) -> dict[str, Array]:
        """Per-sample Jacobians by path, each of shape (n, k, *shape of the array)."""

    def param_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, ParamPullback]:
        """Outputs y (n, k), and the pullback from cotangents (n, k) to a tree, summed over samples.

        May be called any number of times.
        """

    def param_jvp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, Pushforward]:
        """Outputs y (n, k), and the derivative (n, k) along a direction, which is a tree as `param_vjp` gives."""

    def input_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, InputPullback]:
        """Outputs y (n, k), and the pullback from cotangents (n, k) to the input."""


@runtime_checkable
class SupportsFactors(Protocol):
    """An engine of networks of `ntkfast.layers`, whose parameters' Jacobians it knows as products."""

    def factors(
        self,
        fun: Any,
        params: Tree,
        x: Array,
        outputs: slice = slice(None),
        cotangents: Callable[[Array], Array] | None = None,
    ) -> Iterator[tuple[str, dict[str, Factors]]]:
        """Yield (path of a layer, Jacobian factors by name) for some outputs, from the output down to the input.

        With `cotangents`, a function of the outputs y (n, k) to (n, k): for their sum with these weights, sample by
        sample, in place of single outputs.
        """


@runtime_checkable
class SupportsDirections(Protocol):
    """An engine that pushes several directions forward at once."""

    def param_jvps(self, fun: Any, params: Tree, x: Array) -> Pushforwards:
        """Derivatives (m, n, k) along m directions, given by path as arrays (m, *shape)."""
