"""The one-pass map next to the published feature maps: seconds at equal Gram error.

    python compare_maps.py [--data FILE.npz] [--depth 3] [--rows 2000] [--out FILE.json]

Rows are unit vectors: images of `x_train` in FILE.npz, or scikit-learn's digits. For every published map and width the
median relative Frobenius error over the seeds is measured; then the narrowest one-pass map (on a grid of widths, ratio
sqrt 2) whose median error is not larger is timed against it, in turn, in the same run.
"""

import argparse
import json
import pathlib
import statistics

import numpy as np
from benchmarks.common import ratio, relative_error, seconds

from ntkfast.analytic import ntk
from ntkfast.features import NTKPolynomialSketch, NTKRandomFeatures, NTKSketch, OnePassFeatures

PUBLISHED = {
    "random features": NTKRandomFeatures,
    "random features, leverage": lambda d, m, **k: NTKRandomFeatures(d, m, sampling="leverage", **k),
    "polynomial sketch": NTKPolynomialSketch,
    "polynomial sketch, narrow nodes": lambda d, m, **k: NTKPolynomialSketch(d, m, sketch_dim=m // 2, **k),
    "recursive sketch": NTKSketch,
}
WIDTHS = (1024, 4096, 8192)
GRID = [int(64 * 2 ** (k / 2)) for k in range(17)]


def load(path: pathlib.Path | None, n: int) -> np.ndarray:
    """Unit rows, float32."""
    if path is None:
        from sklearn.datasets import load_digits

        x = load_digits().data
    else:
        with np.load(path) as arrays:
            x = arrays["x_train"]
    x = x[:n].reshape(min(n, len(x)), -1).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def median_error(make, x, kernel, m, depth, n_seeds):
    return statistics.median(
        relative_error(make(x.shape[1], m, depth=depth, seed=seed)(x), kernel) for seed in range(n_seeds)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()

    x = load(args.data, args.rows)
    kernel = ntk(x.astype(np.float64), depth=args.depth)
    own = {m: median_error(OnePassFeatures, x, kernel, m, args.depth, args.seeds) for m in GRID}
    print("one-pass:", {m: round(error, 4) for m, error in own.items()}, flush=True)
    results = []
    for name, make in PUBLISHED.items():
        for m in WIDTHS:
            error = median_error(make, x, kernel, m, args.depth, args.seeds)
            width = next((w for w in GRID if own[w] <= error), None)
            row = {"map": name, "n_features": m, "error": error, "one_pass_features": width}
            published = make(x.shape[1], m, depth=args.depth, seed=0)
            row["seconds"] = seconds(lambda phi=published: phi(x))
            if width is not None:
                one_pass = OnePassFeatures(x.shape[1], width, depth=args.depth, seed=0)
                row["times_faster"] = ratio(lambda phi=published: phi(x), lambda phi=one_pass: phi(x))
            results.append(row)
            print(json.dumps(row), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"one_pass_errors": own, "published": results}, indent=1))


if __name__ == "__main__":
    main()
