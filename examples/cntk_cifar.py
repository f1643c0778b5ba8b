"""CIFAR-10 with the convolutional NTK: regression on the exact kernel, and on features in its place.

    python cntk_cifar.py cifar10.npz --train 1000 --test 1000 --features 1024 4096
    python cntk_cifar.py part0.npz part1.npz --reduce 2 --cache kernel --features 1024 4096 16384 --plot accuracy.png

FILE.npz holds x_train, y_train, x_test, y_test: images (n, h, w, channels) of bytes and integer classes; several files
are parts of one data set. Two ways to the same regression, after Arora et al. (2019) and Zandieh et al. (2021):

1. The exact kernel of an infinitely wide network: three 3x3 convolutions with ReLU, the mean over all pixels, a dense
   layer. Every pixel of one image meets every pixel of the other, so a pair of images costs milliseconds, and n images
   have n^2 / 2 pairs. What it will take is said before it starts. Rows go to --cache as they are finished, so that a
   run that was stopped goes on where it was. --train and --test limit its images; --reduce 2 takes means over 2x2
   pixels first, which makes it 16 times cheaper.
2. Features whose inner products estimate that kernel, at a cost linear in n. Fewer of them than there are images are
   never all in memory: the normal equations are gathered block by block. The regression is done on all images and, for
   a fair comparison, on those of the exact kernel alone.

Channels are standardized; --zca whitens, --flips lets every image count as its mirror image, too. Targets are one-hot
minus their mean, 0.1. Every regression chooses its ridge by its squared error on the last fifth of the training images,
and is fitted again to all of them. The table has seconds on the wall clock ("made": kernel, or features; "solve": all
ridges), and the most memory that the process had, its data included.

References
----------
Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.
Li, Wang, Yu, Du, Hu, Salakhutdinov, Arora. Enhanced convolutional neural tangent kernels. 2019. arXiv:1911.00809.
Zandieh, Han, Avron, Shoham, Kim, Shin. Scaling neural tangent kernels via sketching and random features. NeurIPS 2021.
"""

import argparse
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cntk_cifar_report import HEAD, Row, Stopwatch, duration, peak_gb, plot, progress, show

from ntkfast.convolutional import cntk, estimate_cost, gap_network
from ntkfast.features import cntk_features
from ntkfast.images import channel_statistics, flip, flip_augmented, zca
from ntkfast.layers import Layer
from ntkfast.regression import NormalEquations, kernel_ridge

# Ridges to compare, relative to the mean of the kernel's diagonal, from the largest down to the error's least.
RIDGES = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)

# Images whose features are made at once.
IMAGES = 1024


@dataclass(frozen=True)
class Data:
    """Images (n, height, width, channels) as the kernel takes them, and their classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def n_fit(self) -> int:
        """Number of the training images that are fitted while others are held out."""
        return len(self.y_train) * 4 // 5

    def first(self, n_train: int | None, n_test: int | None) -> "Data":
        """The first images of either set."""
        return Data(self.x_train[:n_train], self.y_train[:n_train], self.x_test[:n_test], self.y_test[:n_test])

    def targets(self, dtype: str = "float64") -> np.ndarray:
        """One-hot classes minus 1 / classes."""
        n_classes = int(self.y_train.max()) + 1
        return (np.eye(n_classes) - 1 / n_classes)[self.y_train].astype(dtype)

    def accuracy(self, prediction: np.ndarray) -> float:
        """Share of test images whose largest output is that of their class."""
        return float((prediction.argmax(axis=1) == self.y_test).mean())


# --- images -------------------------------------------------------------------------------------


def load(files: list[pathlib.Path], *, reduce: int = 1, whiten: float | None = None, seed: int = 0) -> Data:
    """Images of all files in random order: reduced, standardized, and whitened."""
    rng = np.random.default_rng(seed)
    x_train, y_train = _shuffled(files, "train", rng)
    x_test, y_test = _shuffled(files, "test", rng)
    data = Data(reduced(x_train, reduce), y_train, reduced(x_test, reduce), y_test)
    data = _through(channel_statistics(data.x_train).apply, data)
    return data if whiten is None else _through(zca(data.x_train, reg=whiten).apply, data)


def _shuffled(files: list[pathlib.Path], part: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    parts = [[file[f"{name}_{part}"] for name in "xy"] for file in map(np.load, files)]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = rng.permutation(len(y))
    return x[order].astype(np.float32) / 255, y[order].astype(np.int64)


def reduced(x: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of `factor` x `factor` pixels."""
    n, h, w, channels = x.shape
    return x.reshape(n, h // factor, factor, w // factor, factor, channels).mean(axis=(2, 4))


def _through(act: Callable[[np.ndarray], np.ndarray], data: Data) -> Data:
    return replace(data, x_train=act(data.x_train), x_test=act(data.x_test))


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover n."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


# --- 1. the exact kernel ------------------------------------------------------------------------


def exact(net: Layer, data: Data, args: argparse.Namespace) -> Row:
    """Regression with the exact kernel."""
    watch = Stopwatch()
    expect(net, data, args.flips)
    kernel = functools.partial(cntk, net)
    if args.flips:
        kernel = functools.partial(flip_augmented, kernel)
    folder = None if args.cache is None else args.cache / fingerprint(net, data, args.flips)
    k, k_test, made_s = exact_kernel(kernel, data, folder, args.rows)
    with watch("solve"):
        prediction, ridge = regress_on_kernel(k, k_test, data)
    watch.seconds["made"] = made_s
    return row("exact", None, data, watch, prediction, ridge)


def expect(net: Layer, data: Data, flips: bool) -> None:
    """Say how long the kernel will take, before it starts."""
    n, m = len(data.x_train), len(data.x_test)
    pairs = (n * (n + 1) // 2 + n * m) * (2 if flips else 1)
    cost = estimate_cost(net, data.x_train)
    seconds = cost.seconds_per_pair * pairs
    print(f"exact kernel: {pairs} pairs, {1e3 * cost.seconds_per_pair:.3f} ms each: {duration(seconds)}", flush=True)


def fingerprint(net: Layer, data: Data, flips: bool) -> str:
    """A name for the kernel of these images: another problem must not find its rows."""
    digest = hashlib.sha256(repr((net, flips, data.x_train.shape)).encode())
    for x in (data.x_train, data.x_test):
        digest.update(np.ascontiguousarray(x))
    return digest.hexdigest()[:16]


def exact_kernel(
    kernel: Callable[..., np.ndarray], data: Data, folder: pathlib.Path | None, n_rows: int = 16
) -> tuple[np.ndarray, np.ndarray, float]:
    """Kernel of the training images, of test and training images, and seconds, those of an earlier run included."""
    n, m, seconds = len(data.x_train), len(data.x_test), 0.0
    k = np.empty((n, n + m), data.x_train.dtype)
    with progress("exact kernel", n * (n + 1) // 2 + n * m) as tell:
        done = 0
        for rows in blocks(n, n_rows):
            path = None if folder is None else folder / f"rows-{rows.start:06d}.npz"
            part, took = kept(path, functools.partial(kernel_rows, kernel, data, rows))
            k[rows, rows.start :] = part
            k[rows.stop : n, rows] = k[rows, rows.stop : n].T
            done, seconds = done + part.size - len(part) * (len(part) - 1) // 2, seconds + took
            tell(done)
    return k[:, :n], k[:, n:].T, seconds


def kernel_rows(kernel: Callable[..., np.ndarray], data: Data, rows: slice) -> np.ndarray:
    """Kernel of some training images, with those from there on and with all test images."""
    x = data.x_train
    others = np.concatenate([x[rows.stop :], data.x_test])
    return np.concatenate([kernel(x[rows]), kernel(x[rows], others)], axis=1)


def kept(path: pathlib.Path | None, make: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """An array and the seconds that it took, from its file if there is one; the file appears only when it is whole."""
    if path is not None and path.exists():
        with np.load(path) as file:
            return file["k"], float(file["seconds"])
    start = time.perf_counter()
    k = make()
    seconds = time.perf_counter() - start
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, k=k, seconds=seconds)
        partial.replace(path)
    return k, seconds


def regress_on_kernel(k: np.ndarray, k_test: np.ndarray, data: Data) -> tuple[np.ndarray, float]:
    """Predictions for the test images, and the ridge. In float64: the best ridges are small."""
    y, n = data.targets(), data.n_fit

    def fitted(rows: int, reg: float):
        return kernel_ridge(k[:rows, :rows].astype(np.float64), y[:rows], reg=reg, overwrite=True)

    held_out = k[n:, :n].astype(np.float64)
    scale = float(np.trace(k)) / len(k)
    reg = choose_ridge(lambda reg: fitted(n, reg).predict(held_out), scale, y[n:])
    return fitted(len(y), reg).predict(k_test.astype(np.float64)), reg


def choose_ridge(predict: Callable[[float], np.ndarray], scale: float, held_out: np.ndarray) -> float:
    """The first ridge on the way down after which the squared error on images held out grows."""
    best, least = RIDGES[0] * scale, np.inf
    for ridge in RIDGES:
        error = float(np.square(predict(ridge * scale) - held_out).mean())
        if error > least:
            break
        best, least = ridge * scale, error
    return best


# --- 2. features --------------------------------------------------------------------------------


def on_features(net: Layer, data: Data, method: str, n_features: int, args: argparse.Namespace) -> Row:
    """Ridge regression on features of one kind."""
    watch = Stopwatch()
    phi = cntk_features(net, data.x_train.shape[1:], n_features, method=method, seed=args.seed, **dict(args.option))
    transform = functools.partial(flipped_mean, phi) if args.flips else phi
    with progress(f"{method} {n_features}", len(data.x_train) + len(data.x_test)) as tell:
        regress = stream if n_features < data.n_fit else through_kernel
        prediction, ridge = regress(Transform(transform, watch, tell), data, watch)
    return row(method, n_features, data, watch, prediction, ridge)


def flipped_mean(phi: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Features of the kernel that `flip_augmented` makes: the mean over an image and its mirror image."""
    return (phi(x) + phi(flip(x))) / 2


class Transform:
    """A feature map on many images, watched."""

    def __init__(self, phi: Callable[[np.ndarray], np.ndarray], watch: Stopwatch, tell: Callable[[int], None]):
        self.phi, self.watch, self.tell, self.done = phi, watch, tell, 0

    def blocks(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Some images at a time, with their features."""
        for rows in blocks(len(x), IMAGES):
            with self.watch("made"):
                phi = self.phi(x[rows])
            self.done += len(phi)
            self.tell(self.done)
            yield rows, phi

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features of all images."""
        return np.concatenate([phi for _, phi in self.blocks(x)])


def stream(transform: Transform, data: Data, watch: Stopwatch) -> tuple[np.ndarray, float]:
    """Predictions and the ridge by normal equations: the features of the fitted images are used once, and gone."""
    y, n = data.targets("float32"), data.n_fit
    equations = NormalEquations(dtype="float64")
    for rows, phi in transform.blocks(data.x_train[:n]):
        with watch("solve"):
            equations.update(phi, y[:n][rows])
    held_out, test = transform(data.x_train[n:]), transform(data.x_test)
    with watch("solve"):
        scale = float(np.einsum("ij,ij->", held_out, held_out)) / len(held_out)
        reg = choose_ridge(lambda reg: equations.solve(reg).predict(held_out), scale, y[n:])
        equations.update(held_out, y[n:])
        return equations.solve(reg, overwrite=True).predict(test), reg


def through_kernel(transform: Transform, data: Data, watch: Stopwatch) -> tuple[np.ndarray, float]:
    """The same by the kernel matrix of the features, which is smaller where they are more than the images."""
    train, test = transform(data.x_train), transform(data.x_test)
    with watch("solve"):
        return regress_on_kernel(train @ train.T, test @ train.T, data)


# --- all of it ----------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> list[Row]:
    """The exact kernel on some images; features on all, and on the same."""
    everything = load(args.files, reduce=args.reduce, whiten=args.zca, seed=args.seed)
    some, net = everything.first(args.train, args.test), gap_network(args.depth)
    print(f"{len(everything.x_train)} training and {len(everything.x_test)} test images {everything.x_train.shape[1:]}")
    rows: list[Row] = []
    if not args.no_exact:
        rows.append(exact(net, some, args))
    print(HEAD)
    if rows:
        show(rows, args.out)
    limited = len(some.y_train) < len(everything.y_train) or len(some.y_test) < len(everything.y_test)
    for data in [some, everything] if limited and not args.no_exact else [everything]:
        for method in args.method:
            for n_features in args.features:
                rows.append(on_features(net, data, method, n_features, args))
                show(rows, args.out)
    return rows


def row(method: str, n_features: int | None, data: Data, watch: Stopwatch, prediction: np.ndarray, ridge: float) -> Row:
    """What was done as a line of the table."""
    sizes, seconds = (len(data.y_train), len(data.y_test)), (watch.seconds["made"], watch.seconds["solve"])
    return Row(method, n_features, *sizes, data.accuracy(prediction), *seconds, peak_gb(), ridge)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value in JSON."""
    name, _, value = text.partition("=")
    return name, json.loads(value)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Parse the options, print the table, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE.npz")
    parser.add_argument("--train", type=int, help="training images of the exact kernel, default all")
    parser.add_argument("--test", type=int, help="test images of the exact kernel, default all")
    parser.add_argument("--no-exact", action="store_true", help="features only, on all images")
    parser.add_argument("--cache", type=pathlib.Path, help="folder in which the exact kernel's rows are kept")
    parser.add_argument("--rows", type=int, default=16, help="rows of the exact kernel that go to the cache together")
    parser.add_argument("--method", nargs="*", default=["gradient"], choices=["gradient", "random", "sketch"])
    parser.add_argument("--features", type=int, nargs="+", default=[1024, 4096, 16384], help="dimensions")
    parser.add_argument("--option", type=_option, action="append", default=[], help="of the map, e.g. n_networks=32")
    parser.add_argument("--depth", type=int, default=3, help="convolutions")
    parser.add_argument("--reduce", type=int, default=1, help="means over squares of so many pixels first")
    parser.add_argument("--zca", type=float, metavar="REG", help="whiten the images, with this regularization")
    parser.add_argument("--flips", action="store_true", help="images count as their mirror images, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="also write the table to this JSON file")
    parser.add_argument("--plot", type=pathlib.Path, help="also draw accuracy against time (needs matplotlib)")
    args = parser.parse_args(arguments)
    rows = run(args)
    if args.plot:
        plot(rows, args.plot)
    return rows


if __name__ == "__main__":
    main()
