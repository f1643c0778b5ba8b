"""neural-tangents for `cntk_peers.py`, in whatever interpreter has it; nothing of ntkfast is imported.

    python cntk_peers_worker.py HEAD N

Commands come on stdin, one per line, and are answered with a line of JSON each: "first FILE" makes the first call,
which compiles, and saves the kernel; "call" makes a later one. The answer is {"seconds", "peak_mb"}.
"""

import json
import os
import resource
import sys
import time

import numpy as np
from benchmarks.common import images


def kernel(head: str, n: int):
    """The kernel function, compiled as a whole, on n images: a function without arguments."""
    import jax
    from neural_tangents import stax

    options = {"W_std": 2**0.5, "b_std": None}
    body = [layer for _ in range(3) for layer in (stax.Conv(1, (3, 3), padding="SAME", **options), stax.Relu())]
    end = {"gap": stax.GlobalAvgPool, "flatten": stax.Flatten}[head]
    of_images = stax.serial(*body, end(), stax.Dense(1, **options))[2]
    compiled, x = jax.jit(lambda x: of_images(x, None, "ntk")), jax.numpy.asarray(images(n))
    return lambda: np.asarray(compiled(x))


def work(head: str, n: int) -> None:
    """Answer the commands on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    call = kernel(head, n)
    for line in sys.stdin:
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        if line.startswith("first"):
            np.save(line.split()[1], result)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answers.write(json.dumps({"seconds": seconds, "peak_mb": peak_mb}) + "\n")
        answers.flush()


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
