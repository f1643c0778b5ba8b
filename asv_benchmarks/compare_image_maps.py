"""The three feature maps of the convolutional NTK at one width: milliseconds per image, and Gram error.

    python compare_image_maps.py --data FILE.npz [--features 4096] [--images 64] [--rows 32] [--seed 1]

FILE.npz holds images x_train (n, h, w, channels) of bytes, which are standardized per channel. The network has three
3x3 convolutions and the mean over all pixels. Errors are relative Frobenius errors of the Gram matrix of the first
`--rows` images, as it is and with its rows scaled to the exact diagonal.
"""

import argparse
import pathlib

import numpy as np
from benchmarks.common import relative_error, seconds

from ntkfast.convolutional import cntk, gap_network
from ntkfast.features import cntk_features
from ntkfast.images import channel_statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    with np.load(args.data) as arrays:
        x = arrays["x_train"].astype(np.float32) / 255
    x = channel_statistics(x).apply(x)[: args.images]
    network, rows = gap_network(), x[: args.rows]
    exact = cntk(network, rows)
    for method in ("gradient", "random", "sketch"):
        phi = cntk_features(network, x.shape[1:], args.features, method=method, seed=args.seed)
        unit = phi(rows)
        scale = np.sqrt(np.diag(exact)) / np.linalg.norm(unit, axis=1)
        errors = [relative_error(features, exact) for features in (unit, unit * scale[:, None])]
        each = seconds(lambda phi=phi: phi(x)) / len(x)
        print(f"{method:9}{1e3 * each:6.1f} ms per image   error {errors[0]:.4f}   diagonal exact {errors[1]:.4f}")


if __name__ == "__main__":
    main()
