"""`dynfusion pack`: sources named on a command line -> a packed dataset."""

from collections.abc import Sequence
from pathlib import Path

from dynfusion.settings import build
from dynfusion.store import pack as packing
from dynfusion.store.manifest import Manifest
from dynfusion.verbs.display import progress


def pack(
    *,
    modalities: Sequence[str],
    table: Path | None,
    id_column: str,
    labels: Sequence[str],
    split_column: str | None,
    out: str,
    on_bad: str,
    zero_rows: str,
    holdout: float,
    seed: int,
) -> Manifest:
    """Pack NAME=PATH sources into `out` and say what came of it; one argument for each option of the command.

    Raises ValueError for a text that is not NAME=PATH, a name given twice, a setting out of range, and whatever the
    store refuses.
    """
    choices = {"on_bad": on_bad, "zero_rows": zero_rows, "holdout": holdout, "seed": seed}
    settings = build(packing.PackSettings, choices)
    inputs = packing.PackInputs(
        modalities=parse_modalities(modalities),
        table=table,
        id_column=id_column,
        labels=tuple(labels),
        split_column=split_column,
    )
    with progress("pack") as advance:
        manifest = packing.pack(inputs, out=out, settings=settings, progress=advance)
    print(
        f"{out}: {manifest.rows} training rows, {manifest.holdout_rows} held out, "
        f"{manifest.dropped_rows} dropped because no modality is present, of {', '.join(manifest.names)}"
    )
    return manifest


def parse_modalities(texts: Sequence[str]) -> dict[str, Path]:
    """`["morgan=embedded/morgan"]` as a mapping of name to path, in the given order.

    Raises ValueError for a text that is not NAME=PATH and for a name given twice.
    """
    modalities: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ValueError(f"modality {text!r}: expected NAME=PATH, such as morgan=embedded/morgan")
        if name in modalities:
            raise ValueError(f"modality {name}: given twice, each name stands for one source")
        modalities[name] = Path(path)
    return modalities
