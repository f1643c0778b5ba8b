"""Arrays that cross to a framework and back: shared memory, and arguments that are refused with their name."""

import numpy as np
import pytest
from function_networks import need

from ntkfast.autodiff import get_autodiff
from ntkfast.layers import BatchNorm, Conv2d, Dense, Flatten, ReLU, Sequential


def aligned(shape, dtype="float64"):
    """Zeros at an address that is a multiple of 64, as JAX wants them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


@pytest.mark.parametrize("read_only", [False, True])
def test_torch_shares_memory(read_only):
    need("torch")
    from ntkfast.autodiff._torch import _array, _tensor
    from ntkfast.backends import get_backend

    x = np.arange(6.0).reshape(2, 3)
    x.flags.writeable = not read_only
    tensor = _tensor(x)
    assert tensor.data_ptr() == x.ctypes.data
    assert np.shares_memory(_array(tensor, get_backend(x)), x)
    assert _tensor(x[:, ::2]).data_ptr() == x.ctypes.data
    np.testing.assert_array_equal(_tensor(x[::-1]).numpy(), x[::-1])  # negative strides: a copy


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jax_shares_aligned_memory(read_only, dtype):
    need("jax")
    from ntkfast.autodiff._jax import _array, _jax_array, _precision
    from ntkfast.backends import get_backend

    x = aligned((8, 8), dtype)
    x.flags.writeable = not read_only
    with _precision({"x": x}):
        there = _jax_array(x)
    assert there.dtype == dtype
    assert there.unsafe_buffer_pointer() == x.ctypes.data
    assert np.shares_memory(_array(there, get_backend(x)), x)


def test_jax_keeps_the_settings_of_the_process():
    need("jax")
    import jax

    before = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
    x = np.ones((2, 3))
    y, pullback = get_autodiff("jax").param_vjp(lambda p, x: x @ p, np.ones((3, 2)), x)
    assert pullback(y).dtype == "float64"
    assert (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision) == before
    assert jax.numpy.ones(2, "float32").dtype == "float32"


def test_jax_compiles_a_function_once():
    need("jax")
    traces = []

    def fun(p, x):
        traces.append(1)
        return x @ p

    engine, p, x = get_autodiff("jax"), np.ones((3, 2)), np.ones((4, 3))
    for _ in range(3):
        engine.param_jacobian(fun, p, x)
    assert len(traces) == 1


def test_jax_takes_functions_that_cannot_be_hashed():
    need("jax")

    class Fun:
        __hash__ = None

        def __call__(self, p, x):
            return x @ p

    jacobian = get_autodiff("jax").param_jacobian(Fun(), np.ones((3, 2)), np.ones((4, 3)))[""]
    assert jacobian.shape == (4, 2, 3, 2)


def test_errors_of_the_function_are_passed_on():
    for name in ("autograd", "jax", "torch"):
        need(name)
        with pytest.raises(ZeroDivisionError):
            get_autodiff(name).check(lambda p, x: 1 / 0, np.ones(3), np.ones((2, 3)))


@pytest.mark.parametrize("name", ["autograd", "jax", "torch"])
def test_functions_only(name):
    need(name)
    net = Sequential(Dense(2))
    with pytest.raises(TypeError, match=r"got a Sequential.* use autodiff='layers'"):
        get_autodiff(name).check(net, net.init((3,), seed=0), np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match=r"fun\(params, x\) of shape \(1, k\) or \(1,\) for a batch of 1, got \(2,\)"):
        get_autodiff(name).check(lambda p, x: p[:2] * x[0, 0], np.ones(3), np.ones((2, 3)))
    with pytest.raises(ValueError, match="at least one array, got none"):
        get_autodiff(name).check(lambda p, x: x, {}, np.ones((2, 3)))


def test_autograd_refuses_cupy(backend):
    need("autograd")
    if "cupy" not in backend.name:
        pytest.skip("NumPy arrays")
    with pytest.raises(TypeError, match="expected NumPy arrays with autodiff='autograd', got CuPy"):
        get_autodiff("autograd").check(
            lambda p, x: x @ p, backend.asarray(np.ones(3)), backend.asarray(np.ones((2, 3)))
        )


# --- the layers' check ------------------------------------------------------------------------------

NET = Sequential(Dense(4, b_std=0.1), ReLU(), Dense(2))
PARAMS = NET.init((3,), seed=0, dtype="float64")
X = np.random.default_rng(0).standard_normal((5, 3))


def test_layers_only():
    with pytest.raises(TypeError, match=r"a Layer of ntkfast.layers, got function; .* autodiff='jax', 'torch' or"):
        get_autodiff("layers").check(lambda p, x: x, PARAMS, X)


def test_buffers_are_no_entries():
    net = Sequential(Conv2d(2, 3), BatchNorm(), Flatten(), Dense(2))
    params = net.init((4, 4, 1), seed=0, dtype="float64")
    checked = get_autodiff("layers").check(net, params, np.ones((2, 4, 4, 1)))
    assert list(checked.entries) == ["0.weight", "1.scale", "1.shift", "3.weight"]
    assert checked.n_outputs == 2
    y, pullback = get_autodiff("layers").param_vjp(net, params, np.ones((2, 4, 4, 1)))
    tree = pullback(y)
    assert [sorted(entry) for entry in tree] == [["weight"], ["scale", "shift"], [], ["weight"]]


def test_outputs_must_be_vectors():
    net = Sequential(Conv2d(2, 3))
    with pytest.raises(ValueError, match=r"got \(n, 4, 4, 2\).*; put Flatten\(\) or GlobalAvgPool\(\)"):
        get_autodiff("layers").check(net, net.init((4, 4, 1), seed=0), np.ones((2, 4, 4, 1), "float32"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: (p[0], p[1]), ValueError, "tuple with 3 entries"),
        (lambda p: (p[0], p[1], {}), ValueError, r"params\['2'\]"),
        (lambda p: (p[0], p[1], {"weight": p[2]["weight"].T}), ValueError, r"params\['2.weight'\].*shape \(4, 2\)"),
        (lambda p: (p[0], p[1], {"weight": p[2]["weight"].tolist()}), TypeError, r"params\['2.weight'\]"),
        (lambda p: (p[0], p[1], {"weight": p[2]["weight"] * np.nan}), ValueError, r"params\['2.weight'\] without NaN"),
        (lambda p: (p[0], p[1], {"weight": p[2]["weight"].astype("float32")}), TypeError, r"params\['2.weight'\]"),
    ],
)
def test_params_that_do_not_fit_are_named(change, error, message):
    with pytest.raises(error, match=message):
        get_autodiff("layers").check(NET, change(PARAMS), X)


def test_samples_that_do_not_fit():
    check = get_autodiff("layers").check
    for x1, x2, error, message in [
        (X[:0], None, ValueError, "x1 with at least one sample"),
        (X.astype(int), None, TypeError, "x1 of dtype float32 or float64"),
        (X, X[:, :2], ValueError, r"x2 of shape \(n, 3\), as x1, got \(5, 2\)"),
        (X, X.astype("float32"), TypeError, "one dtype"),
        (X * np.inf, None, ValueError, "x1 without NaN or inf"),
        (X.tolist(), None, TypeError, "x1 to be a NumPy or CuPy array, got list"),
    ]:
        with pytest.raises(error, match=message):
            check(NET, PARAMS, x1, x2)
    assert check(NET, PARAMS, np.asfortranarray(X)).x1.flags.c_contiguous


def test_cotangents_of_another_shape_are_refused():
    engine = get_autodiff("layers")
    for method in (engine.param_vjp, engine.input_vjp):
        with pytest.raises(ValueError, match=r"ct of shape \(5, 2\), got \(1, 2\)"):
            method(NET, PARAMS, X)[1](np.ones((1, 2)))


def test_a_network_without_parameters_is_refused():
    with pytest.raises(ValueError, match="a network with parameters"):
        get_autodiff("layers").check(ReLU(), {}, X)
