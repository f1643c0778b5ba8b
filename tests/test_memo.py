"""The one cache of what is drawn from seeds."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ntkfast._memo import ArrayCache


def test_cache_keeps_recent_arrays_within_its_bound():
    cache, built = ArrayCache(100), []

    def table(key, n_bytes=40):
        return cache.get(key, lambda: (built.append(key), (np.zeros(n_bytes, np.uint8),))[1])

    first = table("a")
    assert table("a") is first
    table("b")
    table("a")
    table("c")  # 120 bytes: b, used least recently, goes
    assert built == ["a", "b", "c"]
    table("a")
    table("b")
    assert built == ["a", "b", "c", "b"]
    table("huge", 101)
    table("huge", 101)
    assert built[-2:] == ["huge", "huge"]
    assert table("a") is not None
    assert built[-1] == "huge"
    cache.clear()
    table("a")
    assert built[-1] == "a"


def test_threads_get_the_same_arrays():
    cache, x = ArrayCache(2**10), np.ones(3)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cache.get("key", lambda: (x.copy(),))[0], range(64)))
    np.testing.assert_array_equal(results, np.broadcast_to(x, (64, 3)))
    assert results[-1] is cache.get("key", lambda: (x,))[0]
