"""What the numbers of an evaluation depend on beside data and settings."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from threadpoolctl import threadpool_info

PACKAGES = ("dynfusion", "numpy", "scipy", "scikit-learn", "torch", "ray", "rdkit", "xgboost")


def versions() -> dict[str, str]:
    """What numbers depend on: Python, packages, and the processor's kernels that BLAS and torch chose here.

    OpenBLAS chooses its kernel by the processor, or by OPENBLAS_CORETYPE; another one gives other last digits.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    blas = {f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in pools}
    return found | {"blas": ", ".join(sorted(blas)), "torch kernels": torch.backends.cpu.get_cpu_capability()}
