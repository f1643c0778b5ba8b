"""NTK regression at a trained network: with the exact kernel, and with projected Jacobians in its place.

    python projected_regression.py                             # scikit-learn's digits, seconds
    python projected_regression.py --data fashion_mnist.npz --train 10000 --test 2000

FILE.npz holds x_train, y_train, x_test, y_test: images and integer classes. The steps:

1. Train a small convolutional network by Adam, on the engine of `ntkfast.layers` alone.
2. Regress on the empirical NTK at the trained parameters: n x n entries, each a sum over k outputs and p parameters.
3. Do the same with the Jacobians projected from p to m numbers per output. Their inner products estimate the kernel,
   at a cost linear in n; they can be kept, and where k m < n the regression is done on them as features.

Every regression chooses its own ridge by its squared error on the last fifth of the training samples, and is fitted
again to all of them. The table has seconds on the wall clock ("made": the network, the kernel, or the projected
Jacobians; "solve": all ridges), and the peak of the memory that arrays take beyond the data.
"""

import argparse
import json
import pathlib
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ntkfast.autodiff import get_autodiff
from ntkfast.empirical import empirical_ntk
from ntkfast.layers import Conv2d, Dense, Flatten, ReLU, Sequential
from ntkfast.projection import JacobianSketch, TensorProjection, cross_entropy, project_jacobian, projected_ntk
from ntkfast.regression import NormalEquations, kernel_ridge
from ntkfast.sketch import SparseJL

# Ridges to compare, relative to the mean of the kernel's diagonal.
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)

# What a projection may lose against the exact kernel: half a percent of the test samples.
TOLERANCE = 0.005


@dataclass(frozen=True)
class Data:
    """Images (n, height, width, channels), standardized, and their classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def n_classes(self) -> int:
        """Number of classes, which are 0, 1, ..."""
        return int(self.y_train.max()) + 1

    @property
    def targets(self) -> np.ndarray:
        """One-hot classes minus their mean."""
        one_hot = np.eye(self.n_classes, dtype=np.float32)[self.y_train]
        return one_hot - one_hot.mean(axis=0)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    method: str
    accuracy: float
    made_s: float
    solve_s: float
    peak_mb: float
    ridge: float | None = None


# --- data ---------------------------------------------------------------------------------------


def load(path: pathlib.Path | None, n_train: int, n_test: int, seed: int) -> Data:
    """The first samples of a file, or of scikit-learn's digits in random order."""
    x_train, y_train, x_test, y_test = _digits(seed, n_test) if path is None else _file(path)
    x_train, x_test = x_train[:n_train].astype(np.float32), x_test[:n_test].astype(np.float32)
    mean, deviation = x_train.mean(), x_train.std()
    if x_train.ndim == 3:  # grey images have one channel
        x_train, x_test = x_train[..., None], x_test[..., None]
    return Data((x_train - mean) / deviation, y_train[:n_train], (x_test - mean) / deviation, y_test[:n_test])


def _digits(seed: int, n_test: int) -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x, y = digits.images[order], digits.target[order]
    return x[n_test:], y[n_test:], x[:n_test], y[:n_test]


def _file(path: pathlib.Path) -> tuple[np.ndarray, ...]:
    with np.load(path) as arrays:
        x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


# --- 1. the network -----------------------------------------------------------------------------


def network(n_classes: int) -> Sequential:
    """Three 3x3 convolutions, each of which halves the image, and a dense head."""
    standard = {"parameterization": "standard", "bias": True}
    convolutions = (Conv2d(channels, 3, stride=2, padding="SAME", **standard) for channels in (16, 32, 32))
    body = [layer for convolution in convolutions for layer in (convolution, ReLU())]
    return Sequential(*body, Flatten(), Dense(n_classes, **standard))


def train(net: Sequential, data: Data, *, steps: int, batch: int = 64, rate: float = 2e-3, seed: int) -> tuple:
    """Parameters after some steps of Adam on the cross entropy; the rate falls to 0 along half a cosine."""
    engine, rng = get_autodiff("layers"), np.random.default_rng(seed)
    params = net.init(data.x_train.shape[1:], seed=seed)
    arrays = _arrays(params)
    moments = [(np.zeros_like(array), np.zeros_like(array)) for array in arrays]
    for step in range(steps):
        rows = rng.integers(len(data.x_train), size=batch)
        y, pullback = engine.param_vjp(net, params, data.x_train[rows])
        gradients = _arrays(pullback(cross_entropy(data.y_train[rows])(y) / np.float32(batch)))
        now = rate / 2 * (1 + np.cos(np.pi * step / steps))
        for array, gradient, moment in zip(arrays, gradients, moments, strict=True):
            np.subtract(array, adam_step(gradient, *moment, step + 1, now), out=array)
    return params


def adam_step(gradient: np.ndarray, first: np.ndarray, second: np.ndarray, step: int, rate: float) -> np.ndarray:
    """What Adam (Kingma, Ba, 2015) subtracts; updates the two moments in place."""
    first += 0.1 * (gradient - first)
    second += 0.001 * (gradient**2 - second)
    return (rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)).astype(gradient.dtype)


def _arrays(params: tuple) -> list[np.ndarray]:
    """Arrays of the layers' dictionaries, in a fixed order."""
    return [layer[name] for layer in params for name in sorted(layer)]


def accuracy(prediction: np.ndarray, classes: np.ndarray) -> float:
    """Share of samples whose largest output is that of their class."""
    return float((prediction.argmax(axis=1) == classes).mean())


# --- regression, on a kernel matrix or on features ----------------------------------------------


def regress_on_kernel(k: np.ndarray, k_test: np.ndarray, data: Data) -> tuple[np.ndarray, float]:
    """Predictions for the test samples, and the ridge."""
    y, n = data.targets, _n_fit(data)
    part = k[:n, :n]
    scale = float(np.trace(k)) / len(k)
    reg = choose_ridge(lambda reg: kernel_ridge(part, y[:n], reg=reg).predict(k[n:, :n]), scale, data)
    return kernel_ridge(k, y, reg=reg, overwrite=True).predict(k_test), reg


def regress_on_features(phi: np.ndarray, phi_test: np.ndarray, data: Data) -> tuple[np.ndarray, float]:
    """The same with the kernel ``phi @ phi.T``, which is not formed: rows have fewer entries than there are rows."""
    y, n = data.targets, _n_fit(data)
    equations = NormalEquations()
    equations.update(phi[:n], y[:n])
    scale = float(np.einsum("ij,ij->", phi, phi) / len(phi))
    reg = choose_ridge(lambda reg: equations.solve(reg).predict(phi[n:]), scale, data)
    equations.update(phi[n:], y[n:])
    return equations.solve(reg, overwrite=True).predict(phi_test), reg


def choose_ridge(predict: Callable[[float], np.ndarray], scale: float, data: Data) -> float:
    """The ridge with the least squared error on the samples held out; where few are wrong, accuracy says too little."""
    held_out = data.targets[_n_fit(data) :]
    return min((scale * ridge for ridge in RIDGES), key=lambda reg: float(np.square(predict(reg) - held_out).mean()))


def _n_fit(data: Data) -> int:
    """Number of the training samples that are fitted while others are held out."""
    return len(data.y_train) * 4 // 5


# --- 2. the exact kernel, 3. projections --------------------------------------------------------


def exact(net: Sequential, params: tuple, data: Data) -> Row:
    """Regression with the exact kernel, the mean over the outputs."""
    x, x_test = data.x_train, data.x_test
    made = measure(lambda: (empirical_ntk(net, params, x), empirical_ntk(net, params, x_test, x)))
    return summary("exact", made, measure(lambda: regress_on_kernel(*made.result, data)), data)


def projected(net: Sequential, params: tuple, data: Data, sketch: JacobianSketch | SparseJL) -> Row:
    """Regression with the Jacobians of all outputs, projected by one sketch."""
    made = measure(lambda: [project_jacobian(net, params, x, sketch) for x in (data.x_train, data.x_test)])
    solved = measure(lambda: regress_on_jacobians(*made.result, data))
    return summary(f"{type(sketch).__name__} {sketch.sketch_dim}", made, solved, data)


def regress_on_jacobians(phi: np.ndarray, phi_test: np.ndarray, data: Data) -> tuple[np.ndarray, float]:
    """Regression on projected Jacobians (n, k, m): of kernel matrices, or on k m features if these are fewer than n."""
    n, k, m = phi.shape
    if k * m >= n:
        return regress_on_kernel(projected_ntk(phi), projected_ntk(phi_test, phi), data)
    scale = np.float32(k**-0.5)  # the kernel is a mean over the outputs
    return regress_on_features(phi.reshape(n, -1) * scale, phi_test.reshape(-1, k * m) * scale, data)


# --- what it takes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Result of some work, its seconds, and the memory of arrays before it and at most, in MB."""

    result: Any
    seconds: float
    before_mb: float
    peak_mb: float


def measure(work: Callable[[], Any]) -> Measured:
    """Do some work, and watch it."""
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return Measured(result, seconds, before / 1e6, tracemalloc.get_traced_memory()[1] / 1e6)


def summary(method: str, made: Measured, solved: Measured, data: Data) -> Row:
    """What was made and solved as a line of the table."""
    prediction, reg = solved.result
    peak = max(made.peak_mb, solved.peak_mb) - made.before_mb
    return Row(method, accuracy(prediction, data.y_test), made.seconds, solved.seconds, peak, reg)


# --- the table ----------------------------------------------------------------------------------

HEAD = f"{'method':24s}{'accuracy':>10s}{'to exact':>10s}{'made s':>10s}{'solve s':>10s}{'peak MB':>10s}{'ridge':>10s}"


def show(row: Row, reference: float | None) -> None:
    """Print a line of the table as soon as it is known."""
    difference = "" if reference is None else f"{100 * (row.accuracy - reference):+.2f} %"
    ridge = "" if row.ridge is None else f"{row.ridge:.3g}"
    print(
        f"{row.method:24s}{100 * row.accuracy:8.2f} %{difference:>10s}{row.made_s:10.2f}{row.solve_s:10.2f}"
        f"{row.peak_mb:10.0f}{ridge:>10s}",
        flush=True,
    )


def sufficient(rows: list[Row], reference: float) -> str:
    """Per projection, the least dimension from which on nothing tried loses more than the tolerance."""
    least: dict[str, str] = {}
    for row in rows:
        name, dim = row.method.split()
        least[name] = least.get(name, dim) if reference - row.accuracy < TOLERANCE + 1e-9 else ""
        least = {key: value for key, value in least.items() if value}
    found = ", ".join(f"{dim} ({name})" for name, dim in least.items())
    return f"within {100 * TOLERANCE:g} % of the exact kernel's accuracy from dimension: {found or 'none of these'}"


def main(arguments: list[str] | None = None) -> list[Row]:
    """Parse the options, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, help="default: scikit-learn's digits")
    parser.add_argument("--train", type=int, default=10_000, help="training samples, at most")
    parser.add_argument("--test", type=int, default=2_000, help="test samples, at most")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512, 1024, 2048], help="numbers kept per output")
    parser.add_argument("--steps", type=int, default=1250, help="batches of 64 images that the network is trained on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="also write the table to this JSON file")
    args = parser.parse_args(arguments)
    tracemalloc.start()
    rows = run(load(args.data, args.train, min(args.test, 500) if args.data is None else args.test, args.seed), args)
    tracemalloc.stop()
    if args.out:
        args.out.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return rows


def run(data: Data, args: argparse.Namespace) -> list[Row]:
    """Network, exact kernel, projections: a row each."""
    net = network(data.n_classes)
    trained = measure(lambda: train(net, data, steps=args.steps, seed=args.seed))
    params = trained.result
    p = sum(array.size for array in _arrays(params))
    print(f"{len(data.x_train)} training and {len(data.x_test)} test images, {p} parameters\n{HEAD}")
    peak = trained.peak_mb - trained.before_mb
    rows = [Row("network", accuracy(net(params, data.x_test), data.y_test), trained.seconds, 0.0, peak)]
    show(rows[0], None)
    rows.append(exact(net, params, data))
    show(rows[1], None)
    sketches = [TensorProjection(m, seed=args.seed) for m in args.dims]
    for sketch in [*sketches, *(SparseJL(p, m, seed=args.seed) for m in args.dims)]:
        rows.append(projected(net, params, data, sketch))
        show(rows[-1], rows[1].accuracy)
    print(sufficient(rows[2:], rows[1].accuracy))
    return rows


if __name__ == "__main__":
    main()
