"""What importing the package costs, and what it must not load."""

import json
import statistics
import subprocess
import sys

FORBIDDEN = {"cupy", "jax", "torch", "autograd", "sklearn", "matplotlib", "rich", "dask", "zarr"}

PROBE = """
import json, sys, time
start = time.perf_counter()
import ntkfast
print(json.dumps({"seconds": time.perf_counter() - start, "modules": sorted({m.split(".")[0] for m in sys.modules})}))
"""


def _probe() -> dict:
    out = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def test_import_loads_no_optional_package():
    assert not FORBIDDEN & set(_probe()["modules"])


def test_import_takes_under_600_ms():
    """Median of five fresh processes; NumPy and Numba are most of it."""
    assert statistics.median(_probe()["seconds"] for _ in range(5)) < 0.6


def test_package_works_under_another_name(tmp_path):
    """Embedding: a copy of the folder under another name imports and computes."""
    import pathlib
    import shutil

    import ntkfast

    shutil.copytree(pathlib.Path(ntkfast.__file__).parent, tmp_path / "embedded_ntk")
    code = "import embedded_ntk, sys; assert 'ntkfast' not in sys.modules; print(embedded_ntk.available_backends())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "numpy" in out.stdout
