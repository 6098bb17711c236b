"""`dynfusion pack`: sources named on a command line -> a packed dataset, or more for one that is there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dynfusion.edges.datasets import extend_in_store, open_dataset, pack_to_store
from dynfusion.edges.folder_manifests import manifests_beside
from dynfusion.edges.s3_address import is_s3
from dynfusion.edges.s3_files import ANYWHERE
from dynfusion.printable import printable
from dynfusion.settings import build
from dynfusion.store.extend import extend as extend_dataset
from dynfusion.store.files import Files
from dynfusion.store.manifest import Manifest, ModalitySpec
from dynfusion.store.pack import pack as pack_dataset
from dynfusion.store.pack_inputs import LEAST_MEMORY_BYTES, PackInputs, PackSettings, describe_inputs, see_inputs
from dynfusion.store.run_jobs import RunJobs
from dynfusion.verbs.display import progress
from dynfusion.verbs.lineage import extension_lines


def pack(
    *,
    modalities: Sequence[str],
    out: str | None,
    table: str | Path | None = None,
    id_column: str = "id",
    labels: Sequence[str] = (),
    split_column: str | None = None,
    extend: str | None = None,
    binary_dtype: str = "float16",
    memory_gb: float | None = None,
    run_jobs: RunJobs | None = None,
    **settings: Any,
) -> Manifest:
    """Pack NAME=URI sources into `out`, or add them to the dataset `extend`, and say what came of it; one argument for
    each option of the command, `settings` those of `PackSettings`.

    Raises ValueError for a text that is not NAME=URI, a name given twice, a setting unknown or out of range, neither or
    both of `out` and `extend`, and whatever the store refuses.
    """
    if memory_gb is not None:
        settings["memory_bytes"] = _memory_bytes(memory_gb)
    checked = build(PackSettings, settings)
    if (out is None) == (extend is None):
        raise ValueError("pack: give either --out for a new data set or --extend for one that is there")
    inputs = PackInputs(
        modalities=parse_modalities(modalities),
        table=table,
        id_column=id_column,
        labels=tuple(labels),
        split_column=split_column,
        binary_dtype=binary_dtype,
    )
    said: list[str] = []
    say = said.append
    with progress("pack") as advance:

        def pack_at(folder: str | Path) -> Manifest:
            return pack_dataset(
                inputs, out=folder, settings=checked, progress=advance, files=ANYWHERE, run_jobs=run_jobs, say=say
            )

        def put(uri: str) -> Manifest:
            return pack_to_store(pack_at, uri, describe_inputs(inputs, checked, see_inputs(inputs, ANYWHERE)))

        def extend_at(base: str, folder: Path | None, files: Files) -> str:
            return extend_dataset(
                inputs, base, out=folder, settings=checked, progress=advance, files=files, run_jobs=run_jobs, say=say
            )

        if extend is not None:
            far = is_s3(extend)
            address = extend_in_store(extend_at, extend) if far else extend_at(extend, None, ANYWHERE)
            manifest = open_dataset(address).manifest
        else:
            address = str(out)
            manifest = put(address) if is_s3(address) else pack_at(address)
    if extend is not None:
        said += extension_lines(manifests_beside(address, manifest))
    _tell(address, manifest, said)
    return manifest


def _tell(address: str, manifest: Manifest, said: Sequence[str]) -> None:
    """Print what was packed and what was found that is no error."""
    print(
        f"{address}: {manifest.rows} training rows, {manifest.holdout_rows} held out, "
        f"{manifest.dropped_rows} dropped because no modality is present, of {', '.join(manifest.names)}"
    )
    for line in (*said, *_doubts(manifest), *(_modality_line(spec, manifest.rows) for spec in manifest.modalities)):
        print(printable(line))


def _doubts(manifest: Manifest) -> Iterator[str]:
    """What is no error and hardly meant: modalities that share no id, or have no vector at all."""
    rows = manifest.rows + manifest.holdout_rows
    cells = {name: rows + manifest.dropped_rows - sum(absent.values()) for name, absent in manifest.absent.items()}
    for name in [name for name, found in cells.items() if not found]:
        yield f"warning: modality {name} is present in no row, all its vectors are missing"
    if len(cells) > 1 and sum(cells.values()) == rows:  # every row that stays has at least one
        yield "warning: no row has two modalities, so there is nothing to fuse; are their ids written alike?"


def _memory_bytes(memory_gb: float) -> int:
    least = LEAST_MEMORY_BYTES / (1 << 30)
    if not least <= memory_gb < float("inf"):
        raise ValueError(f"--memory-gb: found {memory_gb:g}, at least {least:g} is needed")
    return round(memory_gb * (1 << 30))


def _modality_line(spec: ModalitySpec, rows: int) -> str:
    """What a modality is, so that a column that does not belong is seen."""
    named = f", columns {spec.features[0]} to {spec.features[-1]}" if spec.features else ""
    return f"  {spec.name}: {spec.dim} numbers{named}, present in {spec.present_rows / rows:.1%} of the training rows"


def parse_modalities(texts: Sequence[str]) -> dict[str, str]:
    """`["morgan=embedded/morgan"]` as a mapping of name to address, in the given order.

    Raises ValueError for a text that is not NAME=PATH and for a name given twice.
    """
    modalities: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ValueError(f"modality {text!r}: expected NAME=PATH, such as morgan=embedded/morgan")
        if name in modalities:
            raise ValueError(f"modality {name}: given twice, each name stands for one source")
        modalities[name] = path
    return modalities
