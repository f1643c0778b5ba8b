"""Adapters to other toolkits. Each is imported by its own name and needs its own extra.

- `ntkfast.adapters.sklearn`: estimators for scikit-learn (``pip install "ntkfast[sklearn]"``);
- `ntkfast.adapters.torch`: trained networks from PyTorch (``pip install "ntkfast[torch]"``).
"""
