"""The demo's three figures, as PNG files for print and screen.

Colours are of the Okabe-Ito palette, and every series has its own marker, so that figures survive
colour-blindness and grey printing. Figures are made without pyplot: no global state, no display.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .._typing import Array
from .report import Method, Results, atomic_path

__all__ = ["plot_all"]

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
DPI = 150

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
}


def plot_all(results: Results, grams: tuple[Array, Array], targets: Array, folder: Path) -> list[Path]:
    """Draw every figure of a demo run.

    Parameters
    ----------
    results : Results
        The numbers of the run.
    grams : (array, array), each of shape (n, n)
        Exact NTK and Gram matrix of the features, on the same rows.
    targets : array, shape (n,)
        Class number or target of each of those rows.
    folder : Path
        Where the files go; it exists.

    Returns
    -------
    list of Path
        ``gram_error.png``, ``score_seconds.png``, ``gram_matrix.png``.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            "gram_error.png": _gram_error(results),
            "score_seconds.png": _score_seconds(results),
            "gram_matrix.png": _gram_matrix(results, grams, targets),
        }
        for name, figure in figures.items():
            with atomic_path(folder / name) as path:
                figure.savefig(path, dpi=DPI, format="png", bbox_inches="tight")
    return [folder / name for name in figures]


def _gram_error(results: Results) -> Figure:
    """Relative Frobenius error against the number of features, with the slope that theory gives."""
    sizes = np.array(results.sweep.n_features)
    errors = np.array(results.sweep.errors)  # (sizes, seeds)
    middle = np.median(errors, axis=1)
    figure, axes = _figure(4.8, 3.6)
    axes.loglog(
        np.repeat(sizes, errors.shape[1]), errors.ravel(), ".", color=BLUE, alpha=0.35, ms=4, label="single draws"
    )
    axes.loglog(sizes, middle, "o-", color=BLUE, label=f"median of {errors.shape[1]} draws")
    # the line of slope -1/2 that is nearest to the medians in the logarithm
    level = np.exp(np.mean(np.log(middle) + 0.5 * np.log(sizes)))
    axes.loglog(sizes, level / np.sqrt(sizes), "--", color=GREY, label=r"theory: slope $-1/2$")
    _size_axis(axes, sizes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("number of features")
    axes.set_ylabel("relative Gram error (Frobenius norm)")
    axes.set_title(f"One-pass NTK features: {results.name}, depth {results.depth}")
    axes.legend()
    return figure


def _size_axis(axes: Any, sizes: Array) -> None:
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


def _score_seconds(results: Results) -> Figure:
    """Test score against seconds: a line for the features, a point for every other method."""
    figure, axes = _figure(4.8, 3.6)
    features = [m for m in results.methods if m.family == "features"]
    axes.plot([m.seconds for m in features], [m.score for m in features], "o-", color=BLUE, label="NTK features")
    _label_sizes(axes, features)
    points = {"exact": ("s", ORANGE), "rbf": ("^", GREEN), "linear": ("D", PURPLE)}
    for method in results.methods:
        if method.family in points:
            marker, color = points[method.family]
            axes.plot(method.seconds, method.score, marker, color=color, ms=7, label=method.name)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("time to fit and predict (s)")
    axes.set_ylabel(results.score_label)
    axes.set_title(f"{results.name}: {results.n_train} training, {results.n_test} test points")
    axes.legend()
    return figure


def _label_sizes(axes: Any, features: Sequence[Method]) -> None:
    """Write the number of features beside the first and the last point of the line."""
    for method in {features[0].n_features: features[0], features[-1].n_features: features[-1]}.values():
        axes.annotate(
            str(method.n_features),
            (method.seconds, method.score),
            textcoords="offset points",
            xytext=(7, -4),
            color=BLUE,
            fontsize=8,
        )


def _gram_matrix(results: Results, grams: tuple[Array, Array], targets: Array) -> Figure:
    """Exact and approximate kernel as correlations, and their difference, rows ordered by target."""
    order = np.argsort(targets, kind="stable")
    norms = np.sqrt(np.diag(grams[0])) + (np.diag(grams[0]) == 0)
    exact, approximate = (gram[np.ix_(order, order)] / np.outer(norms[order], norms[order]) for gram in grams)
    figure = Figure(figsize=(8.4, 2.7), layout="constrained")
    axes = figure.subplots(1, 3)
    low = float(exact.min())
    for panel, gram in zip(axes[:2], (exact, approximate), strict=True):
        image = panel.imshow(gram, cmap="cividis", vmin=low, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes[:2], shrink=0.75)
    bar.set_label(r"$k(x, y)\,/\,\sqrt{k(x, x)\,k(y, y)}$")
    difference = approximate - exact
    largest = float(np.abs(difference).max()) or 1.0
    image = axes[2].imshow(difference, cmap="PuOr", vmin=-largest, vmax=largest, interpolation="nearest")
    figure.colorbar(image, ax=axes[2], shrink=0.75).set_label("difference")
    size = results.sweep.n_features[-1]
    for panel, title in zip(axes, ("exact NTK", f"{size} features", "features − exact"), strict=True):
        panel.set_title(title)
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        _group_ticks(panel, results.classes, targets[order])
    return figure


def _group_ticks(panel: Any, classes: Sequence[str], ordered: Array) -> None:
    """Tick labels at the middle of each class, or none for a regression."""
    if not classes:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_xlabel("points, by target")
        return
    present, starts, counts = np.unique(ordered, return_index=True, return_counts=True)
    middles = starts + (counts - 1) / 2
    labels = [classes[number][:8] for number in present]
    if len(labels) > 12:
        keep = MaxNLocator(10, integer=True).tick_values(0, len(labels) - 1)
        kept = [int(i) for i in keep if 0 <= i < len(labels)]
        middles, labels = middles[kept], [labels[i] for i in kept]
    panel.set_xticks(middles, labels)
    panel.set_yticks(middles, labels)
    panel.tick_params(length=0)
    panel.set_xlabel("points, by class")


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()
