"""Good calls of what computes infinite-width kernels of convolutional networks, and of their feature maps."""

import numpy as np
from hostile_arguments import PLAIN
from hostile_cases import MEMORY, OF_MAP, ROWS, SEED, Case, method, random_rows, taking

from ntkfast import convolutional, features
from ntkfast import images as image_functions
from ntkfast.layers import AvgPool2d, Conv2d, Dense, GlobalAvgPool, ReLU, Residual, Sequential

NET = Sequential(
    Conv2d(3, 3),
    Residual(Sequential(ReLU(), Conv2d(3, 3)), Conv2d(3, 1)),
    ReLU(),
    AvgPool2d((2, 1), stride=1),
    Conv2d(3, 2),
    ReLU(),
    GlobalAvgPool(),
    Dense(2),
)
_PATTERN = random_rows(3, 1, 2)


def images(x):
    """Images (n, 3, columns, 2), of the scale of the rows, and zero where they are."""
    return x[:, None, :, None] * _PATTERN


def pair(x):
    return {"x1": images(x), "x2": images(0.5 * x[::-1] + 0.25 * x)}


def of_network(function):
    return lambda **arguments: function(NET, **arguments)


def counts(**arguments):
    """What of a cost does not depend on the clock."""
    cost = convolutional.estimate_cost(NET, **arguments)
    assert cost.seconds > 0
    return [float(number) for number in (cost.pairs, cost.pixel_pairs, cost.result_bytes)]


def kernel_of(name):
    """The kernel of a network of some settings."""
    return lambda **settings: convolutional.cntk(getattr(convolutional, name)(**settings), images(PLAIN))


def myrtle(**settings):
    """Its scales, as its kernel takes images of 32 x 32."""
    first = convolutional.myrtle(**settings).layers[0]
    return [first.W_std, first.b_std, float(first.channels)]


TWO_SETS = taking(f"{ROWS}, None", "x2") | taking(ROWS, "x1")
ALONE = taking(f"{ROWS}, one column more, another dtype", "x")
SETTINGS = {
    "channels": (3, "count"),
    "outputs": (2, "count"),
    "W_std": (1.2, "positive"),
    "b_std": (0.3, "not negative"),
}
ROW = {"depth": (2, "count"), "kernel_size": (2, "count"), **SETTINGS}

CONVOLUTIONAL_CASES: dict[str, Case] = {
    **{
        name: Case(of_network(getattr(convolutional, name)), pair, MEMORY, TWO_SETS)
        for name in ("cntk", "cnn_gp", "cnn_gp_and_cntk")
    },
    "cntk(x)": Case(
        of_network(convolutional.cntk),
        lambda x: {"x1": images(x)},
        MEMORY,
        taking(f"{ROWS}, one column more, another dtype", "x1"),
    ),
    "cntk_diagonal": Case(of_network(convolutional.cntk_diagonal), lambda x: {"x": images(x)}, MEMORY, ALONE),
    "cntk_vjp": Case(
        of_network(convolutional.cntk_vjp),
        lambda x: pair(x) | {"ct": random_rows(len(x), len(x))},
        MEMORY | {"kind": ("nngp", "choice")},
        taking("None", "x2"),
    ),
    "cntk_vjp(x)": Case(
        lambda x1, ct, **options: convolutional.cntk_vjp(NET, x1, None, ct, **options).x1,
        lambda x: {"x1": images(x), "ct": random_rows(len(x), len(x))},
        MEMORY,
        taking("one column more", "x1"),
    ),
    "cntk_diagonal_vjp": Case(
        of_network(convolutional.cntk_diagonal_vjp),
        lambda x: {"x": images(x), "ct": random_rows(len(x))},
        MEMORY | {"kind": ("ntk", "choice")},
        taking("one column more", "x"),
    ),
    "estimate_cost": Case(counts, pair, MEMORY, TWO_SETS),
    "gap_network": Case(kernel_of("gap_network"), scalars=ROW),
    "flatten_network": Case(kernel_of("flatten_network"), scalars=ROW),
    "myrtle": Case(myrtle, scalars={"n": (5, "count"), **SETTINGS}),
}
# Feature maps of images: fields, and what they do.

SIMPLE = Sequential(Conv2d(3, 3), ReLU(), AvgPool2d((2, 1), stride=1), Conv2d(3, 2), ReLU(), GlobalAvgPool(), Dense(2))
IMAGE_MAPS = {
    "CNTKGradientFeatures": {"n_networks": (2, "optional count"), "channels": (4, "optional count")},
    "CNTKRandomFeatures": {
        "channels": (8, "optional count"),
        "width": (8, "optional count"),
        "sampling": ("gaussian", "choice"),
    },
    "CNTKSketch": {"degree": (2, "count"), "width": (8, "count"), "expansion": ("polynomial", "choice")},
}


def image_map(name, x):
    fields = {field: value for field, (value, _) in IMAGE_MAPS[name].items()}
    return getattr(features, name)(SIMPLE, images(x).shape[1:], 8, seed=3, **fields)


for _name, _fields in IMAGE_MAPS.items():
    CONVOLUTIONAL_CASES[_name] = Case(
        lambda name=_name, **k: getattr(features, name)(SIMPLE, images(PLAIN).shape[1:], **k)(images(PLAIN)),
        scalars={"n_features": (8, "count"), **_fields, **SEED},
    )
    for _method in ("apply", "__call__"):
        CONVOLUTIONAL_CASES[f"{_name}.{_method}"] = Case(
            method(_method),
            lambda x, name=_name: {"of": image_map(name, x), "x": images(x)},
            MEMORY,
            taking(OF_MAP, "x"),
        )
    CONVOLUTIONAL_CASES[f"{_name}.vjp"] = Case(
        method("vjp"),
        lambda x, name=_name: {"of": image_map(name, x), "x": images(x), "ct": random_rows(len(x), 8)},
        MEMORY,
    )
    CONVOLUTIONAL_CASES[f"{_name}.kernel"] = Case(
        method("kernel"), lambda x, name=_name: {"of": image_map(name, x), **pair(x)}, takes=TWO_SETS
    )
CONVOLUTIONAL_CASES["cntk_features"] = Case(
    lambda **k: features.cntk_features(SIMPLE, images(PLAIN).shape[1:], **k)(images(PLAIN)),
    scalars={"n_features": (8, "count"), "method": ("sketch", "choice"), **SEED},
)


# What is done to images before.

AFFINE = {"channel_statistics": "ChannelStatistics", "zca": "ZCA"}
_SEEN = images(np.random.default_rng(2).standard_normal((9, 4)))


_LABELS = "NaN, inf, -inf, float16, integers, bool, complex, object, strings, big-endian, long double, another dtype"


def _linear(x1, x2):
    return x1.reshape(len(x1), -1) @ (x1 if x2 is None else x2).reshape(-1, x1[0].size).T


def fitted(name, x):
    """Statistics of other images, as wide as these."""
    return getattr(image_functions, name)(np.ascontiguousarray(_SEEN[:, :, : x.shape[1]]))


for _name, _cls in AFFINE.items():
    for _method in ("apply", "inverse", "vjp"):
        _argument = {"apply": "x", "inverse": "z", "vjp": "ct"}[_method]
        CONVOLUTIONAL_CASES[f"{_cls}.{_method}"] = Case(
            method(_method),
            lambda x, name=_name, argument=_argument: {"of": fitted(name, x), argument: images(x)},
            takes=taking(OF_MAP, _argument),
        )
CONVOLUTIONAL_CASES |= {
    "channel_statistics": Case(image_functions.channel_statistics, lambda x: {"x": images(x)}, takes=ALONE),
    "zca": Case(
        image_functions.zca,
        lambda x: {"x": images(x)},
        {"reg": (0.1, "positive")},
        ALONE,
        frozenset({"one row", "one number", "zeros"}),
    ),
    "normalize": Case(image_functions.normalize, lambda x: {"x": images(x)}, takes=ALONE),
    "flip": Case(image_functions.flip, lambda x: {"x": images(x)}, takes=ALONE),
    "with_flips": Case(
        lambda x, y: image_functions.with_flips(x, y)[0],
        lambda x: {"x": images(x), "y": np.arange(float(len(x)))},
        takes=taking("one column more, another dtype", "x") | taking(_LABELS, "y"),
    ),
    "flip_augmented": Case(lambda x1, x2: image_functions.flip_augmented(_linear, x1, x2), pair, takes=TWO_SETS),
}

CONVOLUTIONAL_MADE_BY = {
    "CostEstimate": "estimate_cost",
    "ImageGradient": "cntk_vjp",
    "ChannelStatistics": "channel_statistics",
    "ZCA": "zca",
}
CONVOLUTIONAL_NO_CALLS: set[str] = set()
