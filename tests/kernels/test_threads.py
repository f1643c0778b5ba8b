"""Rows of a kernel cut between Python threads: each once, errors raised, and threads anew after a fork."""

import os
import threading
import warnings

import numba
import numpy as np
import pytest

from ntkfast.kernels import _kernel


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)


def _visit(start, stop, visits, threads):
    visits[start:stop] += 1
    threads.append(threading.get_ident())


def _visits(n_rows, entries):
    """How often every row was visited, and by which threads."""
    visits, threads = np.zeros(n_rows, int), []
    _kernel.in_threads(_visit, n_rows, entries, visits, threads)
    return visits, threads


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 7])
def test_every_row_is_visited_once(three_threads, n_rows):
    visits, threads = _visits(n_rows, 100 * _kernel._SHARE)
    assert (visits == 1).all()
    assert len(threads) == max(1, min(n_rows, 3))
    assert threading.get_ident() in threads  # the caller works, too


def test_little_work_stays_with_the_caller(three_threads):
    assert _visits(7, 2 * _kernel._SHARE - 1)[1] == [threading.get_ident()]


def test_an_error_of_any_thread_is_raised(three_threads):
    def fail(start, stop, row):
        if start <= row < stop:
            raise ArithmeticError(str(row))

    for row in range(6):
        with pytest.raises(ArithmeticError, match=str(row)):
            _kernel.in_threads(fail, 6, 100 * _kernel._SHARE, row)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_has_threads_of_its_own(three_threads):
    _visits(7, 100 * _kernel._SHARE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork beside threads, which is what is tested
        child = os.fork()
    if child == 0:
        done = threading.Thread(target=_visits, args=(7, 100 * _kernel._SHARE), daemon=True)
        done.start()
        done.join(5)
        os._exit(int(done.is_alive()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
