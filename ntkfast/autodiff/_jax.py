"""The engine of JAX: ``fun(params, x)`` in ``jax.numpy``.

Arrays are handed over without copies where JAX allows it: NumPy arrays at addresses that are multiples of 64, CuPy
arrays by DLPack; results come back in JAX's memory, read-only for NumPy. Derivatives are compiled, once per function
(by identity) and shapes: define a function once rather than before every call.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._tree import Tree, flatten, leaves, tree_map
from .._typing import Array
from ..backends import Backend, get_backend
from ._inputs import check_function, check_output, check_samples, refuse_shape
from ._protocol import Checked, InputPullback, ParamPullback, Pushforward, Pushforwards

__all__ = ["JaxEngine", "engine"]


class JaxEngine:
    """Engine of functions in ``jax.numpy``; on the CPU for NumPy arrays, on their device for CuPy arrays.

    Float64 arrays switch JAX's 64-bit mode on for the call, and matrix products have the full precision of the dtype.
    The process's settings stay as they are.
    """

    name = "jax"

    def check(self, fun: Any, params: Tree, x1: Array, x2: Array | None = None) -> Checked:
        """Compare the function, its parameters and the samples with each other. See `Autodiff.check`.

        Traces `fun` once, without evaluating it.
        """
        x1, x2, backend = check_samples(x1, x2, indices=None)
        entries = check_function(fun, params, x1)
        with _precision(entries):
            y = jax.eval_shape(fun, _to_jax(params, entries), _jax_array(x1[:1]))
        return Checked(x1, x2, backend, entries, check_output(y, 1))

    def param_jacobian(self, fun: Any, params: Tree, x: Array) -> dict[str, Array]:
        """Per-sample Jacobians by path, (n, k, *shape): reverse mode, vectorized over samples and outputs."""
        entries = flatten(params)
        with _precision(entries):
            found = leaves(_compiled(fun).jacobian(_to_jax(params, entries), _jax_array(x)))
        return {path: _array(found[path], get_backend(x)) for path in entries}

    def param_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, ParamPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to a tree."""
        entries, backend = flatten(params), get_backend(x)
        with _precision(entries):
            inputs = _jax_array(x)
            y, pull = jax.vjp(lambda tree: _compiled(fun).call(tree, inputs), _to_jax(params, entries))

        def pullback(ct: Array) -> Tree:
            refuse_shape(ct, "ct", y.shape)
            with _precision(entries):
                (found,) = pull(_jax_array(ct))
            return tree_map(lambda _, value: _array(value, backend), found)

        return _array(y, backend), pullback

    def param_jvp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, Pushforward]:
        """Outputs (n, k), and the derivative (n, k) along a tree of directions, linearized once."""
        entries, backend = flatten(params), get_backend(x)
        with _precision(entries):
            inputs = _jax_array(x)
            y, push = jax.linearize(lambda tree: _compiled(fun).call(tree, inputs), _to_jax(params, entries))

        def pushforward(direction: Tree) -> Array:
            with _precision(entries):
                return _array(push(_to_jax(params, flatten(direction, "direction"))), backend)

        return _array(y, backend), pushforward

    def param_jvps(self, fun: Any, params: Tree, x: Array) -> Pushforwards:
        """Derivatives (m, n, k) along m directions, vectorized over them."""
        entries, backend = flatten(params), get_backend(x)
        with _precision(entries):
            tree, inputs = _to_jax(params, entries), _jax_array(x)

        def pushforwards(directions: Mapping[str, Array]) -> Array:
            with _precision(entries):
                return _array(_compiled(fun).push(tree, inputs, _to_jax(params, directions)), backend)

        return pushforwards

    def input_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, InputPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to the input."""
        entries, backend = flatten(params), get_backend(x)
        with _precision(entries):
            tree = _to_jax(params, entries)
            y, pull = jax.vjp(lambda inputs: _compiled(fun).call(tree, inputs), _jax_array(x))

        def pullback(ct: Array) -> Array:
            refuse_shape(ct, "ct", y.shape)
            with _precision(entries):
                return _array(pull(_jax_array(ct))[0], backend)

        return _array(y, backend), pullback


class _Compiled(NamedTuple):
    """A function and its derivatives, compiled for the shapes they meet."""

    call: Any  # (tree, x) -> (n, k)
    jacobian: Any  # (tree, x) -> tree of (n, k, *shape)
    push: Any  # (tree, x, tree of (m, *shape)) -> (m, n, k)


def _compiled(fun: Any) -> _Compiled:
    """Compiled derivatives of a function, kept for the functions of the last calls that can be hashed."""
    try:
        hash(fun)
    except TypeError:
        return _compile(fun)
    return _remembered(fun)


def _compile(fun: Any) -> _Compiled:
    def call(tree: Any, x: Any) -> Any:
        y = fun(tree, x)
        n, dtype = x.shape[0], jax.tree_util.tree_leaves(tree)[0].dtype
        return jnp.reshape(y, (n, check_output(y, n))).astype(dtype)

    def push(tree: Any, x: Any, directions: Any) -> Any:
        return jax.vmap(lambda direction: jax.jvp(lambda t: call(t, x), (tree,), (direction,))[1])(directions)

    one = jax.jacrev(lambda tree, sample: call(tree, sample[None])[0])
    return _Compiled(jax.jit(call), jax.jit(jax.vmap(one, in_axes=(None, 0))), jax.jit(push))


# A bound, since compiled code and whatever a closure holds live as long as the function is remembered.
_remembered = functools.lru_cache(maxsize=32)(_compile)


@contextlib.contextmanager
def _precision(entries: Mapping[str, Any]) -> Iterator[None]:
    """64-bit mode for float64, and no narrower products than the dtype says (TF32 on a GPU)."""
    wide = next(iter(entries.values())).dtype == "float64"
    wide_mode = _enable_x64(True) if wide else contextlib.nullcontext()
    with wide_mode, jax.default_matmul_precision("float32"):
        yield


def _find_enable_x64() -> Any:
    """The context manager of the 64-bit mode, which has moved from ``jax.experimental`` to ``jax``."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64
    from jax.experimental import enable_x64

    return enable_x64


_enable_x64 = _find_enable_x64()


def _jax_array(array: Array) -> Any:
    """The array in JAX, on the device that it is on."""
    backend = get_backend(array)
    if backend.name == "cupy":
        return jax.dlpack.from_dlpack(backend.xp.ascontiguousarray(array))
    return jax.device_put(array, jax.devices("cpu")[0])


def _to_jax(params: Tree, values: Mapping[str, Array]) -> Any:
    """The tree `params` with values in JAX in place of its arrays."""
    return tree_map(lambda path, _: _jax_array(values[path]), params)


def _array(value: Any, backend: Backend) -> Array:
    """The memory of a JAX array as an array."""
    return backend.xp.from_dlpack(value.block_until_ready())


engine = JaxEngine()
