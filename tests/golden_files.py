"""Loaders of the reference values in `tests/golden`; their conventions are in the README there."""

import functools
import json
import pathlib
from typing import NamedTuple

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"

FC_SETS = ("fashion_raw", "fashion_unit", "protein")
FC_ACTIVATIONS = ("relu", "erf")
FC_BIASES = (0.0, 0.1)
FC_DEPTHS = (1, 2, 3, 5)

_THREE = ("conv3_gap", "conv3_flatten", "conv3_pool_gap")
#: (set, network, b_std) of cntk_infinite.
CNTK_CASES = (
    *(("crop8", network, b_std) for network in _THREE for b_std in (0.0, 0.1)),
    *(("crop16", network, 0.1) for network in _THREE[:2]),
    *(("full32", network, 0.0) for network in _THREE[:2]),
)

FINITE_NETWORKS = tuple(
    f"{net}_{parameterization}"
    for net in ("mlp_relu", "mlp_erf", "mlp_tanh", "cnn8_relu", "cnn8_tanh", "cnn16_relu", "cnn16_tanh")
    for parameterization in ("ntk", "standard")
)


@functools.cache
def archive(name):
    """All arrays of `tests/golden/NAME.npz`, read-only, by name; `spec` decoded from JSON."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    for array in arrays.values():
        array.flags.writeable = False
    if "spec" in arrays:
        arrays["spec"] = json.loads(str(arrays["spec"]))
    return arrays


def fc_inputs(dataset):
    """x1 (40, d) and x2 (25, d) of a set of fc_infinite, float64."""
    arrays = archive("fc_infinite")
    return arrays[f"{dataset}/x1"], arrays[f"{dataset}/x2"]


def fc_kernels(dataset, activation, b_std, depth):
    """Reference kernels of one network: a dict with nngp12, ntk12, nngp11, ntk11."""
    prefix = f"{dataset}/{activation}/b{b_std:g}/depth{depth}/"
    return {kind: archive("fc_infinite")[prefix + kind] for kind in ("nngp12", "ntk12", "nngp11", "ntk11")}


def cntk_inputs(dataset):
    """x1 (n1, h, w, 3) and x2 (n2, h, w, 3) of a set of cntk_infinite, float64; x2[0] is x1[0]."""
    arrays = archive("cntk_infinite")
    return arrays[f"{dataset}/x1"], arrays[f"{dataset}/x2"]


class ConvolutionalKernels(NamedTuple):
    """Reference kernels (n1, n2) of x1 against x2."""

    nngp: np.ndarray
    ntk: np.ndarray


def cntk_kernels(dataset, network, b_std):
    """Reference kernels of one of `CNTK_CASES`."""
    prefix = f"{dataset}/{network}/b{b_std:g}/"
    return ConvolutionalKernels(*(archive("cntk_infinite")[prefix + kind] for kind in ("nngp12", "ntk12")))


class RegressionTask(NamedTuple):
    """Arrays ready for kernel ridge regression; `prediction * y_scale + y_mean` is in the target's units."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray  # in the target's units, or classes
    y_mean: float
    y_scale: float


@functools.cache
def regression_task(task):
    """Inputs of kernel_regression's `fashion`, `energy` or `protein`, float64, preprocessed."""
    arrays = archive("kernel_regression_inputs")
    x_train, x_test = (arrays[f"{task}/x_{part}"].astype(np.float64) for part in ("train", "test"))
    y_train, y_test = (arrays[f"{task}/y_{part}"] for part in ("train", "test"))
    if task == "fashion":
        return RegressionTask(_sphere(x_train), np.eye(10)[y_train] - 0.1, _sphere(x_test), y_test, 0.0, 1.0)
    mean, scale = x_train.mean(axis=0), x_train.std(axis=0)
    y_mean, y_scale = float(y_train.mean()), float(y_train.std())
    y_train = ((y_train - y_mean) / y_scale)[:, None]
    return RegressionTask((x_train - mean) / scale, y_train, (x_test - mean) / scale, y_test, y_mean, y_scale)


def _sphere(pixels):
    x = pixels / 255.0
    return x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(x.shape[1])


def regression_results(task):
    """Reference results of a task: {(kernel, kind, ridge): {name: array}}, e.g. ("relu3", "ntk", 0.1)."""
    results = {}
    for name, value in archive("kernel_regression").items():
        parts = name.split("/")
        if parts[0] == task and len(parts) == 4:
            kernel, kind = parts[1].split("_")
            key = (kernel, kind, float(parts[2].removeprefix("ridge")))
            results.setdefault(key, {})[parts[3]] = value
    return results


def regression_corners(task, kernel, kind):
    """First 5 x 5 entries of K(train, train) and K(test, train), e.g. of ("fashion", "relu3", "ntk")."""
    arrays, prefix = archive("kernel_regression"), f"{task}/{kernel}_{kind}/kernel_"
    return arrays[prefix + "train_corner"], arrays[prefix + "test_train_corner"]


class FiniteNetwork(NamedTuple):
    """A network with its parameters and inputs, of one dtype, and its reference values, float64."""

    net: object  # a Sequential
    layers: list  # the same as plain dictionaries, for engines that take functions: see `finite_ntk.npz` in the README
    parameterization: str
    params: tuple  # one dictionary per layer, as `net` takes them
    x1: np.ndarray
    x2: np.ndarray
    f1: np.ndarray  # (n1, k)
    f2: np.ndarray  # (n2, k)
    ntk11: np.ndarray  # (n1, n1, k, k)
    ntk12: np.ndarray  # (n1, n2, k, k)
    trace12: np.ndarray  # (n1, n2), mean over outputs
    trace12_by_path: dict  # path of a parameter -> (n1, n2)
    norm1: np.ndarray  # (n1,), Frobenius norms of the Jacobian
    norm1_by_path: dict  # path of a parameter -> (n1,)


def finite_network(name, dtype="float64"):
    """One of `FINITE_NETWORKS`: network, parameters, inputs and references."""
    arrays = {key.removeprefix(f"{name}/"): value for key, value in archive("finite_ntk").items()}
    spec = arrays["spec"]["nets"][name]
    stored = iter([arrays[f"param{i}"].astype(dtype) for i in range(len(spec["parameters"]))])
    params = tuple(
        {"weight": next(stored), "bias": next(stored)} if "shape" in layer else {} for layer in spec["layers"]
    )
    paths = [f"{i}.{entry}" for i, layer in enumerate(params) for entry in layer]
    return FiniteNetwork(
        net=_sequential(spec),
        layers=spec["layers"],
        parameterization=spec["parametrization"],
        params=params,
        x1=(arrays["pixels1"] / 255.0).astype(dtype),
        x2=(arrays["pixels2"] / 255.0).astype(dtype),
        **{part: arrays[part] for part in ("f1", "f2", "ntk11", "ntk12")},
        trace12=arrays["ntk12_trace_mean"],
        trace12_by_path=dict(zip(paths, arrays["ntk12_trace_mean_by_param"], strict=True)),
        norm1=arrays["jacobian_norm1"],
        norm1_by_path=dict(zip(paths, arrays["jacobian_norm1_by_param"].T, strict=True)),
    )


def _sequential(spec):
    """The network of a specification, from our layers."""
    from ntkfast import layers

    activations = {"relu": layers.ReLU, "erf": layers.Erf, "tanh": layers.Tanh}
    built = []
    for layer in spec["layers"]:
        scales = {key: layer[key] for key in ("W_std", "b_std") if key in layer}
        scales |= {"parameterization": spec["parametrization"]} if scales else {}
        match layer["type"]:
            case "dense":
                built.append(layers.Dense(layer["shape"][-1], **scales))
            case "conv":
                size, stride = layer["shape"][:2], layer["stride"]
                built.append(layers.Conv2d(layer["shape"][-1], size, stride=stride, padding=layer["padding"], **scales))
            case "act":
                built.append(activations[layer["fn"]]())
            case "gap":
                built.append(layers.GlobalAvgPool())
            case "flatten":
                built.append(layers.Flatten())
    return layers.Sequential(*built)
