"""`dynfusion inspect`: what a packed dataset holds."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from dynfusion.edges.datasets import open_dataset
from dynfusion.edges.folder_manifests import manifests_beside
from dynfusion.printable import printable
from dynfusion.store.manifest import Manifest, ModalitySpec
from dynfusion.verbs.lineage import base_of, entries, others_text


def inspect(uri: str, *, as_json: bool = False) -> None:
    """Print modalities, rows, present rates and identity, as a table or as JSON.

    Raises ValueError when there is no valid dataset.
    """
    manifest = open_dataset(uri).manifest
    beside = manifests_beside(uri, manifest)
    if as_json:
        known = {"manifest": beside.own, "manifests": entries(beside.manifests), "manifests_unknown": beside.unknown}
        print(json.dumps({**summary(uri, manifest), **known}, indent=2))
        return
    console = Console()
    table = Table(title=uri)
    all_rows = _all_rows(manifest)
    for heading in ("modality", "dim", f"in {manifest.rows} training rows", f"in all {all_rows} rows"):
        table.add_column(heading, justify="left" if heading == "modality" else "right")
    for heading in (f"absent among all {all_rows} because", "encoder"):
        table.add_column(heading)
    for spec in manifest.modalities:
        reasons = ", ".join(f"{reason} {count}" for reason, count in manifest.absent[spec.name].items())
        rate, everywhere = f"{spec.present_rows / manifest.rows:.1%}", str(_present_in_all(manifest, spec))
        encoder = printable(spec.encoder or "-")
        table.add_row(spec.name, str(spec.dim), f"{spec.present_rows} ({rate})", everywhere, reasons or "-", encoder)
    console.print(table)
    columns = [*manifest.label_columns, *([manifest.split_column] if manifest.split_column else [])]
    print(f"rows         {manifest.rows} training, {manifest.holdout_rows} held out, {manifest.dropped_rows} dropped")
    print(f"files        {len(manifest.files)} beside {beside.own}, {_total_bytes(manifest) / 1e6:.1f} MB")
    print(f"order        {manifest.lanes} lanes, blocks of {manifest.block_rows} rows, pack seed {manifest.pack_seed}")
    print(f"labels       {printable(', '.join(columns) or '-')}")
    print(f"fingerprint  {manifest.fingerprint}")
    if manifest.extends is not None:
        print(f"extends      {base_of(beside.own, beside.manifests)}")
    if others := others_text(beside):
        print(f"also here    {printable(others)}")


def summary(uri: str, manifest: Manifest) -> dict[str, Any]:
    """What `inspect --json` prints of the manifest; rates are shares of the training rows, in [0, 1], `absent` and
    `present_in_all_rows` count training, held-out and dropped rows."""
    return {
        "uri": uri,
        "fingerprint": manifest.fingerprint,
        "format_version": manifest.format_version,
        "rows": manifest.rows,
        "holdout_rows": manifest.holdout_rows,
        "dropped_rows": manifest.dropped_rows,
        "all_rows": _all_rows(manifest),
        "block_rows": manifest.block_rows,
        "lanes": manifest.lanes,
        "window_blocks": manifest.window_blocks,
        "pack_seed": manifest.pack_seed,
        "files": len(manifest.files),
        "bytes": _total_bytes(manifest),
        "shards": len(manifest.shards),
        "holdout_shards": len(manifest.holdout_shards),
        "label_columns": list(manifest.label_columns),
        "split_column": manifest.split_column,
        "modalities": [
            {
                "name": spec.name,
                "dim": spec.dim,
                "encoder": spec.encoder,
                "present_rows": spec.present_rows,
                "present_rate": spec.present_rows / manifest.rows,
                "present_in_all_rows": _present_in_all(manifest, spec),
                "absent": manifest.absent[spec.name],
            }
            for spec in manifest.modalities
        ],
    }


def _all_rows(manifest: Manifest) -> int:
    return manifest.rows + manifest.holdout_rows + manifest.dropped_rows


def _present_in_all(manifest: Manifest, spec: ModalitySpec) -> int:
    return _all_rows(manifest) - sum(manifest.absent[spec.name].values())


def _total_bytes(manifest: Manifest) -> int:
    return sum(file.bytes for file in manifest.files)
