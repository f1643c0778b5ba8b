"""Conformance suites for those who write layers or autodiff engines of their own."""

from .autodiff import check_autodiff
from .layers import check_layer

__all__ = ["check_autodiff", "check_layer"]
