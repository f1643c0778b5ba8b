"""NTK regression on a whole data set: exact by preconditioned conjugate gradients, and by one-pass features.

    python full_data_set.py --data fashion_mnist.npz [--method exact|features] [--rows N] [--out FILE.json]

FILE holds x_train, y_train, x_test, y_test: images or rows, and integer classes. Rows get norm sqrt(d), targets
are one-hot minus the mean. Prints seconds per stage, accuracy and the peak resident memory of the process. The exact
method keeps half of the float32 kernel matrix: 7.2 GB at 60,000 rows.
"""

import argparse
import functools
import json
import pathlib
import resource
import time

import numpy as np

from ntkfast.analytic import ntk
from ntkfast.features import OnePassFeatures
from ntkfast.regression import KernelOperator, NormalEquations, conjugate_gradient, random_preconditioner

BLOCK = 4096


def load(path: pathlib.Path, n: int | None) -> tuple[np.ndarray, ...]:
    """Float32 rows of norm sqrt(d), centered one-hot targets, and the classes of the test rows."""
    with np.load(path) as arrays:
        x_train, x_test = (
            arrays[k][:n].astype(np.float32).reshape(len(arrays[k][:n]), -1) for k in ("x_train", "x_test")
        )
        y_train, y_test = arrays["y_train"][:n], arrays["y_test"][:n]
    for x in (x_train, x_test):
        x *= np.float32(np.sqrt(x.shape[1])) / np.linalg.norm(x, axis=1, keepdims=True)
    n_classes = int(y_train.max()) + 1
    return x_train, np.eye(n_classes, dtype=np.float32)[y_train] - np.float32(1 / n_classes), x_test, y_test


def exact(data: tuple[np.ndarray, ...], args: argparse.Namespace, stage) -> np.ndarray:
    """Predictions of the exact kernel."""
    x, y, x_test, _ = data
    operator = KernelOperator(functools.partial(ntk, depth=args.depth), x, max_memory=args.max_memory)
    preconditioner = stage(
        "preconditioner", lambda: random_preconditioner(operator, reg=args.reg, rank=min(2000, len(x) // 2), seed=0)
    )
    stage("kernel tiles and one product", lambda: operator @ y)
    solution = stage(
        "conjugate gradients",
        lambda: conjugate_gradient(operator, y, reg=args.reg, preconditioner=preconditioner, rtol=1e-4),
    )
    print(f"{solution.iterations} iterations, residual {max(solution.residuals):.1e}")
    return stage("prediction", lambda: operator.predict(x_test, solution.dual_coef))


def features(data: tuple[np.ndarray, ...], args: argparse.Namespace, stage) -> np.ndarray:
    """Predictions of ridge regression on one-pass features, gathered block by block."""
    x, y, x_test, _ = data
    phi = OnePassFeatures(x.shape[1], args.n_features, depth=args.depth, seed=0)
    equations = NormalEquations()

    def gather() -> None:
        for start in range(0, len(x), BLOCK):
            equations.update(phi(x[start : start + BLOCK]), y[start : start + BLOCK])

    stage("features and normal equations", gather)
    # What the features lack on the diagonal belongs to the ridge; rows have norm sqrt(d).
    fit = stage("solve", lambda: equations.solve(args.reg + phi.nugget * x.shape[1], overwrite=True))
    blocks = [x_test[start : start + BLOCK] for start in range(0, len(x_test), BLOCK)]
    return stage("prediction", lambda: np.concatenate([fit.predict(phi(block)) for block in blocks]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--method", choices=["exact", "features"], default="exact")
    parser.add_argument("--rows", type=int, help="only the first rows of each part")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--reg", type=float, default=0.1)
    parser.add_argument("--n-features", type=int, default=16_384)
    parser.add_argument("--max-memory", type=int, default=12 * 10**9, help="bytes for the kept half of the kernel")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    report: dict = {"method": args.method, "seconds": {}}

    def stage(name, work):
        start = time.perf_counter()
        result = work()
        report["seconds"][name] = round(time.perf_counter() - start, 2)
        print(f"{name:32s}{report['seconds'][name]:9.2f} s", flush=True)
        return result

    data = stage("load", lambda: load(args.data, args.rows))
    prediction = (exact if args.method == "exact" else features)(data, args, stage)
    report["accuracy"] = float((prediction.argmax(axis=1) == data[3]).mean())
    report["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"accuracy {report['accuracy']:.4f}, {sum(report['seconds'].values()):.0f} s, peak {report['peak_gb']:.2f} GB"
    )
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
