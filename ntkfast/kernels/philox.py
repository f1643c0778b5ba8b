"""Random numbers that are functions of a position: Philox4x32-10 of Salmon et al. (2011).

One block is ``philox(counter, key)``: ten rounds turn a counter (c0, c1, c2, c3) and a key (k0, k1), all words
of 32 bits, into four random words. A *stream* is a 64-bit key. It holds 64-bit words

    z_k = (high_k << 32) | low_k,        k = 0, 1, 2, ...

high_k and low_k are word ``row`` of the blocks with counters (b0, b1, 0, 0) and (b0, b1, 1, 0), where
b = 16 (k // 64) + k % 16 is split into b0 + 2**32 b1, and row = (k // 16) % 4. In this order neighboring lanes of
a vector register, and neighboring threads of a warp, write neighboring words. Float64 results read both words;
float32 results read high_k and put 2**31 for low_k, so they are the float64 results in lower precision.

=============== =====================================================================================
bits            high_i
uniform         z_i / 2**64 rounded down to 24 or 53 bits, in [0, 1)
normal          Box and Muller: with u = (z_k | 1) / 2**64, a = 2 pi (z_{k+16} / 2**64 - 1/8) and k % 32 < 16,
                element k is sqrt(-2 log u) cos a and element k + 16 is sqrt(-2 log u) sin a
signs           1 - 2 (bit (i // 64) % 32 of high_w), w = 64 (i // 2048) + i % 64
bucket_sign     bucket = ((high_i >> 1) n_buckets) >> 31 and sign = 1 - 2 (high_i & 1)
=============== =====================================================================================

Element i of a result belongs to position start + i and depends on (key, start + i) alone, so neither
chunks, nor threads, nor the device matter. Limits: start + length <= 2**62, n_buckets < 2**31; a bucket's
probability differs from 1 / n_buckets by at most 2**-31.

All generators are in this one long file, because a kernel that Numba caches on disk may call functions of its own file
only: a change of the rounds elsewhere would go unnoticed.

Promise: bitwise on every target, except that a CUDA compiler fuses multiply-adds of ``normal``: there it is within
a few ulp. (Logarithm, sine and cosine are series of sums and products, evaluated in one order.)

References
----------
Salmon, Moraes, Dror, Shaw. Parallel random numbers: as easy as 1, 2, 3. SC 2011.
Box, Muller. A note on the generation of random normal deviates. Annals of Mathematical Statistics 29, 1958.
"""

import math

import numpy as np
from numba import prange

from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, exact, grid, plain

__all__ = ["bits", "bucket_sign", "derive_key", "normal", "signs", "uniform"]

# Everything is uint64: Numba would turn a mixture of signed and unsigned integers into floats,
# and no operation below overflows, so NumPy scalars (JIT off) give no warnings.
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(0x80000000)
_U0, _U1, _U4, _U6, _U15 = (np.uint64(n) for n in (0, 1, 4, 6, 15))
_U16, _U31, _U32, _U48, _U62, _U64 = (np.uint64(n) for n in (16, 31, 32, 48, 62, 64))
_QUARTER_TURN = np.uint64(2**62 - 1)
_EIGHTH_TURN = np.int64(2**61)

_ONE, _TWO = np.int64(1), np.int64(2)
_LANES = 16  # blocks of a group
_GROUP = 4 * _LANES  # words of a group
_TILE = 2048  # words, or signs, that a CPU thread makes at a time: they stay in the first-level cache
_UTILE = np.uint64(_TILE)


@exact
def _philox(c0, c1, c2, c3, k0, k1):
    """Four random words of a counter; words are uint64 below 2**32."""
    for _ in range(10):
        p0 = _MULTIPLIER_0 * c0
        p1 = _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> _U32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _U32) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + _WEYL_0) & _LOW
        k1 = (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


@exact
def _stream(key, block, plane):
    """Words of one block of a stream; plane 0 holds the high, plane 1 the low words."""
    return _philox(block & _LOW, block >> _U32, plane, _U0, key & _LOW, key >> _U32)


def derive_key(seed: int, *tags: int) -> int:
    """Key of a substream, a function of a seed and of integer tags in their order.

    Every tag costs one Philox block under the key so far, with a counter that no stream uses.

    Parameters
    ----------
    seed : int
        0 <= seed < 2**64. Without tags it is the key itself.
    *tags : int
        What the substream is for, e.g. a layer's number; 0 <= tag < 2**64.

    Returns
    -------
    int
        64 bits. Two different tuples (seed, *tags) agree with probability 2**-64.

    Examples
    --------
    >>> derive_key(7, 1, 2) == derive_key(derive_key(7, 1), 2)
    True
    """
    key = int(seed)
    for tag in map(int, tags):
        counter = (np.uint64(tag & 0xFFFFFFFF), np.uint64(tag >> 32), _U0, _U1)
        low, high, _, _ = plain(_philox)(*counter, np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32))
        key = int(high) << 32 | int(low)
    return key


# --- scalar functions; `_philox`, `_magnitude`, `_turn` and `_horner` work on arrays too -------------


@exact
def _wide_words(key, block, wide):
    """The four words z of one block; narrow results do without the second Philox block."""
    h0, h1, h2, h3 = _stream(key, block, _U0)
    if wide:
        l0, l1, l2, l3 = _stream(key, block, _U1)
    else:
        l0, l1, l2, l3 = _HALF, _HALF, _HALF, _HALF
    return (h0 << _U32) | l0, (h1 << _U32) | l1, (h2 << _U32) | l2, (h3 << _U32) | l3


@exact
def _magnitude(z):
    """Integers (shift, c) with u = 2**-shift (1 - c / 2**64) and c <= 2**63."""
    z = z | _U1
    shift = _U0
    for step in (32, 16, 8, 4, 2, 1):
        up = np.uint64(z < (_U1 << np.uint64(64 - step))) * np.uint64(step)
        z = z << up
        shift = shift + up
    return shift, ~z + _U1


@exact
def _turn(z):
    """Integers (swap, flip_cos, flip_sin) for the quarter turns, and 2**64 times the rest, within 1/8 turn."""
    quarter = z >> _U62
    return quarter & _U1, ((quarter + _U1) >> _U1) & _U1, quarter >> _U1, np.int64(z & _QUARTER_TURN) - _EIGHTH_TURN


@exact
def _horner(series, x):
    total = series[0]
    for k in range(1, len(series)):
        total = total * x + series[k]
    return total


@exact
def _squared_radius(shift, c, tables):
    """-2 log u, from -log(1 - c) = 2 atanh(c / (2 - c)): no cancellation, also where u is close to 1."""
    log_series, _, _, (_, two, log_2, unit, _) = tables
    s = c * unit / (two - c * unit)
    return two * (shift * log_2 + s * _horner(log_series, s * s))


@exact
def _direction(swap, flip_cos, flip_sin, offset, tables):
    """Cosine and sine of the angle that `_turn` describes."""
    _, sin_series, cos_series, (one, two, _, _, unit) = tables
    angle = offset * unit
    square = angle * angle
    sine, cosine = angle * _horner(sin_series, square), _horner(cos_series, square)
    x, y = (sine, cosine) if swap else (cosine, sine)
    return (one - two * flip_cos) * x, (one - two * flip_sin) * y


@exact
def _bucket(word, n_buckets):
    return ((np.uint64(word) >> _U1) * n_buckets) >> _U31


@exact
def _sign(bit):
    return _ONE - _TWO * np.int64(bit)


def _tables(real, n_log, n_angle):
    """Typed Taylor coefficients, highest first: 2 atanh(s) / s and cos in s**2, sin(a) / a in a**2."""
    log_series = tuple(real(2 / (2 * k + 1)) for k in reversed(range(n_log)))
    sin_series = tuple(real((-1) ** k / math.factorial(2 * k + 1)) for k in reversed(range(n_angle)))
    cos_series = tuple(real((-1) ** k / math.factorial(2 * k)) for k in reversed(range(n_angle)))
    numbers = (1.0, 2.0, math.log(2.0), 2.0**-64, 2 * math.pi * 2.0**-64)
    return log_series, sin_series, cos_series, tuple(real(x) for x in numbers)


# Number of terms: the first one left out is below half a unit in the last place at s = 1/3, a = pi/4.
_TABLES_32, _TABLES_64 = _tables(np.float32, 8, 5), _tables(np.float64, 16, 9)


def _is_wide(out):
    """Whether results read the low words too."""
    return out.dtype.itemsize == 8


def _uniform_scale(out):
    """Bits to drop of 64, and the typed unit of those that remain."""
    n_bits = np.finfo(out.dtype).nmant + 1
    return np.uint64(64 - n_bits), out.dtype.type(2.0**-n_bits)


def _tables_of(out):
    return _TABLES_64 if _is_wide(out) else _TABLES_32


# --- reference ----------------------------------------------------------------------------------


def _reference_words(key, start, n, plane, unit=_GROUP):
    """Words of the groups that hold positions start ... start + n - 1, `unit` to a group, and how many to skip."""
    first, last = int(start) // unit, -(-(int(start) + n) // unit)
    blocks = (np.arange(first, last, dtype=np.uint64)[:, None] << _U4) | np.arange(_LANES, dtype=np.uint64)
    counter = (blocks & _LOW, blocks >> _U32, np.uint64(plane), _U0)
    words = plain(_philox)(*counter, np.uint64(int(key) & 0xFFFFFFFF), np.uint64(int(key) >> 32))
    return np.stack(words, axis=1).reshape(-1), int(start) - first * unit


def _reference_wide(key, start, out):
    """Words z around the positions of `out`, and how many to skip."""
    high, skip = _reference_words(key, start, out.size, 0)
    low = _reference_words(key, start, out.size, 1)[0] if _is_wide(out) else _HALF
    return (high << _U32) | low, skip


def _bits_reference(key, start, out):
    """Random words; out uint32, shape (n,)."""
    words, skip = _reference_words(key, start, out.size, 0)
    out[:] = words[skip : skip + out.size]


def _uniform_reference(key, start, out):
    """Uniform in [0, 1); out float32 or float64, shape (n,)."""
    z, skip = _reference_wide(key, start, out)
    shift, unit = _uniform_scale(out)
    out[:] = (z >> shift)[skip : skip + out.size].astype(out.dtype) * unit


def _normal_reference(key, start, out):
    """Standard normal; out float32 or float64, shape (n,)."""
    z, skip = _reference_wide(key, start, out)
    z = z.reshape(-1, 2, _LANES)
    log_series, sin_series, cos_series, (one, two, log_2, unit, turn) = _tables_of(out)
    shift, c = (part.astype(out.dtype) for part in plain(_magnitude)(z[:, 0]))
    s = c * unit / (two - c * unit)
    radius = np.sqrt(two * (shift * log_2 + s * plain(_horner)(log_series, s * s)))
    swap, flip_cos, flip_sin, offset = (part.astype(out.dtype) for part in plain(_turn)(z[:, 1]))
    angle = offset * turn
    sine, cosine = angle * plain(_horner)(sin_series, angle * angle), plain(_horner)(cos_series, angle * angle)
    x = radius * ((one - two * flip_cos) * np.where(swap, sine, cosine))
    y = radius * ((one - two * flip_sin) * np.where(swap, cosine, sine))
    out[:] = np.stack((x, y), axis=1).reshape(-1)[skip : skip + out.size]


def _signs_reference(key, start, out):
    """Signs +-1; out of any signed dtype, shape (n,)."""
    words, skip = _reference_words(key, start, out.size, 0, _TILE)
    bits = (words.reshape(-1, 1, _GROUP) >> np.arange(32, dtype=np.uint64)[:, None]) & _U1
    out[:] = 1 - 2 * bits.reshape(-1)[skip : skip + out.size].astype(np.int64)


def _bucket_sign_reference(key, start, n_buckets, bucket, sign):
    """Buckets and signs; bucket int32 with 0 <= bucket < n_buckets, sign of any signed dtype, both of shape (n,)."""
    words, skip = _reference_words(key, start, bucket.size, 0)
    words = words[skip : skip + bucket.size]
    bucket[:] = ((words >> _U1) * np.uint64(n_buckets)) >> _U31
    sign[:] = 1 - 2 * (words & _U1).astype(np.int64)


# --- CPU: tiles aligned to absolute positions, shared out to the threads --------------------------


@exact
def _n_tiles(start, n):
    return np.int64((start + np.uint64(n) + _UTILE - _U1) // _UTILE - start // _UTILE)


@exact
def _span(start, n, tile):
    """First position of a tile, the part [begin, end) of the tile that is wanted, and its place in the result."""
    first = (start // _UTILE + np.uint64(tile)) * _UTILE
    stop = start + np.uint64(n)
    begin = start - first if start > first else _U0
    end = stop - first if stop < first + _UTILE else _UTILE
    return first, np.int64(begin), np.int64(end), np.int64(first + begin - start)


# A group is a function of its own: inlined by hand, its loop over the lanes would not vectorize.


@exact
def _fill_group(key, first_block, row):
    for lane in range(_LANES):
        w0, w1, w2, w3 = _stream(key, first_block | np.uint64(lane), _U0)
        row[lane], row[_LANES + lane] = w0, w1
        row[2 * _LANES + lane], row[3 * _LANES + lane] = w2, w3


@exact
def _fill(key, first_group, words):
    """High words of consecutive groups."""
    for g in range(words.size // _GROUP):
        _fill_group(key, (first_group + np.uint64(g)) << _U4, words[g * _GROUP : (g + 1) * _GROUP])


@exact
def _fill_wide_group(key, wide, first_block, row):
    for lane in range(_LANES):
        z0, z1, z2, z3 = _wide_words(key, first_block | np.uint64(lane), wide)
        row[lane], row[_LANES + lane] = z0, z1
        row[2 * _LANES + lane], row[3 * _LANES + lane] = z2, z3


@exact
def _fill_wide(key, wide, first_group, words):
    """Words z of consecutive groups."""
    for g in range(words.size // _GROUP):
        _fill_wide_group(key, wide, (first_group + np.uint64(g)) << _U4, words[g * _GROUP : (g + 1) * _GROUP])


@cpu_jit
def _bits_tiles(key, start, out):
    for tile in prange(_n_tiles(start, out.size)):
        first, begin, end, place = _span(start, out.size, tile)
        words = np.empty(_TILE, np.uint32)
        _fill(key, first >> _U6, words)
        out[place : place + end - begin] = words[begin:end]


def _bits_cpu(key, start, out):
    _bits_tiles(np.uint64(key), np.uint64(start), out)


@exact
def _uniform_row(z, shift, unit, out):
    for i in range(out.size):
        out[i] = out.dtype.type(z[i] >> shift) * unit


@cpu_jit
def _uniform_tiles(key, start, wide, shift, unit, out):
    for tile in prange(_n_tiles(start, out.size)):
        first, begin, end, place = _span(start, out.size, tile)
        z = np.empty(_TILE, np.uint64)
        _fill_wide(key, wide, first >> _U6, z)
        _uniform_row(z[begin:end], shift, unit, out[place : place + end - begin])


def _uniform_cpu(key, start, out):
    _uniform_tiles(np.uint64(key), np.uint64(start), _is_wide(out), *_uniform_scale(out), out)


@exact
def _normal_pair(z, z_turn, tables, real):
    """Two normals from the words of magnitude and turn."""
    shift, c = _magnitude(z)
    swap, flip_cos, flip_sin, offset = _turn(z_turn)
    radius = math.sqrt(_squared_radius(real(shift), real(c), tables))
    x, y = _direction(swap, real(flip_cos), real(flip_sin), real(offset), tables)
    return radius * x, radius * y


@exact
def _normal_row(z, tables, out):
    for lane in range(_LANES):
        x, y = _normal_pair(z[lane], z[_LANES + lane], tables, out.dtype.type)
        out[lane], out[_LANES + lane] = x, y


@exact
def _normal_values(z, tables, out):
    for k in range(0, out.size, 2 * _LANES):
        _normal_row(z[k : k + 2 * _LANES], tables, out[k : k + 2 * _LANES])


@cpu_jit
def _normal_tiles(key, start, wide, out):
    for tile in prange(_n_tiles(start, out.size)):
        first, begin, end, place = _span(start, out.size, tile)
        z, values = np.empty(_TILE, np.uint64), np.empty(_TILE, out.dtype)
        _fill_wide(key, wide, first >> _U6, z)
        # the tables are constants, not arguments, since a parallel loop takes no tuples
        if wide:
            _normal_values(z, _TABLES_64, values)
        else:
            _normal_values(z, _TABLES_32, values)
        out[place : place + end - begin] = values[begin:end]


def _normal_cpu(key, start, out):
    _normal_tiles(np.uint64(key), np.uint64(start), _is_wide(out), out)


@cpu_jit
def _signs_tiles(key, start, out):
    for tile in prange(_n_tiles(start, out.size)):
        first, begin, end, place = _span(start, out.size, tile)
        words, values = np.empty(_GROUP, np.uint32), np.empty(_TILE, out.dtype)
        _fill(key, first // _UTILE, words)
        for k in range(32):
            row = values[k * _GROUP : (k + 1) * _GROUP]
            for i in range(_GROUP):
                row[i] = _sign((words[i] >> np.uint32(k)) & np.uint32(1))
        out[place : place + end - begin] = values[begin:end]


def _signs_cpu(key, start, out):
    _signs_tiles(np.uint64(key), np.uint64(start), out)


@exact
def _bucket_sign_row(words, n_buckets, bucket, sign):
    for i in range(words.size):
        word = np.uint64(words[i])
        bucket[i], sign[i] = _bucket(word, n_buckets), _sign(word & _U1)


@cpu_jit
def _bucket_sign_tiles(key, start, n_buckets, bucket, sign):
    for tile in prange(_n_tiles(start, bucket.size)):
        first, begin, end, place = _span(start, bucket.size, tile)
        words = np.empty(_TILE, np.uint32)
        _fill(key, first >> _U6, words)
        last = place + end - begin
        _bucket_sign_row(words[begin:end], n_buckets, bucket[place:last], sign[place:last])


def _bucket_sign_cpu(key, start, n_buckets, bucket, sign):
    _bucket_sign_tiles(np.uint64(key), np.uint64(start), np.uint64(n_buckets), bucket, sign)


# --- CUDA: one thread per block of the stream, so four words (128 signs) per thread ---------------


@exact
def _thread_block(start, thread, unit):
    """Block of a thread, and the position of its first result; `unit` results to a group."""
    block = (start // unit << _U4) + np.uint64(thread)
    return block, (block >> _U4) * unit + (block & _U15)


@exact
def _put(out, start, position, value):
    """Store the value of a position if the result holds it."""
    if start <= position < start + np.uint64(out.size):
        out[np.int64(position - start)] = value


def _n_threads(start, n, unit):
    return (-(-(int(start) + n) // unit) - int(start) // unit) * _LANES


@cuda_jit
def _bits_kernel(key, start, n_threads, out):
    for thread in range(cuda.grid(1), n_threads, cuda.gridsize(1)):
        block, position = _thread_block(start, thread, _U64)
        w0, w1, w2, w3 = _stream(key, block, _U0)
        _put(out, start, position, w0)
        _put(out, start, position + _U16, w1)
        _put(out, start, position + _U32, w2)
        _put(out, start, position + _U48, w3)


def _bits_cuda(key, start, out, stream=0):
    n_threads = _n_threads(start, out.size, _GROUP)
    _bits_kernel[(*grid(n_threads), stream)](np.uint64(key), np.uint64(start), n_threads, out)


@cuda_jit
def _uniform_kernel(key, start, n_threads, wide, shift, unit, out):
    real = out.dtype.type
    for thread in range(cuda.grid(1), n_threads, cuda.gridsize(1)):
        block, position = _thread_block(start, thread, _U64)
        z0, z1, z2, z3 = _wide_words(key, block, wide)
        _put(out, start, position, real(z0 >> shift) * unit)
        _put(out, start, position + _U16, real(z1 >> shift) * unit)
        _put(out, start, position + _U32, real(z2 >> shift) * unit)
        _put(out, start, position + _U48, real(z3 >> shift) * unit)


def _uniform_cuda(key, start, out, stream=0):
    n_threads = _n_threads(start, out.size, _GROUP)
    arguments = (np.uint64(key), np.uint64(start), n_threads, _is_wide(out), *_uniform_scale(out), out)
    _uniform_kernel[(*grid(n_threads), stream)](*arguments)


@cuda_jit
def _normal_kernel(key, start, n_threads, wide, tables, out):
    for thread in range(cuda.grid(1), n_threads, cuda.gridsize(1)):
        block, position = _thread_block(start, thread, _U64)
        z0, z1, z2, z3 = _wide_words(key, block, wide)
        x, y = _normal_pair(z0, z1, tables, out.dtype.type)
        _put(out, start, position, x)
        _put(out, start, position + _U16, y)
        x, y = _normal_pair(z2, z3, tables, out.dtype.type)
        _put(out, start, position + _U32, x)
        _put(out, start, position + _U48, y)


def _normal_cuda(key, start, out, stream=0):
    n_threads = _n_threads(start, out.size, _GROUP)
    arguments = (np.uint64(key), np.uint64(start), n_threads, _is_wide(out), _tables_of(out), out)
    _normal_kernel[(*grid(n_threads), stream)](*arguments)


@cuda_jit
def _signs_kernel(key, start, n_threads, out):
    for thread in range(cuda.grid(1), n_threads, cuda.gridsize(1)):
        block, position = _thread_block(start, thread, _UTILE)
        w0, w1, w2, w3 = _stream(key, block, _U0)
        for k in range(32):
            bit = np.uint64(k)
            row = position + _U64 * bit
            _put(out, start, row, _sign((w0 >> bit) & _U1))
            _put(out, start, row + _U16, _sign((w1 >> bit) & _U1))
            _put(out, start, row + _U32, _sign((w2 >> bit) & _U1))
            _put(out, start, row + _U48, _sign((w3 >> bit) & _U1))


def _signs_cuda(key, start, out, stream=0):
    n_threads = _n_threads(start, out.size, _TILE)
    _signs_kernel[(*grid(n_threads), stream)](np.uint64(key), np.uint64(start), n_threads, out)


@exact
def _put_bucket_sign(bucket, sign, start, position, word, n_buckets):
    _put(bucket, start, position, _bucket(word, n_buckets))
    _put(sign, start, position, _sign(word & _U1))


@cuda_jit
def _bucket_sign_kernel(key, start, n_threads, n_buckets, bucket, sign):
    for thread in range(cuda.grid(1), n_threads, cuda.gridsize(1)):
        block, position = _thread_block(start, thread, _U64)
        w0, w1, w2, w3 = _stream(key, block, _U0)
        _put_bucket_sign(bucket, sign, start, position, w0, n_buckets)
        _put_bucket_sign(bucket, sign, start, position + _U16, w1, n_buckets)
        _put_bucket_sign(bucket, sign, start, position + _U32, w2, n_buckets)
        _put_bucket_sign(bucket, sign, start, position + _U48, w3, n_buckets)


def _bucket_sign_cuda(key, start, n_buckets, bucket, sign, stream=0):
    n_threads = _n_threads(start, bucket.size, _GROUP)
    arguments = (np.uint64(key), np.uint64(start), n_threads, np.uint64(n_buckets), bucket, sign)
    _bucket_sign_kernel[(*grid(n_threads), stream)](*arguments)


bits = Kernel("philox.bits", _bits_reference, _bits_cpu, _bits_cuda)
uniform = Kernel("philox.uniform", _uniform_reference, _uniform_cpu, _uniform_cuda)
normal = Kernel("philox.normal", _normal_reference, _normal_cpu, _normal_cuda)
signs = Kernel("philox.signs", _signs_reference, _signs_cpu, _signs_cuda)
bucket_sign = Kernel("philox.bucket_sign", _bucket_sign_reference, _bucket_sign_cpu, _bucket_sign_cuda)
