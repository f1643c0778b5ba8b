"""The networks of finite_ntk.npz as plain functions of (params, x), for engines that differentiate functions."""

import functools
import math
import os

import pytest


def need(engine):
    """Skip a test whose engine's package is missing, visibly; fail where NTKFAST_REQUIRE names the engine."""
    if engine == "layers":
        return
    try:
        __import__(engine)
    except ModuleNotFoundError:
        required = engine in os.environ.get("NTKFAST_REQUIRE", "").split(",")
        (pytest.fail if required else pytest.skip)(f"package {engine} is not installed")


@functools.cache
def operations(engine):
    """Activations by name, and a convolution (x NHWC, weight HWIO, stride) with padding SAME where there is one."""
    return {"autograd": _autograd, "jax": _jax, "torch": _torch}[engine]()


def _autograd():
    import autograd.numpy as anp
    from autograd.scipy.special import erf

    return {"relu": lambda x: anp.where(x > 0, x, 0 * x), "erf": erf, "tanh": anp.tanh}


def _jax():
    import jax

    def conv(x, weight, stride):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, weight, (stride, stride), "SAME", dimension_numbers=layout)

    return {"relu": jax.nn.relu, "erf": jax.scipy.special.erf, "tanh": jax.numpy.tanh, "conv": conv}


def _torch():
    import torch

    def conv(x, weight, stride):
        padding = []
        for size, length in zip(x.shape[2:0:-1], weight.shape[1::-1], strict=True):  # columns, then rows
            total = max((math.ceil(size / stride) - 1) * stride + length - size, 0)
            padding += [total // 2, total - total // 2]
        x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), padding)
        return torch.nn.functional.conv2d(x, weight.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    return {"relu": torch.relu, "erf": torch.erf, "tanh": torch.tanh, "conv": conv}


def network(engine, layers, parameterization):
    """``fun(params, x)`` of a list of layers, as `golden_files.FiniteNetwork.layers` has them."""
    ops = operations(engine)

    def affine(layer, params, x):
        weight, bias = params["weight"], params["bias"]
        y = ops["conv"](x, weight, layer["stride"]) if layer["type"] == "conv" else x @ weight
        if parameterization == "standard":
            return y + bias
        return (layer["W_std"] / math.sqrt(math.prod(weight.shape[:-1]))) * y + layer["b_std"] * bias

    def fun(params, x):
        for layer, entries in zip(layers, params, strict=True):
            match layer["type"]:
                case "dense" | "conv":
                    x = affine(layer, entries, x)
                case "act":
                    x = ops[layer["fn"]](x)
                case "gap":
                    x = x.mean((1, 2))
                case "flatten":
                    x = x.reshape(x.shape[0], -1)
        return x

    return fun
