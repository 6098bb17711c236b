"""A packed dataset of any number of rows that takes next to no disk: shards that are holes but for their headers.

Every row is zeros and present nowhere. The manifest, the block table and the geometry are those of a real pack, so that
all that starting, ordering and reading do is done.
"""

import hashlib
import shutil
import zlib
from pathlib import Path

import numpy as np

from dynfusion.store.blocks import BLOCK_DTYPE, write_blocks
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.manifest import FileSpec, ShardSpec, with_fingerprint, write_manifest
from dynfusion.store.order import choose_layout
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings

_BLOCK_ROWS = 256
_SHARD_BLOCKS = 139  # what 192 MiB hold at 5.6 KB a row
_NO_DIGEST = "0" * 64


def write_sparse_pack(folder: Path, rows: int, dims: dict[str, int]) -> Dataset:
    """A dataset of `rows` rows in `folder`, which must be empty; shards have no SHA-256, so `verify` refuses it."""
    small = _pack_one_block(folder / "small", dims)
    manifest = small.manifest
    template = (folder / "small" / "packed" / manifest.shards[0].path).read_bytes()
    target = folder / "packed"
    target.mkdir()
    num_blocks = -(-rows // _BLOCK_ROWS)
    shards, tables = [], []
    for number, first in enumerate(range(0, num_blocks, _SHARD_BLOCKS)):
        count = min(_SHARD_BLOCKS, num_blocks - first)
        shard_rows = min((first + count) * _BLOCK_ROWS, rows) - first * _BLOCK_ROWS
        size = _write_shard(target / f"train-{number:05d}.arrow", template, manifest.geometry, count)
        sidecar = FileSpec(path=f"train-{number:05d}.rows.arrow", rows=shard_rows, bytes=0, sha256=_NO_DIGEST)
        path = f"train-{number:05d}.arrow"
        shards.append(
            ShardSpec(path=path, rows=shard_rows, bytes=size, sha256=_NO_DIGEST, blocks=count, sidecar=sidecar)
        )
        tables.append(_table(template, manifest.geometry, count))
    write_blocks(target / "blocks.bin", tables)
    content = (target / "blocks.bin").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    blocks = FileSpec(path="blocks.bin", rows=num_blocks, bytes=len(content), sha256=digest)
    layout = choose_layout(rows, block_rows=_BLOCK_ROWS)
    described = manifest.model_dump(mode="json") | {
        "rows": rows,
        "dropped_rows": 0,
        "block_rows": layout.block_rows,
        "lanes": layout.lanes,
        "window_blocks": layout.window_blocks,
        "shards": [shard.model_dump(mode="json") for shard in shards],
        "blocks": blocks.model_dump(),
    }
    described["modalities"] = [{**spec, "present_rows": 0} for spec in described["modalities"]]
    write_manifest(with_fingerprint(described), target)
    shutil.rmtree(folder / "small")
    return open_dataset(target)


def _pack_one_block(folder: Path, dims: dict[str, int]) -> Dataset:
    ids = "".join(f"{number:09d}\n" for number in range(2 * _BLOCK_ROWS))
    for name, dim in dims.items():
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "embeddings.npy", np.ones((2 * _BLOCK_ROWS, dim), np.float16))
        (folder / name / "ids.txt").write_text(ids)
    inputs = PackInputs({name: folder / name for name in dims})
    pack(inputs, out=folder / "packed", settings=PackSettings(block_rows=_BLOCK_ROWS, lanes=1))
    return open_dataset(folder / "packed")


def _write_shard(path: Path, template: bytes, geometry: object, count: int) -> int:
    """The template's beginning, one block header at every stride, its end; holes between. How large it is."""
    first, stride = geometry.first_block, geometry.block_bytes
    header = _header(template, geometry)
    footer = template[first + 2 * stride :]
    size = first + count * stride + len(footer)
    with path.open("wb") as file:
        file.write(template[:first])
        for number in (0, count - 1):
            file.seek(first + number * stride)
            file.write(header)
        file.seek(first + count * stride)
        file.write(footer)
    return size


def _header(template: bytes, geometry: object) -> bytes:
    return template[geometry.first_block : geometry.first_block + min(geometry.validity_offsets)]


def _table(template: bytes, geometry: object, count: int) -> np.ndarray:
    table = np.zeros(count, BLOCK_DTYPE)
    table["crc32"] = zlib.crc32(bytes(geometry.block_bytes))
    table["crc32"][[0, -1]] = zlib.crc32(_header(template, geometry).ljust(geometry.block_bytes, b"\0"))
    table["offset"] = geometry.first_block + np.arange(count) * geometry.block_bytes
    table["rows"] = _BLOCK_ROWS
    return table
