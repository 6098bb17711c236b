"""`dynfusion export`: a plain model folder out of a checkpoint."""

from pathlib import Path

from dynfusion.training import run_folder


def export(checkpoint: Path, out: Path) -> Path:
    """Copy a whole checkpoint's model to `out`; returns `out`.

    Raises ValueError when the checkpoint is not whole or `out` is taken.
    """
    made = run_folder.export(checkpoint, out)
    print(f"model: {made}")
    return made
