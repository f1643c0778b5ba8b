"""Layers in many settings, each with a shape of its samples: what every layer is tested in."""

import numpy as np

from ntkfast.layers import (
    GELU,
    Abs,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    Dense,
    Embedding,
    Erf,
    Flatten,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    LeakyReLU,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Tanh,
)

PIECEWISE_LINEAR = [ReLU(), LeakyReLU(), LeakyReLU(-0.5), LeakyReLU(1.5), Abs(), Identity()]
SMOOTH = [Erf(), GELU(), GELU("tanh"), Tanh(), Sigmoid(), SiLU(), Softplus(), Sin()]

DENSE = [
    (Dense(3), (4,)),
    (Dense(1, W_std=0.7, b_std=0.1), (1,)),
    (Dense(3, b_std=0.5), (2, 4)),
    (Dense(3, b_std=0.5), (2, 3, 4)),
    (Dense(3, parameterization="standard"), (4,)),
    (Dense(3, b_std=0.5, parameterization="standard"), (5, 4)),
    (Dense(3, bias=True, parameterization="standard"), (4,)),
    (Dense(3, b_std=0.5, bias=False), (4,)),
]

NORMS = [
    (LayerNorm(), (6,)),
    (LayerNorm(epsilon=0.3), (4, 6)),
    (LayerNorm(), (3, 2, 5)),
    (LayerNorm(axes=2), (3, 5)),
    (LayerNorm(axes=2), (4, 3, 5)),
    (LayerNorm(axes=3), (2, 3, 4)),
    (BatchNorm(), (4,)),
    (BatchNorm(epsilon=0.3), (5, 4)),
    (BatchNorm(), (3, 2, 4)),
]

CONVOLUTIONS = [
    (Conv1d(3, 3), (7, 2)),
    (Conv1d(4, 2, stride=2, padding="VALID", groups=2, b_std=0.3), (7, 4)),
    (Conv1d(4, 3, dilation=2, padding=2, groups=4, parameterization="standard", bias=True), (6, 4)),
    (Conv1d(4, 4, stride=2, padding="CIRCULAR", b_std=0.3), (6, 2)),
    (Conv2d(3, 3), (4, 5, 2)),
    (Conv2d(3, 3, stride=2, b_std=0.3), (5, 6, 2)),
    (Conv2d(3, (2, 3), padding="VALID", b_std=0.3), (4, 5, 2)),
    (Conv2d(3, 3, padding=((1, 0), (0, 2)), stride=(1, 2)), (4, 5, 2)),
    (Conv2d(2, 3, dilation=(2, 1), padding=2), (5, 4, 3)),
    (Conv2d(4, 3, groups=2, b_std=0.3, parameterization="standard"), (4, 3, 4)),
    (Conv2d(4, 3, groups=4, b_std=0.3), (4, 3, 4)),
    (Conv2d(8, 3, groups=4, stride=2), (5, 4, 4)),
    (Conv2d(3, 1), (3, 4, 5)),
    (Conv2d(3, 1, stride=2, b_std=0.3), (3, 4, 5)),
    (Conv2d(2, (3, 4), padding="VALID"), (3, 4, 2)),
    (Conv2d(3, 3, padding="CIRCULAR"), (4, 3, 2)),
    (Conv2d(4, (3, 2), padding="CIRCULAR", stride=(2, 1), dilation=(1, 2), groups=2, b_std=0.3), (4, 5, 4)),
]

POOLS = [
    (AvgPool2d(2), (4, 6, 3)),
    (AvgPool2d(3, 2), (7, 5, 2)),
    (AvgPool2d(3, 2, 1), (6, 6, 2)),
    (AvgPool2d((2, 3), (1, 2), "SAME"), (4, 5, 2)),
    (MaxPool2d(2), (4, 6, 3)),
    (MaxPool2d(2), (5, 5, 2)),
    (MaxPool2d(3, 2, 1), (6, 6, 2)),
    (MaxPool2d((2, 3), (1, 2), "SAME"), (4, 5, 2)),
    (GlobalAvgPool(), (4, 3)),
    (GlobalAvgPool(), (3, 4, 2)),
    (Flatten(), (5,)),
    (Flatten(), (2, 3)),
    (Flatten(), (2, 3, 4)),
]

_body = Sequential(Tanh(), Conv2d(3, 3, b_std=0.2), LayerNorm(), SiLU(), Conv2d(3, 3))
CONTAINERS = [
    (Sequential(ReLU()), (4,)),
    (Sequential(Dense(5, b_std=0.2), ReLU(), Dense(3, b_std=0.2)), (4,)),
    (Sequential(Dense(5), Erf(), Sequential(Dense(4), BatchNorm(), GELU()), Dense(3)), (4,)),
    (Residual(Identity()), (4,)),
    (Residual(Dense(4, b_std=0.2)), (4,)),
    (Residual(Sequential(Dense(3), Tanh()), Dense(3, b_std=0.2)), (4,)),
    (Residual(Residual(Sequential(Sin(), Dense(4)), LayerNorm()), Sequential(Tanh(), Dense(4))), (2, 4)),
    (Sequential(Conv2d(3, 3), ReLU(), AvgPool2d(2), Conv2d(2, 3), ReLU(), GlobalAvgPool(), Dense(3)), (4, 4, 2)),
    (Sequential(Conv2d(3, 3), Residual(_body), BatchNorm(), ReLU(), Flatten(), Dense(2)), (4, 3, 2)),
    (Sequential(Conv2d(4, 3), Residual(MaxPool2d(2), Conv2d(4, 1, stride=2)), GlobalAvgPool(), Dense(2)), (4, 4, 2)),
]

ELEMENTWISE = [(layer, shape) for layer in PIECEWISE_LINEAR + SMOOTH for shape in ((4,), (3, 2, 3))]

#: (layer, shape of one sample)
SETTINGS = [*DENSE, *NORMS, *CONVOLUTIONS, *POOLS, *CONTAINERS, *ELEMENTWISE]

#: (layer, samples of integers)
INDEX_SETTINGS = [
    (Embedding(5, 3), np.array([[0, 4, 4, 1], [2, 2, 2, 2]])),
    (Embedding(5, 3, W_std=0.7), np.array([[[0, 1], [4, 0]], [[3, 3], [1, 0]], [[2, 2], [2, 1]]])),
    (Embedding(1, 2, W_std=0.7, parameterization="standard"), np.zeros((2, 3), np.uint8)),
    (Embedding(5, 4), np.array([3, 0, 3])),
    (Sequential(Embedding(6, 3), LayerNorm(axes=2), Tanh(), GlobalAvgPool(), Dense(2)), np.arange(8).reshape(2, 4) % 6),
    (Sequential(Embedding(6, 3), Residual(Sequential(Dense(3), ReLU())), Flatten()), np.arange(6).reshape(2, 3)),
]
