"""Rows <-> one file: an uncompressed Arrow IPC file in which every block lies at the same byte stride.

    "ARROW1" | schema | block 0 | block 1 | ... | footer
    block = record batch = header | validity, values of modality 0 | validity, values of modality 1 | ...

pyarrow leaves out the validity bitmap of a batch without nulls and shortens the last batch, and either would break the
stride. So every block is written at full length with its bitmaps, then the true row and null counts are set in the
headers. What comes out is plain Arrow: `pyarrow.ipc.open_file` reads it.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from dynfusion.store.blocks import BLOCK_DTYPE
from dynfusion.store.manifest import Geometry

_MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"


@dataclass(frozen=True)
class WrittenShard:
    """What the manifest and the block table say about a shard."""

    geometry: Geometry
    bytes: int
    sha256: str
    blocks: np.ndarray


def write_shard(
    path: Path, names: Sequence[str], values: Sequence[np.ndarray], *, present: np.ndarray, block_rows: int
) -> WrittenShard:
    """Write float16 values [rows, dim] per modality and their presence [rows, modalities]; absent rows must be zero."""
    rows = len(present)
    num_blocks = -(-rows // block_rows)
    schema = _schema(names, [array.shape[1] for array in values])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for block in range(num_blocks):
            part = slice(block * block_rows, min((block + 1) * block_rows, rows))
            writer.write_batch(_full_block(schema, [array[part] for array in values], present[part], block_rows))
    with path.open("r+b") as file:
        content = np.memmap(file, np.uint8, mode="r+")
        header = _first_header(content.data)
        blocks = content[header.start :][: num_blocks * header.total].reshape(num_blocks, header.total)
        _set_counts(blocks, header, present, block_rows)
        table = np.zeros(num_blocks, BLOCK_DTYPE)
        table["offset"] = header.start + np.arange(num_blocks) * header.total
        table["rows"] = np.minimum(block_rows, rows - np.arange(num_blocks) * block_rows)
        table["crc32"] = [zlib.crc32(block.data) for block in blocks]
        digest = hashlib.sha256(content.data).hexdigest()
        content.flush()
    return WrittenShard(header.geometry(), content.size, digest, table)


def check_shard(path: Path, geometry: Geometry, *, size: int, num_blocks: int, names: Sequence[str]) -> None:
    """Raise ValueError unless the file has this size, these modalities, and its blocks lie where the geometry says."""
    found = path.stat().st_size if path.is_file() else None
    if found is None:
        raise ValueError(f"shard {path}: the manifest lists it but the file is missing")
    if found != size:
        raise ValueError(f"shard {path}: found {found} bytes, the manifest says {size}, the file is truncated or wrong")
    content = np.memmap(path, np.uint8, mode="r")
    if bytes(content[:6]) != _MAGIC or bytes(content[-6:]) != _MAGIC:
        raise ValueError(f"shard {path}: not an Arrow IPC file")
    header = _first_header(content.data)
    if header.geometry() != geometry:
        raise ValueError(f"shard {path}: its blocks are laid out differently from what the manifest says")
    last = geometry.first_block + (num_blocks - 1) * geometry.block_bytes
    if bytes(content[last : last + 8]) != bytes(content[geometry.first_block :][:8]):  # the size of its header too
        raise ValueError(f"shard {path}: block {num_blocks - 1} does not start at byte {last} as the manifest says")
    with pa.memory_map(str(path)) as source:
        fields = pa.ipc.open_file(source).schema.names
    if fields != list(names):
        raise ValueError(f"shard {path}: holds modalities {', '.join(fields)}, the manifest says {', '.join(names)}")


@dataclass(frozen=True)
class _Header:
    """The parsed header of a block: byte positions of its counts (relative to the block) and of its buffers."""

    start: int
    total: int
    length_at: int
    nodes_at: int
    validity: tuple[int, ...]
    values: tuple[int, ...]

    def geometry(self) -> Geometry:
        return Geometry(
            first_block=self.start,
            block_bytes=self.total,
            validity_offsets=self.validity,
            values_offsets=self.values,
        )


def _schema(names: Sequence[str], dims: Sequence[int]) -> pa.Schema:
    item = pa.field("item", pa.float16(), nullable=False)
    return pa.schema([pa.field(name, pa.list_(item, dim)) for name, dim in zip(names, dims, strict=True)])


def _full_block(
    schema: pa.Schema, values: Sequence[np.ndarray], present: Bool[np.ndarray, "rows modalities"], block_rows: int
) -> pa.RecordBatch:
    """A batch of `block_rows` rows, zero-padded, that claims a null per column so that its bitmaps are written."""
    columns = []
    for number, (field, array) in enumerate(zip(schema, values, strict=True)):
        if len(array) < block_rows:
            array = np.concatenate([array, np.zeros((block_rows - len(array), array.shape[1]), np.float16)])
        bits = np.zeros(block_rows, bool)
        bits[: len(present)] = present[:, number]
        flat = pa.py_buffer(np.ascontiguousarray(array, np.float16))
        item = pa.Array.from_buffers(pa.float16(), block_rows * field.type.list_size, [None, flat], null_count=0)
        bitmap = pa.py_buffer(np.packbits(bits, bitorder="little"))
        columns.append(pa.Array.from_buffers(field.type, block_rows, [bitmap], null_count=1, children=[item]))
    return pa.record_batch(columns, schema=schema)


def _set_counts(blocks: np.ndarray, header: _Header, present: np.ndarray, block_rows: int) -> None:
    """Write the true lengths and null counts over the pretended ones, in the mapped file."""
    starts = np.arange(0, len(present), block_rows)
    nulls = np.add.reduceat((~present).astype("<i8"), starts, axis=0)
    for number in range(present.shape[1]):
        at = header.nodes_at + 32 * number + 8
        blocks[:, at : at + 8] = np.ascontiguousarray(nulls[:, number]).view(np.uint8).reshape(-1, 8)
    rows = len(present) - int(starts[-1])
    last = blocks[-1]
    last[header.length_at : header.length_at + 8] = np.frombuffer(struct.pack("<q", rows), np.uint8)
    for number in range(present.shape[1]):
        at = header.nodes_at + 32 * number
        dim_rows = struct.unpack_from("<q", last.data, at + 16)[0] // block_rows * rows
        last[at : at + 8] = np.frombuffer(struct.pack("<q", rows), np.uint8)
        last[at + 16 : at + 24] = np.frombuffer(struct.pack("<q", dim_rows), np.uint8)


def _first_header(content: memoryview) -> _Header:
    """Find the first block by the lengths in the file and parse its header.

    Source: the Arrow columnar format, "IPC File Format" and "Encapsulated message format"; `Message.fbs`.
    """
    schema_bytes = struct.unpack_from("<i", content, 12)[0]
    start = 16 + schema_bytes
    prefix, header_bytes = struct.unpack_from("<4si", content, start)
    assert prefix == _CONTINUATION, "the schema is followed by a record batch"
    message = start + 8 + struct.unpack_from("<I", content, start + 8)[0]
    body = start + 8 + header_bytes
    batch_at = _field(content, message, 2)
    batch = batch_at + struct.unpack_from("<I", content, batch_at)[0]
    nodes = _vector(content, _field(content, batch, 1))
    buffers = _vector(content, _field(content, batch, 2))
    body_bytes = struct.unpack_from("<q", content, _field(content, message, 3))[0]
    modalities = struct.unpack_from("<I", content, nodes - 4)[0] // 2
    offsets = [struct.unpack_from("<q", content, buffers + 16 * number)[0] for number in range(3 * modalities)]
    return _Header(
        start=start,
        total=8 + header_bytes + body_bytes,
        length_at=_field(content, batch, 0) - start,
        nodes_at=nodes - start,
        validity=tuple(body - start + offset for offset in offsets[0::3]),
        values=tuple(body - start + offset for offset in offsets[2::3]),
    )


def _field(content: memoryview, table: int, number: int) -> int:
    """The position of a flatbuffer table's field."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    return table + struct.unpack_from("<H", content, vtable + 4 + 2 * number)[0]


def _vector(content: memoryview, at: int) -> int:
    """The position of a flatbuffer vector's first element."""
    return at + struct.unpack_from("<I", content, at)[0] + 4
