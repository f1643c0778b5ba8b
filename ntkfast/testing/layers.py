"""Conformance suite of layers: forward, pullback, pushforward, factors and second derivatives agree with each other."""

import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from .._check import FLOAT_DTYPES, check_choice, check_int, check_seed
from .._tree import flatten, rebuild
from .._typing import Array
from ..backends import get_backend
from ..layers import Cotangent, Layer
from ._case import Case, random_params, takes_indices
from ._derivatives import check_derivatives

__all__ = ["check_layer"]


def check_layer(
    layer: Layer,
    in_shape: tuple[int, ...],
    *,
    x: Array | None = None,
    dtype: str = "float64",
    seed: int = 0,
    n: int = 3,
    k: int = 2,
) -> None:
    """Check that a layer does what the library relies on; for authors of layers.

    Parameters
    ----------
    layer : Layer
        A leaf or a container.
    in_shape : tuple of int
        Shape of one sample.
    x : array, shape (n, *in_shape), optional
        Samples; default: standard normal numbers. A layer that reads integers needs them. With samples of CuPy
        everything runs on the device. Derivatives are compared at these points, so no kink or tie may be
        within about 1e-5 of them.
    dtype : {"float64", "float32"}
        Of the parameters and the samples that are drawn. The references are central differences in float64 in
        either case. With "float64" the same is done in float32 once more, and compared.
    seed : int
        Of samples, parameters, cotangents and tangents. Points at a kink are rare: another seed avoids them.
    n, k : int
        Numbers of samples, and of cotangents and tangents per sample.

    Returns
    -------
    None
        All properties hold.

    Raises
    ------
    AssertionError
        The first property that does not hold, with the layer and the deviation.

    Notes
    -----
    Properties: the layer is a value (frozen, hashable, equal by its settings); `init`, `check_params` and `out_shape`
    agree with `forward`; samples are independent; nothing that is given is modified; `jvp` and `vjp` are the
    derivative and its transpose, also for cotangents that are products or may be overwritten; `factors` are the
    Jacobian of every parameter; `param_jvp` is linear and agrees with them; `pushforward` and `pair_vjp` are what they
    say; for leaves `act_vjp` and `curvature` are the derivatives of act and of jvp, and `unfold_delta` gives the
    cotangent in the factors the axes of the output again.

    Cost: some hundred calls of `forward` with n samples; milliseconds for layers of some hundred entries.

    Determinism: a function of the arguments.

    Examples
    --------
    >>> from ntkfast.layers import Dense, LayerNorm, ReLU, Sequential
    >>> check_layer(Dense(3, b_std=0.1), (4,))
    >>> check_layer(Sequential(LayerNorm(), ReLU(), Dense(2)), (5, 4), dtype="float32")
    """
    case = _case(layer, tuple(in_shape), x, check_choice(dtype, "dtype", FLOAT_DTYPES), check_seed(seed), n, k)
    _check_value(case)
    _check_shapes(case)
    _check_params(case)
    _check_purity(case)
    _check_independence(case)
    check_derivatives(case)
    if dtype == "float64":
        check_derivatives(case.astype("float32"))


def _case(layer: Layer, in_shape: tuple[int, ...], x: Array | None, dtype: str, seed: int, n: int, k: int) -> Case:
    if not isinstance(layer, Layer):
        raise TypeError(f"expected layer to be a Layer, got {layer!r}")
    rng = np.random.default_rng(seed)
    if x is None:
        if takes_indices(layer, in_shape):
            raise ValueError(f"expected samples x of integers for {layer!r}, got none")
        x = rng.standard_normal((check_int(n, "n", minimum=1), *in_shape))
    if tuple(x.shape[1:]) != in_shape or not len(x):
        raise ValueError(f"expected x of shape (n, *{in_shape}) with n > 0, got {tuple(x.shape)}")
    x = x.astype(dtype) if x.dtype.kind == "f" else x
    params = random_params(layer, in_shape, dtype, rng, get_backend(x).xp)
    return Case(layer, params, x, dtype, check_int(k, "k", minimum=1), rng)


# --- the layer as a value, shapes, and what a call may not do ---------------------------------------


def _check_value(case: Case) -> None:
    layer, twin = case.layer, copy.deepcopy(case.layer)
    try:
        equal = twin == layer and hash(twin) == hash(layer)
    except TypeError as error:  # a setting that cannot be hashed
        case.require(False, f"expected a hashable value, got {error}")
    case.require(equal, "expected equality and hash by settings")
    for name in [field.name for field in fields(layer)] if is_dataclass(layer) else list(vars(layer)):
        try:
            setattr(twin, name, getattr(layer, name))
        except (AttributeError, TypeError):
            continue
        case.require(False, f"expected a frozen value, got one whose {name} can be set")


def _check_shapes(case: Case) -> None:
    y, expected = case.output(), (len(case.x), *case.out_shape)
    case.require(y.shape == expected, f"forward: expected shape {expected} as out_shape says, got {y.shape}")


def _check_independence(case: Case) -> None:
    alone = replace(case, x=case.x[:1]).output()
    case.equal("forward of one sample alone (samples must be independent)", alone, case.output()[:1])


def _check_params(case: Case) -> None:
    layer, in_shape, entries = case.layer, case.in_shape, case.entries()
    for dtype in FLOAT_DTYPES:
        drawn = [dict(layer.check_params(layer.init(in_shape, seed=1, dtype=dtype), in_shape)) for _ in range(2)]
        for path, array in drawn[0].items():
            case.require(str(array.dtype) == dtype, f"init: expected {path!r} of dtype {dtype}, got {array.dtype}")
            same = np.array_equal(array, drawn[1][path])
            case.require(same, f"init: expected {path!r} to be a function of the seed")
    for path in entries:
        _check_refusal(case, path)


def _check_refusal(case: Case, path: str) -> None:
    """An array of a wrong shape is refused with its name."""
    entries = case.entries()
    wrong = rebuild(case.params, entries | {path: entries[path][None]})
    try:
        dict(case.layer.check_params(wrong, case.in_shape))
    except ValueError as error:
        case.require(repr(path) in str(error), f"check_params: expected {path!r} in the message, got {error}")
        return
    case.require(False, f"check_params: expected a ValueError for {path!r} of a wrong shape")


def _check_purity(case: Case) -> None:
    """Nothing that is given is changed, and what was saved can be used again."""
    layer, params, ct, steps = case.layer, case.params, case.device(case.cotangent()), case.direction(case.directions())
    tangent = case.device(case.tangent()) if case.differentiable else None
    given = {"x": case.x, "ct": ct, "tangent": tangent} | _named("params", params) | _named("direction", steps)
    before: dict[str, Any] = {
        name: None if array is None else case.numpy(array).copy() for name, array in given.items()
    }
    saved = case.forward()[1]
    first = _results(case, saved, ct)
    layer.pushforward(params, saved, None if tangent is None else tangent[..., :1, :], steps)
    if tangent is not None:
        layer.jvp(params, saved, tangent)
        if case.is_leaf:
            layer.curvature(params, saved, ct, tangent)
    for again, result in zip(_results(case, saved, ct), first, strict=True):
        case.require(np.array_equal(again, result), "vjp: expected the same result again from what was saved")
    for name, array in given.items():
        same = array is None or np.array_equal(case.numpy(array), before[name])
        case.require(same, f"expected {name} as it was, got it modified")


def _named(tree: str, entries: Any) -> dict[str, Array]:
    return {f"{tree}[{path!r}]": array for path, array in flatten(entries).items()}


def _results(case: Case, saved: Any, ct: Array) -> list[Any]:
    """What the backward pass returns."""
    found, low = case.pull(saved, Cotangent(ct))
    results = [case.numpy(factors.jacobian()) for factors in found.values()]
    return results if low is None else [*results, case.product("vjp", low, case.in_shape[:-1])]
