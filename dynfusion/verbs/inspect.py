"""`dynfusion inspect`: what a packed dataset holds."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from dynfusion.edges.datasets import open_dataset
from dynfusion.store.manifest import Manifest
from dynfusion.verbs.printable import printable


def inspect(uri: str, *, as_json: bool = False) -> None:
    """Print modalities, rows, present rates and identity, as a table or as JSON.

    Raises ValueError when there is no valid dataset.
    """
    manifest = open_dataset(uri).manifest
    if as_json:
        print(json.dumps(summary(uri, manifest), indent=2))
        return
    console = Console()
    table = Table(title=uri)
    for heading in ("modality", "dim", "present", "absent because", "encoder"):
        table.add_column(heading, justify="right" if heading in ("dim", "present") else "left")
    for spec in manifest.modalities:
        reasons = ", ".join(f"{reason} {count}" for reason, count in manifest.absent[spec.name].items())
        rate = f"{spec.present_rows / manifest.rows:.1%}"
        table.add_row(spec.name, str(spec.dim), rate, reasons or "-", printable(spec.encoder or "-"))
    console.print(table)
    columns = [*manifest.label_columns, *([manifest.split_column] if manifest.split_column else [])]
    print(f"rows         {manifest.rows} training, {manifest.holdout_rows} held out, {manifest.dropped_rows} dropped")
    print(f"files        {len(manifest.files) + 1}, {_total_bytes(manifest) / 1e6:.1f} MB")
    print(f"order        {manifest.lanes} lanes, blocks of {manifest.block_rows} rows, pack seed {manifest.pack_seed}")
    print(f"labels       {printable(', '.join(columns) or '-')}")
    print(f"fingerprint  {manifest.fingerprint}")


def summary(uri: str, manifest: Manifest) -> dict[str, Any]:
    """What `inspect --json` prints; rates are shares of the training rows, in [0, 1]."""
    return {
        "uri": uri,
        "fingerprint": manifest.fingerprint,
        "format_version": manifest.format_version,
        "rows": manifest.rows,
        "holdout_rows": manifest.holdout_rows,
        "dropped_rows": manifest.dropped_rows,
        "block_rows": manifest.block_rows,
        "lanes": manifest.lanes,
        "window_blocks": manifest.window_blocks,
        "pack_seed": manifest.pack_seed,
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
                "absent": manifest.absent[spec.name],
            }
            for spec in manifest.modalities
        ],
    }


def _total_bytes(manifest: Manifest) -> int:
    return sum(file.bytes for file in manifest.files)
