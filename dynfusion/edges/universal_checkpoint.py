"""ZeRO's optimizer parts for another number of ranks, by DeepSpeed's own universal checkpoint.

zero_pp_rank_<r>_*_optim_states.pt (one per rank that saved) --ds_to_universal--> one file per parameter and moment
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from dynfusion.training.scratch import scratch_folder

_PARTS = "*zero_pp_rank_*_optim_states.pt"


def saved_ranks(folder: Path) -> int:
    """How many ranks wrote ZeRO parts into a checkpoint's folder; 0 for stage 0, which any number of ranks loads."""
    return len(list(folder.glob(_PARTS)))


def place_steps(states: Iterable[dict[str, Any]], step: float | None = None) -> None:
    """Make every optimizer state's count of steps a float32 tensor beside its moments, as fused AdamW needs it.

    DeepSpeed leaves there what a file held, on the CPU. `step` is the count where its file held none.
    """
    for state in states:
        if "exp_avg" in state and (step is not None or "step" in state):
            count = state["step"] if step is None else step
            state["step"] = torch.as_tensor(count, dtype=torch.float32, device=state["exp_avg"].device)


@contextmanager
def universal(folder: Path, tag: str) -> Iterator[Path]:
    """A folder with `tag` in it that any number of ranks can load, made from `folder/tag` for the `with`.

    Called on every rank, each for itself: machines need share no disk.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    with scratch_folder("universal") as scratch:
        arguments = Namespace(
            input_folder=str(folder / tag),
            output_folder=str(scratch / tag),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it prints its progress
            main(arguments)
        yield scratch
