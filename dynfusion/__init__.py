"""dynfusion: one compact embedding out of several pretrained ones, that keeps working when some are missing.

The public names load on first use, so that `import dynfusion` and `dynfusion --help` need no torch.
"""

import importlib
from typing import Any

_PUBLIC = {
    "FusionModel": "dynfusion.fusion.api",
    "Dataset": "dynfusion.store.dataset",
    "open_dataset": "dynfusion.edges.datasets",
    "pack": "dynfusion.store.pack",
    "PackInputs": "dynfusion.store.pack_inputs",
    "PackSettings": "dynfusion.store.pack_inputs",
    "RunSettings": "dynfusion.run_settings",
    "read_run": "dynfusion.run_settings",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dynfusion' has no attribute {name!r}, it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
