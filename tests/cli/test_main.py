"""The command as a user meets it: exit codes, one-line errors, ``info``."""

import sys

import numpy as np
import pytest

from ntkfast import __version__, cli
from ntkfast.cli._error import CliError
from ntkfast.cli.info import facts
from ntkfast.errors import NotPositiveDefiniteError


def one_line(capsys):
    """The only line on the standard error; nothing on the standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_info(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["ntkfast"].strip() == __version__
    assert lines["numpy"].strip() == np.__version__


def test_facts_name_backends_devices_threads_and_blas():
    found = facts()
    assert {"machine", "backend numpy", "cuda jit", "numba threads", "blas"} <= set(found)
    assert "layer" in found["numba threads"]
    assert all(value for value in found.values())


def test_facts_without_threadpoolctl(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert "at build time" in facts()["blas"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["demo", "--depth", "0"],
        ["demo", "--depth", "-1"],
        ["demo", "--depth", "two"],
        ["demo", "--features", "1e3"],
        ["demo", "--seed", str(2**64)],
        ["demo", "--limit", "9" * 5000],
        ["demo", "--task", "ranking"],
    ],
)
def test_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CliError("no such\nfile"), 2, "no such file"),
        (NotPositiveDefiniteError("not positive definite"), 1, "not positive definite"),
        (MemoryError(), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code, text):
    def fail(args):
        raise error

    monkeypatch.setattr("ntkfast.cli.info.run", fail)
    assert cli.main(["info"]) == code
    assert one_line(capsys) == f"ntkfast: {text}"


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == f"ntkfast {__version__}"
