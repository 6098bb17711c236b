"""What a packed data set consists of: manifest, table of blocks, shards, sidecars. Hashes are made right again after a
mutation, as whoever gives away a hostile data set would, so that what lies behind them is reached."""

import hashlib
import json
import re
import zlib
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from dynfusion.store.blocks import BLOCK_DTYPE, read_blocks
from dynfusion.store.dataset import open_dataset
from dynfusion.store.manifest import FileSpec, parse_manifest
from dynfusion.store.part import block_offsets
from dynfusion.store.sidecar import read_sidecars
from dynfusion.store.verify import verify
from tests.fuzz.examples import Examples, arrow
from tests.fuzz.judge import Files, Parser
from tests.fuzz.mutations import as_json, mutated_bytes, mutated_tree, strange_value, with_changed_numbers
from tests.fuzz.on_disk import new_folder
from tests.fuzz.tables import odd_table

MANIFEST, BLOCKS = "manifest.json", "blocks.bin"


def store_parsers(examples: Examples) -> list[Parser]:
    """Parsers of packed data sets."""
    no_manifest = re.compile("not a readable manifest|format_version")
    return [
        Parser("manifest", _manifests(examples), _read_manifest, no_manifest),
        Parser("blocks", _block_tables(examples), _blocks_reader(examples), re.compile("need another size")),
        Parser("sidecar", _sidecars(examples), _sidecar_reader(examples), re.compile("its SHA-256 is not")),
        Parser("dataset", _datasets(examples), _dataset_reader(examples), no_manifest),
    ]


def fingerprinted(tree: Any) -> Any:
    """The manifest with the fingerprint that belongs to it, where it has one."""
    if not isinstance(tree, dict):
        return tree
    text = json.dumps({k: v for k, v in tree.items() if k != "fingerprint"}, sort_keys=True, separators=(",", ":"))
    return {**tree, "fingerprint": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]}


def _manifests(examples: Examples) -> Any:
    content = examples.packed[MANIFEST]

    def make(draw: Random) -> Files:
        if draw.random() < 0.1:
            return {MANIFEST: mutated_bytes(content, draw)}
        tree = mutated_tree(json.loads(content), draw)
        return {MANIFEST: as_json(fingerprinted(tree) if draw.random() < 0.9 else tree, draw)}

    return make


def _read_manifest(files: Files) -> None:
    manifest = parse_manifest(files[MANIFEST], MANIFEST)
    assert manifest.layout.rows == manifest.rows
    assert len(manifest.dims) == len(manifest.geometry.values_offsets)


def _block_tables(examples: Examples) -> Any:
    content = examples.packed[BLOCKS]

    def make(draw: Random) -> Files:
        return {BLOCKS: mutated_bytes(content, draw) if draw.random() < 0.1 else with_changed_numbers(content, draw)}

    return make


def _blocks_reader(examples: Examples) -> Any:
    folder, manifest = new_folder(examples, "blocks"), examples.dataset.manifest

    def read(files: Files) -> None:
        (folder / BLOCKS).write_bytes(files[BLOCKS])
        table = read_blocks(folder, manifest)
        for part in ("train", "holdout"):
            block_offsets(table, manifest, part)

    return read


def _sidecars(examples: Examples) -> Any:
    name = examples.dataset.manifest.shards[0].sidecar.path
    content = examples.packed[name]
    table = pa.ipc.open_file(content).read_all()

    def make(draw: Random) -> Files:
        kind = draw.random()
        if kind < 0.4:
            return {name: with_changed_numbers(content, draw)}
        if kind < 0.5:
            return {name: mutated_bytes(content, draw)}
        return {name: arrow(odd_table(table, draw), compression=draw.choice((None, None, "lz4", "zstd")))}

    return make


def _sidecar_reader(examples: Examples) -> Any:
    folder, manifest = new_folder(examples, "sidecar"), examples.dataset.manifest
    rows = manifest.shards[0].sidecar.rows

    def read(files: Files) -> None:
        ((name, content),) = files.items()
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        file = FileSpec(path=name, rows=rows, bytes=len(content), sha256=digest)
        read_sidecars(folder, [file], manifest, checked=set()).to_pylist()

    return read


def _datasets(examples: Examples) -> Any:
    """Whole data sets of which one file was changed, and the manifest made to say so."""
    packed = examples.packed
    names = [name for name in packed if name.endswith(".arrow")]
    shards = [name for name in names if ".rows." not in name]

    def make(draw: Random) -> Files:
        tree = json.loads(packed[MANIFEST])
        name = draw.choice((*shards, *names, BLOCKS))
        content = with_changed_numbers(packed[name], draw) if draw.random() < 0.8 else mutated_bytes(packed[name], draw)
        changed = {name: content}
        if name in shards and draw.random() < 0.8:
            changed[BLOCKS] = _with_checksums(packed[BLOCKS], tree, name, content)
        for changed_name, found in changed.items():
            _describe(tree, changed_name, found)
        if draw.random() < 0.3:
            tree = _with_other_geometry(tree, draw)
        return {**changed, MANIFEST: as_json(fingerprinted(tree), draw)}

    return make


def _with_checksums(blocks: bytes, tree: dict[str, Any], name: str, content: bytes) -> bytes:
    """The table of blocks with the checksums that a changed shard now has."""
    table, first = np.frombuffer(blocks[16:], BLOCK_DTYPE).copy(), 0
    for shard in (*tree["shards"], *tree["holdout_shards"]):
        if shard["path"] == name:
            for number in range(shard["blocks"]):
                start = int(table["offset"][first + number])
                table["crc32"][first + number] = zlib.crc32(content[start : start + tree["geometry"]["block_bytes"]])
        first += shard["blocks"]
    return blocks[:16] + table.tobytes()


def _describe(tree: dict[str, Any], name: str, content: bytes) -> None:
    """Bytes and SHA-256 of a changed file, wherever the manifest says them."""
    shards = [*tree["shards"], *tree["holdout_shards"]]
    for file in (*shards, *(shard["sidecar"] for shard in shards), tree["blocks"], tree["dropped"]):
        if file and file["path"] == name:
            file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _with_other_geometry(tree: dict[str, Any], draw: Random) -> dict[str, Any]:
    name = draw.choice(("geometry", "block_rows", "lanes", "window_blocks", "rows"))
    if name != "geometry":
        return {**tree, name: draw.choice((tree[name] + 1, tree[name] * 2, 8, strange_value(draw)))}
    return {**tree, name: mutated_tree(tree[name], draw)}


def _dataset_reader(examples: Examples) -> Any:
    folder = new_folder(examples, "dataset")
    for name, content in examples.packed.items():
        (folder / name).write_bytes(content)

    def read(files: Files) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        try:
            dataset = open_dataset(folder)
            for part in ("train", "holdout"):
                dataset.read(part)
            for part in ("train", "holdout", "dropped"):
                dataset.table(part)
            verify(folder, threads=1)
        finally:
            for name in files:
                (folder / name).write_bytes(examples.packed[name])

    return read
