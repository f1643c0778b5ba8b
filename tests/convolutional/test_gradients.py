"""Gradients by the images: central differences, identities, and the gradient of fully connected networks."""

import math

import numpy as np
import pytest
from helpers import assert_close

import ntkfast.backends as backends
from ntkfast.analytic import ntk_vjp
from ntkfast.convolutional import (
    cnn_gp,
    cnn_gp_and_cntk,
    cntk,
    cntk_diagonal,
    cntk_diagonal_vjp,
    cntk_vjp,
    flatten_network,
    gap_network,
    myrtle,
)
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import (
    Abs,
    AvgPool2d,
    Conv2d,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    LeakyReLU,
    ReLU,
    Residual,
    Sequential,
)

KERNELS = {"ntk": cntk, "nngp": cnn_gp}
for_each_kind = pytest.mark.parametrize("kind", ["ntk", "nngp"])


def conv(**settings):
    return Conv2d(4, **{"kernel_size": 3, **settings})


def around(**settings):
    return conv(padding="CIRCULAR", **settings)


def block(first, second, shortcut=None):
    return Residual(Sequential(ReLU(), first, ReLU(), second), shortcut)


NETWORKS = {
    "gap": ((4, 5, 2), [conv(), ReLU(), conv(), ReLU(), GlobalAvgPool(), Dense(1)]),
    "flatten": ((4, 3, 2), [conv(b_std=0.3), LeakyReLU(0.2), conv(), ReLU(), Flatten(), Dense(1), ReLU(), Dense(1)]),
    "erf": ((3, 4, 1), [conv(b_std=0.1), Erf(), conv(), Erf(), Flatten(), Dense(1, b_std=0.1)]),
    "pooling": ((5, 4, 2), [conv(), ReLU(), AvgPool2d(2), conv(), ReLU(), AvgPool2d(2), Flatten(), Dense(1)]),
    "pools overlap": ((6, 5, 2), [conv(), ReLU(), AvgPool2d(3, stride=2), conv(), ReLU(), GlobalAvgPool()]),
    "pools padded": ((5, 5, 1), [conv(), Erf(), AvgPool2d(3, stride=2, padding="SAME"), conv(), ReLU(), Flatten()]),
    "strides": ((7, 7, 1), [conv(stride=2), ReLU(), conv(padding="VALID"), ReLU(), GlobalAvgPool()]),
    "circular": ((4, 5, 2), [around(), ReLU(), around(), ReLU(), GlobalAvgPool()]),
    "circular strides": ((4, 6, 1), [around(), Erf(), around(stride=2), ReLU(), Flatten()]),
    "circular pooling": ((6, 6, 1), [around(), ReLU(), AvgPool2d(2), around(), ReLU(), GlobalAvgPool()]),
    "residual": ((4, 4, 2), [conv(), block(conv(), conv(b_std=0.2)), ReLU(), conv(), ReLU(), GlobalAvgPool()]),
    "shortcut": ((4, 4, 2), [conv(), block(conv(), conv(), Conv2d(4, 1)), Erf(), GlobalAvgPool()]),
    "fork": ((4, 4, 2), [conv(), block(conv(stride=2), conv(), Conv2d(4, 1, stride=2)), ReLU(), conv(), Flatten()]),
    "paddings differ": ((6, 6, 1), [conv(), ReLU(), AvgPool2d(2), conv(), block(around(), conv()), ReLU(), Flatten()]),
    "windows differ": (
        (5, 4, 2),
        [Conv2d(4, (2, 5), padding=((1, 0), (1, 3))), Abs(), Conv2d(4, (4, 1)), ReLU(), Conv2d(4, 1), Flatten()],
    ),
}


def images(n, shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(dtype)


def difference(function, step=1e-5):
    return (function(step) - function(-step)) / (2 * step)


@for_each_kind
@pytest.mark.parametrize("name", NETWORKS)
def test_central_differences(name, kind):
    """Error of differences: 1e-10 of the rounding of the kernel over the step, relative to it."""
    shape, layers = NETWORKS[name]
    network, kernel = Sequential(*layers), KERNELS[kind]
    x, y, u, v = images(2, shape), images(3, shape, 1), images(2, shape, 2), images(3, shape, 3)
    ct = np.random.default_rng(4).standard_normal((2, 3))
    gradient = cntk_vjp(network, x, y, ct, kind=kind)
    expected = difference(lambda s: (ct * kernel(network, x + s * u, y + s * v)).sum())
    scale = np.abs(ct).sum() * np.abs(kernel(network, x, y)).max()
    assert abs((gradient.x1 * u).sum() + (gradient.x2 * v).sum() - expected) < 1e-8 * scale
    symmetric = cntk_vjp(network, x, None, ct[:, :2], kind=kind)
    assert symmetric.x2 is None
    expected = difference(lambda s: (ct[:, :2] * kernel(network, x + s * u)).sum())
    scale = np.abs(ct).sum() * np.abs(kernel(network, x)).max()
    assert abs((symmetric.x1 * u).sum() - expected) < 1e-8 * scale
    own = cntk_diagonal_vjp(network, x, ct[0, :2].copy(), kind=kind)
    expected = difference(lambda s: (ct[0, :2] * getattr(cntk_diagonal(network, x + s * u), kind)).sum())
    assert abs((own * u).sum() - expected) < 1e-8 * scale


@pytest.mark.parametrize("name", ["gap", "pooling", "strides", "circular", "windows differ"])
@for_each_kind
def test_homogeneous_kernels_are_their_gradient_along_the_image(name, kind):
    """Euler: K(s x, y) = s K(x, y)."""
    shape, layers = NETWORKS[name]
    network, x, y = Sequential(*layers), images(3, shape), images(2, shape, 1)
    ct = np.random.default_rng(2).standard_normal((3, 2))
    gradient = cntk_vjp(network, x, y, ct, kind=kind)
    weighted = ct * KERNELS[kind](network, x, y)
    assert_close((x * gradient.x1).sum(axis=(1, 2, 3)), weighted.sum(axis=1), 1e-11)
    assert_close((y * gradient.x2).sum(axis=(1, 2, 3)), weighted.sum(axis=0), 1e-11)


@pytest.mark.parametrize("name", ["gap", "erf", "fork", "pooling"])
def test_symmetric_calls_sum_both_roles(name):
    shape, layers = NETWORKS[name]
    network, x = Sequential(*layers), images(3, shape)
    ct = np.random.default_rng(1).standard_normal((3, 3))
    both = cntk_vjp(network, x, x, ct)
    assert_close(cntk_vjp(network, x, None, ct).x1, both.x1 + both.x2, 1e-12)
    diagonal = cntk_diagonal_vjp(network, x, np.ascontiguousarray(np.diag(ct)))
    assert_close(diagonal, cntk_vjp(network, x, None, np.diag(np.diag(ct))).x1, 1e-12)


@pytest.mark.parametrize("name", ["flatten", "pooling", "shortcut"])
def test_linear_in_the_cotangent(name):
    shape, layers = NETWORKS[name]
    network, x, y = Sequential(*layers), images(2, shape), images(3, shape, 1)
    a, b = np.random.default_rng(2).standard_normal((2, 2, 3))
    for whole, one, other in zip(*(cntk_vjp(network, x, y, ct) for ct in (2 * a - b, a, b)), strict=True):
        assert_close(whole, 2 * one - other, 1e-12)


@pytest.mark.parametrize("name", ["gap", "fork", "erf"])
def test_blocks_and_batches_do_not_matter(name):
    shape, layers = NETWORKS[name]
    network, x, y = Sequential(*layers), images(5, shape), images(4, shape, 1)
    ct = np.random.default_rng(2).standard_normal((5, 4))
    with pytest.raises(MemoryBudgetError, match="max_memory of at least") as error:
        cntk_vjp(network, x, y, ct, max_memory=1)
    smallest, seen = int(str(error.value).split()[5]), []
    whole = cntk_vjp(network, x, y, ct)
    for budget in (smallest, 3 * smallest):
        parts = cntk_vjp(network, x, y, ct, max_memory=budget, progress=lambda *done: seen.append(done))
        assert seen[-1] == (20, 20)
        for got, expected in zip(parts, whole, strict=True):
            assert_close(got, expected, 1e-12)
    symmetric = cntk_vjp(network, x, None, ct @ ct.T, max_memory=smallest)
    assert_close(symmetric.x1, cntk_vjp(network, x, None, ct @ ct.T).x1, 1e-12)


@pytest.mark.parametrize("depth", [1, 3])
@for_each_kind
def test_one_pixel_is_a_fully_connected_network(depth, kind):
    """There the gradient of `analytic` is right; its ReLU networks count the last dense layer."""
    x, y = images(4, (1, 1, 6)), images(3, (1, 1, 6), 1)
    ct = np.random.default_rng(2).standard_normal((4, 3))
    settings = {"W_std": 1.3, "b_std": 0.2}
    hidden = [Conv2d(4, 1, **settings), ReLU()] * depth
    gradient = cntk_vjp(Sequential(*hidden, Flatten(), Dense(1, **settings)), x, y, ct, kind=kind)
    expected = ntk_vjp(x[:, 0, 0], y[:, 0, 0], ct, depth=depth, kind=kind, **settings)
    assert_close(gradient.x1[:, 0, 0], expected.x1, 1e-12)
    assert_close(gradient.x2[:, 0, 0], expected.x2, 1e-12)


@pytest.mark.parametrize("network", [gap_network(3), flatten_network(2, b_std=0.1)], ids=["gap", "flatten"])
def test_single_precision(network):
    x, y = images(3, (8, 8, 3)), images(2, (8, 8, 3), 1)
    ct = np.random.default_rng(2).standard_normal((3, 2))
    exact = cntk_vjp(network, x, y, ct)
    for got, expected in zip(cntk_vjp(network, *(a.astype(np.float32) for a in (x, y, ct))), exact, strict=True):
        assert got.dtype == np.float32
        assert_close(got, expected, 1e-5)


@pytest.mark.parametrize("scale", [1e-17, 1e15])
def test_homogeneous_gradients_keep_their_size_where_the_product_of_two_scales_leaves_the_range(scale):
    """The gradient by x does not depend on the size of x, and is as large as y."""
    network, x, y = gap_network(2), images(2, (4, 4, 1), 0, np.float32), images(2, (4, 4, 1), 1, np.float32)
    ct = np.ones((2, 2), np.float32)
    expected = cntk_vjp(network, x, y, ct)
    got = cntk_vjp(network, np.float32(1e-30) * x, np.float32(scale) * y, ct)
    assert_close(got.x1, scale * expected.x1.astype(float), 1e-4)


@pytest.mark.parametrize("layer", [ReLU(), Erf(), Abs()])
@pytest.mark.parametrize("b_std", [0.0, 0.1])
def test_flat_and_empty_images_have_finite_gradients(layer, b_std):
    """Zero patches, equal patches and opposite ones: everywhere at the kinks."""
    x = np.zeros((4, 5, 5, 2))
    x[1], x[2], x[3, 1:3, 1:3] = 1, -1, 2
    network = Sequential(conv(b_std=b_std), layer, conv(), layer, AvgPool2d(2), conv(), layer, GlobalAvgPool())
    gradient = cntk_vjp(network, x, None, np.ones((4, 4)))
    assert np.isfinite(gradient.x1).all()
    if b_std == 0 and not isinstance(layer, Erf):
        weights = (x * gradient.x1).sum(axis=(1, 2, 3))
        assert_close(weights, 2 * cntk(network, x).sum(axis=1), 1e-7)


def test_reference_of_the_kernel_gives_the_same():
    """Also where stages are walked for the tables of later ones."""
    network, x = myrtle(5), images(2, (8, 8, 3))
    network = Sequential(*(layer for layer in network.layers[:7]), GlobalAvgPool(), Dense(1))
    ct = np.ones((2, 2))
    expected = cntk_vjp(network, x, None, ct).x1
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backends._BACKENDS, np.ndarray, backends.Backend("numpy", np, "reference"))
        assert_close(cntk_vjp(network, x, None, ct).x1, expected, 1e-11)


def test_every_backend(backend):
    if backend.name == "numpy-cudasim":
        pytest.skip("the kernels run in the simulator by themselves; whole networks take minutes")
    shape, layers = NETWORKS["fork"]
    network, x, y = Sequential(*layers), images(2, shape), images(2, shape, 1)
    ct = np.random.default_rng(2).standard_normal((2, 2))
    expected = cntk_vjp(network, x, y, ct)
    got = cntk_vjp(network, *map(backend.asarray, (x, y, ct)))
    for a, b in zip(got, expected, strict=True):
        assert_close(backend.to_numpy(a), b, 1e-11)
    own = cntk_diagonal_vjp(network, backend.asarray(x), backend.asarray(ct[0]))
    assert_close(backend.to_numpy(own), cntk_diagonal_vjp(network, x, ct[0]), 1e-11)


@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # the simulator does arithmetic in NumPy
def test_zero_patches_on_every_backend(backend):
    """Black pixels, which have the angle pi / 2 whatever comes first: the mean over both sides of the kink."""
    x = np.array([0.0, 0.0, 0.0, 0.7]).reshape(2, 1, 2, 1)
    network, ct = gap_network(1, kernel_size=(1, 2)), np.ones((2, 2))
    expected = backend.to_numpy(cntk_vjp(network, backend.asarray(x), None, backend.asarray(ct), kind="nngp").x1)
    for step in 1e-4 * np.eye(4).reshape(4, 2, 1, 2, 1):
        change = cnn_gp(network, x + step).sum() - cnn_gp(network, x - step).sum()
        assert_close((expected * step).sum() * 1e4, change / 2 * 1e4, 1e-6)


def test_a_step_along_the_gradient_raises_the_kernel():
    network, x, y = gap_network(2), images(1, (5, 5, 3)), images(1, (5, 5, 3), 1)
    gradient = cntk_vjp(network, x, y, np.ones((1, 1))).x1
    before = cnn_gp_and_cntk(network, x, y).ntk
    after = cnn_gp_and_cntk(network, x + 1e-3 * gradient / np.linalg.norm(gradient), y).ntk
    assert math.isclose(float((after - before)[0, 0]), 1e-3 * np.linalg.norm(gradient), rel_tol=1e-2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: cntk_vjp(gap_network(), x, None, np.ones((2, 3))), ValueError, r"ct of shape \(2, 2\)"),
        (lambda x: cntk_vjp(gap_network(), x, None, np.ones((2, 2), np.float32)), TypeError, "ct of dtype float64"),
        (lambda x: cntk_vjp(gap_network(), x, None, np.ones((2, 2)), kind="gp"), ValueError, "kind to be one of"),
        (lambda x: cntk_vjp(gap_network(), x, x[:, :3], np.ones((2, 2))), ValueError, "x2 of shape"),
        (lambda x: cntk_diagonal_vjp(gap_network(), x, np.ones((2, 2))), ValueError, r"ct of shape \(2,\)"),
        (lambda x: cntk_diagonal_vjp(gap_network(), x, [1.0, 2.0]), TypeError, "ct to be a NumPy or CuPy array"),
        (lambda x: cntk_vjp(conv(), x, None, np.ones((2, 2))), ValueError, "ends with GlobalAvgPool"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(images(2, (4, 4, 1)))
