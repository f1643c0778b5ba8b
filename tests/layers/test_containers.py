"""Containers: paths, order, what is skipped, and errors that name the layer or the entry."""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers import assert_close, tol
from hypothesis import given
from hypothesis import strategies as st

from ntkfast.layers import (
    BatchNorm,
    Conv2d,
    Cotangent,
    Dense,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)
from ntkfast.layers._base import Layer
from ntkfast.layers._inputs import check_entries
from ntkfast.testing import check_layer

N, K = 3, 2
NESTED = Sequential(
    Dense(4),
    Residual(Sequential(Tanh(), Residual(Dense(4, b_std=0.1)), LayerNorm()), Sequential(BatchNorm(), Dense(4))),
    ReLU(),
    Sequential(Dense(2)),
)
PATHS = [
    "0.weight",
    "1.body.1.body.weight",
    "1.body.1.body.bias",
    "1.body.2.scale",
    "1.body.2.shift",
    "1.shortcut.0.scale",
    "1.shortcut.0.shift",
    "1.shortcut.0.mean",
    "1.shortcut.0.var",
    "1.shortcut.1.weight",
    "3.0.weight",
]


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def _backward(net, params, x, ct, want_input=True):
    _, saved = net.forward(params, x)
    steps, found = net.backward(params, saved, ct, want_input=want_input), []
    while True:
        try:
            found.append(next(steps))
        except StopIteration as end:
            return found, end.value


class TestTrees:
    def test_entries_have_their_paths(self):
        params = NESTED.init((3,), seed=0, dtype="float64")
        assert [path for path, _ in NESTED.check_params(params, (3,))] == PATHS

    def test_layers_come_from_the_output_down(self):
        params = NESTED.init((3,), seed=0, dtype="float64")
        found, low = _backward(NESTED, params, _random(N, 3), Cotangent(_random(1, K, 2)))
        layers = ["3.0", "1.body.2", "1.body.1.body", "1.shortcut.1", "1.shortcut.0", "0"]
        assert [path for path, _ in found] == layers
        assert low.dense(N, ()).shape == (N, K, 3)

    def test_children_are_named_as_in_paths(self):
        assert [name for name, _ in NESTED.children()] == ["0", "1", "2", "3"]
        assert [name for name, _ in Residual(Dense(2)).children()] == ["body"]
        assert [name for name, _ in Residual(Dense(2), Dense(2)).children()] == ["body", "shortcut"]

    def test_lists_are_as_good_as_tuples(self):
        net = Sequential(Dense(2), Dense(2))
        params = list(net.init((3,), seed=0, dtype="float64"))
        assert [path for path, _ in net.check_params(params, (3,))] == ["0.weight", "1.weight"]
        found, _ = _backward(net, params, _random(N, 3), Cotangent(_random(1, K, 2)))
        assert len(found) == 2

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda p: p[:3], ValueError, "expected params to be a tuple with 4 entries, one per layer, got 3 entries"),
            (
                lambda p: {"0": p[0]},
                TypeError,
                "expected params to be a tuple with 4 entries, one per layer, got dict",
            ),
            (
                lambda p: (None, *p[1:]),
                TypeError,
                r"expected params\['0'\] to be a dictionary with weight, got NoneType",
            ),
            (
                lambda p: (p[0], p[1]["body"], *p[2:]),
                TypeError,
                r"params\['1'\] to be a dictionary with body, shortcut, got",
            ),
            (
                lambda p: (p[0], {"body": p[1]["body"]}, *p[2:]),
                ValueError,
                r"expected params\['1'\] \(Residual\) to hold body, shortcut, got body",
            ),
            (
                lambda p: (*p[:2], p[0], p[3]),
                ValueError,
                r"expected params\['2'\] \(ReLU\) to hold nothing, got weight",
            ),
            (
                lambda p: (*p[:3], ({"weights": p[3][0]["weight"]},)),
                ValueError,
                r"expected params\['3.0'\] \(Dense\) to hold weight, got weights",
            ),
            (
                lambda p: (*p[:3], ({"weight": p[3][0]["weight"].T},)),
                ValueError,
                r"expected params\['3.0.weight'\] \(Dense\) of shape \(4, 2\), got \(2, 4\)",
            ),
            (
                lambda p: (*p[:3], ({"weight": [1.0]},)),
                TypeError,
                r"expected params\['3.0.weight'\] to be a NumPy or CuPy array, got list",
            ),
        ],
    )
    def test_a_tree_that_does_not_match_names_the_entry(self, change, error, message):
        params = NESTED.init((3,), seed=0, dtype="float64")
        with pytest.raises(error, match=message):
            list(NESTED.check_params(change(params), (3,)))


class TestShapes:
    @pytest.mark.parametrize(
        ("net", "in_shape", "message"),
        [
            (Sequential(Dense(3), LayerNorm(axes=2)), (4,), r"^layer 1 \(LayerNorm\): expected samples"),
            (Sequential(ReLU(), Conv2d(3, 3)), (4, 4), r"^layer 1 \(Conv2d\): expected"),
            (
                Sequential(Dense(3), Residual(Sequential(ReLU(), Dense(2)))),
                (4,),
                r"^layer 1 \(Residual\): expected body and shortcut of one output shape, got \(2,\) and \(3,\)",
            ),
            (
                Sequential(Sequential(ReLU(), GlobalAvgPool())),
                (4,),
                r"^layer 0 \(Sequential\): layer 1 \(GlobalAvgPool\): expected",
            ),
            (
                Residual(Identity(), Sequential(Conv2d(3, 3))),
                (4,),
                r"^layer shortcut \(Sequential\): layer 0 \(Conv2d\): expected",
            ),
        ],
    )
    def test_what_does_not_fit_names_the_layer(self, net, in_shape, message):
        with pytest.raises(ValueError, match=message):
            net.out_shape(in_shape)
        with pytest.raises(ValueError, match=message):
            net.init(in_shape, seed=0)

    def test_shapes_pass_through(self):
        net = Sequential(Conv2d(4, 3, stride=2), Residual(Conv2d(4, 3)), Flatten(), Dense(5))
        assert net.out_shape((6, 5, 2)) == (5,)
        assert net.init((6, 5, 2), seed=0)[3]["weight"].shape == (3 * 3 * 4, 5)


@dataclass(frozen=True)
class Bottom(Identity):
    """Counts as a failure where it is asked for anything but its output."""

    def vjp(self, params, saved, ct):
        raise AssertionError("nothing below the lowest parameters needs a cotangent")


class TestWhatIsSkipped:
    @pytest.mark.parametrize(
        "net",
        [
            Sequential(Bottom(), Dense(2)),
            Sequential(Bottom(), Bottom(), Residual(Dense(3)), Dense(2)),
            Sequential(Sequential(Bottom(), Dense(3)), Dense(2)),
            Sequential(Residual(Sequential(Bottom(), Dense(3)), Sequential(Bottom(), Dense(3))), Dense(2)),
            Sequential(Residual(Sequential(Bottom(), Dense(3)), Bottom()), Dense(2)),
            Sequential(Bottom(), ReLU()),
        ],
    )
    def test_nothing_is_pulled_back_below_the_lowest_parameters(self, net):
        params = net.init((3,), seed=0, dtype="float64")
        k = net.out_shape((3,))[0]
        found, low = _backward(net, params, _random(N, 3), Cotangent(_random(1, K, k)), want_input=False)
        assert low is None
        assert len(found) == sum("weight" in path for path, _ in net.check_params(params, (3,)))

    def test_it_is_where_the_input_is_wanted(self):
        net = Sequential(Bottom(), Dense(2))
        with pytest.raises(AssertionError, match="needs a cotangent"):
            _backward(net, net.init((3,), seed=0, dtype="float64"), _random(N, 3), Cotangent(_random(1, K, 2)))

    def test_zero_tangents_are_not_pushed(self):
        """Nothing moves below the first parameter that does."""
        net = Sequential(ReLU(), Dense(3), Tanh(), Dense(2))
        params, x = net.init((3,), seed=0, dtype="float64"), _random(N, 3)
        _, saved = net.forward(params, x)
        direction = ({}, {}, {}, {"weight": _random(3, 2)})
        assert net.pushforward(params, saved, None, ({}, {}, {}, {})) is None
        expected = net.layers[3].param_jvp(params[3], direction[3], saved[3])
        assert_close(net.pushforward(params, saved, None, direction)[:, 0], expected, tol("float64"))

    def test_has_parameters(self):
        assert not Sequential(ReLU(), Residual(Tanh(), Identity())).has_parameters()
        assert Sequential(ReLU(), Residual(Tanh(), LayerNorm())).has_parameters()
        assert Embedding(3, 2).has_parameters()


class TestResidual:
    def test_sum_of_body_and_shortcut(self):
        x = _random(N, 4)
        body, shortcut = Sequential(Dense(4), Tanh()), Dense(4)
        net = Residual(body, shortcut)
        params = net.init((4,), seed=0, dtype="float64")
        expected = body.forward(params["body"], x)[0] + shortcut.forward(params["shortcut"], x)[0]
        assert_close(net.forward(params, x)[0], expected, 0)
        assert_close(Residual(body).forward({"body": params["body"]}, x)[0], body.forward(params["body"], x)[0] + x, 0)

    def test_the_branches_draw_different_numbers(self):
        params = Residual(Dense(4), Dense(4)).init((4,), seed=0)
        assert not np.array_equal(params["body"]["weight"], params["shortcut"]["weight"])

    def test_jacobian_is_that_of_the_sum(self):
        """J = J_body + I, for the input as for the layers below."""
        net = Sequential(Dense(4), Residual(Dense(4)))
        params, x = net.init((3,), seed=0, dtype="float64"), _random(N, 3)
        found, low = _backward(net, params, x, Cotangent(np.eye(4)[None]))
        first, second = params[0]["weight"] * np.sqrt(2 / 3), params[1]["body"]["weight"] * np.sqrt(2 / 4)
        through = second + np.eye(4)
        assert_close(low.dense(N, ()), np.broadcast_to((first @ through).T, (N, 4, 3)), tol("float64", 4))
        expected = np.sqrt(2 / 3) * np.einsum("ni,ok->nkio", x, through)
        assert_close(found[1][1]["weight"].jacobian(), expected, tol("float64", 4))


LEAVES = st.sampled_from(
    [Dense(4, b_std=0.2), ReLU(), Tanh(), LayerNorm(), BatchNorm(), Identity(), Dense(4, parameterization="standard")]
)


def _containers(inner):
    rows = st.lists(inner, min_size=1, max_size=3).map(lambda layers: Sequential(*layers))
    return rows | st.builds(Residual, inner, st.none() | inner)


@given(
    net=st.recursive(LEAVES, _containers, max_leaves=7), shape=st.sampled_from([(4,), (3, 4)]), seed=st.integers(0, 99)
)
def test_any_nesting_passes_the_conformance_suite(net, shape, seed):
    """Among 99 seeds and so few entries none has a kink within the step of the differences."""
    check_layer(net, shape, seed=seed)


class TestTiedParameters:
    @pytest.fixture
    def net(self):
        return Sequential(Dense(4), ReLU(), Residual(Dense(4)))

    def _check(self, net, params, x):
        check_entries(list(net.check_params(params, (4,))), x)

    @pytest.mark.parametrize(
        "tie",
        [
            lambda w: w,
            lambda w: w.T,
            lambda w: w[::-1],
            lambda w: w[:, :],
        ],
    )
    def test_one_memory_is_refused(self, net, tie):
        weight = _random(4, 4)
        params = ({"weight": weight}, {}, {"body": {"weight": tie(weight)}})
        with pytest.raises(
            ValueError, match=r"untied parameters, got params\['0.weight'\] and params\['2.body.weight'\]"
        ):
            self._check(net, params, _random(N, 4))

    def test_overlapping_memory_is_refused(self, net):
        memory = _random(31)
        params = ({"weight": memory[:16].reshape(4, 4)}, {}, {"body": {"weight": memory[15:].reshape(4, 4)}})
        with pytest.raises(ValueError, match="in one memory"):
            self._check(net, params, _random(N, 4))

    def test_neighbours_in_one_buffer_are_not_tied(self, net):
        """One flat vector of parameters, cut into views."""
        memory = _random(32)
        params = ({"weight": memory[:16].reshape(4, 4)}, {}, {"body": {"weight": memory[16:].reshape(4, 4).T}})
        self._check(net, params, _random(N, 4))

    def test_on_every_backend(self, net, backend):
        weight = backend.asarray(_random(4, 4))
        x = backend.asarray(_random(N, 4))
        self._check(net, ({"weight": weight}, {}, {"body": {"weight": backend.asarray(_random(4, 4))}}), x)
        with pytest.raises(ValueError, match="in one memory"):
            self._check(net, ({"weight": weight}, {}, {"body": {"weight": weight.T}}), x)

    def test_nan_and_other_dtypes_are_named(self, net):
        weight, broken = _random(4, 4), _random(4, 4)
        broken[1, 2] = np.nan
        with pytest.raises(
            ValueError, match=r"expected params\['2.body.weight'\] without NaN or inf, got nan at index \(1, 2\)"
        ):
            self._check(net, ({"weight": weight}, {}, {"body": {"weight": broken}}), _random(N, 4))
        with pytest.raises(TypeError, match=r"expected params\['2.body.weight'\] of dtype float64, got float32"):
            self._check(net, ({"weight": weight}, {}, {"body": {"weight": weight.astype(np.float32)}}), _random(N, 4))
        params = ({"weight": weight}, {}, {"body": {"weight": weight.astype(np.float32)}})
        with pytest.raises(TypeError, match=r"expected params\['0.weight'\] of dtype float32, got float64"):
            self._check(net, params, _random(N, 4).astype(np.float32))


class TestValues:
    def test_equal_by_their_layers(self):
        assert Sequential(Dense(2), ReLU()) == Sequential(Dense(2), ReLU()) != Sequential(ReLU(), Dense(2))
        assert len({Residual(Dense(2)), Residual(Dense(2)), Residual(Dense(2), Identity())}) == 2

    def test_seeds_and_places_draw_different_numbers(self):
        net = Sequential(Dense(4), Dense(4))
        params, again, other = (net.init((4,), seed=seed) for seed in (0, 0, 1))
        assert np.array_equal(params[0]["weight"], again[0]["weight"])
        assert not np.array_equal(params[0]["weight"], other[0]["weight"])
        assert not np.array_equal(params[0]["weight"], params[1]["weight"])

    @pytest.mark.parametrize("things", [(Dense, ReLU()), ("relu",), ([Dense(2)],)])
    def test_layers_are_layers(self, things):
        with pytest.raises(TypeError, match="expected layer 0 to be a Layer, got"):
            Sequential(*things)
        with pytest.raises(TypeError, match="expected body to be a Layer, got"):
            Residual(things[0])
        with pytest.raises(TypeError, match="expected shortcut to be a Layer, got"):
            Residual(ReLU(), things[0])

    def test_at_least_one_layer(self):
        with pytest.raises(ValueError, match="expected at least one layer, got none"):
            Sequential()

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"in_shape": (0,), "seed": 0}, ValueError, "expected in_shape to be at least 1, got 0"),
            ({"in_shape": (2.0,), "seed": 0}, TypeError, "expected in_shape to be an integer"),
            (
                {"in_shape": 2, "seed": 0},
                TypeError,
                r"expected in_shape to be a tuple of integers such as \(784,\), got 2",
            ),
            ({"in_shape": (2,), "seed": -1}, ValueError, "expected seed to be between 0 and"),
            (
                {"in_shape": (2,), "seed": 0, "dtype": "float16"},
                ValueError,
                "expected dtype to be one of float32, float64",
            ),
        ],
    )
    def test_arguments_of_init(self, arguments, error, message):
        with pytest.raises(error, match=message):
            Sequential(Dense(2)).init(**arguments)


def test_a_layer_without_derivatives_says_so():
    @dataclass(frozen=True)
    class Bare(Layer):
        def out_shape(self, in_shape):
            return in_shape

        def forward(self, params, x):
            return x, None

    for name, arguments in [("vjp", (None,)), ("jvp", (None,))]:
        with pytest.raises(NotImplementedError, match=f"Bare has no {name}"):
            getattr(Bare(), name)({}, None, *arguments)
    with pytest.raises(NotImplementedError, match="Bare has no parameters"):
        Bare().param_jvp({}, {}, None)
