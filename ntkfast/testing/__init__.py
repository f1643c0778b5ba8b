"""Conformance suites for those who write layers of their own."""

from .layers import check_layer

__all__ = ["check_layer"]
