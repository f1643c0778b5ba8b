"""Networks written in PyTorch, as users write them, for the tests that bring them over."""

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a strided 1x1 convolution where the shape changes."""

    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or inputs != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """ResNet of basic blocks (He, Zhang, Ren, Sun, 2016); four stages of two are ResNet-18."""

    def __init__(self, widths=(64, 128, 256, 512), blocks=2, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], widths[0]
        for stage, width in enumerate(widths):
            row = []
            for block in range(blocks):
                row.append(BasicBlock(inputs, width, 2 if stage and block == 0 else 1))
                inputs = width
            stages.append(nn.Sequential(*row))
        self.layers = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = torch.flatten(self.avgpool(self.layers(x)), 1)
        return self.fc(x)


class PreActivation(nn.Module):
    """A block whose sum nothing follows, with an empty shortcut or none."""

    def __init__(self, width, shortcut):
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding="same", padding_mode="zeros")
        self.shortcut = shortcut

    def forward(self, x):
        return self.shortcut(x) + self.conv(F.gelu(self.bn(x)))


class Functional(nn.Module):
    """A CNN by functions and methods."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.fc1, self.fc2 = nn.Linear(32, 12), nn.Linear(12, 4)

    def forward(self, x):
        x = F.max_pool2d(F.leaky_relu(self.conv1(x), 0.2), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), kernel_size=3, stride=2, padding=1)
        x = x.view(x.size(0), -1)
        x = F.dropout(F.silu(self.fc1(x)), 0.5, self.training)
        return self.fc2(F.softplus(x).sigmoid())


class Nested(nn.Module):
    """Sums within sums, and three summands of one value."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        inner = torch.relu(self.a(x)) + x
        x = self.b(torch.add(inner, self.c(inner))) + self.d(x) + x
        return self.head(x.add(x))


class Text(nn.Module):
    """Embedding, convolutions over the words, mean over the words."""

    def __init__(self, pool):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.norm = nn.LayerNorm(6)
        self.conv1, self.conv2 = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 8, 3, dilation=2, padding="same")
        self.fc = nn.Linear(8, 3)
        self.pool = pool

    def forward(self, x):
        x = self.norm(self.embedding(x)).transpose(1, 2)
        return self.fc(self.pool(torch.relu(self.conv2(F.relu(self.conv1(x))))))


class Words(nn.Module):
    """Dense layers on every word, channels last all the way."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.up, self.down, self.fc = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        x = self.embedding(x)
        x = x + self.down(F.gelu(self.up(self.norm(x)), approximate="tanh"))
        return self.fc(x.mean(dim=1))


class ChannelsLast(nn.Module):
    """LayerNorm of channels between convolutions, by permutations there and back."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.down(F.gelu(self.up(self.norm(y)))).permute(0, 3, 1, 2)
        return self.head((x + y).mean((-2, -1)))


def mlp():
    return nn.Sequential(
        nn.Linear(7, 16), nn.ReLU(), nn.LayerNorm(16), nn.Dropout(0.2),
        nn.Sequential(nn.Linear(16, 12, bias=False), nn.SiLU(inplace=True)), nn.BatchNorm1d(12), nn.Linear(12, 3),
    )  # fmt: skip


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), padding=(1, 2)), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 12, 3, dilation=2, padding="valid"), nn.Softplus(), nn.AvgPool2d(2, 1), nn.Flatten(),
        nn.Dropout(), nn.BatchNorm1d(12 * 2 * 2), nn.Linear(12 * 2 * 2, 16), nn.Tanh(), nn.Linear(16, 5),
    )  # fmt: skip


def randomized(module, seed=0, dtype=torch.float64):
    """The module in evaluation mode, with statistics, scales and shifts that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data += 0.3 * noise
        else:
            parameter.data = noise / parameter[0].numel() ** 0.5
    for name, buffer in module.named_buffers():
        if name.endswith(("mean", "var")):
            noise = torch.randn(buffer.shape, generator=generator)
            buffer.copy_(0.3 * noise if name.endswith("mean") else noise**2 + 0.5)
    return module.eval().to(dtype)


def tangent_kernels(module, x1, x2):
    """Full NTK (n1, n2, k, k) from each parameter, by its name, from torch.func."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    buffers = dict(module.named_buffers())

    def output(parameters, sample):
        return torch.func.functional_call(module, (parameters, buffers), (sample[None],))[0]

    jacobian = torch.func.vmap(torch.func.jacrev(output), (None, 0))
    first, second = ({name: j.flatten(2) for name, j in jacobian(parameters, x).items()} for x in (x1, x2))
    return {name: torch.einsum("ikp,jlp->ijkl", first[name], second[name]).numpy() for name in parameters}
