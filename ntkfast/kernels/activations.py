"""Smooth activations and their derivatives elementwise, from one exponential of their own that vectorizes.

    erf(x), gelu(x) = x Phi(x), logistic(x) = 1 / (1 + exp(-x)), silu(x) = x logistic(x), softplus(x) = log(1 + exp(x)),
    gelu_tanh(x) = x logistic(v) with v = 2 sqrt(2 / pi) (x + 0.044715 x^3), a stand-in for gelu

value(function, x, out)
    out[i] = phi(x[i]); `function` is the number of phi in `FUNCTIONS`, x and out (n,).
slope(function, x, out)
    out[i] = phi'(x[i]).

The tail of the normal distribution is, with E(y) = exp(y^2) erfc(y) smooth and between 0 and 1,

    Phi(-a) = exp(-a^2 / 2) E(a / sqrt 2) / 2,     phi(a) = exp(-a^2 / 2) / sqrt(2 pi),

so that one exponential serves Phi and phi, in Phi(x) + x phi(x) too. Near 0, erf(x) = x + x R(x^2); beyond 1/2,
1 - erfc. Where a^2 is some hundreds, its rounding would cost as many units of the result; so a = h + l with h of few
bits, and a^2 = h^2 + l (a + h), of which h^2 is exact.

exp(-v) = 2^-k exp(r) with |r| <= (log 2) / 2: exp(r) is a polynomial, and the power of two is written as bits, in two
factors where it may be below the smallest float. Nothing branches: loops become vector code.

Promise: relative error below 5 eps, but absolute next to the roots of derivatives, with the few digits of an
exponential that underflows gradually, and in the left tail of gelu_tanh with the rounding of v. Odd functions are odd
bit by bit. Finite for finite x; NaN stays NaN. An entry depends on its own x only, whatever the length and the place.

W. J. Cody. Rational Chebyshev approximations for the error function. Math. Comp. 23, 1969.
"""

import math

import numba
import numpy as np

from . import _kernel
from ._cuda import cuda
from ._kernel import Kernel, cuda_jit, in_threads, rows_jit

__all__ = ["ERF", "FUNCTIONS", "GELU", "GELU_TANH", "LOGISTIC", "SILU", "SOFTPLUS", "slope", "value"]

FUNCTIONS = ("erf", "gelu", "gelu_tanh", "logistic", "silu", "softplus")
ERF, GELU, GELU_TANH, LOGISTIC, SILU, SOFTPLUS = range(len(FUNCTIONS))

# All tables are interpolated at Chebyshev nodes in 60 digits, lowest power first.

# (exp(r) - 1 - r) / r^2 on |r| <= 0.35. Relative error of exp 2e-17 (double) and 1e-8 (single).
EXPONENTIAL_SINGLE = (
    0.5, 0.1666657342385974, 0.0416665501627203, 0.008363767023287037,
    0.001392691805594798,
)  # fmt: skip
EXPONENTIAL_DOUBLE = (
    0.5000000000000001, 0.16666666666666669, 0.04166666666662068, 0.008333333333329796,
    0.0013888888918918907, 0.00019841269864364933, 2.4801518672268355e-05, 2.7557266442353424e-06,
    2.7621324269313687e-07, 2.5101335854788522e-08,
)  # fmt: skip
# erf(x) / x - 1 as a function of x^2 on [0, 1/4]. Relative error of erf 4e-18 and 1e-9.
ERF_SINGLE = (
    0.12837916560179147, -0.37612609007469805, 0.11282831428465862, -0.026757732735015517,
    0.004719082567218814,
)  # fmt: skip
ERF_DOUBLE = (
    0.12837916709551256, -0.37612638903183476, 0.11283791670925353, -0.026866170632887928,
    0.00522397737302147, -0.0008548297753674966, 0.00012053335124353741, -1.4845849259707869e-05,
    1.4725865480556744e-06,
)  # fmt: skip
# (artanh(s) / s - 1) / s^2 as a function of s^2 on [0, 1/9]. Relative error of artanh 5e-18 and 2e-8.
LOGARITHM_SINGLE = (
    0.33333320168349617, 0.20003780322455603, 0.1411830990265524, 0.13425749011418575,
)  # fmt: skip
LOGARITHM_DOUBLE = (
    0.3333333333333333, 0.20000000000007292, 0.1428571428355438, 0.11111111358713932,
    0.09090894718066429, 0.07692785032479312, 0.06657072104827468, 0.06000536404795356,
    0.04400369243072337, 0.08082022805971766,
)  # fmt: skip
# exp(y^2) erfc(y) as a ratio of polynomials of y >= 0, to y = 29 and 11. All coefficients are positive, so that nothing
# cancels. Relative error 2e-18 and 9e-9.
TAIL_ABOVE_SINGLE = (
    1.0000000035181418, 1.2385985713199363, 0.7314714901537324, 0.22902272092873507,
    0.03270389589257249,
)  # fmt: skip
TAIL_BELOW_SINGLE = (
    1.0, 2.3669781453716627, 2.4023130376777795, 1.3250669515178417,
    0.40595700150202696, 0.05796551285231647,
)  # fmt: skip
TAIL_ABOVE_DOUBLE = (
    1.0, 2.3510597928375625, 2.739015980356221, 2.0438796803131836,
    1.0719031647001107, 0.41099452708207207, 0.11653189665199423, 0.024158342297237876,
    0.00351834468931497, 0.0003273993664899734, 1.4969795713238743e-05,
)  # fmt: skip
TAIL_BELOW_DOUBLE = (
    1.0, 3.4794389599330753, 5.665142415925167, 5.709122179203187,
    3.9662329018999487, 2.000087678020312, 0.7495884573510805, 0.2096521940575754,
    0.04310969697255837, 0.006249370229369401, 0.0005803002679198078, 2.6533272059195266e-05,
)  # fmt: skip

# log 2 = LOG_2 + LOG_2_REST; multiples k LOG_2 are exact for k < 2^11 and 2^8.
LOG_2_DOUBLE, LOG_2_REST_DOUBLE = 0x162E42FEE * 2.0**-33, 1.9082149292705877e-10
LOG_2_SINGLE, LOG_2_REST_SINGLE = 355 * 2.0**-9, -2.1219444005469057e-04

# As constants, since CUDA compilers do not evaluate functions of numbers.
PER_LOG_2 = 1 / math.log(2)
ROOT_HALF = math.sqrt(0.5)
PEAK = 1 / math.sqrt(2 * math.pi)  # of the normal density
PEAK_OF_ERF_SLOPE = 2 / math.sqrt(math.pi)
# v = STEEP x (1 + CUBIC x^2) in gelu_tanh.
STEEP, CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715

BYTES = 16  # what takes as long as an entry of other kernels: 2 or 4 entries, at 1 ns (float64) or 0.3 ns (float32)

# As `shared`, but inlined at any length: a loop that calls a function is not turned into vector code.
_inlined = numba.njit(fastmath=set(_kernel.FASTMATH), error_model="numpy", forceinline=True, cache=False)


@_inlined
def _is_double(one):
    """Whether 1, given in some precision, has more than 30 bits; known to the compiler."""
    return one + type(one)(2.0**-30) > one


@_inlined
def _polynomial(coefficients, z):
    total = type(z)(coefficients[len(coefficients) - 1])
    for k in range(len(coefficients) - 2, -1, -1):
        total = total * z + type(z)(coefficients[k])
    return total


@_inlined
def _power(k, one):
    """2^-k, written as bits; |k| <= 126 (float32) and 1022 (float64)."""
    if _is_double(one):
        return type(one)(np.int64((np.int64(1023) - np.int64(k)) << np.int64(52)).view(np.float64))
    return type(one)(np.int32((np.int32(127) - np.int32(k)) << np.int32(23)).view(np.float32))


@_inlined
def _reduced(v, rest):
    """(p, k) with exp(-(v + rest)) = 2^-k p, for v + rest >= 0."""
    real = type(v)
    one, half = real(1), real(0.5)
    double = _is_double(one)
    k = np.int32((v + rest) * real(PER_LOG_2) + half)
    n = real(k)
    log_2 = real(LOG_2_DOUBLE) if double else real(LOG_2_SINGLE)
    log_2_rest = real(LOG_2_REST_DOUBLE) if double else real(LOG_2_REST_SINGLE)
    r = n * log_2_rest - ((v - n * log_2) + rest)
    bow = _polynomial(EXPONENTIAL_DOUBLE, r) if double else _polynomial(EXPONENTIAL_SINGLE, r)
    return one + (r + r * r * bow), k


@_inlined
def _exponential(v, rest):
    """exp(-(v + rest)) for 0 <= v + rest < 1400 (float64) and 170 (float32)."""
    p, k = _reduced(v, rest)
    half, one = k >> np.int32(1), type(v)(1)
    return p * _power(half, one) * _power(k - half, one)


@_inlined
def _gaussian(a, scale):
    """exp(-scale a^2) for 0 <= a < 40 (float64) and 16 (float32)."""
    real = type(a)
    shift = real(1.5 * 2.0**48) if _is_double(real(1)) else real(1.5 * 2.0**19)
    h = (a + shift) - shift  # a to four bits behind the point
    return _exponential(scale * (h * h), scale * ((a - h) * (a + h)))


@_inlined
def _tail(y):
    """exp(y^2) erfc(y), y >= 0."""
    if _is_double(type(y)(1)):
        return _polynomial(TAIL_ABOVE_DOUBLE, y) / _polynomial(TAIL_BELOW_DOUBLE, y)
    return _polynomial(TAIL_ABOVE_SINGLE, y) / _polynomial(TAIL_BELOW_SINGLE, y)


@_inlined
def _clipped_size(x, double, single):
    """|x|, at most `double` or `single`."""
    far = type(x)(double) if _is_double(type(x)(1)) else type(x)(single)
    return far if abs(x) > far else abs(x)


@_inlined
def _erf(x):
    real = type(x)
    one = real(1)
    a = _clipped_size(x, 6.0, 4.0)  # where erfc is below half a unit of rounding of 1
    z = a * a
    p, k = _reduced(z, real(0))
    outer = one - p * _power(k, one) * _tail(a)
    bow = _polynomial(ERF_DOUBLE, z) if _is_double(one) else _polynomial(ERF_SINGLE, z)
    return x + x * bow if a < real(0.5) else (outer if x > real(0) else -outer)


@_inlined
def _erf_slope(x):
    real = type(x)
    return real(PEAK_OF_ERF_SLOPE) * _gaussian(_clipped_size(x, 28.0, 11.0), real(1))


@_inlined
def _gelu(x):
    real = type(x)
    one, half = real(1), real(0.5)
    a = _clipped_size(x, 39.0, 15.0)
    lost = half * _gaussian(a, half) * _tail(real(ROOT_HALF) * a)
    return x * (lost if x < real(0) else one - lost)


@_inlined
def _gelu_slope(x):
    """Phi(x) + x phi(x), for negative x without a difference of rounded exponentials."""
    real = type(x)
    one, half = real(1), real(0.5)
    a = _clipped_size(x, 39.0, 15.0)
    lost = _gaussian(a, half) * (half * _tail(real(ROOT_HALF) * a) - real(PEAK) * a)
    return lost if x < real(0) else one - lost


@_inlined
def _logistics(x):
    """(s, 1 - s), s = 1 / (1 + exp(-x))."""
    real = type(x)
    one, zero = real(1), real(0)
    e = _exponential(_clipped_size(x, 750.0, 110.0), zero)
    large = one / (one + e)
    small = e * large
    return (small, large) if x < zero else (large, small)


@_inlined
def _logistic(x):
    return _logistics(x)[0]


@_inlined
def _logistic_slope(x):
    s, rest = _logistics(x)
    return s * rest


@_inlined
def _silu(x):
    return x * _logistics(x)[0]


@_inlined
def _silu_slope(x):
    s, rest = _logistics(x)
    return s * (type(x)(1) + x * rest)


@_inlined
def _gelu_tanh_terms(x):
    """(logistic(v), 1 - logistic(v), x dv/dx), x clipped where the logistic is constant but a square may overflow."""
    real = type(x)
    one, far = real(1), real(40)
    x = far if x > far else (-far if x < -far else x)
    bend = real(CUBIC) * x * x
    s, rest = _logistics(real(STEEP) * x * (one + bend))
    return s, rest, real(STEEP) * x * (one + (bend + bend + bend))


@_inlined
def _gelu_tanh(x):
    return x * _gelu_tanh_terms(x)[0]


@_inlined
def _gelu_tanh_slope(x):
    s, rest, slant = _gelu_tanh_terms(x)
    return s * (type(x)(1) + rest * slant)


@_inlined
def _softplus(x):
    """max(x, 0) + log(1 + e), e = exp(-|x|), log(1 + e) = 2 artanh(e / (2 + e))."""
    real = type(x)
    zero, two = real(0), real(2)
    e = _exponential(_clipped_size(x, 750.0, 110.0), zero)
    s = e / (two + e)
    z = s * s
    bow = _polynomial(LOGARITHM_DOUBLE, z) if _is_double(two) else _polynomial(LOGARITHM_SINGLE, z)
    grown = two * (s + s * z * bow)
    return grown if x < zero else x + grown


@rows_jit
def _values(start, stop, function, x, out):
    x, out = x[start:stop], out[start:stop]
    if function == ERF:
        for i in range(x.size):
            out[i] = _erf(x[i])
    elif function == GELU:
        for i in range(x.size):
            out[i] = _gelu(x[i])
    elif function == GELU_TANH:
        for i in range(x.size):
            out[i] = _gelu_tanh(x[i])
    elif function == LOGISTIC:
        for i in range(x.size):
            out[i] = _logistic(x[i])
    elif function == SILU:
        for i in range(x.size):
            out[i] = _silu(x[i])
    else:
        for i in range(x.size):
            out[i] = _softplus(x[i])


@_inlined
def _value_at(function, x):
    if function == ERF:
        return _erf(x)
    if function == GELU:
        return _gelu(x)
    if function == GELU_TANH:
        return _gelu_tanh(x)
    if function == LOGISTIC:
        return _logistic(x)
    if function == SILU:
        return _silu(x)
    return _softplus(x)


def _value_reference(function, x, out):
    """phi(x), x and out (n,); `function` is the number of phi in `FUNCTIONS`."""
    from scipy import special

    if function == ERF:
        out[...] = special.erf(x)
    elif function == GELU:
        out[...] = x * special.ndtr(x)
    elif function == GELU_TANH:
        z = np.clip(x, -40, 40)
        out[...] = x * special.expit(STEEP * (z + CUBIC * z**3))
    elif function == SOFTPLUS:
        out[...] = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    else:
        out[...] = special.expit(x) * (x if function == SILU else 1)


def _value_cpu(function, x, out):
    in_threads(_values, x.size, x.nbytes // BYTES, function, x, out)


@cuda_jit
def _value_cuda_kernel(function, x, out):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        out[i] = _value_at(function, x[i])


def _value_cuda(function, x, out, stream=0):
    blocks, threads = _kernel.grid(x.size)
    _value_cuda_kernel[blocks, threads, stream](function, x, out)


value = Kernel("activations.value", _value_reference, _value_cpu, _value_cuda)


@rows_jit
def _slopes(start, stop, function, x, out):
    x, out = x[start:stop], out[start:stop]
    if function == ERF:
        for i in range(x.size):
            out[i] = _erf_slope(x[i])
    elif function == GELU:
        for i in range(x.size):
            out[i] = _gelu_slope(x[i])
    elif function == GELU_TANH:
        for i in range(x.size):
            out[i] = _gelu_tanh_slope(x[i])
    elif function == LOGISTIC:
        for i in range(x.size):
            out[i] = _logistic_slope(x[i])
    elif function == SILU:
        for i in range(x.size):
            out[i] = _silu_slope(x[i])
    else:
        for i in range(x.size):
            out[i] = _logistic(x[i])


@_inlined
def _slope_at(function, x):
    if function == ERF:
        return _erf_slope(x)
    if function == GELU:
        return _gelu_slope(x)
    if function == GELU_TANH:
        return _gelu_tanh_slope(x)
    if function == LOGISTIC:
        return _logistic_slope(x)
    if function == SILU:
        return _silu_slope(x)
    return _logistic(x)


def _slope_reference(function, x, out):
    """phi'(x), x and out (n,); `function` is the number of phi in `FUNCTIONS`."""
    from scipy import special

    z = np.clip(x, -40, 40)  # whose square does not overflow
    v = STEEP * (z + CUBIC * z**3) if function == GELU_TANH else x
    s, rest = special.expit(v), special.expit(-v)
    if function == ERF:
        out[...] = 2 / np.sqrt(np.pi) * np.exp(-z * z)
    elif function == GELU:
        out[...] = special.ndtr(x) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    elif function == GELU_TANH:
        out[...] = s * (1 + STEEP * (z + 3 * CUBIC * z**3) * rest)
    elif function == LOGISTIC:
        out[...] = s * rest
    else:
        out[...] = s if function == SOFTPLUS else s * (1 + x * rest)


def _slope_cpu(function, x, out):
    in_threads(_slopes, x.size, x.nbytes // BYTES, function, x, out)


@cuda_jit
def _slope_cuda_kernel(function, x, out):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        out[i] = _slope_at(function, x[i])


def _slope_cuda(function, x, out, stream=0):
    blocks, threads = _kernel.grid(x.size)
    _slope_cuda_kernel[blocks, threads, stream](function, x, out)


slope = Kernel("activations.slope", _slope_reference, _slope_cpu, _slope_cuda)
