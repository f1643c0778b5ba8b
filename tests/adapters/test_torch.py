"""Modules of PyTorch as layers of ours: the same outputs, shared memory, and what is refused."""

import fakecupy
import numpy as np
import pytest
from helpers import assert_close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch_networks import (  # noqa: E402
    BasicBlock,
    ChannelsLast,
    Functional,
    Nested,
    PreActivation,
    ResNet,
    Text,
    Words,
    cnn,
    mlp,
    randomized,
)  # fmt: skip

from ntkfast.adapters.torch import _arrays, from_torch  # noqa: E402
from ntkfast.empirical import empirical_ntk  # noqa: E402
from ntkfast.layers import Dense, Identity, Residual, Sequential  # noqa: E402


def _last(x):
    """A batch of PyTorch's as ours: channels last."""
    return np.ascontiguousarray(x.movedim(1, -1).numpy())


class Function(nn.Module):
    """A module with any forward."""

    def __init__(self, function, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def row(*modules):
    return nn.Sequential(*modules)


def seen(*modules):
    """Modules behind a convolution, from which the order of the axes is known."""
    return nn.Sequential(nn.Conv2d(3, 6, 1), *modules)


WORDS = (9,)
IMAGE = (14, 12, 3)
# name -> (module, shape of one of our samples)
ZOO = {
    "mlp": (mlp, (7,)),
    "cnn": (cnn, (14, 14, 3)),
    "resnet": (lambda: ResNet((8, 12, 16, 20)), (40, 33, 3)),
    "two blocks, one with a shortcut": (
        lambda: row(BasicBlock(3, 3, 1), BasicBlock(3, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGE),
    "shortcut is an empty row": (
        lambda: row(PreActivation(3, nn.Sequential()), nn.Flatten(), nn.Linear(504, 2)), IMAGE),
    "shortcut is the longer": (
        lambda: seen(PreActivation(6, row(*(m for _ in range(4) for m in (nn.Conv2d(6, 6, 1), nn.Tanh()))))), IMAGE),
    "functional": (Functional, (10, 10, 3)),
    "nested": (Nested, (6,)),
    "text, adaptive pool": (lambda: Text(row(nn.AdaptiveAvgPool1d(1), nn.Flatten())), WORDS),
    "words": (Words, WORDS),
    "words, flattened": (lambda: row(nn.Embedding(20, 4), nn.GELU(), nn.Flatten(), nn.Linear(36, 3)), WORDS),
    "channels last": (ChannelsLast, IMAGE),
    "flatten first": (lambda: row(nn.Flatten(), nn.Linear(504, 5), nn.ReLU(), nn.Linear(5, 2)), IMAGE),
    "layer norm of images": (lambda: seen(nn.LayerNorm([6, 14, 12]), nn.Flatten(), nn.Linear(1008, 2)), IMAGE),
    "layer norm of words": (
        lambda: row(nn.Embedding(20, 4), nn.LayerNorm([9, 4]), nn.Flatten(), nn.Linear(36, 3)), WORDS),
    "layer norm behind flatten": (lambda: seen(nn.Flatten(), nn.LayerNorm(1008), nn.Linear(1008, 2)), IMAGE),
    "grouped, strided": (
        lambda: row(nn.Conv2d(3, 12, (3, 2), (2, 1), (0, 1), (1, 2), groups=3), nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGE),
    "same padding of even kernels": (lambda: seen(nn.Conv2d(6, 4, (4, 2), dilation=(1, 3), padding="same")), IMAGE),
    "adaptive pool to some pixels": (
        lambda: seen(nn.AdaptiveAvgPool2d((7, 3)), nn.Flatten(), nn.Linear(126, 2)), IMAGE),
    "two heads": (
        lambda: Function(lambda self, x: self.a(self.stem(x).mean((2, 3))) + self.b(self.stem2(x).flatten(1)),
                         stem=nn.Conv2d(3, 4, 3), stem2=nn.Conv2d(3, 2, 1), a=nn.Linear(4, 2), b=nn.Linear(336, 2)),
        IMAGE),
    "pixels and their mean": (
        lambda: Function(lambda self, x: self.stem(x).mean((2, 3)) + self.b(self.rows(x)),
                         stem=nn.Conv2d(3, 2, 3), rows=nn.Flatten(), b=nn.Linear(504, 2)), IMAGE),
    "channels moved first of all": (
        lambda: Function(lambda self, x: self.a(x.permute(0, 2, 3, 1)).mean((1, 2)), a=nn.Linear(3, 5)), IMAGE),
    "batch norm first": (lambda: row(nn.BatchNorm1d(7), nn.Linear(7, 2)), (7,)),
    "adaptive pool to all pixels": (
        lambda: seen(nn.AdaptiveAvgPool2d((None, 12)), nn.Flatten(), nn.Linear(1008, 2)), IMAGE),
}  # fmt: skip


@pytest.fixture(params=ZOO)
def case(request):
    """A module, inputs as PyTorch takes them and as we do, and the shape of a sample."""
    torch.manual_seed(0)
    make, shape = ZOO[request.param]
    module = randomized(make())
    if shape == WORDS:
        x = torch.randint(0, 20, (5, *shape))
        return module, x, x.numpy(), shape
    x = torch.randn(5, shape[-1], *shape[:-1], dtype=torch.float64)
    return module, x, _last(x), shape


def _outputs(module, x):
    with torch.no_grad():
        return module(x).numpy()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_outputs_are_those_of_the_module(case):
    module, x, ours, shape = case
    found = from_torch(module, shape)
    y = found.net.forward(found.params, ours)[0]
    expected = _outputs(module, x)
    assert_close(y, np.moveaxis(expected, 1, -1) if expected.ndim > 2 else expected, 1e-12)


# ways to write the pixels of (n, 6, 3, 4) as rows
ROWS = {
    "flatten": lambda self, x: torch.flatten(x, 1),
    "method": lambda self, x: x.flatten(start_dim=1),
    "to the last axis by its number": lambda self, x: x.flatten(1, 3),
    "view": lambda self, x: x.view(x.size(0), -1),
    "shape": lambda self, x: x.reshape(x.shape[0], 72),
    "size": lambda self, x: torch.reshape(x, (x.size()[0], -1)),
    "width": lambda self, x: x.contiguous().view(-1, 72),
    "module": lambda self, x: self.rows(x),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_pixels(name):
    torch.manual_seed(0)
    module = randomized(seen(Function(ROWS[name], rows=nn.Flatten()), nn.Linear(72, 2)))
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    found = from_torch(module)
    assert_close(found.net.forward(found.params, _last(x))[0], _outputs(module, x), 1e-12)


# functions and methods of (n, 6, 3, 4) that the zoo has not
FUNCTIONS = {
    "relu": lambda self, x: torch.relu(x).mean((2, 3)),
    "method in place": lambda self, x: (x + x).relu_().mean(dim=(-1, -2)),
    "gelu": lambda self, x: nn.functional.gelu(x).mean([2, 3], keepdim=True).flatten(1),
    "tanh": lambda self, x: torch.mean(x.tanh(), (2, 3)),
    "sigmoid": lambda self, x: nn.functional.adaptive_avg_pool2d(torch.sigmoid(x), 1).view(-1, 6),
    "dropout": lambda self, x: nn.functional.dropout(x, training=False).mean((2, 3)),
    "permuted": lambda self, x: torch.permute(x, (0, 2, 3, 1)).mean((1, 2)),
    "sum in place": lambda self, x: x.tanh().add_(x).mean((2, 3)),
    "leaky": lambda self, x: nn.functional.leaky_relu(x, negative_slope=0.3).mean((2, 3)),
    "pool": lambda self, x: torch.max_pool2d(x, (3, 4)).flatten(1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    torch.manual_seed(0)
    module = randomized(seen(Function(FUNCTIONS[name])))
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    found = from_torch(module, (3, 4, 3))
    assert_close(found.net.forward(found.params, _last(x))[0], _outputs(module, x), 1e-12)


@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "resnet", "nested", "text, adaptive pool", "words", "channels last", "functional"]
)
def test_in_shape_changes_nothing_where_it_is_not_needed(name):
    make, shape = ZOO[name]
    module = randomized(make())
    bare, shaped = from_torch(module), from_torch(module, shape)
    assert bare.net == shaped.net
    for a, b in zip(_leaves(bare.params), _leaves(shaped.params), strict=True):
        np.testing.assert_array_equal(a, b)


def _leaves(tree):
    if isinstance(tree, np.ndarray):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in _leaves(part)]


def _at(params, path):
    for key in path.split("."):
        params = params[int(key) if key.isdigit() else key]
    return params


def test_names_and_memory_are_those_of_the_module():
    """Every tensor is named once; every array but the weight behind Flatten is a view of its tensor."""
    module = randomized(cnn())
    found = from_torch(module)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    assert sorted(found.names.values()) == sorted(name for name in tensors if "tracked" not in name)
    copied = {
        name for path, name in found.names.items()
        if not np.shares_memory(_at(found.params, path), tensors[name].detach().numpy())
    }  # fmt: skip
    assert copied == {"10.weight", "9.weight", "9.bias", "9.running_mean", "9.running_var"}


def test_weights_follow_the_module():
    module = nn.Linear(3, 2)
    found = from_torch(module)
    with torch.no_grad():
        module.weight.add_(1.0)
    np.testing.assert_array_equal(found.params[0]["weight"], module.weight.detach().numpy().T)


def test_copies_do_not_follow_the_module():
    module = randomized(cnn())
    views, found = from_torch(module), from_torch(module, copy=True)
    assert found.net == views.net
    for view, copied in zip(_leaves(views.params), _leaves(found.params), strict=True):
        np.testing.assert_array_equal(view, copied)
        assert copied.flags.c_contiguous
        assert not any(np.shares_memory(copied, tensor.numpy()) for tensor in module.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_module(dtype):
    module = randomized(cnn(), dtype=dtype)
    found = from_torch(module)
    x = torch.randn(2, 3, 14, 14, dtype=dtype)
    y = found.net.forward(found.params, _last(x))[0]
    assert y.dtype == str(dtype).removeprefix("torch.")
    assert {str(leaf.dtype) for leaf in _leaves(found.params)} == {str(dtype).removeprefix("torch.")}
    assert_close(y, _outputs(module, x), 1e-12 if dtype == torch.float64 else 1e-5)


def test_arrays_of_a_device_stay_there(monkeypatch):
    """Tensors that arrive as CuPy arrays are arranged by CuPy, and the network runs on them."""
    fakecupy.install(monkeypatch)
    monkeypatch.setattr(_arrays, "from_dlpack", lambda tensor: fakecupy.asarray(tensor.numpy()))
    module = randomized(cnn())
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    for copy in (False, True):
        found = from_torch(module, (14, 14, 3), copy=copy)
        y = found.net.forward(found.params, fakecupy.asarray(_last(x)))[0]
        assert_close(y.get(), _outputs(module, x), 1e-12)


@pytest.mark.gpu
def test_a_module_on_a_gpu():
    """Weights are CuPy arrays in the module's memory; the kernel is that of the CPU."""
    import cupy

    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA device")
    module = randomized(cnn())
    x = torch.randn(4, 3, 14, 14, dtype=torch.float64)
    host = from_torch(module)
    expected = empirical_ntk(host.net, host.params, _last(x))
    found = from_torch(module.cuda())
    assert found.params[0]["weight"].data.ptr == module[0].weight.data_ptr()
    got = empirical_ntk(found.net, found.params, cupy.asarray(_last(x)))
    assert_close(got.get(), expected, 1e-10)


def test_structure_of_a_residual_network():
    found = from_torch(ResNet((4, 6), classes=3).eval())
    blocks = [layer for layer in found.net.layers if isinstance(layer, Residual)]
    assert [block.shortcut is None for block in blocks] == [True, True, False, True]
    assert [len(block.body.layers) for block in blocks] == [5] * 4
    assert found.names["8.body.0.weight"] == "layers.1.0.conv1.weight"
    assert found.names["8.shortcut.1.scale"] == "layers.1.0.downsample.1.weight"


def test_a_module_that_does_nothing():
    assert from_torch(nn.Sequential(nn.Dropout(), nn.Identity()).eval()).net == Sequential(Identity())


def test_a_subclass_that_changes_nothing_is_its_base():
    class Named(nn.Linear):
        def __init__(self, width):
            super().__init__(width, width)

    assert from_torch(Named(3)).net == from_torch(nn.Linear(3, 3)).net
    assert isinstance(from_torch(Named(3)).net.layers[0], Dense)


def test_resnet_18_in_float32():
    """11 million parameters, 64x64 images, 10 classes."""
    torch.manual_seed(0)
    module = randomized(ResNet(), dtype=torch.float32)
    assert sum(p.numel() for p in module.parameters()) == 11_181_642
    found = from_torch(module, (64, 64, 3))
    x = torch.randn(2, 3, 64, 64)
    assert_close(found.net.forward(found.params, _last(x))[0], _outputs(module, x), 1e-4)


# --- what is refused ----------------------------------------------------------------------------


class _TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class _Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x + x)


def _tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


def _repeated():
    linear = nn.Linear(3, 3)
    return nn.Sequential(linear, nn.ReLU(), linear)


def _hooked():
    module = nn.Sequential(nn.Linear(3, 3))
    module[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def _conv_and(function):
    return row(nn.Conv2d(3, 3, 1), Function(function))


def _bridged(self, x):
    y = self.a(x)
    return self.b(y) + self.c(x) + y


def _then_in_place(change):
    """A forward that throws the result of `change` away."""

    def forward(self, x):
        y = x.tanh()
        change(self, y)
        return y.sigmoid()

    return forward


# name -> (what makes a module, words of the message)
REFUSED = {
    "unsupported module": (lambda: row(nn.Linear(3, 3), row(nn.Hardtanh())), r"functions, got 1\.0 \(Hardtanh\)"),
    "unsupported outermost": (lambda: nn.LSTM(3, 3), r"the module itself \(LSTM\)"),
    "unsupported in a block": (
        lambda: row(Function(lambda self, x: self.a(x), a=nn.Softmax(1))), r"0\.a \(Softmax\)"),
    "unsupported function": (lambda: Function(lambda self, x: torch.cos(x)), r"got cos\(x\) at 'cos'"),
    "unsupported argument": (lambda: Function(lambda self, x: x.mean((2, 3), dtype=torch.float64)), "dtype=torch"),
    "product": (lambda: row(Function(lambda self, x: x * x)), r"got mul\(x, x\) at '0\.mul'"),
    "the first of two": (
        lambda: Function(lambda self, x: self.a(torch.cat([x, self.b(x)], 1)).cos(), a=nn.Softmax(1), b=nn.Tanh()),
        r"got cat\(\[x, b\], 1\) at 'cat'"),
    "module of several inputs": (
        lambda: Function(lambda self, x: self.a(x, x, x)[0], a=nn.MultiheadAttention(4, 2)),
        r"MultiheadAttention\(x, x, x\) at 'a'"),
    "concatenation": (lambda: Function(lambda self, x: torch.cat([x, x], 1)), "got cat"),
    "sum with a number": (lambda: Function(lambda self, x: x + 1.0), r"add\(x, 1\.0\)"),
    "weighted sum": (lambda: Function(lambda self, x: torch.add(x, x, alpha=2)), "alpha=2"),
    "own tensor": (
        lambda: Function(lambda self, x: x + self.a.weight, a=nn.Linear(3, 3)), r"tensor of the module, 'a\.weight'"),
    "two inputs": (_TwoInputs, "a second input, 'y'"),
    "two outputs": (lambda: Function(lambda self, x: (x, x)), "one output, got tuple"),
    "data-dependent": (
        lambda: row(Function(lambda self, x: x if x.sum() > 0 else -x)), r"torch\.fx can trace, got 0 \(Function\)"),
    "bridge": (
        lambda: Function(_bridged, a=nn.ReLU(), b=nn.Tanh(), c=nn.Tanh()), "part and join in pairs, got 'a'"),
    "subclass with its own forward": (lambda: row(_Scaled(3, 3)), r"linear\(add, weight, bias\) at '0\.linear'"),
    "tied": (_tied, r"'0\.weight' and '2\.weight' in one memory"),
    "used twice": (_repeated, r"untied parameters, got .*'0\.weight'"),
    "used twice in a graph": (
        lambda: Function(lambda self, x: self.a(self.a(x)), a=nn.Linear(3, 3)), r"'a\.weight' used twice"),
    "hook": (_hooked, r"hooks, got one on 0 \(Linear\)"),
    "parametrization": (
        lambda: row(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), "a parametrization of 0"),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), "'weight' on meta"),
    "lazy": (lambda: nn.LazyLinear(3), "hooks"),
    "batch norm in training": (lambda: row(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), r"1 \(BatchNorm2d\): .* evaluation"),
    "dropout in training": (lambda: row(nn.Dropout()), r"0 \(Dropout\): expected evaluation"),
    "functional dropout": (lambda: Function(lambda self, x: nn.functional.dropout(x)), "expected evaluation"),
    "batch statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False).eval(), "running statistics"),
    "no scale": (lambda: nn.BatchNorm1d(3, affine=False).eval(), "got no weight"),
    "no shift": (lambda: nn.LayerNorm(3, bias=False), "got no bias"),
    "padding mode": (
        lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "expected padding_mode='zeros', got 'reflect'"),
    "ceil mode": (lambda: nn.MaxPool2d(2, ceil_mode=True), "expected ceil_mode=False"),
    "dilated pool": (lambda: nn.MaxPool2d(2, dilation=2), "expected dilation=1"),
    "padding not counted": (lambda: nn.AvgPool2d(2, padding=1, count_include_pad=False), "count_include_pad=True"),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d(2), "in_shape"),
    "padding index": (lambda: nn.Embedding(3, 3, padding_idx=0), "expected padding_idx=None, got 0"),
    "softplus of another scale": (lambda: nn.Softplus(beta=2), "expected beta=1"),
    "softplus with a low threshold": (lambda: nn.Softplus(threshold=2), "threshold of at least 20, got 2"),
    "in place on what is read again": (
        lambda: Function(lambda self, x: self.body(x) + x, body=row(nn.ReLU(inplace=True), nn.Linear(3, 3))),
        "got 'body' in place; set inplace=False"),
    "changed by a method": (lambda: Function(_then_in_place(lambda self, y: y.relu_())), r"got relu_\(tanh\)"),
    "changed by a function": (
        lambda: Function(_then_in_place(lambda self, y: nn.functional.relu(y, inplace=True))), "that changes"),
    "changed by a module": (
        lambda: Function(_then_in_place(lambda self, y: self.a(y)), a=row(nn.Identity(), nn.ReLU(inplace=True))),
        r"got Sequential\(tanh\) that changes"),
    "flatten of unknown shape": (lambda: row(nn.Flatten(), nn.Linear(3, 3)), "expected in_shape"),
    "flatten last": (lambda: row(nn.Conv2d(3, 3, 3), nn.Flatten()), "a Linear after the last Flatten"),
    "partial flatten": (lambda: row(nn.Conv2d(3, 3, 3), nn.Flatten(2)), "expected start_dim=1, got 2"),
    "flatten from the samples": (lambda: _conv_and(lambda self, x: torch.flatten(x)), "expected start_dim=1, got 0"),
    "dense on channels first": (
        lambda: row(nn.Conv2d(3, 3, 3), nn.Linear(5, 3)), "on the last axis for a Linear, got them on the axis after"),
    "convolution of another rank": (lambda: row(nn.Conv2d(3, 3, 3), nn.Conv1d(3, 3, 3)), "1 spatial axes for a Conv1d"),
    "mean over some axes": (lambda: _conv_and(lambda self, x: x.mean(2)), "axes"),
    "other permutation": (lambda: _conv_and(lambda self, x: x.permute(0, 1, 3, 2)), "permutation"),
    "samples mixed": (lambda: _conv_and(lambda self, x: x.view(6, -1)), r"view\(x, 6, -1\)"),
    "several rows per sample": (
        lambda: row(nn.Linear(3, 8), Function(lambda self, x: x.view(-1, 4))),
        "one row per sample, of 8 entries or a multiple, got 4"),
    "unlike summands": (lambda: _conv_and(lambda self, x: x + x.mean((2, 3), keepdim=True)), "summands of one shape"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        from_torch(make())


def test_no_module_and_dtypes():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got ndarray"):
        from_torch(np.zeros(3))
    with pytest.raises(TypeError, match="'weight' of dtype float32 or float64, got float16"):
        from_torch(nn.Linear(3, 3).half())
    with pytest.raises(TypeError, match=r"float32 on cpu \('0\.weight'\) and float64 on cpu \('1\.weight'\)"):
        from_torch(row(nn.Linear(3, 3), nn.Linear(3, 3).double()))


@pytest.mark.parametrize("shape", [(0,), (3.0,), (-1, 2)])
def test_bad_in_shape(shape):
    with pytest.raises((ValueError, TypeError), match="in_shape"):
        from_torch(nn.Linear(3, 2), shape)


def test_in_shape_that_does_not_fit_names_the_module():
    with pytest.raises(ValueError, match=r"0 \(Linear\): expected .* \(4, 2\), got \(3, 2\)"):
        from_torch(nn.Sequential(nn.Linear(3, 2)), (4,))
    with pytest.raises(ValueError, match=r"0 \(Conv2d\)"):
        from_torch(nn.Sequential(nn.Conv2d(3, 2, 9)), (4, 4, 3))
