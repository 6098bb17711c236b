"""`dynfusion export`: a plain model folder out of a checkpoint."""

from pathlib import Path

from dynfusion.edges.s3_storage import open_storage
from dynfusion.training import run_folder


def export(checkpoint: str, out: Path) -> Path:
    """Copy the model of a whole checkpoint, of a folder or an S3 address, to `out`; returns `out`.

    Raises ValueError when the checkpoint is not whole or `out` is taken.
    """
    with open_storage(checkpoint).local("") as folder:
        made = run_folder.export(folder, out)
    print(f"model: {made}")
    return made
