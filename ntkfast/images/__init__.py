"""What is done to images before a kernel sees them: standardization, whitening, flips.

Images are (n, h, w, c), float32 or float64, NumPy or CuPy. Statistics are taken from training images
(`channel_statistics`, `zca`) and applied to any images; both are affine maps with `apply`, `inverse` (to show images
that were optimized behind them) and `vjp`. Their arithmetic is in float64; results are in the images' dtype.
"""

from .channels import ChannelStatistics, channel_statistics, normalize
from .flips import flip, flip_augmented, with_flips
from .whitening import ZCA, zca

__all__ = ["ZCA", "ChannelStatistics", "channel_statistics", "flip", "flip_augmented", "normalize", "with_flips", "zca"]
