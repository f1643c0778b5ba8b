"""The main job of the demo: fit every method, and measure the Gram error of the features."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .._streams import Stream
from .._typing import Array
from ..adapters.sklearn import NTKFeatures, NTKRegressor
from ..analytic import ntk
from ..kernels.philox import derive_key
from .data import Dataset
from .methods import fit_exact, fit_features, fit_linear, fit_rbf
from .report import Method, Results, Sweep

__all__ = ["Comparison", "Settings", "compare", "n_steps"]

# Points of the Gram matrices of the sweep and of the figure.
SWEEP_POINTS = 1000
FIGURE_POINTS = 500

# Widths of the features: the largest, and powers of two below it.
N_WIDTHS = 6

Step = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options of ``ntkfast demo`` say about the computation.

    Attributes
    ----------
    depth : int
        Of the NTK.
    n_features : int
        Largest width of the features.
    n_draws : int
        Draws per width.
    seed : int
        Of all randomness.
    limit : int
        Training points of the exact kernels.
    """

    depth: int
    n_features: int
    n_draws: int
    seed: int
    limit: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Numbers and Gram matrices of a run.

    Attributes
    ----------
    results : Results
    exact, approximate : ndarray, shape (n, n)
        NTK and features' Gram matrix of some training points, for the figure.
    targets : ndarray, shape (n,)
        Class number or target of those points.
    """

    results: Results
    exact: Array
    approximate: Array
    targets: Array


def n_steps(settings: Settings) -> int:
    """Number of times `compare` calls `step`."""
    widths = len(_widths(settings))
    return 1 + 3 + widths + widths * settings.n_draws


def compare(data: Dataset, settings: Settings, step: Step) -> Comparison:
    """Fit exact NTK, NTK features of several widths, an RBF kernel and a linear model.

    Parameters
    ----------
    data : Dataset
        Scaled (`ntkfast.cli.data.scale`).
    settings : Settings
    step : callable
        Called with a description before each of the `n_steps` parts.

    Returns
    -------
    Comparison

    Notes
    -----
    How methods are fitted is said in `ntkfast.cli.methods`. Exact kernels see a random subset of `Settings.limit`
    points where there are more.
    Determinism: all numbers but the seconds follow from the seed, up to rounding.
    """
    step("compiling")
    _warm_up(data, settings)
    subset = _subset(data, settings)
    sample = subset[:SWEEP_POINTS]
    sweep = _sweep(data.x_train[sample], settings, step)
    methods = _methods(data, subset, settings, sweep, step)
    results = Results(
        name=data.name,
        task=data.task,
        n_train=len(data.x_train),
        n_test=len(data.x_test),
        n_columns=data.x_train.shape[1],
        classes=data.classes,
        depth=settings.depth,
        seed=settings.seed,
        limit=settings.limit,
        methods=methods,
        sweep=sweep,
    )
    shown = data.x_train[sample[:FIGURE_POINTS]]
    phi = _features(_widths(settings)[-1], 0, settings).fit_transform(shown)
    return Comparison(results, ntk(shown, depth=settings.depth), phi @ phi.T, data.y_train[sample[:FIGURE_POINTS]])


def _widths(settings: Settings) -> list[int]:
    widths = [settings.n_features >> i for i in range(N_WIDTHS)]
    return sorted(width for width in widths if width >= 64)


def _subset(data: Dataset, settings: Settings) -> Array:
    """Training points of the exact kernels, in random order."""
    order = np.random.default_rng(settings.seed).permutation(len(data.x_train))
    return order[: settings.limit]


def _warm_up(data: Dataset, settings: Settings) -> None:
    """Compile every kernel for the dtype of the data, so that seconds mean work."""
    rows = data.x_train[:50]
    targets = np.arange(len(rows)) % 2
    for solver in ("exact", "features"):
        model = NTKRegressor("loo", depth=settings.depth, solver=solver, n_components=_widths(settings)[0])
        model.set_params(random_state=settings.seed).fit(rows, targets).predict(rows)


def _seed(settings: Settings, width: int, draw: int) -> int:
    return derive_key(settings.seed, Stream.DEMO_DRAWS, width, draw)


def _features(width: int, draw: int, settings: Settings) -> NTKFeatures:
    return NTKFeatures(width, depth=settings.depth, random_state=_seed(settings, width, draw))


def _sweep(x: Array, settings: Settings, step: Step) -> Sweep:
    """Gram error of every draw at every width."""
    exact = ntk(x, depth=settings.depth)
    errors = []
    for width in _widths(settings):
        row = []
        for draw in range(settings.n_draws):
            step(f"Gram error, {width} features")
            phi = _features(width, draw, settings).fit_transform(x)
            row.append(_relative_error(phi @ phi.T, exact))
        errors.append(tuple(row))
    return Sweep(tuple(_widths(settings)), tuple(errors), len(x))


def _relative_error(gram: Array, exact: Array) -> float:
    """Frobenius norm of the difference over that of the exact matrix."""
    return float(np.linalg.norm(gram - exact) / np.linalg.norm(exact))


def _methods(data: Dataset, subset: Array, settings: Settings, sweep: Sweep, step: Step) -> tuple[Method, ...]:
    everything = np.arange(len(data.x_train))
    methods = []
    step("exact NTK")
    methods.append(fit_exact(data, subset, depth=settings.depth))
    for width, errors in zip(sweep.n_features, sweep.errors, strict=True):
        step(f"NTK features, {width}")
        seed = _seed(settings, width, 0)
        method = fit_features(data, everything, width, depth=settings.depth, seed=seed)
        methods.append(replace(method, gram_error=errors[0]))
    step("RBF kernel ridge")
    methods.append(fit_rbf(data, subset))
    step("linear ridge")
    methods.append(fit_linear(data, everything))
    return tuple(methods)
