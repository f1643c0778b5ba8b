"""Threads off, for the modules below a conftest.py that imports the fixture."""

import numba
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On arrays this small threads only wait for each other, for long where tests share a machine."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        numba.set_num_threads(threads)
