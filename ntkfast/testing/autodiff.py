"""Conformance suite of autodiff engines: all methods are derivatives of one function, and bad arguments are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._check import check_seed
from .._tree import Tree, tree_map
from ..autodiff import Autodiff, get_autodiff
from ._engine import Problem, check_derivatives, check_narrow, check_purity

__all__ = ["check_autodiff"]


def check_autodiff(
    engine: str | Autodiff, fun: Any = None, params: Tree = None, x: Any = None, *, seed: int = 0
) -> None:
    """Check that an engine does what the library relies on; for authors of engines.

    Parameters
    ----------
    engine : str or Autodiff
    fun, params, x : optional
        What the engine differentiates, parameters and samples, NumPy arrays in float64; samples may be integers. The
        function must be smooth within about 1e-5 of the parameters and the samples. Default: functions made of Python's
        operators, which most array libraries understand; engines with functions of another kind need all three.
    seed : int
        Of samples, parameters, cotangents and directions.

    Raises
    ------
    AssertionError
        The first property that does not hold, with the engine and the deviation.

    Notes
    -----
    Properties: `check` finds entries, outputs and backend, and refuses NaN, empty and mismatched samples, mixed dtypes,
    foreign leaves, tied arrays, and outputs that are not (n, k), with the entry's path in the message; derivatives
    agree with central differences and with each other (pullback and pushforward are adjoint, Jacobians contain both);
    samples are independent; float32 gives float32; read-only, reversed and Fortran-ordered arrays work; nothing given
    is modified; pullbacks can be called again. `SupportsFactors` and `SupportsDirections` are checked where the
    engine has their methods.

    Determinism: a function of the arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, Sequential, Tanh
    >>> net = Sequential(Dense(4), Tanh(), Dense(2))
    >>> x = np.random.default_rng(0).standard_normal((5, 3))
    >>> check_autodiff("layers", net, net.init((3,), seed=0, dtype="float64"), x)
    """
    engine = get_autodiff(engine)
    rng = np.random.default_rng(check_seed(seed))
    given = [argument is not None for argument in (fun, params, x)]
    if any(given) and not all(given):
        raise ValueError("expected all of fun, params and x, or none of them")
    problems = [Problem(engine, fun, params, x, rng)] if all(given) else _own_problems(engine, rng)
    for problem in problems:
        check_derivatives(problem)
        check_narrow(problem)
        check_purity(problem)
    _check_refusals(problems[0])
    if not any(given):
        _check_outputs(problems[0])


# --- functions of Python's operators ----------------------------------------------------------------


def _perceptron(params: Tree, x: Any) -> Any:
    """A hidden layer, in a nested tree, for samples with two axes."""
    h = x.reshape((x.shape[0], -1)) @ params["hidden"]["weight"] + params["hidden"]["bias"]
    h = h * h - h
    return h @ params["head"][0] + params["head"][1]


def _twice(params: Tree, x: Any) -> Any:
    """One matrix used twice, one not at all."""
    h = x @ params[0]
    return (h * h * h) @ params[0]


def _scalar(params: Tree, x: Any) -> Any:
    """One output without an axis; the tree is an array."""
    return (x @ params) * (x @ params)


def _own_problems(engine: Autodiff, rng: np.random.Generator) -> list[Problem]:
    normal = rng.standard_normal
    hidden = {"weight": normal((6, 4)), "bias": normal(4)}
    perceptron = {"hidden": hidden, "empty": {}, "head": (normal((4, 3)), normal(3))}
    return [
        Problem(engine, _perceptron, perceptron, normal((5, 2, 3)), rng),
        Problem(engine, _twice, [normal((3, 3)) / 2, normal(2)], normal((4, 3)), rng),
        Problem(engine, _scalar, normal(3), normal((4, 3)), rng),
    ]


# --- bad arguments ----------------------------------------------------------------------------------


def _check_refusals(problem: Problem) -> None:
    fun, params, x = problem.fun, problem.params, problem.x
    path = next(iter(problem.entries))
    narrow = "float32" if problem.entries[path].dtype == "float64" else "float64"

    def with_entry(change: Callable[[Any], Any]) -> Tree:
        return tree_map(lambda where, array: change(array) if where == path else array, params)

    refused = problem.refused
    refused(f"NaN in params[{path!r}]", ValueError, path, fun, with_entry(_with_nan), x)
    # Without floating-point samples the first entry says which dtype is wanted, and any other may be named.
    named = path if x.dtype.kind == "f" else "params"
    refused(f"params[{path!r}] of dtype {narrow}", TypeError, named, fun, with_entry(lambda a: a.astype(narrow)), x)
    refused(f"params[{path!r}] of dtype float16", TypeError, path, fun, with_entry(lambda a: a.astype("float16")), x)
    refused(f"a text as params[{path!r}]", (TypeError, ValueError), path, fun, with_entry(lambda a: "text"), x)
    refused("a number as fun", TypeError, "fun", 1.0, params, x)
    refused("no samples", ValueError, "x1", fun, params, x[:0])
    refused("a list as x", TypeError, "x1", fun, params, x.tolist())
    refused("x2 of another shape", ValueError, "x2", fun, params, x, x[:, :-1])
    if x.dtype.kind == "f":
        refused("NaN in x", ValueError, "x1", fun, params, _with_nan(x))
        refused("x2 of another dtype", TypeError, "x2", fun, params, x, x.astype(narrow))
    _check_tied(problem)


def _check_tied(problem: Problem) -> None:
    """Refuse one array at two places, if two entries have one shape or can be made views of one array."""
    entries = problem.entries
    shapes = [array.shape for array in entries.values()]
    largest = np.zeros(max(array.size for array in entries.values()), next(iter(entries.values())).dtype)
    tied = tree_map(lambda path, array: largest[: array.size].reshape(array.shape) if path in entries else array,
                    problem.params)  # fmt: skip
    if len(shapes) > 1:
        problem.refused("one memory for two entries", ValueError, "", problem.fun, tied, problem.x)


def _check_outputs(problem: Problem) -> None:
    """Refuse functions whose result is not (n, k) or (n,)."""
    fun, params, x = problem.fun, problem.params, problem.x
    for what, wrong in {
        "an output with three axes": lambda p, x: fun(p, x)[:, :, None],
        "a sum over samples": lambda p, x: fun(p, x).sum(),
        "no array as output": lambda p, x: "text",
    }.items():
        problem.refused(what, (TypeError, ValueError), "", wrong, params, x)


def _with_nan(array: Any) -> Any:
    array = array.copy()
    array.flat[-1] = np.nan
    return array
