"""One contender of `finite_width.py` in a process of its own, in whatever interpreter has its library.

    python finite_width_worker.py CONTENDER CASE

CONTENDER is a library, or "library-method"; CASE the fields of a `Case` as JSON. Commands come on stdin, one per line,
and are answered with a line of JSON each: "first FILE" makes the first call and saves its result, "call" the seconds
of a later one, "memory" what was found out about the process.
"""

import json
import os
import pathlib
import re
import statistics
import sys
import time
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from benchmarks.floors import CHANNELS, IMAGE, MLP_INPUT, OUTPUTS


class Case(NamedTuple):
    """One call: network "mlp" of a width, or "cnn" (width 0)."""

    net: str
    width: int
    n: int
    output: str

    @property
    def name(self) -> str:
        """E.g. mlp-256/n64/trace."""
        return f"{self.net}{f'-{self.width}' if self.width else ''}/n{self.n}/{self.output}"


# --- what is computed: the same numbers for all --------------------------------------------------


def network(case: Case) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Layers with parameters as (kind, weight, bias); relu between them, a global average above convolutions."""
    hidden = 3 * [case.width] if case.net == "mlp" else list(CHANNELS[1:])
    widths = [MLP_INPUT if case.net == "mlp" else CHANNELS[0], *hidden, OUTPUTS]
    kinds = [*(len(hidden) * ["dense" if case.net == "mlp" else "conv"]), "dense"]
    rng = np.random.default_rng(0)
    layers = []
    for kind, (i, o) in zip(kinds, pairwise(widths), strict=True):
        shape = (i, o) if kind == "dense" else (3, 3, i, o)
        weight = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        layers.append((kind, weight.astype(np.float32), (0.05 * rng.standard_normal(o)).astype(np.float32)))
    return layers


def inputs(case: Case) -> np.ndarray:
    """n samples."""
    shape = (MLP_INPUT,) if case.net == "mlp" else (*IMAGE, CHANNELS[0])
    return np.random.default_rng(1).standard_normal((case.n, *shape)).astype(np.float32)


# --- the contenders: each returns a function without arguments -----------------------------------


def ntkfast_call(case: Case, method: str):
    """This package, its layers."""
    from ntkfast import layers
    from ntkfast.empirical import empirical_ntk

    body, params = [], []
    *hidden, (_, head, head_bias) = network(case)
    for kind, weight, bias in hidden:
        made = layers.Dense if kind == "dense" else lambda o, **options: layers.Conv2d(o, 3, padding="SAME", **options)
        body += [made(bias.size, bias=True, parameterization="standard"), layers.ReLU()]
        params += [{"weight": weight, "bias": bias}, {}]
    if case.net == "cnn":
        body.append(layers.GlobalAvgPool())
        params.append({})
    net = layers.Sequential(*body, layers.Dense(OUTPUTS, bias=True, parameterization="standard"))
    params, x = (*params, {"weight": head, "bias": head_bias}), inputs(case)
    return lambda: empirical_ntk(net, params, x, output=case.output, method=method or "auto")


def nt_call(case: Case, method: str):
    """neural-tangents, one of its implementations, compiled as a whole."""
    import jax
    import neural_tangents as nt
    from jax import numpy as jnp

    def forward(params, x):
        *hidden, (head, head_bias) = params
        for weight, bias in hidden:
            if weight.ndim == 4:
                z = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            else:
                z = x @ weight
            x = jax.nn.relu(z + bias)
        return (x.mean((1, 2)) if x.ndim == 4 else x) @ head + head_bias

    axes = (-1,) if case.output == "trace" else ()
    chosen = nt.NtkImplementation[method.upper()]
    kernel = nt.empirical_ntk_fn(forward, trace_axes=axes, vmap_axes=0, implementation=chosen)
    params = [(jnp.asarray(weight), jnp.asarray(bias)) for _, weight, bias in network(case)]
    x, compiled = jnp.asarray(inputs(case)), jax.jit(lambda x, params: kernel(x, None, params))
    return lambda: np.asarray(compiled(x, params))


def torch_call(case: Case, method: str):
    """PyTorch: Jacobians of single samples by vmap(jacrev), contracted entry by entry."""
    import torch
    from torch.func import jacrev, vmap

    def forward(params, x):
        *hidden, (head, head_bias) = params
        for weight, bias in hidden:
            conv = weight.ndim == 4
            z = torch.nn.functional.conv2d(x[None], weight, bias, padding=1)[0] if conv else x @ weight + bias
            x = torch.relu(z)
        return (x.mean((1, 2)) if x.ndim == 3 else x) @ head + head_bias

    params, x = [], torch.from_numpy(inputs(case))
    for _, weight, bias in network(case):
        stored = np.ascontiguousarray(weight.transpose(3, 2, 0, 1)) if weight.ndim == 4 else weight
        params.append((torch.from_numpy(stored), torch.from_numpy(bias)))
    x = x.movedim(-1, 1).contiguous() if x.ndim == 4 else x
    jacobian = vmap(jacrev(forward), (None, 0))

    def call():
        total = 0.0
        for leaf in (leaf for pair in jacobian(params, x) for leaf in pair):
            flat = leaf.flatten(2)
            if case.output == "trace":
                rows = flat.flatten(1)
                total = total + rows @ rows.T / OUTPUTS
            else:
                rows = flat.flatten(0, 1)
                total = total + rows @ rows.T
        n = case.n
        return total if case.output == "trace" else total.reshape(n, OUTPUTS, n, OUTPUTS).transpose(1, 2)

    return call


def resnet18_call(case: Case, method: str):
    """A network of ResNet-18's shape on 64 x 64 images: 11 million parameters, ten outputs."""
    from ntkfast import layers
    from ntkfast.empirical import empirical_ntk

    def conv(channels, size, stride=1):
        made = layers.Conv2d(channels, size, stride=stride, padding="SAME", parameterization="standard")
        return made, layers.BatchNorm()

    def block(channels, stride, widens):
        body = layers.Sequential(*conv(channels, 3, stride), layers.ReLU(), *conv(channels, 3))
        return layers.Residual(body, layers.Sequential(*conv(channels, 1, stride)) if widens else None), layers.ReLU()

    stages = [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
    blocks = [layer for channels, stride in stages for layer in block(channels, stride, stride == 2)]
    stem = (*conv(64, 7, 2), layers.ReLU(), layers.MaxPool2d(3, stride=2, padding="SAME"))
    head = layers.Dense(OUTPUTS, bias=True, parameterization="standard")
    net = layers.Sequential(*stem, *blocks, layers.GlobalAvgPool(), head)
    x = np.random.default_rng(1).standard_normal((case.n, 64, 64, 3)).astype(np.float32)
    params = net.init(x.shape[1:], seed=0)
    return lambda: empirical_ntk(net, params, x, output=case.output, method=method or "auto")


CALLS = {"ntkfast": ntkfast_call, "nt": nt_call, "torch": torch_call, "resnet18": resnet18_call}


# --- the process ---------------------------------------------------------------------------------


def _status_mb(field: str) -> float:
    """VmRSS or VmHWM of this process."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) / 1024


def _forget_peak() -> None:
    """Make the peak start again from the present."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def work(contender: str, case: Case) -> None:
    """Answer the commands on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    kind, _, method = contender.partition("-")
    import_s, call = _timed(lambda: CALLS[kind](case, method))
    facts, fastest, base = {"import_s": import_s}, 0.0, _status_mb("VmRSS")
    for line in sys.stdin:
        command, *file = line.split()
        if command == "first":
            _forget_peak()
            fastest, result = _timed(call)
            facts |= {"first_s": fastest, "peak_mb": _status_mb("VmHWM") - base}
            np.save(file[0], np.asarray(result))
            del result
            base = _status_mb("VmRSS")
            _forget_peak()
            answer: object = fastest
        elif command == "call":
            # Several times, so that neither an interruption counts nor the waking of threads and clocks.
            repeat = max(3, min(100, int(0.5 / fastest)))
            times = [_timed(call)[0] for _ in range(repeat)]
            answer, fastest = statistics.median(times), min(fastest, *times)
        else:
            answer = facts | {"steady_mb": _status_mb("VmHWM") - base}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    work(sys.argv[1], Case(*json.loads(sys.argv[2])))
