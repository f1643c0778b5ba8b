"""What a demo run found: the records, and their table and JSON file."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ._error import CliError

__all__ = ["Method", "Results", "Sweep", "atomic_path", "table", "write_json"]


@dataclass(frozen=True, slots=True)
class Method:
    """One fitted method.

    Attributes
    ----------
    name : str
        For the table.
    family : {"exact", "features", "rbf", "linear"}
        Which kind it is.
    n_train : int
        Training points it saw.
    n_features : int or None
        Width of the explicit features, where there are any.
    ridge : float
        Chosen by leave-one-out.
    seconds : float
        Kernel or features, choice of the ridge, fit and prediction.
    gram_error : float or None
        Relative Frobenius error of its Gram matrix against the exact NTK; None for other kernels.
    score : float
        Test accuracy, or root mean squared error in the units of the target.
    """

    name: str
    family: Literal["exact", "features", "rbf", "linear"]
    n_train: int
    n_features: int | None
    ridge: float
    seconds: float
    gram_error: float | None
    score: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """Gram errors of several draws at several widths.

    Attributes
    ----------
    n_features : tuple of int
    errors : tuple of tuple of float
        One row per width, one column per draw.
    n_points : int
        Points of the Gram matrices.
    """

    n_features: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]
    n_points: int


@dataclass(frozen=True, slots=True)
class Results:
    """All numbers of a demo run; what ``results.json`` holds."""

    name: str
    task: Literal["classification", "regression"]
    n_train: int
    n_test: int
    n_columns: int
    classes: tuple[str, ...]
    depth: int
    seed: int
    limit: int
    methods: tuple[Method, ...]
    sweep: Sweep

    @property
    def score_label(self) -> str:
        """What `Method.score` is, for axes and table heads."""
        return "test accuracy" if self.task == "classification" else "test RMSE (units of the target)"


def table(results: Results) -> Any:
    """Table of the methods, for a rich console.

    Parameters
    ----------
    results : Results

    Returns
    -------
    rich.table.Table
    """
    from rich.table import Table

    score = "test accuracy" if results.task == "classification" else "test RMSE"
    grid = Table(title=_title(results), title_justify="left", caption_justify="left", caption=_caption(results))
    grid.add_column("method", no_wrap=True)
    for head in ("training points", "seconds", "Gram error", score):
        grid.add_column(head, justify="right")
    for method in results.methods:
        grid.add_row(*_cells(method, results))
    return grid


def _cells(method: Method, results: Results) -> tuple[str, ...]:
    score = f"{method.score:.4f}" if results.task == "classification" else f"{method.score:.4g}"
    error = "-" if method.gram_error is None else f"{method.gram_error:.2g}"
    return method.name, f"{method.n_train:,}", f"{method.seconds:.3g}", error, score


def _title(results: Results) -> str:
    shape = f"{results.n_train:,} training and {results.n_test:,} test points, {results.n_columns} columns"
    return f"{results.name}: {shape}; NTK of depth {results.depth}"


def _caption(results: Results) -> str:
    text = "seconds: kernel or features, choice of the ridge by leave-one-out, fit, prediction; compilation excluded."
    if results.n_train > results.limit:
        text += f" Exact kernels saw a random subset of {results.limit:,} training points (--limit)."
    return text


def write_json(results: Results, versions: dict[str, str], path: Path) -> None:
    """Write the numbers and the installation's versions, in one step: a reader never sees half a file.

    Parameters
    ----------
    results : Results
    versions : dict of str to str
        From `ntkfast.cli.info.facts`.
    path : Path
    """
    document = asdict(results) | {"score": results.score_label, "installation": versions}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Path to write to instead of `path`; it takes the place of `path` when the block ends well.

    Parameters
    ----------
    path : Path
        In a folder that exists.

    Yields
    ------
    Path
        A file of the same folder, so that the replacement is atomic; removed when the block fails.

    Raises
    ------
    CliError
        The folder or the disk refuses.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
