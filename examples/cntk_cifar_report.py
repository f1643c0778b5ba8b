"""What `cntk_cifar.py` tells while it works and afterwards: progress, seconds, memory, a table and a plot."""

import collections
import contextlib
import json
import pathlib
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

# Seconds between lines of progress.
QUIET = 30.0


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    method: str
    n_features: int | None
    n_train: int
    n_test: int
    accuracy: float
    made_s: float
    solve_s: float
    peak_gb: float
    ridge: float


# --- what it takes ------------------------------------------------------------------------------


class Stopwatch:
    """Seconds by name, and the peak of the memory since it was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        with contextlib.suppress(OSError):  # Linux; elsewhere, and where it is forbidden, the peak is that of all
            pathlib.Path("/proc/self/clear_refs").write_text("5")

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of a block."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def peak_gb() -> float:
    """Most resident memory of the process."""
    with contextlib.suppress(OSError, TypeError):
        return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how much is done: a bar on a terminal if rich is there, and lines elsewhere."""
    try:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError:
        Progress = None
    if Progress is None or not sys.stdout.isatty():
        yield lines(title, total)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def lines(title: str, total: int) -> Callable[[int], None]:
    """A line now and then, with the time that is left at the rate so far; rows from a cache take none."""
    start = last = time.perf_counter()
    first = 0

    def tell(done: int) -> None:
        nonlocal start, last, first
        now = time.perf_counter()
        if now - start < 1.0:
            start, first = now, done
        elif now - last > QUIET:
            last = now
            left = (now - start) / (done - first) * (total - done)
            print(f"{title}: {100 * done / total:.1f} %, {duration(left)} left", flush=True)

    return tell


def duration(seconds: float) -> str:
    """E.g. 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


# --- the table and the plot ---------------------------------------------------------------------

HEAD = (
    f"{'method':12s}{'features':>9s}{'train':>8s}{'test':>7s}{'accuracy':>11s}"
    f"{'made s':>10s}{'solve s':>10s}{'peak GB':>9s}{'ridge':>10s}"
)


def show(rows: list[Row], out: pathlib.Path | None) -> None:
    """Print the last line of the table as soon as it is known, and write what there is."""
    row = rows[-1]
    print(
        f"{row.method:12s}{row.n_features or '':>9}{row.n_train:8d}{row.n_test:7d}{100 * row.accuracy:9.2f} %"
        f"{row.made_s:10.1f}{row.solve_s:10.1f}{row.peak_gb:9.2f}{row.ridge:10.3g}",
        flush=True,
    )
    if out is not None:
        out.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def plot(rows: list[Row], path: pathlib.Path) -> None:
    """Accuracy against seconds, a line per method and number of images; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys((row.method, row.n_train) for row in rows):
        line = [row for row in rows if (row.method, row.n_train) == name]
        seconds, accuracies = [row.made_s + row.solve_s for row in line], [100 * row.accuracy for row in line]
        axes.plot(seconds, accuracies, "s" if name[0] == "exact" else "o-", label=f"{name[0]}, {name[1]} images")
        for row, *place in zip(line, seconds, accuracies, strict=True):
            axes.annotate(row.n_features or "", place, (4, -10), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="seconds: kernel or features, and regression", ylabel="test accuracy (%)")
    axes.grid(color="#dddddd")
    axes.legend()
    figure.savefig(path, dpi=150)
