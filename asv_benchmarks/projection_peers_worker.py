"""TRAK's projector for `projection_peers.py`, in whatever interpreter has it; nothing of ntkfast is imported.

    python projection_peers_worker.py CONTENDER

Commands come on stdin, one per line, and are answered with a line of JSON each: "first FILE" makes the first call and
saves its result, "call" a later one; the answer is {"seconds", "peak_mb"}, or {"error"} where something is missing.

What both sides project is made here: the array of gradients, and the network with its samples.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

N, P, M = 128, 1_000_000, 512  # the array and its sketches
WIDTHS, BATCH, LOSS_M = (784, 1024, 1024, 1024, 10), 256, 4096  # the network, its samples and their sketches
TILE = 32  # samples whose gradients are formed at once


def gradients() -> np.ndarray:
    """An array of normal numbers (N, P)."""
    return np.random.default_rng(0).standard_normal((N, P), dtype=np.float32)


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (i, o) and biases of the dense layers."""
    rng = np.random.default_rng(0)
    return [
        ((rng.standard_normal((i, o)) * np.sqrt(2 / i)).astype(np.float32), np.zeros(o, np.float32))
        for i, o in pairwise(WIDTHS)
    ]


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((BATCH, WIDTHS[0])).astype(np.float32), rng.integers(WIDTHS[-1], size=BATCH)


class Contender(NamedTuple):
    """A call, and the peak of the memory before anything but its inputs was there."""

    call: Callable[[], np.ndarray]
    base_mb: float


def peak_mb() -> float:
    """Most resident memory until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def trak_projector(p: int, m: int, kind: str):
    """TRAK's projector on the CPU: tensors (n, p) to arrays (n, m)."""
    import torch
    from trak.projectors import BasicProjector, ProjectionType

    projector = BasicProjector(p, m, seed=0, proj_type=ProjectionType(kind), device=torch.device("cpu"))
    return lambda x: projector.project(x, model_id=0).numpy() / np.sqrt(np.float32(m))


def array_call(kind: str) -> Contender:
    """TRAK, on the array."""
    import torch

    x, base_mb = torch.from_numpy(gradients()), peak_mb()
    project = trak_projector(P, M, kind)
    return Contender(lambda: project(x), base_mb)


def torch_gradients():
    """A function from rows to the samples' gradients of the cross entropy, flat, by vmap(grad)."""
    import torch
    from torch.func import grad, vmap

    def loss(params, x, label):
        *hidden, (head, head_bias) = params
        for weight, bias in hidden:
            x = torch.relu(x @ weight + bias)
        return torch.nn.functional.cross_entropy((x @ head + head_bias)[None], label[None])

    params = [tuple(map(torch.from_numpy, pair)) for pair in weights()]
    x, labels = map(torch.from_numpy, samples())
    of_rows = vmap(grad(loss), (None, 0, 0))

    def formed(rows: slice):
        found = of_rows(params, x[rows], labels[rows])
        return torch.cat([leaf.flatten(1) for pair in found for leaf in pair], dim=1)

    return formed


def tiles() -> list[slice]:
    """Rows of the samples."""
    return [slice(start, start + TILE) for start in range(0, BATCH, TILE)]


def formed_call() -> Contender:
    """PyTorch's gradients alone, tile by tile, kept by nobody; the norms are returned."""
    formed = torch_gradients()
    return Contender(lambda: np.concatenate([formed(rows).norm(dim=1).numpy() for rows in tiles()]), peak_mb())


def loss_call(kind: str) -> Contender:
    """All gradients by PyTorch, and TRAK's projector: its matrix is drawn once for all samples."""
    import torch

    formed, base_mb = torch_gradients(), peak_mb()
    p = sum(weight.size + bias.size for weight, bias in weights())
    project = trak_projector(p, LOSS_M, kind)

    def call():
        whole = torch.empty(BATCH, p)
        for rows in tiles():
            whole[rows] = formed(rows)
        return project(whole)

    return Contender(call, base_mb)


CALLS = {
    "trak-normal": lambda: array_call("normal"),
    "trak-rademacher": lambda: array_call("rademacher"),
    "torch-gradients": formed_call,
    "torch-gradients+trak-normal": lambda: loss_call("normal"),
}


def work(contender: str) -> None:
    """Answer the commands on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    try:
        made, answer = CALLS[contender](), {}
    except ImportError as error:
        made, answer = None, {"error": str(error)}
    for line in sys.stdin:
        if made:
            start = time.perf_counter()
            result = made.call()
            answer = {"seconds": time.perf_counter() - start, "peak_mb": peak_mb() - made.base_mb}
            if line.startswith("first"):
                np.save(line.split()[1], result)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    work(sys.argv[1])
