"""Exact convolutional NTK next to neural-tangents, and next to the arithmetic of its pixel pairs, in one run.

    python cntk_peers.py --nt-python /path/to/venv/bin/python [--out FILE.json]

The peer runs in its own interpreter (neural-tangents 0.6.5 needs jax 0.4.25 and numpy < 2:
``pip install neural-tangents==0.6.5 jax==0.4.25 jaxlib==0.4.25 "numpy<2" "scipy<1.14" tf2jax==0.3.6``). Networks are
three 3x3 convolutions with ReLU, global average pooling or none, a dense layer; 32x32x3 images; float32. The contenders
are called in turn on the same images, after a first call each that compiles; figures are medians over the rounds.

ms        per entry of the n x n matrix, which is symmetric: who computes one half pays half
x floor   beside the time of the bare arithmetic (benchmarks/convolutional_floor.py) of the n (n + 1) / 2 pairs
faster    the peer's time over ours
deviation largest of any entry, relative to that entry: of the peer from ntkfast, and of both from ntkfast in float64
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numba
import numpy as np
from benchmarks.common import images
from benchmarks.convolutional_floor import floor_ns

from ntkfast.convolutional import cntk, estimate_cost, flatten_network, gap_network

# Seconds until the threads of the one before have gone to sleep.
PAUSE = 0.4

# TensorFlow, which the peer imports, reports on the console.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}

NETWORKS = {"gap": gap_network(), "flatten": flatten_network()}
CASES = [("gap", 2), ("gap", 4), ("gap", 8), ("flatten", 32), ("flatten", 128)]


class Here:
    """This package, in this process."""

    def __init__(self, head: str, n: int) -> None:
        self.network, self.x = NETWORKS[head], images(n)

    def first(self, file: str) -> dict:
        """Seconds of the first call; the kernel goes to a file."""
        start = time.perf_counter()
        np.save(file, cntk(self.network, self.x))
        return {"seconds": time.perf_counter() - start}

    def seconds(self) -> float:
        """Seconds of a later call."""
        start = time.perf_counter()
        cntk(self.network, self.x)
        return time.perf_counter() - start

    def close(self) -> None:
        """Nothing to end."""


class Elsewhere:
    """The peer, in a process of its own."""

    def __init__(self, python: str, head: str, n: int) -> None:
        here = pathlib.Path(__file__).parent
        command = [python, here / "cntk_peers_worker.py", head, str(n)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, cwd=here, env=os.environ | QUIET)

    def _ask(self, command: str) -> dict:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else sys.exit("the peer's interpreter stopped; see its message above")

    def first(self, file: str) -> dict:
        """Seconds of the first call; the kernel goes to a file."""
        return self._ask(f"first {file}")

    def seconds(self) -> float:
        """Seconds of a later call."""
        return self._ask("call")["seconds"]

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def measure(head: str, n: int, args: argparse.Namespace) -> dict:
    """All facts of a case."""
    contenders: dict = {"ntkfast": Here(head, n)}
    if args.nt_python:
        contenders["neural-tangents"] = Elsewhere(args.nt_python, head, n)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}.npy" for name in contenders}
        first = {name: one.first(files[name]) for name, one in contenders.items()}
        kernels = {name: np.load(file).astype(np.float64) for name, file in files.items()}
    found = [turn(contenders) for _ in range(args.repeat)]
    for one in contenders.values():
        one.close()
    return {
        "case": head,
        "n": n,
        "threads": numba.get_num_threads(),
        "first_s": {name: answer["seconds"] for name, answer in first.items()},
        **speeds(head, n, found),
        **deviations(head, n, kernels),
        "rounds": found,
    }


def turn(contenders: dict) -> dict:
    """Seconds of everyone's call, and the rate of the arithmetic, one after the other."""
    found = {"floor_ns": floor_ns()}
    for name, one in contenders.items():
        time.sleep(PAUSE)
        found[name] = one.seconds()
    return found


def speeds(head: str, n: int, rounds: list[dict]) -> dict:
    """Medians over the rounds."""
    pixel_pairs = estimate_cost(NETWORKS[head], images(2)).pixel_pairs * n * (n + 1) // 2
    names = [name for name in rounds[0] if name != "floor_ns"]
    facts = {
        "ms_per_entry": {name: 1e3 / n**2 * statistics.median(r[name] for r in rounds) for name in names},
        "ns_per_pixel_pair_and_layer": 1e9 / pixel_pairs * statistics.median(r["ntkfast"] for r in rounds),
        "floor_ns": statistics.median(r["floor_ns"] for r in rounds),
        "times_floor": statistics.median(1e9 * r["ntkfast"] / (pixel_pairs * r["floor_ns"]) for r in rounds),
    }
    if len(names) > 1:
        facts["times_faster"] = statistics.median(r[names[1]] / r["ntkfast"] for r in rounds)
    return facts


def deviations(head: str, n: int, kernels: dict[str, np.ndarray]) -> dict:
    """Largest relative deviations of entries."""
    exact = cntk(NETWORKS[head], images(n, dtype="float64"))
    facts = {"from_float64": {name: _deviation(k, exact) for name, k in kernels.items()}}
    if len(kernels) > 1:
        facts["deviation"] = _deviation(kernels["neural-tangents"], kernels["ntkfast"])
    return facts


def _deviation(k: np.ndarray, reference: np.ndarray) -> float:
    return float((abs(k - reference) / abs(reference)).max())


def show(facts: dict) -> None:
    """A line per case."""
    ms, exact = facts["ms_per_entry"], facts["from_float64"]
    print(
        f"{facts['case']:8s} n={facts['n']:<4d} ntkfast {ms['ntkfast']:8.4f} ms per entry, "
        f"{facts['ns_per_pixel_pair_and_layer']:6.3f} ns per pixel pair and layer ({facts['times_floor']:.2f} x floor)",
        flush=True,
    )
    print(f"{'':16s}from float64 {exact['ntkfast']:.1e}; first call {facts['first_s']['ntkfast']:.2f} s", flush=True)
    if "times_faster" in facts:
        print(
            f"{'':16s}neural-tangents {ms['neural-tangents']:.4f} ms per entry: ntkfast is {facts['times_faster']:.1f} "
            f"times faster\n{'':16s}its deviation {facts['deviation']:.1e}, from float64 "
            f"{exact['neural-tangents']:.1e}; first call {facts['first_s']['neural-tangents']:.2f} s",
            flush=True,
        )


def main() -> None:
    """Parse the options and run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nt-python", help="interpreter that has neural-tangents")
    parser.add_argument("--cases", default="", help="regular expression on names such as gap/8")
    parser.add_argument("--repeat", type=int, default=7, help="rounds")
    parser.add_argument("--out", type=pathlib.Path, help="also write the results to this JSON file")
    args = parser.parse_args()
    results = []
    for head, n in CASES:
        if re.search(args.cases, f"{head}/{n}"):
            results.append(measure(head, n, args))
            show(results[-1])
    if args.out:
        args.out.write_text(json.dumps({"numpy": np.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
