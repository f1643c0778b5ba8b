"""Projection of gradients next to TRAK's projector, SciPy and scikit-learn, and next to its floors, in one run.

    python projection_peers.py --trak-python /path/to/venv/bin/python [--out FILE.json]

TRAK is the package traker (``pip install traker==0.3.2 torch``); its CPU projector is measured, in a process of its
own. Without the option this interpreter is tried. Contenders are called in turn, so that all see the same machine;
figures are medians over the rounds. Who takes longer than --once in the first call is not called again.

array   float32 gradients, 128 x 1e6 to 512. Floors: a copy of the array, and a matrix-vector product, which reads it.
loss    MLP 784-1024-1024-1024-10: gradients of the cross entropy of 256 samples to 4096. Floor: the backward pass with
        one cotangent per sample; "us" is the time beyond it, in microseconds per sample. "gradients" forms all rows and
        keeps none.

peak MB      memory beyond inputs and imports, matrices that are kept included: of arrays here; of TRAK's process, its
             resident memory
gram error   relative error of the Gram matrix, Frobenius
"""

import argparse
import contextlib
import functools
import json
import operator
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import projection_peers_worker as shared

from ntkfast.autodiff import get_autodiff
from ntkfast.layers import Dense, ReLU, Sequential
from ntkfast.projection import (
    KroneckerProjection,
    MaskedProjection,
    TensorProjection,
    cross_entropy,
    project,
    project_jacobian,
)
from ntkfast.sketch import SparseJL

# Seconds until the threads of the one before have gone to sleep.
PAUSE = 0.4

# Rows whose Gram matrix is compared.
ROWS = 64


class Here:
    """A contender in this process."""

    def __init__(self, call: Callable[[], np.ndarray | None], kept_bytes: int = 0) -> None:
        self.call, self.kept_bytes = call, kept_bytes

    def first(self, file: str) -> dict:
        """Compile, save the result, and find the time and the peak of the memory that another call takes."""
        result = self.call()
        if result is not None:
            np.save(file, result)
        del result
        tracemalloc.start()
        seconds = self.seconds()
        peak_mb = (tracemalloc.get_traced_memory()[1] + self.kept_bytes) / 1e6
        tracemalloc.stop()
        return {"seconds": seconds, "peak_mb": peak_mb}

    def seconds(self) -> float:
        """Seconds of a later call."""
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start

    def close(self) -> None:
        """Nothing to end."""


class Elsewhere:
    """A contender in a process of its own."""

    def __init__(self, python: str, contender: str) -> None:
        here = pathlib.Path(__file__).parent
        command = [python, here / "projection_peers_worker.py", contender]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here)

    def _ask(self, command: str) -> dict:
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "its process has ended"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "its process has ended"}

    def first(self, file: str) -> dict:
        """Save the result."""
        return self._ask(f"first {file}")

    def seconds(self) -> float:
        """Seconds of a later call."""
        return self._ask("call")["seconds"]

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


# --- the two cases ------------------------------------------------------------------------------


def array_case(python: str) -> tuple[dict, np.ndarray]:
    """Contenders, and the Gram matrix of some rows."""
    x = shared.gradients()
    ones, memory = np.ones(shared.P, np.float32), np.zeros_like(x)  # a new copy would be mostly page faults
    copy, read = (lambda: np.copyto(memory, x)), (lambda: _nothing(x @ ones))
    contenders: dict = {"copy": Here(copy), "read": Here(read)}
    for nnz in (1, 4):
        sketch = SparseJL(shared.P, shared.M, nnz=nnz, seed=0)
        contenders[f"ntkfast nnz={nnz}"] = Here(functools.partial(project, x, sketch))
        matrix = sparse_matrix(nnz)
        contenders[f"scipy nnz={nnz}"] = Here(functools.partial(operator.matmul, x, matrix), matrix_bytes(matrix))
    projection = sklearn_projection(x)
    contenders["sklearn"] = Here(functools.partial(projection.transform, x), matrix_bytes(projection.components_))
    contenders |= {name: Elsewhere(python, name) for name in ("trak-normal", "trak-rademacher")}
    return contenders, _gram(x[:ROWS])


def _nothing(result: np.ndarray) -> None:
    """A floor's result is no sketch."""


def sparse_matrix(nnz: int):
    """A sparse random projection as a SciPy matrix (p, m)."""
    import scipy.sparse

    rng, entries = np.random.default_rng(0), shared.P * nnz
    signs = rng.choice(np.array([-1, 1], np.float32), entries) / np.float32(np.sqrt(nnz))
    columns, starts = rng.integers(shared.M, size=entries, dtype=np.int32), np.arange(0, entries + 1, nnz)
    return scipy.sparse.csr_matrix((signs, columns, starts), shape=(shared.P, shared.M))


def sklearn_projection(x: np.ndarray):
    """scikit-learn's projection with the density that it chooses."""
    from sklearn.random_projection import SparseRandomProjection

    return SparseRandomProjection(shared.M, random_state=0, dense_output=True).fit(x[:2])


def matrix_bytes(matrix) -> int:
    """Bytes of a sparse matrix."""
    return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


def loss_case(python: str) -> tuple[dict, np.ndarray]:
    """Contenders, and the Gram matrix of some samples' gradients."""
    problem, loss = _network(), cross_entropy(shared.samples()[1])
    p, m = sum(weight.size + bias.size for weight, bias in shared.weights()), shared.LOSS_M
    kinds = {"tensor": TensorProjection, "kronecker": KroneckerProjection, "masked": MaskedProjection}
    contenders: dict = {"backward": Here(functools.partial(_backward, problem, loss))}
    for name, kind in kinds.items():
        sketch = kind(m, seed=0)
        contenders[f"ntkfast {name}"] = Here(functools.partial(project_jacobian, *problem, sketch, cotangents=loss))
    contenders["ntkfast gradients"] = Here(functools.partial(_formed, problem, loss, None))
    for nnz in (1, 4):
        columns = SparseJL(p, m, nnz=nnz, seed=0)
        contenders[f"ntkfast gradients+nnz={nnz}"] = Here(functools.partial(_formed, problem, loss, columns))
    contenders |= {name: Elsewhere(python, name) for name in ("torch-gradients", "torch-gradients+trak-normal")}
    return contenders, _loss_gram(problem, loss)


def _network() -> tuple:
    """The network, its parameters and inputs."""
    standard = {"parameterization": "standard", "bias": True}
    layers, params = [], []
    for weight, bias in shared.weights():
        layers += [Dense(bias.size, **standard), ReLU()]
        params += [{"weight": weight, "bias": bias}, {}]
    return Sequential(*layers[:-1]), tuple(params[:-1]), shared.samples()[0]


def _backward(problem: tuple, loss: Callable) -> None:
    for _ in get_autodiff("layers").factors(*problem, cotangents=loss):
        pass


def _formed(problem: tuple, loss, sketch: SparseJL | None) -> np.ndarray | None:
    """Gradients of a tile of samples at a time, formed by array, and their sketches as columns."""
    net, params, x = problem
    engine, found = get_autodiff("layers"), []
    for rows in shared.tiles():
        layers = list(engine.factors(net, params, x[rows], cotangents=loss.rows(rows)))
        formed = {f"{path}.{name}": part.jacobian() for path, layer in layers[::-1] for name, part in layer.items()}
        if sketch is not None:
            found.append(project(formed, sketch, sample_axes=2)[:, 0])
    return np.concatenate(found) if found else None


def _loss_gram(problem: tuple, loss) -> np.ndarray:
    """Sum over layers of (act act^T) * (delta delta^T), plus delta delta^T of the biases."""
    net, params, x = problem
    total = np.zeros((ROWS, ROWS))
    for _, layer in get_autodiff("layers").factors(net, params, x[:ROWS], cotangents=loss.rows(slice(ROWS))):
        part = layer["weight"]
        total += _gram(part.delta[:, 0, 0]) * (1 + _gram(part.act[0:ROWS][:, 0]))
    return total


def _gram(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ x.T.astype(np.float64)


# --- the rounds ---------------------------------------------------------------------------------


def measure(contenders: dict, gram: np.ndarray, args: argparse.Namespace) -> dict:
    """Facts by contender: median seconds, memory, error."""
    with tempfile.TemporaryDirectory() as folder:
        facts = {name: one.first(f"{folder}/{i}.npy") for i, (name, one) in enumerate(contenders.items())}
        for i, name in enumerate(contenders):
            with contextlib.suppress(FileNotFoundError):
                facts[name]["gram_error"] = _error(np.load(f"{folder}/{i}.npy"), gram)
    alive = [name for name in contenders if "error" not in facts[name]]
    again = [name for name in alive if facts[name]["seconds"] < args.once]
    rounds = []
    for number in range(args.repeat):
        rounds.append({})
        for name in again if number % 2 else reversed(again):
            time.sleep(PAUSE)
            rounds[-1][name] = contenders[name].seconds()
    for name in alive:
        times = [r.get(name, facts[name]["seconds"]) for r in rounds]
        facts[name] |= {"seconds": statistics.median(times), "called_once": name not in again}
    for one in contenders.values():
        one.close()
    return {"rounds": rounds, "contenders": facts}


def _error(sketch: np.ndarray, gram: np.ndarray) -> float | None:
    if sketch.ndim == 1:  # norms of gradients, not a sketch
        return None
    return float(np.linalg.norm(_gram(sketch[:ROWS]) - gram) / np.linalg.norm(gram))


def ratios(record: dict, floor: str, ours: str, beyond_per: int | None) -> None:
    """Add, by contender and as medians over the rounds: times the floor, times ours, microseconds beyond the floor."""
    facts = record["contenders"]
    for name in (name for name in facts if "error" not in facts[name]):
        seconds = [r.get(name, facts[name]["seconds"]) for r in record["rounds"]]
        for key, other in (("times_floor", floor), ("times_ours", ours)):
            facts[name][key] = statistics.median(
                s / r.get(other, facts[other]["seconds"]) for s, r in zip(seconds, record["rounds"], strict=True)
            )
        if beyond_per is not None:
            beyond = [s - r.get(floor, facts[floor]["seconds"]) for s, r in zip(seconds, record["rounds"], strict=True)]
            facts[name]["microseconds"] = statistics.median(beyond) / beyond_per * 1e6


def show(title: str, record: dict, floor: str, ours: str) -> None:
    """One line per contender."""
    columns = f"{'ms':>10s}{'x ' + floor:>12s}{'x ' + ours:>18s}{'us':>10s}{'peak MB':>10s}{'gram error':>12s}"
    print(f"{title:32s}{columns}")
    for name, facts in record["contenders"].items():
        if "error" in facts:
            print(f"  {name:30s}not measured: {facts['error']}")
            continue
        beyond = f"{facts['microseconds']:10.0f}" if "microseconds" in facts else 10 * " "
        error = "" if facts.get("gram_error") is None else f"{facts['gram_error']:.3f}"
        print(
            f"  {name:30s}{1e3 * facts['seconds']:10.1f}{facts['times_floor']:12.2f}{facts['times_ours']:18.2f}{beyond}"
            f"{facts['peak_mb']:10.0f}{error:>12s}{'  (one call)' if facts['called_once'] else ''}",
            flush=True,
        )


# title, contenders, floor, ours, samples per which the time beyond the floor is given
CASES = {
    "array": (array_case, "copy", "ntkfast nnz=1", None),
    "loss": (loss_case, "backward", "ntkfast tensor", shared.BATCH),
}


def main() -> None:
    """Parse the options and run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trak-python", default=sys.executable, help="interpreter that has traker and PyTorch")
    parser.add_argument("--case", choices=[*CASES], help="only this one")
    parser.add_argument("--repeat", type=int, default=7, help="rounds")
    parser.add_argument(
        "--once", type=float, default=20.0, help="seconds of a first call above which there is no other"
    )
    parser.add_argument("--out", type=pathlib.Path, help="also write the results to this JSON file")
    args = parser.parse_args()
    results = {}
    for name in [args.case] if args.case else CASES:
        contenders_of, floor, ours, beyond_per = CASES[name]
        results[name] = measure(*contenders_of(args.trak_python), args)
        ratios(results[name], floor, ours, beyond_per)
        show(name, results[name], floor, ours)
    if args.out:
        args.out.write_text(json.dumps({"numpy": np.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
