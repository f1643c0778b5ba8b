"""Convolutions against loops and PyTorch; every derivative against another way to it."""

import itertools
import math

import numpy as np
import pytest
from helpers import assert_close, deviation, tol

from ntkfast.layers import Conv1d, Conv2d, Cotangent, Dense, _correlation, _geometry

# (input shape, arguments of Conv2d)
SETTINGS = {
    "same": ((6, 5, 3), {"channels": 4, "kernel_size": 3}),
    "same-even": ((6, 5, 3), {"channels": 4, "kernel_size": (2, 4)}),
    "same-stride": ((8, 8, 3), {"channels": 4, "kernel_size": 3, "stride": 2}),
    "same-stride-odd": ((7, 9, 2), {"channels": 3, "kernel_size": (3, 2), "stride": (2, 3)}),
    "same-dilation": ((7, 8, 2), {"channels": 3, "kernel_size": 3, "dilation": (2, 1)}),
    "same-dilation-wide": ((7, 8, 2), {"channels": 3, "kernel_size": 3, "dilation": (1, 2), "stride": (1, 2)}),
    "valid": ((6, 5, 3), {"channels": 4, "kernel_size": (3, 2), "padding": "VALID"}),
    "valid-stride": ((7, 8, 3), {"channels": 4, "kernel_size": 3, "stride": (3, 2), "padding": "VALID"}),
    "explicit": ((6, 5, 3), {"channels": 4, "kernel_size": 3, "padding": ((0, 2), (3, 1)), "stride": 2}),
    "wide-padding": ((3, 4, 2), {"channels": 3, "kernel_size": 2, "padding": 3}),
    "number": ((6, 6, 2), {"channels": 3, "kernel_size": 3, "padding": 1, "stride": 2}),
    "stride-beyond-kernel": ((9, 8, 2), {"channels": 3, "kernel_size": 2, "stride": 3}),
    "pointwise": ((5, 4, 6), {"channels": 4, "kernel_size": 1}),
    "pointwise-stride": ((5, 4, 6), {"channels": 4, "kernel_size": 1, "stride": 2}),
    "pointwise-groups": ((5, 4, 6), {"channels": 4, "kernel_size": 1, "groups": 2}),
    "whole": ((4, 3, 2), {"channels": 3, "kernel_size": (4, 3), "padding": "VALID"}),
    "groups": ((6, 5, 6), {"channels": 9, "kernel_size": 3, "groups": 3, "stride": 2}),
    "depthwise": ((6, 5, 4), {"channels": 4, "kernel_size": 3, "groups": 4}),
    "winograd": ((7, 6, 17), {"channels": 16, "kernel_size": 3}),
    "winograd-explicit": ((8, 5, 16), {"channels": 17, "kernel_size": 3, "padding": ((0, 1), (3, 0))}),
    "winograd-valid": ((8, 7, 16), {"channels": 16, "kernel_size": 3, "padding": "VALID"}),
    "circular": ((6, 5, 3), {"channels": 4, "kernel_size": 3, "padding": "CIRCULAR"}),
    "circular-even": ((4, 6, 3), {"channels": 4, "kernel_size": (4, 2), "padding": "CIRCULAR"}),
    "circular-stride": ((6, 8, 2), {"channels": 3, "kernel_size": (3, 5), "stride": (2, 4), "padding": "CIRCULAR"}),
    "circular-dilation": ((5, 6, 2), {"channels": 3, "kernel_size": 3, "dilation": (2, 1), "padding": "CIRCULAR"}),
    "circular-beyond-kernel": (
        (6, 6, 2),
        {"channels": 3, "kernel_size": (3, 2), "stride": (1, 3), "padding": "CIRCULAR"},
    ),
    "circular-pointwise": ((4, 6, 3), {"channels": 4, "kernel_size": 1, "stride": (2, 1), "padding": "CIRCULAR"}),
    "circular-depthwise": (
        (6, 4, 4),
        {"channels": 8, "kernel_size": 3, "stride": 2, "groups": 4, "padding": "CIRCULAR"},
    ),
    "circular-winograd": ((7, 6, 17), {"channels": 16, "kernel_size": 3, "padding": "CIRCULAR"}),
    "depthwise-twofold": ((6, 5, 4), {"channels": 8, "kernel_size": 3, "groups": 4, "dilation": 2}),
}
all_settings = pytest.mark.parametrize(("shape", "keywords"), SETTINGS.values(), ids=SETTINGS)
N, K = 3, 2


@pytest.fixture(autouse=True)
def _tiles_for_few_images(monkeypatch):
    """Few and small images are not worth Winograd's tiles, but are worth testing with them."""
    monkeypatch.setattr(_correlation, "_LEAST_TILES", 1)


def _layer(shape, keywords, dtype="float64", **more):
    layer = Conv2d(**keywords, b_std=0.3, **more)
    return layer, layer.init(shape, seed=1, dtype=dtype)


def _random(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _sides(layer, shape):
    """Padding (before, after) per axis, from the layer's settings, by the rule in tests/golden/README.md."""
    if layer.padding == "VALID":
        return [(0, 0), (0, 0)]
    if not isinstance(layer.padding, str):
        return list(layer.padding)
    sides = []
    for s, k, t, d in zip(shape, layer.kernel_size, layer.stride, layer.dilation, strict=False):
        total = max((math.ceil(s / t) - 1) * t + (k - 1) * d + 1 - s, 0)
        sides.append((total // 2, total - total // 2))
    return sides


def _loops(layer, params, x):
    """The definition."""
    weight, g = params["weight"], layer.groups
    kh, kw, i, channels = weight.shape
    mode = "wrap" if layer.padding == "CIRCULAR" else "constant"
    padded = np.pad(x, [(0, 0), *_sides(layer, x.shape[1:3]), (0, 0)], mode=mode)
    (t, u), (d, e) = layer.stride, layer.dilation
    rows = (padded.shape[1] - (kh - 1) * d - 1) // t + 1
    columns = (padded.shape[2] - (kw - 1) * e - 1) // u + 1
    y = np.zeros((len(x), rows, columns, channels))
    for r, s, o in itertools.product(range(rows), range(columns), range(channels)):
        group = o // (channels // g)
        patch = padded[:, r * t : r * t + (kh - 1) * d + 1 : d, s * u : s * u + (kw - 1) * e + 1 : e]
        y[:, r, s, o] = (patch[..., group * i : (group + 1) * i] * weight[..., o]).sum(axis=(1, 2, 3))
    fan_in = kh * kw * i
    if layer.parameterization == "standard":
        return y + params["bias"]
    return layer.W_std / math.sqrt(fan_in) * y + layer.b_std * params["bias"]


@all_settings
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_forward_is_the_definition(shape, keywords, parameterization):
    layer, params = _layer(shape, keywords, parameterization=parameterization)
    x = _random(N, *shape)
    y, _ = layer.forward(params, x)
    assert y.shape == (N, *layer.out_shape(shape))
    assert_close(y, _loops(layer, params, x), 1e-13)


@all_settings
def test_forward_is_that_of_torch(shape, keywords):
    torch = pytest.importorskip("torch")
    layer, params = _layer(shape, keywords, parameterization="standard")
    x = _random(N, *shape)
    (top, bottom), (left, right) = _sides(layer, shape)
    mode = "circular" if layer.padding == "CIRCULAR" else "constant"
    image = torch.nn.functional.pad(torch.tensor(x).permute(0, 3, 1, 2), (left, right, top, bottom), mode=mode)
    weight = torch.tensor(params["weight"]).permute(3, 2, 0, 1)
    settings = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    expected = torch.nn.functional.conv2d(image, weight, torch.tensor(params["bias"]), **settings)
    assert_close(layer.forward(params, x)[0], expected.permute(0, 2, 3, 1).numpy(), 1e-13)


def _places(layer, shape):
    return layer.out_shape(shape)[:-1]


@all_settings
def test_vjp_and_jvp_are_adjoint(shape, keywords):
    layer, params = _layer(shape, keywords)
    _, saved = layer.forward(params, _random(N, *shape))
    tangent = _random(N, *shape[:-1], K, shape[-1], seed=1)
    ct = _random(N, *_places(layer, shape), K, layer.channels, seed=2)
    pushed = layer.jvp(params, saved, tangent)
    pulled = layer.vjp(params, saved, Cotangent(ct)).dense(N, shape[:-1])
    assert pushed.shape == ct.shape
    assert pulled.shape == tangent.shape
    np.testing.assert_allclose((pushed * ct).sum(axis=(1, 2, 4)), (pulled * tangent).sum(axis=(1, 2, 4)), rtol=1e-11)


@all_settings
def test_jvp_is_the_difference_of_two_outputs(shape, keywords):
    """The layer is affine in its input."""
    layer, params = _layer(shape, keywords)
    x, tangent = _random(N, *shape), _random(N, *shape[:-1], K, shape[-1], seed=1)
    y, saved = layer.forward(params, x)
    pushed = layer.jvp(params, saved, tangent)
    for k in range(K):
        assert_close(pushed[..., k, :], layer.forward(params, x + tangent[..., k, :])[0] - y, 1e-12)


def _separable(layer, shape, kind):
    """Cotangents that keep axes of size 1, and gates."""
    spatial, c = _places(layer, shape), layer.channels
    ones = (1,) * len(spatial)
    gate = (_random(N, *spatial, c, seed=5) > 0) * _random(N, *spatial, c, seed=6)
    shared = {
        "shared by all": _random(1, *ones, K, c, seed=3),
        "by samples": _random(N, *ones, K, c, seed=3),
        "by positions": _random(1, *spatial, K, c, seed=3),
        "full": _random(N, *spatial, K, c, seed=3),
        "by columns": _random(N, *ones[:-1], spatial[-1], K, c, seed=3),
    }[kind.removeprefix("gate, ")]
    return Cotangent(shared, gate if kind.startswith("gate") else None)


KINDS = ["shared by all", "by samples", "by positions", "full", "by columns"]
KINDS += [f"gate, {kind}" for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
@all_settings
def test_vjp_of_separable_cotangents_is_that_of_their_product(shape, keywords, kind):
    layer, params = _layer(shape, keywords)
    _, saved = layer.forward(params, _random(N, *shape))
    ct = _separable(layer, shape, kind)
    gate = np.ones((N, *_places(layer, shape), 1)) if ct.gate is None else ct.gate
    product = gate[..., None, :] * ct.shared
    got = layer.vjp(params, saved, ct)
    expected = layer.vjp(params, saved, Cotangent(product))
    assert_close(got.dense(N, shape[:-1]), expected.dense(N, shape[:-1]), 1e-13)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@all_settings
def test_factors_are_the_derivatives_of_the_parameters(shape, keywords, parameterization):
    """Central differences are exact up to rounding for a function that is linear in its parameters."""
    layer, params = _layer(shape, keywords, parameterization=parameterization)
    y, saved = layer.forward(params, _random(N, *shape))
    ct = _random(*y.shape[:-1], K, y.shape[-1], seed=2)
    factors = layer.factors(params, saved, Cotangent(ct))
    assert set(factors) == {"weight", "bias"}
    for name, found in factors.items():
        jacobian = found.jacobian()
        for index in list(np.ndindex(params[name].shape))[:: max(1, params[name].size // 40)]:
            outputs = []
            for sign in (1, -1):
                moved = {key: value.copy() for key, value in params.items()}
                moved[name][index] += sign * 0.5
                outputs.append(layer.forward(moved, saved)[0])
            expected = np.einsum("nrsko,nrso->nk", ct, outputs[0] - outputs[1])
            assert_close(jacobian[(slice(None), slice(None), *index)], expected, 1e-10)
        assert_close(found.total(), jacobian.sum(axis=0), 1e-12)


@all_settings
def test_param_jvp_is_the_adjoint_of_the_factors(shape, keywords):
    layer, params = _layer(shape, keywords)
    y, saved = layer.forward(params, _random(N, *shape))
    direction = layer.init(shape, seed=9, dtype="float64")
    ct = _random(*y.shape[:-1], 1, y.shape[-1], seed=2)
    pushed = (layer.param_jvp(params, direction, saved) * ct[..., 0, :]).sum(axis=(1, 2, 3))
    factors = layer.factors(params, saved, Cotangent(ct))
    pulled = sum(
        (found.jacobian()[:, 0] * direction[name]).reshape(N, -1).sum(axis=1) for name, found in factors.items()
    )
    assert_close(pulled, pushed, 1e-12)


@all_settings
def test_act_vjp_is_the_adjoint_of_the_patches(shape, keywords):
    layer, params = _layer(shape, keywords)
    x = _random(N, *shape)
    y, saved = layer.forward(params, x)
    act = layer.factors(params, saved, Cotangent(y[..., None, :]))["weight"].act
    ct = _random(*act.shape, seed=4)
    pulled = layer.act_vjp(params, saved, "weight", ct)
    assert pulled.shape == x.shape
    np.testing.assert_allclose((act[0:N] * ct).sum(axis=(1, 2)), (x * pulled).sum(axis=(1, 2, 3)), rtol=1e-11)
    assert layer.act_vjp(params, saved, "bias", ct) is None


@all_settings
def test_patches_are_made_for_any_samples(shape, keywords):
    layer, params = _layer(shape, keywords)
    y, saved = layer.forward(params, _random(N, *shape))
    act = layer.factors(params, saved, Cotangent(y[..., None, :]))["weight"].act
    whole = act[0:N]
    assert (
        whole.shape
        == act.shape
        == (N, math.prod(_places(layer, shape)), layer.kernel_size[0] * layer.kernel_size[1] * shape[-1])
    )
    for rows in (slice(0, 1), slice(1, 3), slice(None)):
        np.testing.assert_array_equal(act[rows], whole[rows])
        assert act[rows].flags.c_contiguous


@pytest.mark.parametrize("chunk", [1, 700, 4000])
@all_settings
def test_chunks_do_not_matter(shape, keywords, chunk, monkeypatch):
    layer, params = _layer(shape, keywords)
    x, tangent = _random(5, *shape), _random(5, *shape[:-1], K, shape[-1], seed=1)
    ct = _random(5, *_places(layer, shape), K, layer.channels, seed=2)
    gated = Cotangent(_random(1, 1, 1, K, layer.channels, seed=3), ct[..., 0, :])

    def results():
        y, saved = layer.forward(params, x)
        pulled = [layer.vjp(params, saved, each).shared for each in (Cotangent(ct), gated)]
        return [y, layer.jvp(params, saved, tangent), *pulled]

    expected = results()
    monkeypatch.setattr(_correlation, "_CHUNK_BYTES", {"numpy": chunk, "cupy": chunk})
    for got, wanted in zip(results(), expected, strict=True):
        assert_close(got, wanted, 1e-14)


@all_settings
def test_float32_agrees_with_float64(shape, keywords):
    layer, params = _layer(shape, keywords)
    x, tangent = _random(N, *shape), _random(N, *shape[:-1], K, shape[-1], seed=1)
    ct = _random(N, *_places(layer, shape), K, layer.channels, seed=2)
    gate, shared = _random(N, *_places(layer, shape), layer.channels), _random(1, 1, 1, K, layer.channels)

    def results(dtype):
        params_, (x_, tangent_, ct_, gate_, shared_) = (
            {name: array.astype(dtype) for name, array in params.items()},
            (array.astype(dtype) for array in (x, tangent, ct, gate, shared)),
        )
        y, saved = layer.forward(params_, x_)
        pulled = [layer.vjp(params_, saved, each).shared for each in (Cotangent(ct_), Cotangent(shared_, gate_))]
        jacobians = [found.jacobian() for found in layer.factors(params_, saved, Cotangent(ct_)).values()]
        return [y, layer.jvp(params_, saved, tangent_), *pulled, *jacobians]

    for got, expected in zip(results("float32"), results("float64"), strict=True):
        assert got.dtype == np.float32
        assert_close(got, expected, tol("float32", 100))


circular_settings = pytest.mark.parametrize("setting", [name for name in SETTINGS if name.startswith("circular")])


@circular_settings
def test_circular_padding_is_that_of_an_image_which_is_padded_with_itself(setting):
    """Forward, jvp and factors by a layer without padding; vjp and act_vjp are their adjoints (above)."""
    shape, keywords = SETTINGS[setting]
    layer, params = _layer(shape, keywords)
    plain, _ = _layer(shape, keywords | {"padding": "VALID"})
    x, tangent = _random(N, *shape), _random(N, *shape[:-1], K, shape[-1], seed=1)
    sides = [(0, 0), *_sides(layer, shape), (0, 0)]
    y, saved = layer.forward(params, x)
    expected, kept = plain.forward(params, np.pad(x, sides, mode="wrap"))
    np.testing.assert_array_equal(y, expected)
    padded = np.pad(tangent, [*sides, (0, 0)], mode="wrap")
    np.testing.assert_array_equal(layer.jvp(params, saved, tangent), plain.jvp(params, kept, padded))
    ct = Cotangent(_random(*y.shape[:-1], K, y.shape[-1], seed=2))
    found, wanted = layer.factors(params, saved, ct), plain.factors(params, kept, ct)
    for name in found:
        np.testing.assert_array_equal(found[name].jacobian(), wanted[name].jacobian())


@circular_settings
def test_circular_convolution_commutes_with_shifts(setting):
    """Shifting by strides shifts the result by pixels."""
    shape, keywords = SETTINGS[setting]
    layer, params = _layer(shape, keywords)
    x = _random(N, *shape)
    shifted = np.roll(x, np.multiply(layer.stride, (1, -2)), axis=(1, 2))
    y, saved = layer.forward(params, x)
    y_of_shifted, saved_of_shifted = layer.forward(params, shifted)
    assert_close(y_of_shifted, np.roll(y, (1, -2), axis=(1, 2)), 1e-14)
    ct = _random(*y.shape[:-1], K, y.shape[-1], seed=2)
    pulled = layer.vjp(params, saved, Cotangent(ct)).dense(N, shape[:-1])
    ct_shifted = Cotangent(np.roll(ct, (1, -2), axis=(1, 2)))
    pulled_of_shifted = layer.vjp(params, saved_of_shifted, ct_shifted).dense(N, shape[:-1])
    assert_close(pulled_of_shifted, np.roll(pulled, np.multiply(layer.stride, (1, -2)), axis=(1, 2)), 1e-13)


BACKEND_SETTINGS = ["same", "same-stride-odd", "groups", "depthwise", "pointwise", "winograd"]
BACKEND_SETTINGS += ["circular", "circular-stride", "circular-winograd"]


@pytest.mark.parametrize("setting", BACKEND_SETTINGS)
def test_every_backend_agrees(backend, setting):
    shape, keywords = SETTINGS[setting]
    layer, params = _layer(shape, keywords)
    x, tangent = _random(N, *shape), _random(N, *shape[:-1], K, shape[-1], seed=1)
    ct = _separable(layer, shape, "gate, shared by all")

    def results(asarray):
        params_ = {name: asarray(array) for name, array in params.items()}
        y, saved = layer.forward(params_, asarray(x))
        product = Cotangent(asarray(ct.dense(N, _places(layer, shape))))
        separable = Cotangent(asarray(ct.shared), asarray(ct.gate))
        factors = layer.factors(params_, saved, separable)
        act = factors["weight"].act[0:N]
        return [
            y,
            layer.jvp(params_, saved, asarray(tangent)),
            layer.vjp(params_, saved, product).shared,
            layer.vjp(params_, saved, separable).shared,
            layer.act_vjp(params_, saved, "weight", act),
            *(found.jacobian() for found in factors.values()),
        ]

    for got, expected in zip(results(backend.asarray), results(np.asarray), strict=True):
        assert_close(backend.to_numpy(got), expected, 1e-13)


@pytest.mark.parametrize("in_channels", [16, 256])
def test_tiles_are_as_accurate_as_patches(in_channels, monkeypatch):
    """Rounding of both ways of float32 against float64: within a factor of 4 of each other, and 1e-6."""
    layer, shape = Conv2d(32, 3), (8, 8, in_channels)
    params = layer.init(shape, seed=0)
    x, ct = _random(4, *shape, dtype="float32"), _random(4, 8, 8, 1, 32, dtype="float32", seed=1)
    gated = Cotangent(_random(1, 1, 1, 3, 32, dtype="float32"), ct[:, :, :, 0])
    tangent = _random(4, 8, 8, 1, in_channels, dtype="float32", seed=2)

    def results(dtype, least_channels):
        monkeypatch.setattr(_correlation, "_LEAST_CHANNELS", least_channels)
        params_ = {"weight": params["weight"].astype(dtype)}
        gated_ = Cotangent(gated.shared.astype(dtype), gated.gate.astype(dtype))
        pulled = [layer.vjp(params_, x.astype(dtype), each).shared for each in (Cotangent(ct.astype(dtype)), gated_)]
        return [*pulled, layer.jvp(params_, x.astype(dtype), tangent.astype(dtype))]

    ways = zip(results("float32", 1), results("float32", 999), results("float64", 999), strict=True)
    for by_tiles, by_patches, expected in ways:
        assert (by_tiles != by_patches).any()
        assert deviation(by_tiles, expected) < min(1e-6, 4 * deviation(by_patches, expected))


def test_zeros_stay_zeros():
    """The derivative of a relu at 0 is 0: a rounding error there would open a gate."""
    layer = Conv2d(16, 3)
    params = layer.init((9, 8, 16), seed=0)
    x = np.abs(_random(2, 9, 8, 16, dtype="float32"))
    x[:, 3:] = 0
    y, _ = layer.forward(params, x)
    assert (y[:, :4] != 0).all()
    assert (y[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("size", "channels", "count", "keywords", "expected"),
    [
        ((32, 32), 64, 1, {}, True),
        ((32, 32), 8, 1, {}, False),
        ((4, 4), 64, 8, {}, False),
        ((4, 4), 64, 100, {}, True),
        ((3, 3), 64, 1000, {}, False),
        ((32, 32), 64, 1, {"stride": 2}, False),
        ((32, 32), 64, 1, {"dilation": 2}, False),
        ((32, 32), 64, 1, {"kernel_size": 5}, False),
    ],
)
def test_tiles_are_for_many_channels_and_places(size, channels, count, keywords, expected, monkeypatch):
    monkeypatch.undo()
    layer = Conv2d(channels, **({"kernel_size": 3} | keywords))
    found = _geometry.window(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    assert _correlation.suits_winograd(found, channels, channels, count) is expected


def test_pointwise_convolution_is_a_dense_layer():
    layer, params = _layer(*SETTINGS["pointwise"])
    dense = Dense(4, b_std=0.3)
    x = _random(N, 5, 4, 6)
    params_of_dense = {"weight": params["weight"][0, 0], "bias": params["bias"]}
    assert_close(layer.forward(params, x)[0], dense.forward(params_of_dense, x)[0], 1e-14)


@pytest.mark.parametrize(
    "keywords",
    [
        {"kernel_size": 3},
        {"kernel_size": 4, "stride": 2},
        {"kernel_size": 3, "dilation": 2, "groups": 2},
        {"kernel_size": 3, "padding": (2, 0)},
        {"kernel_size": 2, "padding": "VALID"},
        {"kernel_size": 4, "stride": 3, "padding": "CIRCULAR"},
    ],
)
def test_conv1d_is_conv2d_on_one_row(keywords):
    line = Conv1d(4, **keywords, b_std=0.3)
    wide = {
        key: ((0, 0), value) if key == "padding" and not isinstance(value, str) else value
        for key, value in keywords.items()
    }
    for key in ("kernel_size", "stride", "dilation"):
        wide[key] = (1, wide.get(key, 1))
    image = Conv2d(4, **wide, b_std=0.3)
    params, x = line.init((9, 6), seed=0, dtype="float64"), _random(N, 9, 6)
    assert params["weight"].ndim == 3
    params_of_image = {"weight": params["weight"][None], "bias": params["bias"]}
    (y, saved), (z, kept) = line.forward(params, x), image.forward(params_of_image, x[:, None])
    assert y.shape == (N, *line.out_shape((9, 6)))
    np.testing.assert_array_equal(y, z[:, 0])
    tangent = _random(N, 9, K, 6)
    np.testing.assert_array_equal(
        line.jvp(params, saved, tangent), image.jvp(params_of_image, kept, tangent[:, None])[:, 0]
    )
    for kind in KINDS[:4] + KINDS[5:9]:
        ct = _separable(line, (9, 6), kind)
        wide_ct = Cotangent(ct.shared[:, None], None if ct.gate is None else ct.gate[:, None])
        pulled, expected = line.vjp(params, saved, ct), image.vjp(params_of_image, kept, wide_ct)
        np.testing.assert_array_equal(pulled.shared, expected.shared[:, 0])
        found, wanted = line.factors(params, saved, ct), image.factors(params_of_image, kept, wide_ct)
        for name in found:
            np.testing.assert_array_equal(
                found[name].jacobian(), wanted[name].jacobian().reshape(found[name].jacobian().shape)
            )
    act = found["weight"].act[0:N]
    assert line.act_vjp(params, saved, "weight", act).shape == x.shape


def test_settings_are_normalized():
    assert Conv2d(4, 3, padding=1) == Conv2d(4, (3, 3), stride=(1, 1), padding=[[1, 1], [1, 1]], dilation=(1, 1))
    assert Conv1d(4, 3, padding=(1, 2)) == Conv1d(4, (3,), padding=((1, 2),))
    assert hash(Conv2d(4, 3)) == hash(Conv2d(4, 3))


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((0, 3), {}, "channels to be at least 1, got 0"),
        ((4, 0), {}, "kernel_size to be at least 1, got 0"),
        ((4, (3, 3, 3)), {}, "kernel_size to be an integer or 2 of them"),
        ((4, 3), {"stride": 0}, "stride to be at least 1, got 0"),
        ((4, 3), {"dilation": (1, 0)}, "dilation to be at least 1, got 0"),
        ((4, 3), {"padding": "FULL"}, "padding to be 'SAME', 'VALID'.*got 'FULL'"),
        ((4, 3), {"padding": (1, 2)}, "padding to be 'SAME', 'VALID'"),
        ((4, 3), {"padding": ((1, 2), (1,))}, "padding to be 'SAME', 'VALID'"),
        ((4, 3), {"padding": -1}, "padding to be at least 0, got -1"),
        ((4, 3), {"groups": 3}, "channels divisible by groups = 3, got 4"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        Conv2d(*arguments, **keywords)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv2d(4, 3), (8, 8), r"samples of shape \(height, width, channels\) for Conv2d, got \(8, 8\)"),
        (Conv1d(4, 3), (8, 8, 3), r"samples of shape \(length, channels\) for Conv1d, got \(8, 8, 3\)"),
        (Conv2d(4, 5, padding="VALID"), (8, 4, 3), "images of at least 5 pixels along spatial axis 1.*got 4"),
        (Conv2d(4, 3, dilation=3, padding=1), (4, 9, 3), "images of at least 5 pixels along spatial axis 0.*got 4"),
        (Conv2d(4, 3, stride=2, padding="CIRCULAR"), (8, 9, 3), "multiple of 2 pixels along spatial axis 1.*got 9"),
        (Conv2d(4, 3, dilation=2, padding="CIRCULAR"), (4, 9, 3), "at least 5 pixels along spatial axis 0.*got 4"),
        (Conv1d(4, 4, padding="CIRCULAR"), (3, 2), "at least 4 pixels along spatial axis 0.*circular padding.*got 3"),
        (Conv2d(4, 3, groups=2), (8, 8, 3), "input channels divisible by groups = 2, got 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.out_shape(shape)
    with pytest.raises(ValueError, match=message):
        layer.init(shape, seed=0)
