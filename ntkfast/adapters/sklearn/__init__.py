"""Neural tangent kernels as scikit-learn estimators.

- `NTKFeatures`: transformer whose dot products approximate an NTK;
- `NTKRegressor`, `NTKClassifier`: ridge regression with the NTK;
- `NTKKernel`: kernel for ``GaussianProcessRegressor``, with gradient.

All pass scikit-learn's ``check_estimator``. They check and convert arrays as scikit-learn does, and leave
the work to `ntkfast.analytic`, `ntkfast.features` and `ntkfast.regression`.
"""

from .gp_kernel import NTKKernel
from .ridge import NTKClassifier, NTKRegressor
from .transformer import NTKFeatures

__all__ = ["NTKClassifier", "NTKFeatures", "NTKKernel", "NTKRegressor"]
