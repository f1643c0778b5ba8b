"""Derivatives of a layer, by its own methods, against central differences and against each other."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .._typing import Array
from ..layers import Cotangent, JacobianFactors
from ..layers.motion import Pair, SharedMotion
from ._case import Case, Factors, difference, dots

__all__ = ["check_derivatives"]


def check_derivatives(case: Case) -> None:
    """First and second derivatives, by samples and parameters."""
    ct = case.cotangent()
    case.equal("forward against float64", case.output(), case.moved().output())
    if case.differentiable:
        _check_input(case, ct)
    _check_products(case)
    found, _ = case.pull(case.forward()[1], Cotangent(case.device(ct)))
    case.require(set(found) == set(case.trainable()), f"expected factors of {case.trainable()}, got {sorted(found)}")
    for path, factors in found.items():
        _check_factors(case, path, factors, ct)
    if case.is_leaf:
        _check_linearity(case)
        for path, factors in found.items():
            _check_delta(case, path, factors, ct)
    _check_pushforward(case)
    if case.differentiable:
        if case.is_leaf:
            _check_curvature(case)
            _check_acts(case, found)
        _check_pair(case)


def _check_input(case: Case, ct: Any) -> None:
    """Jvp and vjp against central differences, and against each other."""
    tangent, saved = case.tangent(), case.forward()[1]

    def outputs(e: float) -> Any:
        return np.stack([case.moved(x=e * t).output() for t in np.moveaxis(tangent, -2, 0)], axis=-2)

    expected, pushed = difference(outputs), case.jvp(tangent)
    case.near("jvp against central differences", pushed, expected)
    low = case.product("vjp", case.layer.vjp(case.params, saved, Cotangent(case.device(ct))), case.in_shape[:-1])
    case.require(low.shape == tangent.shape, f"vjp: expected shape {tangent.shape}, got {low.shape}")
    case.near("vjp against central differences", dots(low, tangent), dots(ct, expected))
    case.equal("dot-product identity of vjp and jvp", dots(low, tangent), dots(ct, pushed))


def _check_products(case: Case) -> None:
    """Cotangents that are products give what their dense array gives."""
    saved, n = case.forward()[1], len(case.x)
    for name, ct in _cotangents(case):
        expected, below = case.pull(saved, Cotangent(ct.dense(n, case.out_shape[:-1]).copy()))
        found, low = case.pull(saved, ct)
        if case.differentiable:
            spatial = case.in_shape[:-1]
            case.equal(
                f"vjp of a cotangent {name}", case.product("vjp", low, spatial), case.product("vjp", below, spatial)
            )
        for path, factors in found.items():
            prop = f"factors of {path!r} under a cotangent {name}"
            case.equal(prop, case.host(prop, factors.jacobian()), case.host(prop, expected[path].jacobian()))


def _cotangents(case: Case) -> Iterator[tuple[str, Cotangent]]:
    """Cotangents whose axes have size 1 in all ways, with and without a gate, and one that nothing else holds."""
    full = case.cotangent()
    spatial = tuple(range(1, full.ndim - 2))
    kinds = {"per sample": (), "shared by samples": (0,)}
    kinds |= {"shared by positions": spatial, "shared by samples and positions": (0, *spatial)} if spatial else {}
    for name, axes in kinds.items():
        shared = case.device(full[tuple(slice(0, 1 if axis in axes else None) for axis in range(full.ndim))])
        gate = case.device(case.draw(*full.shape[:-2], full.shape[-1]))
        yield name, Cotangent(shared)
        yield f"{name} with a gate", Cotangent(shared, gate)
    yield "that may be overwritten", Cotangent(case.device(full).copy(), owned=True)


def _check_factors(case: Case, path: str, factors: Factors, ct: Any) -> None:
    """One parameter's factors, their total and their rows."""
    array, prop = case.entries()[path], f"factors of {path!r}"
    jacobian = case.host(prop, factors.jacobian())
    expected = (len(case.x), case.k, *array.shape)
    case.require(jacobian.shape == expected, f"{prop}: expected a Jacobian of shape {expected}, got {jacobian.shape}")
    step = case.draw(*array.shape)
    moved = difference(lambda e: case.moved(params={path: e * step}).output())
    along = np.tensordot(jacobian, step, axes=step.ndim)
    case.near(f"{prop} against central differences", along, dots(ct, moved[..., None, :])[..., 0])
    case.equal(f"{prop}: total", case.host(prop, factors.total()), jacobian.sum(axis=0))
    last = slice(len(case.x) - 1, None)
    case.equal(f"{prop}: rows", case.host(prop, factors.rows(last).jacobian()), jacobian[last])


def _check_delta(case: Case, path: str, factors: Factors, ct: Any) -> None:
    """The cotangent in the factors, unfolded, is that of the output."""
    delta = factors.delta.reshape(factors.n, *factors.spatial, factors.k, -1)
    prop = f"unfold_delta of the cotangent in the factors of {path!r}"
    case.equal(prop, case.host(prop, case.layer.unfold_delta(case.forward()[1], delta)), ct)


def _check_pushforward(case: Case) -> None:
    steps = case.directions()
    if not steps and not case.differentiable:
        return
    tangent = case.tangent(1) if case.differentiable else None

    def output(e: float) -> Any:
        x = None if tangent is None else e * tangent[..., 0, :]
        return case.moved(x=x, params={path: e * step for path, step in steps.items()}).output()

    case.near(
        "pushforward against central differences", case.pushforward(tangent, steps)[..., 0, :], difference(output)
    )


def _check_linearity(case: Case) -> None:
    """The output of a leaf is affine in its parameters, with slope param_jvp."""
    a, b = case.directions(), case.directions()
    if not a:
        return
    saved = case.forward()[1]

    def param_jvp(steps: dict[str, Any]) -> Any:
        return case.host("param_jvp", case.layer.param_jvp(case.params, case.direction(steps), saved))

    combined = param_jvp({path: 2 * a[path] - b[path] for path in a})
    case.equal("param_jvp: linearity in the direction", combined, 2 * param_jvp(a) - param_jvp(b))
    change = case.moved(params=a).output() - case.moved().output()
    case.equal("param_jvp: output affine in the parameters", param_jvp(a), change)


# --- second derivatives -----------------------------------------------------------------------------


def _check_curvature(case: Case) -> None:
    ct, tangent, probe = case.cotangent(), case.tangent(), case.tangent(1)
    got = case.layer.curvature(case.params, case.forward()[1], case.device(ct), case.device(tangent))
    gradient = _input_gradient(case, "curvature", got)

    def contraction(e: float) -> Any:
        return np.trace(dots(ct, case.moved(x=e * probe[..., 0, :]).jvp(tangent)), axis1=1, axis2=2)

    case.near("curvature against central differences of jvp", dots(gradient, probe)[:, 0, 0], difference(contraction))


def _check_acts(case: Case, found: dict[str, Factors]) -> None:
    for name, factors in found.items():
        if isinstance(factors, JacobianFactors):
            _check_act(case, name)


def _check_act(case: Case, name: str) -> None:
    """Act depends on the input as act_vjp says."""
    ct, probe = case.cotangent(), case.tangent(1)

    def factors(e: float) -> JacobianFactors:
        moved = case.moved(x=e * probe[..., 0, :])
        found = moved.pull(moved.forward()[1], Cotangent(moved.device(ct)))[0][name]
        assert isinstance(found, JacobianFactors)
        return found

    double = case.moved()
    start = factors(0.0).act
    if start is None:
        return
    weight = case.draw(*start.shape)

    def contraction(e: float) -> Any:
        act = factors(e).act
        assert act is not None
        return (weight * double.host("act", act[0 : len(case.x)])).sum(axis=(1, 2))

    got = case.layer.act_vjp(case.params, case.forward()[1], name, case.device(weight))
    gradient = _input_gradient(case, "act_vjp", got)
    case.near(
        f"act_vjp of {name!r} against central differences", dots(gradient, probe)[:, 0, 0], difference(contraction)
    )


def _input_gradient(case: Case, prop: str, got: Array | None) -> Any:
    """A gradient (n, *in_shape), zero for None, as one cotangent per sample."""
    if got is None:
        return np.zeros((*case.x.shape[:-1], 1, case.x.shape[-1]))
    case.require(got.shape == case.x.shape, f"{prop}: expected shape {case.x.shape}, got {got.shape}")
    return case.host(prop, got)[..., None, :]


def _check_pair(case: Case) -> None:
    """Gradient by the samples of <ct, derivative along a tangent and a direction of the parameters>."""
    ct, tangent, probe, steps = case.cotangent(1), case.tangent(1), case.tangent(1), case.directions()
    layer, params, saved = case.layer, case.params, case.forward()[1]
    motion = SharedMotion(_by_layer({path: case.device(step) for path, step in steps.items()}))
    _, kept = layer.pair_jvp(params, saved, case.device(tangent), motion)
    given = Cotangent(case.device(ct).copy(), owned=True)
    pair = layer.pair_vjp(params, saved, kept, Pair(None, given), motion)
    spatial = case.in_shape[:-1]
    value = np.zeros_like(probe) if pair.value is None else case.product("pair_vjp", pair.value, spatial)
    moved = difference(lambda e: dots(ct, case.moved(x=e * probe[..., 0, :]).pushforward(tangent, steps)))
    case.near("pair_vjp against central differences", dots(value, probe), moved)
    low = layer.vjp(params, saved, Cotangent(case.device(ct)))
    case.equal("pair_vjp: cotangent of the tangents", case.product("pair_vjp", pair.tangent, spatial),
               case.product("vjp", low, spatial))  # fmt: skip


def _by_layer(entries: dict[str, Array]) -> dict[str, dict[str, Array]]:
    """Arrays by path as {path of the layer: {name: array}}."""
    layers: dict[str, dict[str, Array]] = {}
    for path, array in entries.items():
        layer, _, name = path.rpartition(".")
        layers.setdefault(layer, {})[name] = array
    return layers
