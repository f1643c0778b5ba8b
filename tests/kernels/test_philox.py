"""Philox: the published vectors, the documented order of words, and the statistics of what is made of them."""

import itertools
import math

import numpy as np
import pytest
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st
from kernels.cases_philox import KEYS, STARTS
from scipy import stats

from ntkfast.kernels import philox
from ntkfast.kernels._cuda import SIMULATED
from ntkfast.kernels._kernel import plain

# Philox4x32-10 of the file kat_vectors of Random123: counter, key, result
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
STREAMS = [
    (philox.bits, "uint32"),
    (philox.uniform, "float32"),
    (philox.uniform, "float64"),
    (philox.normal, "float32"),
    (philox.normal, "float64"),
    (philox.signs, "float32"),
    (philox.signs, "int8"),
]
for_each_stream = pytest.mark.parametrize(("kernel", "dtype"), STREAMS, ids=lambda v: getattr(v, "name", v))
function = "reference" if SIMULATED else "cpu"

# made by this library once, and fixed since
SNAPSHOT_KEY = 0x7A3F1D3DF08B660
SNAPSHOT_BITS = [200339649, 601354627, 2780001282]
SNAPSHOT_BUCKETS = ([46, 140, 647], [-1.0, -1.0, 1.0])
SNAPSHOT_NORMALS = [2.4758476360206307, -1.965331816165311, 0.8824390291198497]


def draw(kernel, dtype, key, start, n):
    out = np.empty(n, dtype)
    getattr(kernel, function)(key, start, out)
    return out


def draw_buckets(key, start, n_buckets, n):
    bucket, sign = np.empty(n, np.int32), np.empty(n, np.float32)
    getattr(philox.bucket_sign, function)(key, start, n_buckets, bucket, sign)
    return bucket, sign


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
@pytest.mark.parametrize("compiled", [True, False])
def test_known_answers(counter, key, expected, compiled):
    block = philox._philox if compiled else plain(philox._philox)
    assert tuple(int(w) for w in block(*(np.uint64(w) for w in (*counter, *key)))) == expected


@pytest.mark.parametrize("key", [0, 0xA4093822_299F31D0])
@pytest.mark.parametrize("start", [0, 2**38])
def test_words_are_those_of_the_documented_blocks(key, start):
    words = draw(philox.bits, np.uint32, key, start, 200)
    for i in (0, 1, 15, 16, 63, 64, 80, 199):
        k = start + i
        block, row = 16 * (k // 64) + k % 16, (k // 16) % 4
        counter = (block % 2**32, block // 2**32, 0, 0, key % 2**32, key // 2**32)
        assert int(words[i]) == int(plain(philox._philox)(*(np.uint64(w) for w in counter))[row])


def test_normals_are_box_and_muller():
    n = 1 << 14
    high, skip = philox._reference_words(5, 0, n, 0)
    low, _ = philox._reference_words(5, 0, n, 1)
    assert skip == 0
    z = (high.astype(np.longdouble) * 2**32 + low).reshape(-1, 2, 16) / np.longdouble(2) ** 64
    radius, angle = np.sqrt(-2 * np.log(z[:, 0])), 2 * np.pi * (z[:, 1] - 0.125)
    expected = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)
    # u within 2**-64 of 0 would differ by the bit that makes it odd; none is
    assert_close(draw(philox.normal, np.float64, 5, 0, n), expected, 1e-15)


@pytest.mark.parametrize("kernel", [philox.uniform, philox.normal])
def test_float32_is_float64_in_lower_precision(kernel):
    single, double = (draw(kernel, dtype, 3, 0, 1 << 15) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-5)


def test_signs_are_the_documented_bits():
    start = 2048 * 3
    words = draw(philox.bits, np.uint32, 9, start // 32, 64)
    signs = draw(philox.signs, np.int8, 9, start, 2048)
    bit, word = np.divmod(np.arange(2048), 64)
    np.testing.assert_array_equal(signs, 1 - 2 * ((words[word] >> bit.astype(np.uint32)) & 1).astype(int))


@for_each_stream
@given(key=KEYS, start=STARTS, cuts=st.lists(st.integers(0, 300), min_size=2, max_size=4))
def test_element_depends_on_key_and_position_alone(kernel, dtype, key, start, cuts):
    cuts = sorted(cuts)
    whole = draw(kernel, dtype, key, start + cuts[0], cuts[-1] - cuts[0])
    parts = [draw(kernel, dtype, key, start + a, b - a) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(key=KEYS, start=STARTS, cut=st.integers(0, 200), n_buckets=st.integers(1, 2**31 - 1))
def test_buckets_depend_on_key_and_position_alone(key, start, cut, n_buckets):
    whole = draw_buckets(key, start, n_buckets, 200)
    parts = draw_buckets(key, start, n_buckets, cut), draw_buckets(key, start + cut, n_buckets, 200 - cut)
    for k in range(2):
        np.testing.assert_array_equal(np.concatenate([part[k] for part in parts]), whole[k])
    assert whole[0].min() >= 0
    assert whole[0].max() < n_buckets


def test_keys_of_substreams():
    keys = {philox.derive_key(seed, *tags) for seed in (0, 1, 2**64 - 1) for tags in [(), (0,), (1,), (0, 0), (2**40,)]}
    assert len(keys) == 15
    assert all(0 <= key < 2**64 for key in keys)
    assert philox.derive_key(3, 1, 2) == philox.derive_key(philox.derive_key(3, 1), 2) != philox.derive_key(3, 2, 1)
    assert philox.derive_key(np.int64(3), np.int32(1)) == philox.derive_key(3, 1)


def test_a_substream_shares_no_word_with_its_parent():
    parent = draw(philox.bits, np.uint32, 7, 0, 20_000)
    child = draw(philox.bits, np.uint32, philox.derive_key(7, 0), 0, 20_000)
    # two independent sets of 20,000 words of 32 bits share 0.09 on average; five have probability below 1e-7
    assert np.intersect1d(parent, child).size < 5


def test_meaning_of_a_seed_never_changes():
    """Values that a release must not change: saved maps are rebuilt from their seeds."""
    assert philox.derive_key(2026, 1) == SNAPSHOT_KEY
    assert draw(philox.bits, np.uint32, 2026, 100, 3).tolist() == SNAPSHOT_BITS
    bucket, sign = draw_buckets(2026, 100, 1000, 3)
    assert (bucket.tolist(), sign.tolist()) == SNAPSHOT_BUCKETS
    assert_close(draw(philox.normal, np.float64, 2026, 100, 3), SNAPSHOT_NORMALS, 4e-16)


@pytest.mark.stat
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kernel", "law"), [(philox.uniform, "uniform"), (philox.normal, "norm")])
def test_distribution(kernel, law, dtype):
    """Kolmogorov-Smirnov on R = 2**19 draws of one fixed seed; fails with probability 1e-6 per parameter set."""
    assert stats.kstest(draw(kernel, dtype, 1, 10**6, 1 << 19).astype(np.float64), law).pvalue > 1e-6


@pytest.mark.stat
def test_tails_of_the_normal():
    """Counts beyond 3, 4 standard deviations of R = 2**21 draws: Poisson, two-sided 1e-6 each."""
    x = np.abs(draw(philox.normal, np.float32, 2, 0, 1 << 21))
    for bound in (3, 4):
        mean = x.size * math.erfc(bound / math.sqrt(2))
        low, high = stats.poisson.interval(1 - 1e-6, mean)
        assert low <= np.count_nonzero(x > bound) <= high


@pytest.mark.stat
@pytest.mark.parametrize("lag", [1, 16, 32, 64, 2048])
def test_normals_are_uncorrelated(lag):
    """Correlation of R = 2**18 draws with those `lag` later (16: one block's pair), |z| < 5: probability 6e-7 each."""
    x = draw(philox.normal, np.float64, 4, 0, (1 << 18) + lag)
    z = float(x[:-lag] @ x[lag:]) / math.sqrt(1 << 18)
    assert abs(z) < 5


@pytest.mark.stat
@pytest.mark.parametrize("n_buckets", [64, 1000])
def test_buckets_are_uniform_and_signs_balanced_in_each(n_buckets):
    """Chi-square of R = 2**20 (bucket, sign) pairs over 2 n_buckets cells: probability 1e-6 each."""
    bucket, sign = draw_buckets(6, 0, n_buckets, 1 << 20)
    counts = np.bincount(2 * bucket + (sign > 0), minlength=2 * n_buckets)
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.stat
def test_pairs_of_buckets_are_independent():
    """Chi-square of R = 2**19 pairs of neighboring buckets over 32 x 32 cells: probability 1e-6."""
    bucket, _ = draw_buckets(8, 0, 32, 1 << 20)
    assert stats.chisquare(np.bincount(32 * bucket[::2] + bucket[1::2], minlength=1024)).pvalue > 1e-6


@pytest.mark.stat
def test_bytes_and_signs():
    """Chi-square of the four bytes of R = 2**19 words, and of the patterns of 8 neighboring signs: 1e-6 each."""
    words = draw(philox.bits, np.uint32, 12, 0, 1 << 19)
    for byte in words.view(np.uint8).reshape(-1, 4).T:
        assert stats.chisquare(np.bincount(byte, minlength=256)).pvalue > 1e-6
    bits = (draw(philox.signs, np.int8, 13, 0, 1 << 20) > 0).reshape(-1, 8)
    assert stats.chisquare(np.bincount(bits @ (1 << np.arange(8)), minlength=256)).pvalue > 1e-6
