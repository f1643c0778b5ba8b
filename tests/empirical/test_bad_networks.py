"""Networks, functions and samples that do not fit each other: an error that names the layer, before any work."""

import numpy as np
import pytest
from empirical.bad_calls import NET, PARAMS, X, every_call, refused, with_weight

from ntkfast.empirical import (
    directional_vjp,
    empirical_ntk,
    empirical_ntk_vjp,
    jacobian,
    layer_ntks,
    linearize,
    ntk_operator,
    trainability,
)
from ntkfast.layers import (
    BatchNorm,
    Conv2d,
    Dense,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Layer,
    ReLU,
    Sequential,
)

IMAGES = Sequential(Conv2d(3, 3, padding="VALID"), ReLU(), Conv2d(4, 3, padding="VALID"), GlobalAvgPool(), Dense(2))
IMAGE_PARAMS = IMAGES.init((6, 6, 2), seed=0, dtype="float64")


@every_call
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 6, 6), r"layer 0 \(Conv2d\): expected samples of shape \(height, width, channels\)"),
        ((3, 4, 4, 2), r"layer 2 \(Conv2d\): expected images of at least 3 pixels"),
        ((3, 6, 6, 3), r"params\['0\.weight'\] \(Conv2d\).*for inputs of shape \(n, 6, 6, 3\)"),
        ((3, 72), r"layer 0 \(Conv2d\)"),
        ((3,), r"layer 0 \(Conv2d\)"),
    ],
)
def test_samples_that_do_not_fit_the_network_name_the_layer(name, shape, message):
    refused(name, ValueError, message, IMAGES, IMAGE_PARAMS, np.ones(shape))


@every_call
def test_outputs_must_be_rows_of_numbers(name):
    net = Sequential(Conv2d(2, 3))
    params = net.init((6, 6, 2), seed=0, dtype="float64")
    message = r"outputs of shape \(n, k\), got \(n, 6, 6, 2\) for samples of shape \(n, 6, 6, 2\); put Flatten"
    refused(name, ValueError, message, net, params, np.ones((3, 6, 6, 2)))
    message = r"outputs of shape \(n, k\), got \(n, 3, 2\) for samples of shape \(n, 3, 4\)"
    refused(name, ValueError, message, x=X[None])
    refused(name, ValueError, r"layer 0 \(Dense\): expected samples with at least one axis", x=X[0])


@every_call
@pytest.mark.parametrize(
    "fun", [None, "mlp", 1, Dense, lambda params, x: x], ids=["None", "text", "1", "class", "function"]
)
def test_what_is_no_network(name, fun):
    refused(name, TypeError, "expected fun to be a Layer.*autodiff='jax'", net=fun)


def test_a_model_of_what_cannot_be_differentiated_is_refused_when_it_is_made():
    with pytest.raises(TypeError, match=r"expected fun to be a Layer.*got the class Dense"):
        linearize(Dense, PARAMS)
    pytest.importorskip("autograd")
    with pytest.raises(TypeError, match=r"expected fun to be a function of \(params, x\), got 'mlp'"):
        linearize("mlp", PARAMS, autodiff="autograd")
    with pytest.raises(TypeError, match="use autodiff='layers'"):
        empirical_ntk(NET, PARAMS, X, autodiff="autograd")


def test_what_belongs_to_pytorch_is_told_its_way():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 2))
    with pytest.raises(TypeError, match=r"got torch.nn.*Sequential;.*from_torch\(module\)"):
        empirical_ntk(module, PARAMS, X)
    with pytest.raises(TypeError, match=r"got a module: write lambda params, x: torch.func.functional_call"):
        empirical_ntk(module, {"0.weight": np.ones((2, 4)), "0.bias": np.ones(2)}, X, autodiff="torch")
    with pytest.raises(TypeError, match=r"params\['0.weight'\].*numpy.from_dlpack\(x.detach\(\)\)"):
        empirical_ntk(lambda params, x: x, dict(module.named_parameters()), X, autodiff="torch")


@pytest.mark.parametrize("name_of", ["autograd", "jax", "torch"])
def test_functions_must_have_rows_of_floating_point_outputs(name_of):
    pytest.importorskip(name_of)
    for fun, error, message in (
        (lambda params, x: [x @ params[0]], TypeError, "to be an array, got list"),
        (lambda params, x: None, TypeError, "to be an array, got NoneType"),
        (
            lambda params, x: (x @ params[0]).sum(),
            ValueError,
            r"of shape \(1, k\) or \(1,\) for a batch of 1, got \(\)",
        ),
        (lambda params, x: (x @ params[0])[:, None], ValueError, r"batch of 1, got \(1, 1, 2\)"),
        (lambda params, x: (x @ params[0])[:, :0], ValueError, r"batch of 1, got \(1, 0\)"),
        (lambda params, x: (x @ params[0]).T, ValueError, r"batch of 1, got \(2, 1\)"),
        (lambda params, x: x @ params[0] > 0, TypeError, "of a floating-point dtype, got .*bool"),
    ):
        for call in (empirical_ntk, jacobian, ntk_operator):
            with pytest.raises(
                error, match=rf"expected fun\(params, x\) {message}|fun\(params, x\) of shape .*{message}"
            ):
                call(fun, (np.ones((4, 2), "float32"),), X.astype("float32"), autodiff=name_of)


def test_calls_of_a_network_are_checked():
    """Its forward pass is not, since the algorithms have checked before they run it."""
    np.testing.assert_array_equal(NET(PARAMS, X), NET.forward(PARAMS, X)[0])
    image = np.ones((2, 6, 6, 2))
    assert IMAGES.layers[0](IMAGE_PARAMS[0], image).shape == (2, 4, 4, 3)
    assert ReLU()({}, -abs(X)).max() == 0
    assert Embedding(4, 3)({"weight": np.ones((4, 3))}, np.array([[0, 3]])).shape == (1, 2, 3)
    for params, x, error, message in (
        (X, PARAMS, TypeError, "expected x to be a NumPy or CuPy array, got tuple"),
        (PARAMS[:2], X, ValueError, "tuple with 3 entries"),
        (
            with_weight(lambda w: w[:1]),
            X,
            ValueError,
            r"params\['2\.weight'\] \(Dense\) of shape \(5, 2\), got \(1, 2\)",
        ),
        (with_weight(lambda w: w * np.nan), X, ValueError, r"params\['2\.weight'\] without NaN"),
        (PARAMS, X[:, :3], ValueError, r"params\['0\.weight'\]"),
        (with_weight(lambda w: w * 1e308), X, OverflowError, "expected the outputs of the network within the range"),
    ):
        with pytest.raises(error, match=message):
            NET(params, x)
    with pytest.raises(ValueError, match=r"layer 0 \(Conv2d\)"):
        IMAGES(IMAGE_PARAMS, X)
    with pytest.raises(TypeError, match="integer dtype"):
        Embedding(4, 3)({"weight": np.ones((4, 3))}, X)


@pytest.mark.parametrize(("layers", "hint"), [(([Dense(2)],), "give them one by one"), ((Dense,), "with parentheses")])
def test_common_slips_are_told_their_mend(layers, hint):
    with pytest.raises(TypeError, match=hint):
        Sequential(*layers)


def test_printed_results_have_no_arrays():
    model = linearize(NET, PARAMS)
    for value in (model, model.fit(X, np.ones((3, 2)), reg=1.0), trainability(NET, PARAMS, X)):
        assert "array" not in repr(value)
        assert "\n" not in repr(value)


@every_call
def test_a_network_without_parameters(name):
    refused(name, ValueError, "expected a network with parameters, got none", Sequential(ReLU()), ({},))


@every_call
def test_indices_outside_the_table(name):
    net = Sequential(Embedding(4, 3), Flatten(), Dense(2))
    params = net.init((2,), seed=0, dtype="float64")
    gradient = name in ("empirical_ntk_vjp", "directional_vjp")
    for bad in (4, -1):
        x = np.array([[0, 1], [2, 3], [1, bad]])
        error, message = (TypeError, "floating-point") if gradient else (ValueError, rf"\[0, 4\).*Embedding, got {bad}")
        refused(name, error, message, net, params, x)
    refused(name, TypeError, "integer dtype, since the network begins with an embedding", net, params, np.ones((3, 2)))
    refused(name, TypeError, "x1 of dtype float32 or float64, got int64", x=np.ones((3, 4), int))


@every_call
@pytest.mark.parametrize("name_of", ["mean", "var"])
def test_batch_norm_needs_its_moments(name, name_of):
    net = Sequential(Dense(4), BatchNorm(), Dense(2))
    params = net.init((4,), seed=0, dtype="float64")
    entries = {key: array for key, array in params[1].items() if key != name_of}
    message = rf"params\['1'\] \(BatchNorm\).*no {name_of}: only evaluation mode"
    refused(name, ValueError, message, net, (params[0], entries, params[2]))


@every_call
@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        (
            {"var": np.array([1.0, 1.0, -1e-300, 1.0])},
            ValueError,
            r"var >= 0 in params\['1'\] \(BatchNorm\), got -1e-300",
        ),
        ({"var": np.array([1.0, np.nan, 1.0, 1.0])}, ValueError, r"params\['1\.var'\] without NaN"),
        ({"mean": np.full(4, np.inf)}, ValueError, r"params\['1\.mean'\] without NaN"),
        ({"var": [1.0] * 4}, TypeError, r"params\['1\.var"),
        ({"var": np.array(["1"] * 4)}, TypeError, r"params\['1\.var'\] of dtype"),
        ({"mean": np.zeros(4, "float32")}, TypeError, r"params\['1\.mean'\] of dtype float64, got float32"),
        ({"mean": np.zeros(3)}, ValueError, r"params\['1\.mean'\] \(BatchNorm\) of shape \(4,\), got \(3,\)"),
    ],
)
def test_bad_moments_are_named(name, entries, error, message):
    net = Sequential(Dense(4), BatchNorm(), Dense(2))
    params = net.init((4,), seed=0, dtype="float64")
    refused(name, error, message, net, (params[0], params[1] | entries, params[2]))


class Idle(Layer):
    """The identity, which nobody may run."""

    def out_shape(self, in_shape):
        return in_shape

    def forward(self, params, x):
        raise AssertionError("expected no work before all arguments are checked")


IDLE = Sequential(Dense(2), Idle())
IDLE_PARAMS = IDLE.init((4,), seed=0, dtype="float64")


@pytest.mark.parametrize(
    "call",
    [
        lambda **bad: empirical_ntk(IDLE, IDLE_PARAMS, X, **bad),
        lambda **bad: layer_ntks(IDLE, IDLE_PARAMS, X, **bad),
        lambda **bad: empirical_ntk(IDLE, IDLE_PARAMS, X, explain=True, **bad),
    ],
)
@pytest.mark.parametrize(
    "bad",
    [{"output": "all"}, {"method": "all"}, {"max_memory": 0}, {"max_memory": 1.5}, {"x2": X[:, :3]}, {"x2": X[:0]}],
)
def test_kernels_begin_no_work_with_bad_options(call, bad):
    with pytest.raises((TypeError, ValueError), match=f"expected {next(iter(bad))}"):
        call(**bad)


def test_no_work_begins_before_the_last_argument_is_checked():
    model = linearize(IDLE, IDLE_PARAMS)
    for call in (
        lambda: empirical_ntk_vjp(IDLE, IDLE_PARAMS, X, None, np.ones((3, 2))),
        lambda: empirical_ntk_vjp(IDLE, IDLE_PARAMS, X, None, np.ones((3, 3)), output="all"),
        lambda: directional_vjp(IDLE, IDLE_PARAMS, X, IDLE_PARAMS, np.ones((3, 3))),
        lambda: directional_vjp(IDLE, IDLE_PARAMS, X, IDLE_PARAMS[:1], np.ones((3, 1))),
        lambda: trainability(IDLE, IDLE_PARAMS, X, y=np.ones(4)),
        lambda: trainability(IDLE, IDLE_PARAMS, X, eps=1.0),
        lambda: model.fit(X, np.ones((3, 1)), reg=1.0),
        lambda: model.fit(X, np.ones((3, 2)), reg=-1.0),
        lambda: model.predict(X, ({"weight": np.ones((4, 1))}, {})),
        lambda: model.tangent(X, ({}, {})),
    ):
        with pytest.raises((TypeError, ValueError), match="expected"):
            call()
