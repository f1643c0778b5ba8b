"""check_layer passes right layers and finds what is wrong with wrong ones."""

import dataclasses
import re
from dataclasses import dataclass, field

import fakecupy
import numpy as np
import pytest

from ntkfast.layers import Cotangent, Dense, Embedding, JacobianFactors, LayerNorm, Residual, Sequential, Tanh
from ntkfast.layers._base import Layer
from ntkfast.layers.motion import SharedMotion
from ntkfast.testing import check_layer


@dataclass(frozen=True)
class Gain(Layer):
    """2 weight tanh(x): a right layer with all that a layer can have. The wrong ones below change one thing each."""

    factor: float = 2.0

    def parameter_shapes(self, in_shape):
        return {"weight": in_shape[-1:]}

    def out_shape(self, in_shape):
        return in_shape

    def forward(self, params, x):
        u = np.tanh(x)
        return self.factor * params["weight"] * u, u

    def vjp(self, params, saved, ct):
        return ct.gated(self.factor * params["weight"] * (1 - saved**2))

    def jvp(self, params, saved, tangent):
        return tangent * (self.factor * params["weight"] * (1 - saved**2))[..., None, :]

    def factors(self, params, saved, ct):
        act = saved.reshape(len(saved), -1, saved.shape[-1])
        c = saved.shape[-1]
        return {"weight": JacobianFactors(ct, act, (c,), len(saved), saved.shape[1:-1], groups=c, scale=self.factor)}

    def param_jvp(self, params, direction, saved):
        return self.factor * direction["weight"] * saved

    def act_vjp(self, params, saved, name, ct):
        return ct.reshape(saved.shape) * (1 - saved**2)

    def curvature(self, params, saved, ct, tangent):
        second = -2 * self.factor * params["weight"] * saved * (1 - saved**2)
        return second * (ct * tangent).sum(axis=-2)


class WrongSign(Gain):
    def vjp(self, params, saved, ct):
        return super().vjp(params, saved, ct).scaled(-1.0)


class AlmostRight(Gain):
    def vjp(self, params, saved, ct):
        return super().vjp(params, saved, ct).scaled(1 + 1e-8)


class OtherTangents(Gain):
    def jvp(self, params, saved, tangent):
        return tangent * (params["weight"] * (1 - saved**2))[..., None, :]


class ForgetsGate(Gain):
    def vjp(self, params, saved, ct):
        return Cotangent(ct.shared).gated(self.factor * params["weight"] * (1 - saved**2))


class ForgetsSharing(Gain):
    def vjp(self, params, saved, ct):
        shared = ct.shared if ct.gate is None else ct.gate[..., None, :] * ct.shared
        return Cotangent(shared[:, :1] * (self.factor * params["weight"] * (1 - saved**2))[..., None, :])


class PassesOnTwice(Gain):
    def vjp(self, params, saved, ct):
        half = 0.5 * self.factor * params["weight"] * (1 - saved**2)
        return ct.gated(half) + ct.gated(half)


class NoCotangent(Gain):
    def vjp(self, params, saved, ct):
        return super().vjp(params, saved, ct).dense(len(saved), saved.shape[1:-1])


class NoScale(Gain):
    def factors(self, params, saved, ct):
        return {"weight": dataclasses.replace(super().factors(params, saved, ct)["weight"], scale=1.0)}


class NoFactors(Gain):
    def factors(self, params, saved, ct):
        return {}


class OtherShape(Gain):
    def factors(self, params, saved, ct):
        factors = super().factors(params, saved, ct)["weight"]
        return {"weight": dataclasses.replace(factors, shape=(1, *factors.shape))}


class ReversedAct(Gain):
    def factors(self, params, saved, ct):
        factors = super().factors(params, saved, ct)["weight"]
        return {"weight": dataclasses.replace(factors, act=factors.act[..., ::-1])}


class OtherDelta(Gain):
    def unfold_delta(self, saved, delta):
        return delta[..., ::-1]


class PushesParams(Gain):
    def param_jvp(self, params, direction, saved):
        return self.factor * (params["weight"] + direction["weight"]) * saved


class HalfPush(Gain):
    def param_jvp(self, params, direction, saved):
        return direction["weight"] * saved


class Quadratic(Gain):
    """The derivatives are right, but not affine in the weight."""

    def forward(self, params, x):
        y, u = super().forward(params, x)
        return y * params["weight"], u

    def vjp(self, params, saved, ct):
        return super().vjp(params, saved, ct).gated(params["weight"] * np.ones_like(saved))

    def jvp(self, params, saved, tangent):
        return super().jvp(params, saved, tangent) * params["weight"]

    def factors(self, params, saved, ct):
        return super().factors(params, saved, ct.gated(2 * params["weight"] * np.ones_like(saved)))

    def param_jvp(self, params, direction, saved):
        return 2 * params["weight"] * super().param_jvp(params, direction, saved)

    def curvature(self, params, saved, ct, tangent):
        return params["weight"] * super().curvature(params, saved, ct, tangent)


class OtherAct(Gain):
    def act_vjp(self, params, saved, name, ct):
        return ct.reshape(saved.shape)


class NoAct(Gain):
    def act_vjp(self, params, saved, name, ct):
        return None


class OtherCurvature(Gain):
    def curvature(self, params, saved, ct, tangent):
        return 0.5 * super().curvature(params, saved, ct, tangent)


class NoCurvature(Gain):
    curvature = Layer.curvature


class FlatCurvature(Gain):
    def curvature(self, params, saved, ct, tangent):
        return super().curvature(params, saved, ct, tangent).ravel()


class MovesInputToCotangent(Gain):
    """The same Jacobian, but its cotangents depend on the input."""

    def factors(self, params, saved, ct):
        factors = super().factors(params, saved, ct.gated(saved))["weight"]
        return {"weight": dataclasses.replace(factors, act=np.ones_like(factors.act))}


class ChangesInput(Gain):
    def forward(self, params, x):
        result = super().forward(params, x)
        x *= 2
        return result


class ChangesParams(Gain):
    def factors(self, params, saved, ct):
        params["weight"] += 1
        return super().factors(params, saved, ct)


class ChangesCotangent(Gain):
    def vjp(self, params, saved, ct):
        low = super().vjp(params, saved, ct)
        ct.shared[...] = 0
        return low


class ChangesTangent(Gain):
    def jvp(self, params, saved, tangent):
        tangent *= 1
        pushed = super().jvp(params, saved, tangent)
        tangent += 1
        return pushed


class ChangesSaved(Gain):
    def vjp(self, params, saved, ct):
        low = super().vjp(params, saved, ct)
        saved *= 0.5
        return low


class BatchMean(Gain):
    def forward(self, params, x):
        return super().forward(params, x - x.mean(axis=0))


class OtherOutShape(Gain):
    def out_shape(self, in_shape):
        return (*in_shape, 1)


class Widens(Gain):
    def forward(self, params, x):
        y, u = super().forward(params, x)
        return y.astype(np.float64), u


class WidensJvp(Gain):
    def jvp(self, params, saved, tangent):
        return super().jvp(params, saved, tangent).astype(np.float64)


class MakesNaN(Gain):
    def forward(self, params, x):
        y, u = super().forward(params, x)
        y[0] = np.nan
        return y, u


class DrawsFloat64(Gain):
    def _draw(self, name, shape, key, dtype):
        return np.ones(shape)


class DrawsAnything(Gain):
    def _draw(self, name, shape, key, dtype):
        return np.random.default_rng().standard_normal(shape).astype(dtype)


class TakesAnyShape(Gain):
    def check_params(self, params, in_shape, path=""):
        yield path or "weight", params["weight"]


class HidesPath(Gain):
    def check_params(self, params, in_shape, path=""):
        if params["weight"].shape != in_shape[-1:]:
            raise ValueError("expected something else")
        yield path or "weight", params["weight"]


class ByIdentity(Gain):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


WRONG = [
    (WrongSign, "vjp against central differences"),
    (AlmostRight, "dot-product identity"),
    (OtherTangents, "jvp against central differences"),
    (ForgetsGate, "vjp of a cotangent per sample with a gate"),
    (ForgetsSharing, "vjp"),
    (PassesOnTwice, "pair_vjp: cotangent of the tangents"),
    (NoCotangent, "expected a Cotangent, got ndarray"),
    (NoScale, "factors of 'weight' against central differences"),
    (NoFactors, re.escape("expected factors of ['weight'], got []")),
    (OtherShape, "factors of 'weight': expected a Jacobian of shape"),
    (ReversedAct, "factors of 'weight' against central differences"),
    (OtherDelta, "unfold_delta of the cotangent"),
    (PushesParams, "param_jvp: "),
    (HalfPush, "param_jvp: "),
    (Quadratic, "param_jvp: output affine"),
    (OtherAct, "act_vjp of 'weight'"),
    (NoAct, "act_vjp of 'weight'"),
    (OtherCurvature, "curvature against central differences of jvp"),
    (NoCurvature, "curvature against central differences of jvp"),
    (FlatCurvature, "curvature: expected shape"),
    (MovesInputToCotangent, "unfold_delta of the cotangent"),
    (ChangesInput, "expected x as it was"),
    (ChangesParams, "expected params.* as it was|same result again"),
    (ChangesCotangent, "expected ct as it was|same result again"),
    (ChangesTangent, "expected tangent as it was"),
    (ChangesSaved, "same result again"),
    (BatchMean, "samples must be independent"),
    (OtherOutShape, "as out_shape says"),
    (Widens, "forward: expected dtype float32, got float64"),
    (WidensJvp, "jvp: expected dtype float32, got float64"),
    (MakesNaN, "NaN or inf"),
    (DrawsFloat64, "init: expected 'weight' of dtype float32"),
    (DrawsAnything, "function of the seed"),
    (TakesAnyShape, "expected a ValueError for 'weight'"),
    (HidesPath, "expected 'weight' in the message"),
    (ByIdentity, "equality and hash"),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("in_shape", [(4,), (3, 4), (2, 3, 4)])
def test_a_right_layer_passes(in_shape, dtype):
    check_layer(Gain(), in_shape, dtype=dtype)


@pytest.mark.parametrize(("layer", "message"), WRONG, ids=[layer.__name__ for layer, _ in WRONG])
def test_a_wrong_layer_is_found(layer, message):
    with pytest.raises(AssertionError, match=message) as caught:
        check_layer(layer(), (3, 4))
    assert str(caught.value).startswith(repr(layer()))


@pytest.mark.parametrize("layer", [WrongSign, OtherTangents, NoScale, HalfPush, NoCurvature, OtherAct])
def test_a_wrong_layer_is_found_in_single_precision(layer):
    with pytest.raises(AssertionError):
        check_layer(layer(), (3, 4), dtype="float32")


@dataclass(unsafe_hash=True)
class Open(Layer):
    factor: float = 1.0
    forward, out_shape = Gain.forward, Gain.out_shape


@dataclass(frozen=True)
class Lists(Layer):
    sizes: list = field(default_factory=list)
    forward, out_shape = Gain.forward, Gain.out_shape


@pytest.mark.parametrize(("layer", "message"), [(Open, "factor can be set"), (Lists, "hashable value, got unhashable")])
def test_settings_that_can_change_are_found(layer, message):
    with pytest.raises(AssertionError, match=message):
        check_layer(layer(), (4,))


class NoShortcut(Residual):
    def vjp(self, params, saved, ct):
        return self.body.vjp(params["body"], saved[0], ct)


class NoShortcutBelow(Residual):
    def backward(self, params, saved, ct, path="", want_input=True):
        return (yield from self.body.backward(params["body"], saved[0], ct, f"{path}.body".strip("."), want_input))


class BodyAlone(Residual):
    def pushforward(self, params, saved, tangent, direction=None):
        return self.body.pushforward(params["body"], saved[0], tangent, (direction or {}).get("body"))


class NoShortcutPair(Residual):
    def pair_vjp(self, params, saved, tangents, pair, motion, path=""):
        return self.body.pair_vjp(params["body"], saved[0], tangents[0], pair, motion, f"{path}.body".strip("."))


@pytest.mark.parametrize("container", [NoShortcut, NoShortcutBelow, BodyAlone, NoShortcutPair])
def test_a_wrong_container_is_found(container):
    body = Sequential(Dense(4), Tanh())
    check_layer(Residual(body, Dense(4)), (3, 4))
    with pytest.raises(AssertionError):
        check_layer(container(body, Dense(4)), (3, 4))


class PullsNothing(Gain):
    def pair_vjp(self, params, saved, tangents, pair, motion, path=""):
        return super().pair_vjp(params, saved, tangents, pair, SharedMotion({}), path)


def test_motion_of_parameters_is_compared():
    with pytest.raises(AssertionError, match="pair_vjp against central differences"):
        check_layer(PullsNothing(), (4,))


class TestArguments:
    def test_not_a_layer(self):
        with pytest.raises(TypeError, match="expected layer to be a Layer, got 'relu'"):
            check_layer("relu", (4,))

    def test_integers_have_to_be_given(self):
        with pytest.raises(ValueError, match="expected samples x of integers"):
            check_layer(Sequential(Embedding(3, 2), Tanh()), (4,))

    def test_shape_of_samples(self):
        with pytest.raises(ValueError, match=r"expected x of shape \(n, \*\(4,\)\)"):
            check_layer(Tanh(), (4,), x=np.ones((2, 5)))

    def test_shape_that_does_not_fit_the_layer(self):
        with pytest.raises(ValueError, match="at least 2 axes"):
            check_layer(LayerNorm(axes=2), (4,))

    @pytest.mark.parametrize("keywords", [{"n": 0}, {"k": 0}, {"dtype": "float16"}, {"seed": -1}])
    def test_numbers(self, keywords):
        with pytest.raises(ValueError, match="expected"):
            check_layer(Tanh(), (4,), **keywords)


def test_everything_runs_where_the_samples_are(monkeypatch):
    """A layer that leaves the device is found: here NumPy's functions are no part of it."""
    fakecupy.install(monkeypatch)
    x = fakecupy.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    check_layer(Dense(3), (4,), x=x)
    with pytest.raises(TypeError, match=r"numpy\.tanh of a device array|loop of ufunc"):
        check_layer(Gain(), (4,), x=x)
