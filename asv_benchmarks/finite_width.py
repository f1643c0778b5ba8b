"""Finite-width NTK next to neural-tangents, next to PyTorch, and next to its floor, in one run.

    python finite_width.py --nt-python /path/to/venv/bin/python [--torch-python PYTHON] [--out FILE.json]
    python finite_width.py --resnet18

neural-tangents 0.6.5 needs an interpreter of its own (``pip install neural-tangents==0.6.5 jax==0.4.25
jaxlib==0.4.25 "numpy<2" "scipy<1.14" tf2jax==0.3.6``). Every case of every contender has its own process; their calls
are made in turn, so that all see the same machine, and every figure is a median over the rounds. The floor is the least
number of operations (`benchmarks/floors.py`) over the rate of a matrix product, measured in every round. float32,
symmetric calls.

first_s        first call, compilation included; for ntkfast with Numba's cache empty (cold) and filled (warm)
peak_mb        peak memory above the process with its modules and data loaded, first call included
steady_mb      the same of later calls, above what the first has left
rel_error      relative difference from ntkfast's result, Frobenius
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

import numpy as np
from benchmarks.floors import OUTPUTS, cnn_operations, mlp_operations, product_rate
from finite_width_worker import Case, network

# Threads that spin while they wait would take the cores from whoever's turn it is.
QUIET = {"OMP_WAIT_POLICY": "passive", "TF_CPP_MIN_LOG_LEVEL": "3"}

# Seconds until the threads of the one before have gone to sleep: those of BLAS spin for a tenth of a second or two.
PAUSE = 0.4

JACOBIAN_LIMIT = 2**30  # bytes: contenders that hold whole Jacobians are left out above

SIZES = {("mlp", 256): (64, 256), ("mlp", 1024): (64, 256), ("mlp", 4096): (64,), ("cnn", 0): (32, 64)}
CASES = [Case(*net, n, output) for net, sizes in SIZES.items() for n in sizes for output in ("full", "trace")]


def operations(case: Case) -> int:
    """Least number of operations."""
    if case.net == "cnn":
        return cnn_operations(case.n, case.output)
    return mlp_operations(case.width, case.n, case.output)


def contenders(case: Case) -> list[str]:
    """Who can run a case: on an MLP, of neural-tangents only structured derivatives avoid whole Jacobians."""
    parameters = sum(weight.size for _, weight, _ in network(case))
    fits = 4 * case.n * OUTPUTS * parameters <= JACOBIAN_LIMIT
    whole = ["nt-jacobian_contraction", "torch"] if case.net == "cnn" else ["torch"]
    return ["ntkfast", "nt-structured_derivatives", *(whole if fits else [])]


class Worker:
    """The other process."""

    def __init__(self, python: str, contender: str, case: Case, **environment: str) -> None:
        here, environment = pathlib.Path(__file__).parent, {**QUIET, **os.environ, **environment}
        command = [python, here / "finite_width_worker.py", contender, json.dumps(case)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here, env=environment
        )

    def ask(self, command: str):
        """One command's answer; None once the process has ended."""
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def first_calls(contender: str, case: Case, folder: str) -> dict:
    """Seconds of ntkfast's first call in a new process, Numba's cache empty and then filled."""
    facts = {}
    for name in ("cold", "warm"):
        worker = Worker(sys.executable, contender, case, NUMBA_CACHE_DIR=f"{folder}/numba")
        worker.ask(f"first {folder}/first.npy")
        facts[name] = worker.ask("memory")
        worker.close()
    return {f"{key}_{name}": facts[name][key] for key in ("first_s", "import_s") for name in facts if facts[name]}


# --- the rounds ----------------------------------------------------------------------------------


def measure(case: Case, pythons: dict[str, str], args: argparse.Namespace) -> dict:
    """All contenders of a case in turn, after one round that is not counted."""
    record: dict = {"case": case.name, "gigaoperations": operations(case) / 1e9}
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: pythons[name.partition("-")[0]] for name in contenders(case) if name.partition("-")[0] in pythons
        }
        workers = {name: Worker(python, name, case) for name, python in found.items()}
        alive = [name for name in found if workers[name].ask(f"first {folder}/{name}.npy") is not None]
        rounds = _rounds(alive, workers, args)
        facts = {name: _summary(name, case, rounds) | workers[name].ask("memory") for name in alive}
        for worker in workers.values():
            worker.close()
        if "ntkfast" in alive:
            for name in alive:
                facts[name]["rel_error"] = _difference(f"{folder}/{name}.npy", f"{folder}/ntkfast.npy")
            facts["ntkfast"] |= {} if args.no_first else first_calls("ntkfast", case, folder)
    record["gflops"] = statistics.median(r["rate"] for r in rounds) / 1e9
    return record | {"failed": sorted(set(found) - set(alive)), "contenders": facts} | _versus(facts)


def _difference(file: str, reference: str) -> float:
    expected = np.load(reference).astype(np.float64)
    return float(np.linalg.norm(np.load(file) - expected) / np.linalg.norm(expected))


def _rounds(names: list[str], workers: dict[str, Worker], args: argparse.Namespace) -> list[dict]:
    """Seconds of everyone's call, and the rate of a matrix product, per round; at least two rounds count."""
    rounds: list[dict] = []
    start = time.perf_counter()
    while len(rounds) <= args.repeat and (len(rounds) < 3 or time.perf_counter() - start < args.budget):
        time.sleep(PAUSE)
        found = {"rate": product_rate()}
        for name in names if len(rounds) % 2 else reversed(names):
            time.sleep(PAUSE)
            found[name] = workers[name].ask("call")
        rounds.append(found)
    return rounds[1:]


def _summary(name: str, case: Case, rounds: list[dict]) -> dict:
    times = [r[name] for r in rounds]
    ratio = statistics.median(r[name] * r["rate"] / operations(case) for r in rounds)
    ours = statistics.median(r[name] / r["ntkfast"] for r in rounds) if "ntkfast" in rounds[0] else None
    return {"median_s": statistics.median(times), "min_s": min(times), "ratio_to_floor": ratio, "times_ntkfast": ours}


def _versus(found: dict[str, dict]) -> dict:
    """Against the best of the peers: how many times faster, and the share of their memory."""
    peers = [facts for name, facts in found.items() if name != "ntkfast"]
    if not peers or "ntkfast" not in found:
        return {}
    best = min(peers, key=lambda facts: facts["times_ntkfast"])
    ours = found["ntkfast"]
    return {"times_faster": best["times_ntkfast"]} | {
        f"share_of_{key}": ours[key] / best[key] if best[key] > 0 else None for key in ("peak_mb", "steady_mb")
    }


def show(record: dict) -> None:
    """One line per contender."""
    print(f"{record['case']}: {record['gigaoperations']:.2f} GFLOP at {record['gflops']:.0f} GFLOP/s", flush=True)
    for name, facts in record["contenders"].items():
        first = "/".join(f"{facts[key]:.2f}" for key in ("first_s_cold", "first_s_warm") if key in facts)
        against = f"{facts['times_ntkfast']:6.2f} x ntkfast  " if facts["times_ntkfast"] else ""
        print(
            f"  {name:28s} {1e3 * facts['median_s']:9.2f} ms  {facts['ratio_to_floor']:6.2f} x floor  {against}"
            f"first {first or format(facts['first_s'], '.2f')} s  peak {facts['peak_mb']:.0f} MB  "
            f"steady {facts['steady_mb']:.0f} MB  error {facts.get('rel_error', 0):.1e}"
        )
    if record["failed"]:
        print(f"  failed: {', '.join(record['failed'])}")
    if "times_faster" in record:
        print(f"  {record['times_faster']:.2f} times faster than the best peer", flush=True)


def resnet18() -> dict:
    """Time and peak memory of the trace NTK of 64 images; one call, after one of two images that compiles."""
    with tempfile.TemporaryDirectory() as folder:
        for n in (2, 64):
            worker = Worker(sys.executable, "resnet18", Case("resnet18", 0, n, "trace"))
            worker.ask(f"first {folder}/result.npy")
            facts = worker.ask("memory")
            worker.close()
    return {"case": "resnet18/n64/trace", **(facts or {"failed": True})}


def main() -> None:
    """Parse the options and run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nt-python", help="interpreter that has neural-tangents")
    parser.add_argument("--torch-python", nargs="?", const=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--cases", default="", help="regular expression on names such as mlp-256/n64/trace")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for a case's rounds (2 are made anyway)")
    parser.add_argument("--no-first", action="store_true", help="skip the first calls with an empty cache")
    parser.add_argument("--resnet18", action="store_true", help="only the trace NTK of 64 images, 11 million weights")
    parser.add_argument("--out", type=pathlib.Path, help="also write the results to this JSON file")
    args = parser.parse_args()
    pythons = {"ntkfast": sys.executable, "nt": args.nt_python, "torch": args.torch_python}
    pythons = {name: python for name, python in pythons.items() if python}
    results = [resnet18()] if args.resnet18 else []
    for result in results:
        print(json.dumps(result))
    for case in [] if args.resnet18 else [case for case in CASES if re.search(args.cases, case.name)]:
        results.append(measure(case, pythons, args))
        show(results[-1])
    if args.out:
        args.out.write_text(json.dumps({"numpy": np.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
