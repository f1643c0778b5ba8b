"""``ntkfast demo``: exact NTK regression, NTK features and baselines on real data."""

import argparse
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ._error import CliError
from .data import Dataset, load_digits, load_npz, scale
from .info import facts
from .report import table, write_json

if TYPE_CHECKING:
    from .compare import Comparison, Step

__all__ = ["run"]

NEEDED = ("matplotlib", "rich", "sklearn")


def run(args: argparse.Namespace) -> int:
    """Run the demo as the options say, print its table, and write plots and JSON.

    Parameters
    ----------
    args : argparse.Namespace
        Options of ``ntkfast demo``.

    Returns
    -------
    int
        Exit code 0.

    Raises
    ------
    CliError
        The extra is not installed, the data cannot be used, or the folder cannot be written.
    """
    _need_extra()
    given = args.data is not None  # an empty name is no wish for the digits, but an unset variable
    data = scale(load_npz(args.data, task=args.task, split=args.split, seed=args.seed) if given else _digits(args))
    folder = _folder(args.output)
    comparison = _compute(data, args)
    _write(comparison, folder)
    return 0


def _need_extra() -> None:
    for package in NEEDED:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise CliError(f'the demo needs {package} ({error}); pip install "ntkfast[demo]"') from None


def _digits(args: argparse.Namespace) -> Dataset:
    if args.task == "regression":
        raise CliError("expected --data for --task regression; the digits are classes")
    return load_digits(seed=args.seed)


def _folder(name: str) -> Path:
    """Make the output folder before the work, so that a bad name costs nothing."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"cannot make folder {name}: {error.strerror}") from None
    return folder


def _compute(data: Dataset, args: argparse.Namespace) -> "Comparison":
    from .compare import Settings, compare, n_steps

    settings = Settings(args.depth, args.features, args.seeds, args.seed, args.limit)
    with _progress(n_steps(settings)) as step:
        return compare(data, settings, step)


@contextmanager
def _progress(total: int) -> "Iterator[Step]":
    """Progress bar on the standard error, gone at the end; `step` names what begins."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        begun = False

        def step(description: str) -> None:
            nonlocal begun
            bar.update(task, description=description, advance=int(begun))
            begun = True

        yield step


def _write(comparison: "Comparison", folder: Path) -> None:
    from rich.console import Console

    from .plots import plot_all

    results = comparison.results
    written = plot_all(results, (comparison.exact, comparison.approximate), comparison.targets, folder)
    written.append(folder / "results.json")
    write_json(results, facts(), written[-1])
    console = Console(soft_wrap=True)
    console.print(table(results))
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False)
