"""The engine of PyTorch: ``fun(params, x)`` on tensors, differentiated by ``torch.func``.

Arrays become tensors in the same memory by DLPack, and results come back in the same way. A module's function is
``lambda params, x: torch.func.functional_call(module, params, (x,))``.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .._tree import Tree, flatten, rebuild
from .._typing import Array
from ..backends import Backend, get_backend
from ._inputs import check_function, check_output, check_samples, refuse_shape
from ._protocol import Checked, InputPullback, ParamPullback, Pushforward, Pushforwards

__all__ = ["TorchEngine", "engine"]

Entries = dict[str, torch.Tensor]


class TorchEngine:
    """Engine of functions of tensors; on the CPU for NumPy arrays, on their device for CuPy arrays."""

    name = "torch"

    def check(self, fun: Any, params: Tree, x1: Array, x2: Array | None = None) -> Checked:
        """Compare the function, its parameters and the samples with each other. See `Autodiff.check`.

        Calls `fun` once, with one sample.
        """
        if isinstance(fun, torch.nn.Module):
            raise TypeError(
                "expected fun to be a function of (params, x), got a module: write "
                "lambda params, x: torch.func.functional_call(module, params, (x,)), with params the module's by name"
            )
        x1, x2, backend = check_samples(x1, x2, indices=None)
        entries = check_function(fun, params, x1)
        with torch.no_grad():
            y = fun(rebuild(params, _tensors(entries)), _tensor(x1[:1]))
        return Checked(x1, x2, backend, entries, check_output(y, 1))

    def param_jacobian(self, fun: Any, params: Tree, x: Array) -> dict[str, Array]:
        """Per-sample Jacobians by path, (n, k, *shape): reverse mode, vectorized over samples and outputs."""
        entries, call = _bind(fun, params)

        def one(values: Entries, sample: torch.Tensor) -> torch.Tensor:
            return call(values, sample[None])[0]

        jacobian = torch.func.vmap(torch.func.jacrev(one), in_dims=(None, 0))
        return _arrays(jacobian(entries, _tensor(x)), get_backend(x))

    def param_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, ParamPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to a tree."""
        backend, inputs = get_backend(x), _tensor(x)
        entries, call = _bind(fun, params)
        y, pull = torch.func.vjp(lambda values: call(values, inputs), entries)

        def pullback(ct: Array) -> Tree:
            refuse_shape(ct, "ct", tuple(y.shape))
            return rebuild(params, _arrays(pull(_tensor(ct))[0], backend))

        return _array(y, backend), pullback

    def param_jvp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, Pushforward]:
        """Outputs (n, k), and the derivative (n, k) along a tree of directions: forward mode."""
        backend, inputs = get_backend(x), _tensor(x)
        entries, call = _bind(fun, params)

        def pushforward(direction: Tree) -> Array:
            return _array(_push(call, entries, _tensors(flatten(direction, "direction")), inputs), backend)

        with torch.no_grad():
            y = call(entries, inputs)
        return _array(y, backend), pushforward

    def param_jvps(self, fun: Any, params: Tree, x: Array) -> Pushforwards:
        """Derivatives (m, n, k) along m directions; they share one evaluation of `fun`."""
        backend, inputs = get_backend(x), _tensor(x)
        entries, call = _bind(fun, params)
        push = torch.func.vmap(lambda directions: _push(call, entries, directions, inputs))
        return lambda directions: _array(push(_tensors(directions)), backend)

    def input_vjp(self, fun: Any, params: Tree, x: Array) -> tuple[Array, InputPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to the input."""
        backend = get_backend(x)
        entries, call = _bind(fun, params)
        y, pull = torch.func.vjp(lambda inputs: call(entries, inputs), _tensor(x))

        def pullback(ct: Array) -> Array:
            refuse_shape(ct, "ct", tuple(y.shape))
            return _array(pull(_tensor(ct))[0], backend)

        return _array(y, backend), pullback


def _bind(fun: Any, params: Tree) -> tuple[Entries, Callable[[Entries, torch.Tensor], torch.Tensor]]:
    """Entries as tensors, and `fun` as a function of them with results (n, k) of their dtype."""
    entries = _tensors(flatten(params))
    dtype = next(iter(entries.values())).dtype

    def call(values: Entries, x: torch.Tensor) -> torch.Tensor:
        y = fun(rebuild(params, values), x)
        return y.reshape(len(x), check_output(y, len(x))).to(dtype)

    return entries, call


def _push(call: Any, entries: Entries, directions: Entries, x: torch.Tensor) -> torch.Tensor:
    """Derivative of call(entries, x) along `directions`."""
    _load_forward_mode()
    pushed: torch.Tensor = torch.func.jvp(lambda values: call(values, x), (entries,), (directions,))[1]
    return pushed


@functools.cache
def _load_forward_mode() -> None:
    """Let PyTorch load its rules for forward mode, in the course of which some versions warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.ones(())
        torch.func.jvp(torch.sin, (one,), (one,))


def _tensor(array: Array) -> torch.Tensor:
    """The array's memory as a tensor; a copy where PyTorch cannot have it: negative strides, old read-only exports."""
    if min(array.strides, default=0) < 0:
        array = array.copy()
    try:
        tensor: torch.Tensor = torch.from_dlpack(array)
    except BufferError:
        tensor = torch.from_dlpack(array.copy())
    return tensor


def _tensors(arrays: Mapping[str, Array]) -> Entries:
    return {path: _tensor(array) for path, array in arrays.items()}


def _array(tensor: torch.Tensor, backend: Backend) -> Array:
    """The tensor's memory as an array."""
    return backend.xp.from_dlpack(tensor.detach().contiguous())


def _arrays(tensors: Entries, backend: Backend) -> dict[str, Array]:
    return {path: _array(tensor, backend) for path, tensor in tensors.items()}


engine = TorchEngine()
