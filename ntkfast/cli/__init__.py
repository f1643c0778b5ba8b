"""The command ``ntkfast``: ``ntkfast demo`` and ``ntkfast info``.

Exit codes: 0 done; 1 the computation failed (no memory, a singular matrix); 2 an option, a file or the
installation must be mended; 130 interrupted. Every failure is one line on the standard error.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..errors import NtkfastError
from ._error import CliError

__all__ = ["main"]

LAYOUTS = """\
layouts of FILE.npz (no pickled arrays):
  x_train, y_train, x_test, y_test   samples (n, d) or images (n, height, width[, channels])
  X, y                               one table; a random fifth of the rows is the test set
  X, y, test_index                   test_index (m,) or (splits, m): rows of the test set
  X, y, test_fold                    test_fold (n,): a row is a test row of split test_fold[i]
Integer or string labels are classes, floating-point ones are targets of a regression (see --task).
Images are scaled to rows of equal norm; columns of tables are standardized and a constant is appended.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default those of the process.

    Returns
    -------
    int
        Exit code: 0, 1, 2 or 130 (see the module's docstring).

    Raises
    ------
    SystemExit
        From argparse: code 2 for unknown options, 0 after ``--help`` and ``--version``.

    Examples
    --------
    >>> main(["demo", "--data", "no-such-file.npz"])
    2
    """
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except CliError as error:
        return _fail(str(error), 2)
    except (NtkfastError, MemoryError) as error:
        return _fail(str(error) or "not enough memory", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _run(args: argparse.Namespace) -> int:
    # Read when OpenMP starts, at the first parallel kernel: its threads would else spin against those of BLAS.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # imported here, so that neither command waits for what the other one needs
    command = importlib.import_module(f".{args.command}", __name__)
    return int(command.run(args))


def _fail(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    print(f"ntkfast: {one_line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ntkfast", description="Neural tangent kernels, fast.")
    parser.add_argument("--version", action="version", version=f"ntkfast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="versions, backends, devices, threading layer, BLAS")
    _add_demo(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="exact NTK, NTK features and baselines on real data: table, plots, JSON",
        description="Fit exact NTK regression, NTK features, a linear and an RBF baseline; compare them.",
        epilog=LAYOUTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--data", metavar="FILE.npz", help="default: the digits that come with scikit-learn")
    demo.add_argument("--output", metavar="DIR", default="ntkfast-demo", help="for plots and JSON (%(default)s)")
    demo.add_argument("--depth", type=_integer(1, 100), default=3, help="hidden layers (%(default)s)")
    demo.add_argument("--features", type=_integer(64, 2**20), default=4096, help="largest n_features (%(default)s)")
    demo.add_argument("--seeds", type=_integer(1, 100), default=5, help="draws per n_features (%(default)s)")
    demo.add_argument("--seed", type=_integer(0, 2**64 - 1), default=0, help="of all randomness (%(default)s)")
    demo.add_argument(
        "--limit",
        type=_integer(10, 100_000),
        default=3000,
        help="training points of the exact kernels; more are subsampled, and the table says so (%(default)s)",
    )
    demo.add_argument("--split", type=_integer(0, 10_000), default=0, help="which published split (%(default)s)")
    demo.add_argument("--task", choices=("auto", "classification", "regression"), default="auto")


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """Type of an option: an integer within bounds; argparse refuses the rest in one line."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) <= 20 and minimum <= int(text) <= maximum:
            return int(text)
        raise argparse.ArgumentTypeError(f"expected an integer between {minimum} and {maximum}, got {text!r}")

    return parse
