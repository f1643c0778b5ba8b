"""Cases of kernels/displacement.py: stages of every operation and every boundary, of images and of tensors of pairs.

Variances are recorded in float64, and the images of the two sides are independent of each other, with many channels: no
two patches are nearly parallel, where the angle would have an error of sqrt(eps). Equal patches are the subject of
test_displacement.py. Sums over planes cancel: their deviation may be many times that of their terms.
"""

import math

import numpy as np
from hypothesis import strategies as st
from kernels.cases import Case, garbage, seeds, sizes

from ntkfast.kernels import displacement
from ntkfast.kernels.displacement import Boundary, Code

CHANNELS = 8
WINDOWS = [(3, 3), (2, 5), (1, 1), (3, 2)]
SLOPES = [0.0, 0.1, -1.0, 1.0]  # of ReLU, LeakyReLU, Abs and the identity left of 0
STAGES = ["", "c", "a", "cac", "caca", "sca+a", "sca+sa+c", "scaxc+a", "scSca^+a"]


# --- programs -------------------------------------------------------------------------------------


def _activation(slope, layer):
    """Row and constants of an activation; None is erf."""
    if slope is None:
        return (Code.ERF, 0, 0, 0, 0, layer), (0.0, 0.0)
    p, q = (1 + slope) / 2, (1 - slope) / 2
    gain = p * p + q * q
    return (Code.HOMOGENEOUS, 0, 0, 0, 0, layer), (gain, 2 * q * q / gain / math.pi)


def _operation(letter, windows, slopes, bias, layer):
    """c convolution, a activation; s, S save in slots 0 and 1, x swaps with slot 0, and +, ^ add slots 0 and 1."""
    if letter == "c":
        kh, kw = next(windows)
        return (Code.CONV, kh, kw, (kh - 1) // 2, (kw - 1) // 2, 0), (2.0 / (kh * kw), bias)
    if letter == "a":
        return _activation(next(slopes), layer)
    code = {"s": Code.SAVE, "S": Code.SAVE, "x": Code.SWAP, "+": Code.ADD, "^": Code.ADD}[letter]
    return (code, 0, 0, 0, 0, int(letter in "S^")), (0.0, 0.0)


def program(letters, windows, slopes, bias, dtype):
    """Operations of a stage, with the boundary's scale and bias, and how many activations there are."""
    windows, slopes, layer, rows = iter(windows), iter(slopes), 0, []
    for letter in letters:
        rows.append(_operation(letter, windows, slopes, bias, layer))
        layer += letter == "a"
    operations = np.array([row for row, _ in rows], np.int32).reshape(-1, 6)
    return operations, np.array([pair for _, pair in rows] + [(0.3, bias)], dtype), layer


def frame(operations, circular):
    """Rows above and below, columns between, and whether windows go around the image."""
    windows = [row for row in operations if row[0] == Code.CONV]
    up = max((int(row[3]) for row in windows), default=0)
    down = max((int(row[1] - 1 - row[3]) for row in windows), default=0)
    gap = max((int(max(row[4], row[2] - 1 - row[4])) for row in windows), default=0)
    return up, down, gap, int(circular)


@st.composite
def _stages(draw, dtype, size, circular, letters=STAGES):
    """A program, and its frame; windows that go around an image are not larger than it."""
    letters = draw(st.sampled_from(letters))
    fitting = [window for window in WINDOWS if not circular or (window[0] <= size[0] and window[1] <= size[1])]
    windows = draw(st.lists(st.sampled_from(fitting), min_size=4, max_size=4))
    slopes = draw(st.lists(st.sampled_from([*SLOPES, None]), min_size=4, max_size=4))
    bias = draw(st.sampled_from([0.0, 0.1]))
    operations, constants, n_tables = program(letters, windows, slopes, bias, dtype)
    return operations, constants, n_tables, frame(operations, circular)


# --- images ---------------------------------------------------------------------------------------


def images(rng, n, size, dtype, zeros=False):
    """Images (n, channels, h, w) over the root of their channels, some pixels zero."""
    x = rng.standard_normal((n, CHANNELS, *size)) / math.sqrt(CHANNELS)
    keep = rng.random((n, 1, *size)) < 0.8 if zeros else 1.0
    return (x * keep).astype(dtype)


def record(x, stage):
    """Tables (n, l, 2, h, w) from the definition, in float64, in the dtype of the images."""
    operations, constants, n_tables, shape = stage
    tables = np.empty((len(x), n_tables, 2, *x.shape[2:]))
    none = np.empty((0, *(x.shape[2],) * 2, *(x.shape[3],) * 2))
    displacement.record.reference(x.astype(float), none, operations, constants.astype(float), shape, tables)
    return tables.astype(x.dtype)


def tensor(x, y, pairs):
    """K_0 of all pairs of pixels as the kernels take it, [b, r, r', d, c]."""
    full = np.einsum("bkrc,bkst->brcst", x[pairs[:, 0]].astype(float), y[pairs[:, 1]].astype(float))
    b, h, w = full.shape[:3]
    planes = np.empty((b, h, h, w, w))
    for d in range(w):
        for c in range(w):
            planes[:, :, :, d, c] = full[:, :, c, :, (c + d) % w]
    return planes.astype(x.dtype)


# --- boundaries -----------------------------------------------------------------------------------


@st.composite
def _box(draw, h, w):
    """Limits of displacements within a result of h by w pixels."""
    rows = sorted(draw(st.tuples(*[st.integers(1 - h, h - 1)] * 2)))
    return (*rows, *sorted(draw(st.tuples(*[st.integers(1 - w, w - 1)] * 2))))


@st.composite
def _pooling(draw, size):
    kernel, step = draw(st.tuples(*[st.integers(1, 3)] * 2)), draw(st.tuples(*[st.integers(1, 3)] * 2))
    before = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    places = tuple(draw(st.integers(1, (s + b - 1) // t + 1)) for s, t, b in zip(size, step, before, strict=True))
    return (int(Boundary.POOL), *kernel, *step, *before), places


@st.composite
def _windows(draw, size, circular):
    """Windows with stride; around an image, strides divide it."""
    kernel = draw(st.tuples(*[st.integers(1, 3)] * 2))
    step = tuple(draw(st.sampled_from([t for t in (1, 2, 3) if not circular or s % t == 0])) for s in size)
    before = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    most = [s // t if circular else (s - 1) // t + 1 for s, t in zip(size, step, strict=True)]
    places = tuple(m if circular else draw(st.integers(1, m)) for m in most)
    return (int(Boundary.WINDOW), *kernel, *step, *before), places


@st.composite
def _boundaries(draw, size, circular):
    """Limits, boundary, and the shape of the results of a pair."""
    (h, w), kind = size, int(draw(st.sampled_from(list(Boundary))))
    if kind == Boundary.SUM and draw(st.booleans()):
        return (0, 0, 0, 0), (kind, 0, 0, 1, 1, 0, 0), (1, 1, 1, 1)
    if kind == Boundary.SUM:
        lo = 0 if circular else 1 - h
        return (lo, h - 1, 1 - w, w - 1), (kind, 0, 0, 1, 1, 0, 0), (h - lo, w, 1, 1)
    boundary, (h, w) = (kind, 0, 0, 1, 1, 0, 0), size
    if kind == Boundary.POOL:
        boundary, (h, w) = draw(_pooling(size))
    if kind == Boundary.WINDOW:
        boundary, (h, w) = draw(_windows(size, circular))
    return draw(_box(h, w)), boundary, (h, h, w, w)


# --- arguments ------------------------------------------------------------------------------------


@st.composite
def _walk(draw, dtype):
    dtype, size, circular = np.dtype(dtype), draw(st.tuples(sizes(4), sizes(4))), draw(st.booleans())
    stage = operations, constants, _, shape = draw(_stages(dtype, size, circular))
    limits, boundary, results = draw(_boundaries(size, circular))
    rng, has_zeros = np.random.default_rng(draw(seeds)), not constants[:, 1].any()
    x, y = (images(rng, n, size, dtype, has_zeros) for n in (2, 3))
    tables = record(x, stage), record(y, stage)
    pairs = np.array(draw(st.lists(st.sampled_from([(0, 0), (1, 2), (1, 0)]), min_size=1, max_size=2)), np.int32)
    k_in = theta_in = np.empty((0, *(size[0],) * 2, *(size[1],) * 2), dtype)
    if draw(st.booleans()):
        k_in = tensor(x, y, pairs)
        theta_in = k_in + rng.standard_normal(k_in.shape).astype(dtype)
        x, y = x[:, :0], y[:, :0]
    out = (np.zeros((len(pairs), *results), dtype) for _ in range(2))
    return x, y, k_in, theta_in, *tables, pairs, operations, constants, shape, limits, boundary, *out


@st.composite
def _record(draw, dtype):
    dtype, size, circular = np.dtype(dtype), draw(st.tuples(sizes(4), sizes(4))), draw(st.booleans())
    with_activations = [letters for letters in STAGES if "a" in letters]
    operations, constants, n_tables, shape = draw(_stages(dtype, size, circular, with_activations))
    rng, n = np.random.default_rng(draw(seeds)), draw(sizes(3))
    x = images(rng, n, size, dtype, not constants[:, 1].any())
    k_in = np.empty((0, *(size[0],) * 2, *(size[1],) * 2), dtype)
    if draw(st.booleans()):
        k_in, x = tensor(x, x, np.repeat(np.arange(n)[:, None], 2, axis=1)), x[:, :0]
    return x, k_in, operations, constants, shape, garbage((n, n_tables, 2, *size), dtype)


def _large(dtype):
    """Planes that do not fit into shared memory."""
    operations, constants, _ = program("ca", WINDOWS, SLOPES, 0.0, dtype)
    x, tables = np.zeros((1, 3, 80, 80), dtype), np.zeros((1, 1, 2, 80, 80), dtype)
    none, pairs = np.zeros((0, 80, 80, 80, 80), dtype), np.zeros((1, 2), np.int32)
    limits, boundary = (-79, 79, -79, 79), (int(Boundary.SUM), 0, 0, 1, 1, 0, 0)
    out = (np.zeros((1, 159, 80, 1, 1), dtype) for _ in range(2))
    arguments = x, x, none, none, tables, tables, pairs, operations, constants, frame(operations, False)
    return *arguments, limits, boundary, *out


CASES = {
    "displacement.walk": Case(_walk, outputs=(-2, -1), eps=4096.0, large=_large),
    "displacement.record": Case(_record, eps=64.0),
}
