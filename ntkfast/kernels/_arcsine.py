"""Polynomials for arcsin, which kernels take as arguments: tables may lie in another file, functions may not."""

import numpy as np

__all__ = ["arcsine"]

# arcsin(sqrt m) / sqrt m on [0, 1/2], interpolated at Chebyshev nodes in 60 digits: relative error 1.8e-8 and 2.0e-17.
_ARCSINE_32 = tuple(
    np.float32(c)
    for c in (
        0.10967398323879114,
        -0.09008621671077405,
        0.07553975382221965,
        0.01673138895046739,
        0.046480849462936874,
        0.07488114441822327,
        0.16666954671609344,
        0.9999999887111962,
    )
)
_ARCSINE_64 = tuple(
    np.float64(c)
    for c in (
        0.8892904367638688,
        -3.278933156739812,
        5.7579408313146985,
        -6.229299875397985,
        4.6420689099888435,
        -2.4908808126226116,
        1.0082016650534187,
        -0.2968705430689824,
        0.07871611357002127,
        -0.002601537848299688,
        0.013191002571753903,
        0.01380344589589198,
        0.017364281439103527,
        0.022371584779320355,
        0.030381963396751827,
        0.044642856762615,
        0.07500000000401816,
        0.16666666666664987,
        1.0,
    )
)


def arcsine(dtype):
    """Coefficients for `dtype`, highest power first, in two halves; their lengths are part of the compiled type."""
    series = _ARCSINE_32 if dtype == np.float32 else _ARCSINE_64
    return series[: len(series) // 2], series[len(series) // 2 :]
