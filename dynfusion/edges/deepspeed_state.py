"""DeepSpeed's files in a checkpoint, looked at before DeepSpeed reads them: it runs whatever code a pickle names, and
makes folders called after what the pickle calls parameters.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynfusion.training.plain_state import read_plain


def check_state(folder: Path) -> None:
    """Raise ValueError unless every file holds tensors, plain values and DeepSpeed's own few types alone, under names
    that are no paths. Nothing in them is run, and tensors are not copied.
    """
    allowed = _own_types()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        state = read_plain(path, allowed=allowed, mapped=True)
        wrong = next((name for name in _names(state) if "/" in name), None)
        if wrong is not None:
            raise ValueError(
                f"checkpoint file {path}: found the name {wrong!r}, allowed are names of parameters without /; remove "
                "the checkpoint to go on from the one before it"
            )


def _own_types() -> list[type]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]


def _names(state: Any) -> Iterator[str]:
    """Every name below a state, however deep; a container that holds itself is looked at once."""
    waiting, seen = [state], set[int]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        if isinstance(found, dict | list | tuple | set):
            seen.add(id(found))
        if isinstance(found, dict):
            yield from (name for name in found if isinstance(name, str))
            waiting += found.values()
        elif isinstance(found, list | tuple | set):
            waiting += found
