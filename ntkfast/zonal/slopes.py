"""Positively homogeneous activations, phi(z) = odd z + even |z|: what every formula needs to know of them."""

import math
from typing import Any, NamedTuple

from .._check import check_real

__all__ = ["LEAK", "Slopes", "check_leak", "slopes_of"]

# Slope of the leaky relu below zero, where none is given.
LEAK = 0.01


class Slopes(NamedTuple):
    """phi(z) = even * abs(z) + odd * z, the positively homogeneous activations.

    Attributes
    ----------
    odd, even : float
        relu has (1/2, 1/2), abs (0, 1), leaky relu with slope a below zero ((1 + a) / 2, (1 - a) / 2).
    """

    odd: float
    even: float

    @property
    def gain(self) -> float:
        """E[phi(z)^2] for z ~ N(0, 1)."""
        return self.odd**2 + self.even**2

    @property
    def ratio(self) -> float:
        """Share of the even part in `gain`: the r of kappa_1(t) = cos t + (2 r / pi)(sin t - t cos t)."""
        return self.even**2 / self.gain

    @property
    def leak(self) -> float:
        """Slope below zero of a leaky relu with the same `ratio`, so with the same kernel up to its scale."""
        odd, even = abs(self.odd), abs(self.even)
        return (odd - even) / (odd + even)

    def scale(self, depth: int, W_std: float, in_dim: int) -> float:
        """Factor of |x| |y| in bias-free kernels, (W_std^2 gain)^depth W_std^2 / in_dim; inf where it overflows."""
        try:
            return math.pow(W_std * W_std * self.gain, depth) * (W_std * W_std) / in_dim
        except OverflowError:
            return math.inf


def slopes_of(activation: str, leak: float = LEAK) -> Slopes:
    """Slopes of "relu", "leaky_relu" (with slope `leak` below zero) or "abs"."""
    if activation == "abs":
        return Slopes(0.0, 1.0)
    below = leak if activation == "leaky_relu" else 0.0
    return Slopes((1.0 + below) / 2.0, (1.0 - below) / 2.0)


def check_leak(value: Any) -> float:
    """Return a slope below zero: a finite number whose square is finite too."""
    leak = check_real(value, "leak")
    if not math.isfinite(leak * leak):
        raise ValueError(f"expected leak to be a number with a finite square, got {leak}")
    return leak
