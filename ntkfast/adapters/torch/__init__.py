"""Networks trained with PyTorch as layers of ntkfast: `from_torch`."""

from ._network import TorchNetwork, from_torch

__all__ = ["TorchNetwork", "from_torch"]
