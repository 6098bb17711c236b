"""What `torch.save` wrote into a checkpoint, read by torch's restricted unpickler: tensors and plain values alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch

_PASSING = re.compile(r"mmap|allocate|memory", re.IGNORECASE)
"""What torch says, as a RuntimeError, when the machine and not the file is at fault."""


def read_plain(path: Path, *, allowed: Sequence[type] = (), mapped: bool = False) -> Any:
    """The state in a file, on the CPU; besides tensors, numbers, texts and their containers it may hold objects of
    these types.

    Tensors of a `mapped` file are read when they are looked at.

    Raises ValueError when it is damaged or holds anything else, of which nothing is run; RuntimeError, as torch does,
    where memory is short.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zipfile(path))
    except (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, UserWarning) as error:
        if isinstance(error, RuntimeError) and _PASSING.search(str(error)):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), type(error).__name__)
        raise ValueError(
            f"checkpoint file {path}: it holds something else than tensors and plain values, or is damaged ({reason}); "
            "remove the checkpoint to go on from the one before it"
        ) from None
