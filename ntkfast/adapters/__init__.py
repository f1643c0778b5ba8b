"""Adapters to other toolkits. Each is imported by its own name and needs its own extra.

- `ntkfast.adapters.sklearn`: estimators for scikit-learn (``pip install "ntkfast[sklearn]"``).
"""
