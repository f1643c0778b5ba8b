"""Exact NTK next to neural-tangents and next to the matrix product, in one run.

    python side_by_side.py --peer-python /path/to/venv/bin/python [--out FILE.json]

The peer runs in its own interpreter (neural-tangents 0.6.5 needs jax 0.4.25 and numpy < 2:
``pip install neural-tangents==0.6.5 jax==0.4.25 jaxlib==0.4.25 "numpy<2" "scipy<1.14" tf2jax==0.3.6``).
The two are called in turn, so that both see the same machine; every figure is the median of the repetitions.
Without ``--peer-python`` only the ratios to the matrix product are measured.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
from benchmarks.common import rows

import ntkfast

# The peer: reads "n d depth" lines, answers with the seconds of one call. The kernel is compiled by its first call.
PEER = """
import sys, time
import numpy as np, jax
from neural_tangents import stax
from benchmarks.common import rows
cache = {}
for line in sys.stdin:
    n, d, depth = key = tuple(map(int, line.split()))
    if key not in cache:
        dense = stax.Dense(1, W_std=2**0.5)
        kernel = stax.serial(*depth * [dense, stax.Relu()], dense)[2]
        cache.clear()
        cache[key] = (rows(n, d), jax.jit(lambda x: kernel(x, None, "ntk")))
    x, f = cache[key]
    start = time.perf_counter()
    np.asarray(f(x).block_until_ready())
    print(time.perf_counter() - start, flush=True)
"""

CASES = [(4000, 784, 1), (4000, 784, 3), (4000, 784, 10), (4000, 16, 3)]


class Peer:
    """The other interpreter, kept alive so that its compilation is never timed."""

    def __init__(self, python: str) -> None:
        here = pathlib.Path(__file__).parent
        self.process = subprocess.Popen(
            [python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here
        )

    def seconds(self, case: tuple[int, int, int]) -> float:
        self.process.stdin.write("{} {} {}\n".format(*case))
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("the peer's interpreter stopped; see its message above")
        return float(answer)


def _timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(case: tuple[int, int, int], peer: Peer | None, repeat: int) -> dict:
    """Medians over `repeat` rounds of (product, ntkfast, peer), after one round that is not counted."""
    n, d, depth = case
    x = rows(n, d)
    calls = {
        "product": lambda: _timed(lambda: x @ x.T),
        "ntkfast": lambda: _timed(lambda: ntkfast.ntk(x, depth=depth)),
    }
    if peer is not None:
        calls["peer"] = lambda: peer.seconds(case)
    rounds = [{name: call() for name, call in calls.items()} for _ in range(repeat + 1)][1:]
    median = {name: statistics.median(r[name] for r in rounds) for name in calls}
    result = {"n": n, "d": d, "depth": depth, "seconds": median, "ns_per_entry": median["ntkfast"] / n**2 * 1e9}
    result["ratio_to_product"] = statistics.median(r["ntkfast"] / r["product"] for r in rounds)
    if peer is not None:
        result["times_faster"] = statistics.median(r["peer"] / r["ntkfast"] for r in rounds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter that has neural-tangents")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--out", type=pathlib.Path, help="also write the results to this JSON file")
    args = parser.parse_args()
    peer = Peer(args.peer_python) if args.peer_python else None
    results = []
    for case in CASES:
        results.append(measure(case, peer, args.repeat))
        print(json.dumps(results[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"numpy": np.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
