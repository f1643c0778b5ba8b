"""Networks of the benchmarks, in the standard parameterization: dense, convolutional, residual."""

from ntkfast.layers import AvgPool2d, BatchNorm, Conv2d, Dense, GlobalAvgPool, MaxPool2d, ReLU, Residual, Sequential

STANDARD = {"parameterization": "standard", "bias": True}
UNBIASED = {"parameterization": "standard", "bias": False}
STAGES = (64, 128, 256, 512)


def mlp(widths):
    """Dense layers of `widths`, relu between them; mlp((1024, 1024, 10)) has two hidden layers."""
    hidden = [layer for width in widths[:-1] for layer in (Dense(width, **STANDARD), ReLU())]
    return Sequential(*hidden, Dense(widths[-1], **STANDARD))


def cnn(channels, classes=10, pool=False):
    """3x3 convolutions of `channels` with relu, each followed by a 2x2 mean if `pool`; global mean, dense head."""
    body = []
    for width in channels:
        body += [Conv2d(width, 3, padding=1, **STANDARD), ReLU(), *([AvgPool2d(2)] if pool else [])]
    return Sequential(*body, GlobalAvgPool(), Dense(classes, **STANDARD))


def resnet18(classes=10, stem="imagenet"):
    """ResNet-18 (He, Zhang, Ren, Sun, 2016) with 11.2 million parameters.

    The stem "imagenet" is a 7x7 convolution and a maximum, each of stride 2; "cifar" is a 3x3 convolution.
    """
    first = {
        "imagenet": (*_conv(STAGES[0], 7, 2), ReLU(), MaxPool2d(3, stride=2, padding=1)),
        "cifar": (*_conv(STAGES[0], 3), ReLU()),
    }[stem]
    blocks = [block for stage, width in enumerate(STAGES) for block in _stage(width, first=stage == 0)]
    return Sequential(*first, *blocks, GlobalAvgPool(), Dense(classes, **STANDARD))


def _stage(channels, first):
    """Two blocks, of which the first halves the image, but for the first stage."""
    halved = Residual(Sequential(*_body(channels, 2)), Sequential(*_conv(channels, 1, 2)))
    same = Residual(Sequential(*_body(channels, 1)))
    return [same if first else halved, ReLU(), same, ReLU()]


def _body(channels, stride):
    return [*_conv(channels, 3, stride), ReLU(), *_conv(channels, 3)]


def _conv(channels, size, stride=1):
    """Convolution and batch normalization."""
    return [Conv2d(channels, size, stride=stride, padding=size // 2, **UNBIASED), BatchNorm()]
