"""One function for an engine: parameters, samples, cotangents and directions, and comparisons that name the engine."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._tree import Tree, flatten, join, pick, rebuild, tree_map
from ..autodiff import Autodiff, SupportsDirections, SupportsFactors
from ._case import EXACT, FLOOR, NEAR, difference

__all__ = ["Problem", "check_derivatives", "check_narrow", "check_purity"]

Entries = dict[str, Any]


class Problem:
    """A function with parameters and samples, and numbers to differentiate along."""

    def __init__(self, engine: Autodiff, fun: Any, params: Tree, x: Any, rng: np.random.Generator) -> None:
        self.engine, self.fun, self.params, self.x = engine, fun, params, x
        checked = engine.check(fun, params, x)
        self.entries: Entries = checked.entries
        self.k = checked.n_outputs
        self.dtype = next(iter(self.entries.values())).dtype
        self.ct = rng.standard_normal((len(x), self.k)).astype(self.dtype)
        self.steps = {path: rng.standard_normal(array.shape).astype(self.dtype) for path, array in self.entries.items()}
        self.move = rng.standard_normal(x.shape).astype(self.dtype)

    @property
    def direction(self) -> Tree:
        """The directions as a tree without buffers."""
        return pick(self.params, self.steps)

    @property
    def arguments(self) -> tuple[Any, Tree, Any]:
        """What the engine's methods take."""
        return self.fun, self.params, self.x

    def replaced(self, params: Tree, x: Any, dtype: Any = None) -> "Problem":
        """The same with other arrays, in another dtype or as they are."""
        twin = object.__new__(Problem)
        twin.__dict__.update(self.__dict__, params=params, x=x)
        twin.entries = {path: array for path, array in flatten(params).items() if path in self.entries}
        if dtype is not None:
            twin.dtype, twin.ct = dtype, self.ct.astype(dtype)
            twin.steps = {path: step.astype(dtype) for path, step in self.steps.items()}
        return twin

    def require(self, holds: bool, message: str) -> None:
        """Raise the suite's error where a property does not hold."""
        if not holds:
            raise AssertionError(f"engine {self.engine.name!r}: {message}")

    def close(self, what: str, got: Any, expected: Any, rtol: float) -> None:
        """Compare shapes, finiteness and values, relative to the largest entry."""
        got, expected = np.asarray(got), np.asarray(expected)
        self.require(got.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {got.shape}")
        scale = max(float(np.abs(expected).max(initial=0.0)), FLOOR)
        error = float(np.abs(got - expected).max(initial=0.0)) / scale  # NaN is above every bound
        self.require(error <= rtol, f"{what}: deviation {error:.1e} above {rtol:.1e}")

    def refused(self, what: str, errors: Any, text: str, *arguments: Any) -> None:
        """`check` of these arguments raises one of `errors`, with `text` in its message."""
        try:
            self.engine.check(*arguments)
        except errors as error:
            self.require(text in str(error), f"check of {what}: expected {text!r} in the message, got {error}")
        except Exception as error:
            self.require(False, f"check of {what}: expected another error, got {type(error).__name__}: {error}")
        else:
            self.require(False, f"check of {what}: expected an error, got none")


def results(problem: Problem) -> Entries:
    """What all methods return, by name."""
    engine, (fun, params, x) = problem.engine, problem.arguments
    found: Entries = {}
    found["y"], pullback = engine.param_vjp(fun, params, x)
    found |= {f"param_vjp {path}": total for path, total in flatten(pullback(problem.ct)).items()}
    found["y of param_jvp"], pushforward = engine.param_jvp(fun, params, x)
    found["param_jvp"] = pushforward(problem.direction)
    found |= {f"param_jacobian {path}": j for path, j in engine.param_jacobian(fun, params, x).items()}
    if x.dtype.kind == "f":
        found["y of input_vjp"], pull_input = engine.input_vjp(fun, params, x)
        found["input_vjp"] = pull_input(problem.ct)
    return found


def _part(found: Mapping[str, Any], method: str) -> Entries:
    """Results of one method by path."""
    return {name.removeprefix(f"{method} "): array for name, array in found.items() if name.startswith(f"{method} ")}


# --- derivatives ------------------------------------------------------------------------------------


def check_derivatives(problem: Problem) -> None:
    """Compare all methods with central differences and with each other, in float64."""
    found, exact = results(problem), EXACT["float64"]
    _check_shapes(problem, found)
    for name in ("y of param_jvp", "y of input_vjp"):
        if name in found:
            problem.close(name, found[name], found["y"], exact)
    _check_differences(problem, found)
    jacobians, totals = _part(found, "param_jacobian"), _part(found, "param_vjp")
    pushed = sum(np.tensordot(j, problem.steps[path], problem.steps[path].ndim) for path, j in jacobians.items())
    problem.close("param_jacobian times a direction, against param_jvp", pushed, found["param_jvp"], exact)
    for path, total in totals.items():
        pulled = np.tensordot(problem.ct, jacobians[path], 2)
        problem.close(f"cotangents times param_jacobian {path!r}, against param_vjp", pulled, total, exact)
    alone = problem.engine.param_jacobian(problem.fun, problem.params, problem.x[:1])
    for path, jacobian in jacobians.items():
        problem.close(f"param_jacobian {path!r} of one sample alone", alone[path], jacobian[:1], exact)
    _check_extras(problem, found)


def _check_shapes(problem: Problem, found: Entries) -> None:
    n, k = len(problem.x), problem.k
    shapes = {"y": (n, k), "param_jvp": (n, k), "input_vjp": problem.x.shape}
    for path, array in problem.entries.items():
        shapes |= {f"param_vjp {path}": array.shape, f"param_jacobian {path}": (n, k, *array.shape)}
    for name, array in found.items():
        expected = shapes.get(name, (n, k))
        problem.require(array.shape == expected, f"{name}: expected shape {expected}, got {array.shape}")
        problem.require(array.dtype == problem.dtype, f"{name}: expected {problem.dtype}, got {array.dtype}")
    for method in ("param_vjp", "param_jacobian"):
        got = set(_part(found, method))
        problem.require(got == set(problem.entries), f"{method}: expected entries {set(problem.entries)}, got {got}")


def _check_differences(problem: Problem, found: Entries) -> None:
    def along_parameters(step: float) -> Any:
        moved = tree_map(
            lambda path, array: array + step * problem.steps[path] if path in problem.steps else array, problem.params
        )
        return problem.engine.param_vjp(problem.fun, moved, problem.x)[0]

    problem.close("param_jvp, against differences", found["param_jvp"], difference(along_parameters), NEAR["float64"])
    if "input_vjp" in found:
        slope = difference(
            lambda step: problem.engine.param_vjp(problem.fun, problem.params, problem.x + step * problem.move)[0]
        )
        n = len(problem.x)
        got = (found["input_vjp"] * problem.move).reshape(n, -1).sum(axis=1)
        problem.close("input_vjp, against differences", got, (problem.ct * slope).sum(axis=1), NEAR["float64"])


def _check_extras(problem: Problem, found: Entries) -> None:
    """Compare the optional methods with those that all engines have."""
    engine, (fun, params, x), exact = problem.engine, problem.arguments, EXACT["float64"]
    if isinstance(engine, SupportsDirections):
        two = {path: np.stack([step, -2 * step]) for path, step in problem.steps.items()}
        expected = np.stack([found["param_jvp"], -2 * found["param_jvp"]])
        problem.close("param_jvps", engine.param_jvps(fun, params, x)(two), expected, exact)
    if isinstance(engine, SupportsFactors):
        last = slice(problem.k - 1, problem.k)
        for layer, factors in engine.factors(fun, params, x, last):
            for name, factor in factors.items():
                expected = found[f"param_jacobian {join(layer, name)}"][:, last]
                problem.close(f"factors of {join(layer, name)!r}", factor.jacobian(), expected, exact)


# --- dtypes, memory, purity -------------------------------------------------------------------------


def check_narrow(problem: Problem) -> None:
    """Compare float32 with float64: dtypes of results, and values to the rounding of float32."""
    x = problem.x.astype("float32") if problem.x.dtype.kind == "f" else problem.x
    narrow = problem.replaced(
        tree_map(lambda _, array: array.astype("float32"), problem.params), x, np.dtype("float32")
    )
    # The reference starts from the same numbers, rounded to float32.
    wide = narrow.replaced(tree_map(lambda _, array: array.astype("float64"), narrow.params),
                           x.astype("float64") if x.dtype.kind == "f" else x, np.dtype("float64"))  # fmt: skip
    reference, found = results(wide), results(narrow)
    _check_shapes(narrow, found)
    for name, array in found.items():
        problem.close(f"{name} in float32, against float64", array, reference[name], EXACT["float32"])


def check_purity(problem: Problem) -> None:
    """Compare results of write-protected, reversed and Fortran-ordered arrays, and of a second call."""
    expected = results(problem)
    given = [problem.x, problem.ct, *problem.entries.values(), *problem.steps.values()]
    before = [array.copy() for array in given]
    pullback = problem.engine.param_vjp(*problem.arguments)[1]
    first, second = (flatten(pullback(problem.ct)) for _ in range(2))
    for path, total in first.items():
        problem.close(f"param_vjp {path!r}, pulled back twice", second[path], total, 0.0)
    changed = [not np.array_equal(a, b) for a, b in zip(given, before, strict=True)]
    problem.require(not any(changed), "expected arrays as they were, got one of them modified")
    views: dict[str, Callable[[Any], Any]] = {
        "read-only": _read_only, "reversed": _reversed, "Fortran-ordered": np.asfortranarray
    }  # fmt: skip
    for what, view in views.items():
        checked = problem.engine.check(problem.fun, problem.params, view(problem.x))
        problem.require(checked.x1.flags.c_contiguous, f"check: expected x1 C-contiguous from a {what} array")
        twin = problem.replaced(
            rebuild(problem.params, {p: view(a) for p, a in flatten(problem.params).items()}), checked.x1
        )
        for name, array in results(twin).items():
            problem.close(f"{name} of {what} arrays", array, expected[name], EXACT["float64"])


def _read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def _reversed(array: Any) -> Any:
    """The array, as a view with negative strides."""
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    return array[backwards].copy()[backwards]
