"""Pooling and Flatten against loops and PyTorch; cotangents that stay separable."""

import itertools
import math

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.layers import AvgPool2d, Cotangent, Flatten, GlobalAvgPool, MaxPool2d

# (height and width, arguments)
WINDOWS = {
    "tiles": ((6, 4), {"size": 2}),
    "ragged": ((7, 5), {"size": 2}),
    "overlapping": ((7, 6), {"size": 3, "stride": 2}),
    "resnet": ((8, 8), {"size": 3, "stride": 2, "padding": 1}),
    "same": ((7, 6), {"size": (3, 2), "stride": (2, 3), "padding": "SAME"}),
    "explicit": ((6, 7), {"size": (2, 3), "stride": 1, "padding": ((1, 0), (0, 2))}),
    "gaps": ((9, 9), {"size": 2, "stride": 4}),
    "whole": ((4, 3), {"size": (4, 3)}),
    "one": ((4, 3), {"size": 1}),
}
POOLS = [(pool, *setting) for pool in (AvgPool2d, MaxPool2d) for setting in WINDOWS.values()]
IDS = [f"{pool.__name__}-{name}" for pool in (AvgPool2d, MaxPool2d) for name in WINDOWS]
all_pools = pytest.mark.parametrize(("pool", "image", "keywords"), POOLS, ids=IDS)
N, K, C = 3, 2, 4


def _random(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _sides(layer, image):
    if layer.padding == "VALID":
        return [(0, 0), (0, 0)]
    if not isinstance(layer.padding, str):
        return list(layer.padding)
    total = [max((-(-s // t) - 1) * t + k - s, 0) for s, k, t in zip(image, layer.size, layer.stride, strict=True)]
    return [(one // 2, one - one // 2) for one in total]


def _loops(layer, x):
    """The definition."""
    is_mean = isinstance(layer, AvgPool2d)
    padded = np.pad(x, [(0, 0), *_sides(layer, x.shape[1:3]), (0, 0)], constant_values=0 if is_mean else -np.inf)
    (kh, kw), (t, u) = layer.size, layer.stride
    rows, columns = (padded.shape[1] - kh) // t + 1, (padded.shape[2] - kw) // u + 1
    y = np.empty((len(x), rows, columns, x.shape[3]))
    for r, s in itertools.product(range(rows), range(columns)):
        part = padded[:, r * t : r * t + kh, s * u : s * u + kw]
        y[:, r, s] = part.mean(axis=(1, 2)) if is_mean else part.max(axis=(1, 2))
    return y


@all_pools
def test_forward_is_the_definition(pool, image, keywords):
    layer, x = pool(**keywords), _random(N, *image, C)
    y, _ = layer.forward({}, x)
    assert y.shape == (N, *layer.out_shape((*image, C)))
    assert_close(y, _loops(layer, x), 1e-14)


@pytest.mark.parametrize("pool", [AvgPool2d, MaxPool2d])
@pytest.mark.parametrize("setting", ["tiles", "ragged", "overlapping", "resnet"])
def test_forward_is_that_of_torch(pool, setting):
    torch = pytest.importorskip("torch")
    image, keywords = WINDOWS[setting]
    layer, x = pool(**keywords), _random(N, *image, C)
    function = {AvgPool2d: torch.nn.functional.avg_pool2d, MaxPool2d: torch.nn.functional.max_pool2d}[pool]
    padding = keywords.get("padding", 0)
    expected = function(torch.tensor(x).permute(0, 3, 1, 2), layer.size, layer.stride, padding)
    assert_close(layer.forward({}, x)[0], expected.permute(0, 2, 3, 1).numpy(), 1e-14)


def _adjoint_and_difference(layer, x, exact):
    """<J v, u> = <v, J^T u>, and J v is the change of the output along v."""
    y, saved = layer.forward({}, x)
    tangent = _random(*x.shape[:-1], K, x.shape[-1], seed=1)
    ct = _random(*y.shape[:-1], K, y.shape[-1], seed=2)
    pushed, pulled = layer.jvp({}, saved, tangent), layer.vjp({}, saved, Cotangent(ct)).dense(len(x), x.shape[1:-1])
    assert pushed.shape == ct.shape
    assert pulled.shape == tangent.shape
    for n, k in itertools.product(range(len(x)), range(K)):
        np.testing.assert_allclose(
            (pushed[n, ..., k, :] * ct[n, ..., k, :]).sum(),
            (pulled[n, ..., k, :] * tangent[n, ..., k, :]).sum(),
            rtol=1e-10,
        )
        step = 1.0 if exact else 1e-6  # of a maximum, small enough to keep the winners
        moved = layer.forward({}, x + step * tangent[..., k, :])[0]
        assert_close(pushed[..., k, :], (moved - y) / step, 1e-8)


@all_pools
def test_derivatives(pool, image, keywords):
    _adjoint_and_difference(pool(**keywords), _random(N, *image, C), pool is AvgPool2d)


@pytest.mark.parametrize("shape", [(5, C), (4, 3, C), (2, 3, 2, C)])
def test_derivatives_of_global_mean_and_flatten(shape):
    x = _random(N, *shape)
    mean, flat = GlobalAvgPool(), Flatten()
    assert_close(mean.forward({}, x)[0], x.reshape(N, -1, C).mean(axis=1), 1e-14)
    np.testing.assert_array_equal(flat.forward({}, x)[0], x.reshape(N, -1))
    for layer in (mean, flat):
        assert layer.forward({}, x)[0].shape == (N, *layer.out_shape(shape))
        _adjoint_and_difference(layer, x, True)


def _separable(spatial, kind, width=C):
    ones = (1,) * len(spatial)
    shared = {
        "shared by all": _random(1, *ones, K, width, seed=3),
        "by samples": _random(N, *ones, K, width, seed=3),
        "by positions": _random(1, *spatial, K, width, seed=3),
        "full": _random(N, *spatial, K, width, seed=3),
    }[kind.removeprefix("gate, ")]
    gate = (_random(N, *spatial, width, seed=5) > 0) * _random(N, *spatial, width, seed=6)
    return Cotangent(shared, gate if kind.startswith("gate") else None)


KINDS = ["shared by all", "by samples", "by positions", "full"]
KINDS += [f"gate, {kind}" for kind in KINDS]


def _product(ct, spatial):
    gate = np.ones((N, *spatial, 1)) if ct.gate is None else ct.gate
    return Cotangent(gate[..., None, :] * ct.shared)


@pytest.mark.parametrize("kind", KINDS)
@all_pools
def test_separable_cotangents_of_windows(pool, image, keywords, kind):
    layer, x = pool(**keywords), _random(N, *image, C)
    y, saved = layer.forward({}, x)
    ct = _separable(y.shape[1:3], kind)
    got, expected = layer.vjp({}, saved, ct), layer.vjp({}, saved, _product(ct, y.shape[1:3]))
    assert_close(got.dense(N, image), expected.dense(N, image), 1e-14)
    if ct.shared.shape[1:3] == (1, 1):
        assert got.shared.shape == ct.shared.shape
        assert got.gate is None or got.gate.shape == x.shape


def test_means_side_by_side_need_no_gate():
    layer = AvgPool2d(2)
    _, saved = layer.forward({}, _random(N, 6, 4, C))
    ct = _separable((3, 2), "shared by all")
    got = layer.vjp({}, saved, ct)
    assert got.gate is None
    assert_close(got.shared, ct.shared / 4, 1e-15)


@pytest.mark.parametrize("kind", ["shared by all", "by samples", "gate, shared by all", "gate, by samples"])
@pytest.mark.parametrize("shape", [(5, C), (4, 3, C)])
def test_separable_cotangents_of_global_mean_and_flatten(shape, kind):
    for layer in (GlobalAvgPool(), Flatten()):
        y, saved = layer.forward({}, _random(N, *shape))
        ct = _separable((), kind, y.shape[1])
        got, expected = layer.vjp({}, saved, ct), layer.vjp({}, saved, _product(ct, ()))
        assert_close(got.dense(N, shape[:-1]), expected.dense(N, shape[:-1]), 1e-14)
        if isinstance(layer, GlobalAvgPool):
            assert got.shared.shape[1:-2] == (1,) * (len(shape) - 1)
        else:
            assert len(got.shared) == len(ct.shared)
            assert (got.gate is None) == (ct.gate is None)


def test_of_equal_entries_the_first_has_the_derivative():
    x = np.zeros((1, 2, 4, 1))
    x[0, :, 2:] = [[[-1], [2]], [[2], [2]]]
    layer = MaxPool2d(2)
    y, saved = layer.forward({}, x)
    np.testing.assert_array_equal(y[0, 0, :, 0], [0, 2])
    pulled = layer.vjp({}, saved, Cotangent(np.ones((1, 1, 2, 1, 1)))).shared
    np.testing.assert_array_equal(pulled[0, :, :, 0, 0], [[1, 0, 0, 1], [0, 0, 0, 0]])


def test_maximum_ignores_the_padding():
    y, _ = MaxPool2d(3, stride=2, padding=1).forward({}, -1 - _random(2, 5, 5, 3) ** 2)
    assert (y < 0).all()
    assert np.isfinite(y).all()


def test_mean_of_many_positions_in_float32():
    x = _random(1, 256, 256, 2, dtype="float32") + np.float32(10)
    expected = x.astype("float64").mean(axis=(1, 2))
    assert_close(GlobalAvgPool().forward({}, x)[0], expected, 1e-6)


@pytest.mark.parametrize(
    "layer", [AvgPool2d(3, 2, 1), MaxPool2d(3, 2, 1), AvgPool2d(2), GlobalAvgPool(), Flatten()], ids=repr
)
def test_every_backend_agrees(backend, layer):
    x, tangent = _random(N, 6, 6, C), _random(N, 6, 6, K, C, seed=1)
    spatial = layer.forward({}, x)[0].shape[1:-1]
    cts = [
        _separable(spatial, kind, layer.out_shape((6, 6, C))[-1])
        for kind in ("shared by all", "gate, by samples", "full")
    ]

    def results(asarray):
        y, saved = layer.forward({}, asarray(x))
        pulled = (
            layer.vjp({}, saved, Cotangent(asarray(ct.shared), None if ct.gate is None else asarray(ct.gate)))
            for ct in cts
        )
        return [y, layer.jvp({}, saved, asarray(tangent)), *(ct.dense(N, (6, 6)) for ct in pulled)]

    for got, expected in zip(results(backend.asarray), results(np.asarray), strict=True):
        assert_close(backend.to_numpy(got), expected, 1e-14)


@all_pools
def test_float32_stays_float32(pool, image, keywords):
    layer, x = pool(**keywords), _random(N, *image, C)
    results = []
    for dtype in ("float32", "float64"):
        y, saved = layer.forward({}, x.astype("float32").astype(dtype))
        ct = Cotangent(np.ones((1, 1, 1, K, C), dtype), np.abs(y))
        pulled = layer.vjp({}, saved, ct)
        results.append([y, pulled.gate, layer.jvp({}, saved, np.ones((N, *image, K, C), dtype))])
    for got, expected in zip(*results, strict=True):
        assert got.dtype == np.float32
        assert_close(got, expected, tol("float32", 9))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 0}, "size to be at least 1, got 0"),
        ({"size": (2, 2, 2)}, "size to be an integer or 2 of them"),
        ({"size": 2, "stride": 0}, "stride to be at least 1, got 0"),
        ({"size": 2, "padding": "FULL"}, "padding to be 'SAME', 'VALID'.*got 'FULL'"),
        ({"size": 2, "padding": "CIRCULAR"}, "padding to be 'SAME', 'VALID', an integer.*got 'CIRCULAR'"),
        ({"size": 2, "padding": 2}, r"padding less than the size \(2, 2\)"),
    ],
)
@pytest.mark.parametrize("pool", [AvgPool2d, MaxPool2d])
def test_settings_that_make_no_sense_are_refused(pool, keywords, message):
    with pytest.raises(ValueError, match=message):
        pool(**keywords)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (AvgPool2d(2), (8, 3), r"samples of shape \(height, width, channels\) for AvgPool2d, got \(8, 3\)"),
        (MaxPool2d(4), (8, 3, 3), "images of at least 4 pixels along spatial axis 1.*got 3"),
        (GlobalAvgPool(), (8,), r"at least one spatial axis for GlobalAvgPool, got shape \(8,\)"),
        (Flatten(), (), r"at least one axis for Flatten, got shape \(\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.out_shape(shape)


def test_settings_are_normalized():
    assert MaxPool2d(3, 2, 1) == MaxPool2d((3, 3), stride=(2, 2), padding=((1, 1), (1, 1)))
    assert AvgPool2d(2) == AvgPool2d(2, 2)
    assert math.prod(Flatten().out_shape((2, 3, 4))) == 24
