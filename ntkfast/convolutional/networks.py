"""Networks whose kernels were published, as `ntkfast.layers.Sequential`.

They describe finite networks of any number of channels, and infinite ones, whose kernels do not depend on it.
"""

import math
from typing import TypeAlias

from .._check import check_int
from ..layers import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, Layer, ReLU, Sequential

__all__ = ["flatten_network", "gap_network", "myrtle"]

Padding: TypeAlias = str | int | tuple[tuple[int, int], tuple[int, int]]

#: Convolutions in each of the three blocks.
_MYRTLE_BLOCKS = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}


def gap_network(
    depth: int = 3,
    *,
    kernel_size: int | tuple[int, int] = 3,
    channels: int = 64,
    outputs: int = 1,
    W_std: float = math.sqrt(2.0),
    b_std: float = 0.0,
    padding: Padding = "SAME",
) -> Sequential:
    """Convolutions with ReLU, the mean over all pixels, and a dense layer.

    Parameters
    ----------
    depth : int
        Number of convolutions, >= 1.
    kernel_size : int or (int, int)
    channels : int
        Of every convolution, for a finite network.
    outputs : int
        Of the dense layer, for a finite network.
    W_std, b_std : float
        Scales of all weights and biases; with W_std = sqrt(2), ReLU keeps the size of its inputs.
    padding : {"SAME", "VALID", "CIRCULAR"}, int, or ((top, bottom), (left, right))
        As in `ntkfast.layers.Conv2d`.

    Returns
    -------
    Sequential
        For images (n, h, w, c) of any size that the windows fit into.

    Raises
    ------
    TypeError, ValueError
        Numbers that make no layer.

    Notes
    -----
    Its infinite-width kernel compares all pixels of one image with all pixels of the other. With circular padding it
    does not change when an image is shifted round.

    References
    ----------
    Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.

    Examples
    --------
    >>> gap_network(2, outputs=10).out_shape((32, 32, 3))
    (10,)
    """
    body = _convolutions(depth, channels, kernel_size, W_std, b_std, padding)
    return Sequential(*body, GlobalAvgPool(), Dense(outputs, W_std=W_std, b_std=b_std))


def flatten_network(
    depth: int = 3,
    *,
    kernel_size: int | tuple[int, int] = 3,
    channels: int = 64,
    outputs: int = 1,
    W_std: float = math.sqrt(2.0),
    b_std: float = 0.0,
    padding: Padding = "SAME",
) -> Sequential:
    """Convolutions with ReLU, and a dense layer on all pixels.

    Parameters
    ----------
    depth, kernel_size, channels, outputs, W_std, b_std, padding
        As in `gap_network`.

    Returns
    -------
    Sequential
        For images (n, h, w, c) of any size that the windows fit into.

    Raises
    ------
    TypeError, ValueError
        Numbers that make no layer.

    Notes
    -----
    Its infinite-width kernel compares a pixel with the pixel in the same place only: it is cheaper than that of
    `gap_network` by a factor of the number of pixels, and usually less accurate.

    References
    ----------
    Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.

    Examples
    --------
    >>> flatten_network(2, outputs=10).out_shape((32, 32, 3))
    (10,)
    """
    body = _convolutions(depth, channels, kernel_size, W_std, b_std, padding)
    return Sequential(*body, Flatten(), Dense(outputs, W_std=W_std, b_std=b_std))


def myrtle(
    n: int,
    *,
    channels: int = 64,
    outputs: int = 1,
    W_std: float = math.sqrt(2.0),
    b_std: float = 0.0,
    padding: Padding = "SAME",
) -> Sequential:
    """Myrtle networks without normalization, for images of 32 x 32 pixels.

    Three blocks of 3 x 3 convolutions with ReLU, means over 2 x 2 blocks of pixels between them and three times at the
    end, which leave one pixel, and a dense layer.

    Parameters
    ----------
    n : {5, 7, 10}
        Layers with weights: 2 + 1 + 1, 2 + 2 + 2 or 3 + 3 + 3 convolutions and the dense layer.
    channels, outputs, W_std, b_std, padding
        As in `gap_network`.

    Returns
    -------
    Sequential
        For images (n, 32, 32, c).

    Raises
    ------
    TypeError, ValueError
        `n` is not one of 5, 7, 10; or numbers that make no layer.

    References
    ----------
    Shankar, Fang, Guo, Fridovich-Keil, Schmidt, Ragan-Kelley, Recht. Neural kernels without tangents. ICML 2020.

    Examples
    --------
    >>> network = myrtle(5, outputs=10)
    >>> network.out_shape((32, 32, 3))
    (10,)
    >>> sum(type(layer).__name__ == "Conv2d" for layer in network.layers)
    4
    """
    if check_int(n, "n") not in _MYRTLE_BLOCKS:
        raise ValueError(f"expected n to be 5, 7 or 10, got {n}")
    first, second, third = (_convolutions(count, channels, 3, W_std, b_std, padding) for count in _MYRTLE_BLOCKS[n])
    pool = AvgPool2d(2)
    head = Dense(outputs, W_std=W_std, b_std=b_std)
    return Sequential(*first, pool, *second, pool, *third, pool, pool, pool, Flatten(), head)


def _convolutions(
    count: int, channels: int, kernel_size: int | tuple[int, int], W_std: float, b_std: float, padding: Padding
) -> list[Layer]:
    convolution = Conv2d(channels, kernel_size, padding=padding, W_std=W_std, b_std=b_std)
    return [convolution, ReLU()] * check_int(count, "depth", minimum=1)
