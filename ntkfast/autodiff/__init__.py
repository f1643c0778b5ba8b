"""Engines that differentiate a network: hand-derived layers, HIPS autograd, JAX, PyTorch, and those of other packages.

| engine | `fun` is | arrays | needs |
| --- | --- | --- | --- |
| ``"layers"`` | a `ntkfast.layers.Layer` | NumPy, CuPy | nothing |
| ``"autograd"`` | ``fun(params, x)`` in ``autograd.numpy`` | NumPy | ``ntkfast[autograd]`` |
| ``"jax"`` | ``fun(params, x)`` in ``jax.numpy`` | NumPy, CuPy | ``ntkfast[jax]`` |
| ``"torch"`` | ``fun(params, x)`` on tensors | NumPy, CuPy | ``ntkfast[torch]`` |

Another package offers an engine, an object with the methods of `Autodiff`, as an entry point::

    [project.entry-points."ntkfast.autodiff"]
    mine = "my_package.ntk:engine"
"""

import functools
import importlib
import importlib.metadata
from typing import Any, cast

from ..errors import BackendUnavailableError
from ._protocol import Autodiff, Checked, SupportsDirections, SupportsFactors

__all__ = ["Autodiff", "Checked", "SupportsDirections", "SupportsFactors", "get_autodiff"]

GROUP = "ntkfast.autodiff"

# name of an engine -> the package it needs; each lives in the module "_<name>"
_OWN = {"layers": None, "autograd": "autograd", "jax": "jax", "torch": "torch"}

_METHODS = ("check", "param_jacobian", "param_vjp", "param_jvp", "input_vjp")


def get_autodiff(engine: str | Autodiff) -> Autodiff:
    """Engine of a name, or the given engine itself.

    Parameters
    ----------
    engine : str or Autodiff
        "layers", "autograd", "jax", "torch", the name of an installed entry point of the group ``ntkfast.autodiff``,
        or an object with the methods of `Autodiff`.

    Returns
    -------
    Autodiff

    Raises
    ------
    BackendUnavailableError
        The engine's package is not installed; the message has the command that installs it.
    ValueError
        No engine of this name; the message lists those that exist.
    TypeError
        An object without the methods of `Autodiff`.

    Notes
    -----
    Cost: a dictionary look-up after the first call. An engine's package is imported when the engine is asked for.
    Installed packages are searched for entry points once, and only for a name that is not ours.

    Examples
    --------
    >>> get_autodiff("layers").name
    'layers'
    """
    if isinstance(engine, str):
        return _own(engine) if engine in _OWN else _foreign(engine)
    missing = [name for name in ("name", *_METHODS) if not hasattr(engine, name)]
    if missing or isinstance(engine, type):
        lacks = f" without {', '.join(missing)}" if missing else ", a class"
        raise TypeError(f"expected autodiff to be a name or an engine, got {engine!r}{lacks}")
    return engine


@functools.cache
def _own(name: str) -> Autodiff:
    package = _OWN[name]
    try:
        module = importlib.import_module(f"._{name}", __package__)
    except ModuleNotFoundError as error:
        if package is None or error.name is None or error.name.partition(".")[0] != package:
            raise
        raise BackendUnavailableError(
            f'expected the package {package} for autodiff={name!r}, got none; pip install "ntkfast[{name}]"'
        ) from error
    return cast(Autodiff, module.engine)


@functools.cache
def _entry_points() -> dict[str, Any]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


@functools.cache
def _foreign(name: str) -> Autodiff:
    found = _entry_points()
    if name not in found:
        names = sorted({*_OWN, *found})
        raise ValueError(f"expected autodiff to be an engine or one of {', '.join(names)}; got {name!r}")
    return get_autodiff(found[name].load())
