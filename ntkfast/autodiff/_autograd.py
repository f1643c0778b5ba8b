"""The engine of HIPS autograd: ``fun(params, x)`` in ``autograd.numpy``, NumPy arrays only.

Autograd differentiates in reverse mode, without vectorization: Jacobians are one backward pass per sample and output,
so this engine suits small networks and checks. Where it widens float32 within, results are narrowed again. A
Jacobian-vector product is the pullback of the pullback, which is linear in its cotangent; it needs no derivatives
beyond those of reverse mode.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from autograd import make_vjp

from .._tree import Tree, flatten, rebuild
from .._typing import Array
from ._inputs import check_function, check_output, check_samples, refuse_shape
from ._protocol import Checked, InputPullback, ParamPullback, Pushforward

__all__ = ["AutogradEngine", "engine"]

Entries = dict[str, Any]


class AutogradEngine:
    """Engine of functions in ``autograd.numpy``."""

    name = "autograd"

    def check(self, fun: Any, params: Tree, x1: Array, x2: Array | None = None) -> Checked:
        """Compare the function, its parameters and the samples with each other. See `Autodiff.check`.

        Calls `fun` once, with one sample.
        """
        x1, x2, backend = check_samples(x1, x2, indices=None)
        if backend.name != "numpy":
            raise TypeError(
                "expected NumPy arrays with autodiff='autograd', got CuPy arrays; move them with cupy.asnumpy, or use "
                "autodiff='jax' or 'torch'"
            )
        entries = check_function(fun, params, x1)
        return Checked(x1, x2, backend, entries, check_output(fun(params, x1[:1]), 1))

    def param_jacobian(self, fun: Any, params: Tree, x: Array) -> dict[str, Array]:
        """Per-sample Jacobians by path, (n, k, *shape), one backward pass per sample and output."""
        entries, call = _bind(fun, params)
        rows = [_rows(make_vjp(lambda values, i=i: call(values, x[i : i + 1]))(entries)) for i in range(len(x))]
        return {
            path: np.array([[row[path] for row in sample] for sample in rows], array.dtype)
            for path, array in entries.items()
        }

    def param_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, ParamPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to a tree."""
        entries, call = _bind(fun, params)
        pull, y = make_vjp(lambda values: call(values, x))(entries)

        def pullback(ct: Array) -> Tree:
            refuse_shape(ct, "ct", y.shape)
            found = pull(ct)
            return rebuild(params, {path: found[path].astype(y.dtype, copy=False) for path in entries})

        return y, pullback

    def param_jvp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, Pushforward]:
        """Outputs (n, k), and the derivative (n, k) along a tree of directions."""
        entries, call = _bind(fun, params)
        pull, y = make_vjp(lambda values: call(values, x))(entries)
        push, _ = make_vjp(pull)(np.zeros_like(y))
        return y, lambda direction: push(flatten(direction, "direction")).astype(y.dtype, copy=False)

    def input_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, InputPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to the input."""
        entries, call = _bind(fun, params)
        pull, y = make_vjp(lambda inputs: call(entries, inputs))(x)

        def pullback(ct: Array) -> Array:
            refuse_shape(ct, "ct", y.shape)
            return pull(ct).astype(x.dtype, copy=False)

        return y, pullback


def _rows(pair: tuple[Callable[[Array], Entries], Array]) -> list[Entries]:
    """Rows of the Jacobian of one sample, by output."""
    pull, y = pair
    return [pull(unit[None]) for unit in np.eye(y.shape[1], dtype=y.dtype)]


def _bind(fun: Any, params: Tree) -> tuple[Entries, Callable[[Entries, Array], Any]]:
    """Entries, and `fun` as a function of them with results (n, k) of their dtype."""
    entries = flatten(params)
    dtype = next(iter(entries.values())).dtype

    def call(values: Entries, x: Array) -> Any:
        y = fun(rebuild(params, values), x)
        y = y.reshape((len(x), check_output(y, len(x))))
        return y if y.dtype == dtype else y.astype(dtype)

    return entries, call


engine = AutogradEngine()
