"""Rows <-> one file: an uncompressed Arrow IPC file in which every block lies at the same byte stride.

    "ARROW1" | schema | block 0 | block 1 | ... | footer
    block = record batch = header | validity, values of modality 0 | validity, values of modality 1 | ...

pyarrow leaves out the validity bitmap of a batch without nulls and shortens the last batch, and either would break the
stride. So pyarrow writes one full block with its bitmaps as the pattern of all blocks, and each gets its own values,
bitmaps and counts in memory. What comes out is plain Arrow: `pyarrow.ipc.open_file` reads it.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dynfusion.printable import quoted
from dynfusion.store.blocks import BLOCK_DTYPE
from dynfusion.store.manifest import Geometry, check_size
from dynfusion.store.statistics import HALVES_AT_ONCE, Moments, merge, moments_of_halves, no_moments

_MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
_END_OF_STREAM = _CONTINUATION + bytes(4)
_BYTES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class WrittenShard:
    """What the manifest and the block table say about a shard, and the moments of its present rows per modality."""

    geometry: Geometry
    bytes: int
    sha256: str
    blocks: np.ndarray
    moments: tuple[Moments, ...]


def write_shard(
    path: Path, names: Sequence[str], values: Sequence[np.ndarray], *, present: np.ndarray, block_rows: int
) -> WrittenShard:
    """Write float16 values [rows, dim] per modality and their presence [rows, modalities]; absent rows become zero."""
    dims = [array.shape[1] for array in values]
    with ShardWriter(path, names, dims, rows=len(present), block_rows=block_rows) as writer:
        with_zeros = [np.concatenate([array, np.zeros((1, array.shape[1]), np.float16)]) for array in values]
        rows = np.arange(len(present))
        writer.append(with_zeros, [np.where(present[:, m], rows, -1) for m in range(len(dims))])
        return writer.close()


class ShardWriter:
    """Writes a shard of `rows` rows a few blocks at a time, with checksums and moments in the same pass.

    Pieces of about a MB are laid out in memory as they will lie in the file. What comes out depends on the rows alone,
    not on the pieces in which `append` is given them. Leaving the `with` without `close` leaves no valid file.
    """

    def __init__(self, path: Path, names: Sequence[str], dims: Sequence[int], *, rows: int, block_rows: int) -> None:
        self._schema = _schema(names, dims)
        self._dims, self._rows, self._block_rows = tuple(dims), rows, block_rows
        sample = np.frombuffer(_sample(self._schema, block_rows), np.uint8)
        self._header = _first_header(sample.data)
        self._footer = _last_block(sample)
        header = self._header
        self._num_blocks = -(-rows // block_rows)
        at_once = min(_BYTES_AT_ONCE // header.total, HALVES_AT_ONCE // block_rows, self._num_blocks)
        at_once = max(at_once, 1)
        self._slab = np.empty((at_once, header.total), np.uint8)
        self._slab[:] = sample[header.start : header.start + header.total]
        self._present = np.zeros((at_once * block_rows, len(dims)), bool)
        self._exact = np.empty(at_once * block_rows * max(dims))
        self._filled, self._done = 0, 0
        self._table = np.zeros(self._num_blocks, BLOCK_DTYPE)
        self._moments = [no_moments(dim) for dim in dims]
        self._sha256 = hashlib.sha256()
        self._file = path.open("wb", buffering=0)
        self._write(sample[: header.start].data)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, values: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> None:
        """The next rows: row i of modality m is `values[m][places[m][i]]`, zeros where the place is -1: absent."""
        done, rows = 0, len(places[0])
        while done < rows:
            block, offset = divmod(self._filled, self._block_rows)
            count = min(rows - done, self._block_rows - offset)
            for m, dim in enumerate(self._dims):
                where = places[m][done : done + count]
                begin = self._header.values[m] + offset * 2 * dim
                target = self._slab[block, begin : begin + count * 2 * dim].view(np.float16).reshape(count, dim)
                present = where >= 0
                np.take(values[m], where, axis=0, out=target, mode="clip")  # an absent row takes row 0 first
                if not present.all():
                    target[~present] = 0
                self._present[self._filled : self._filled + count, m] = present
            self._filled, done = self._filled + count, done + count
            if self._filled == len(self._present):
                self._flush()

    def close(self) -> WrittenShard:
        """Write what is left and the footer."""
        if self._filled:
            self._flush()
        assert self._done == self._rows, "a shard has all the rows that it was opened for"
        total = sum(self._table["rows"].tolist())
        assert total == self._rows
        self._write(_footer(self._schema, self._footer, self._header, self._num_blocks))
        size = self._file.tell()
        return WrittenShard(self._header.geometry(), size, self._sha256.hexdigest(), self._table, tuple(self._moments))

    def _flush(self) -> None:
        rows, block_rows = self._filled, self._block_rows
        count = -(-rows // block_rows)
        blocks, present = self._slab[:count], self._present[:rows]
        for m, dim in enumerate(self._dims):
            begin, size = self._header.values[m], block_rows * 2 * dim
            values = blocks[:, begin : begin + size].view(np.float16)
            if rows < count * block_rows:
                values[-1, (rows - (count - 1) * block_rows) * dim :] = 0
            exact = self._exact[: count * block_rows * dim]
            np.copyto(exact.reshape(count, -1), values)
            given = exact.reshape(-1, dim)[:rows]
            given = given if present[:, m].all() else given[present[:, m]]
            self._moments[m] = merge(self._moments[m], moments_of_halves(given))
            bits = np.packbits(_padded(present[:, m], count * block_rows), bitorder="little").reshape(count, -1)
            blocks[:, self._header.validity[m] :][:, : bits.shape[1]] = bits
        _set_counts(blocks, self._header, present, block_rows)
        first = self._done // block_rows
        table = self._table[first : first + count]
        table["offset"] = self._header.start + (first + np.arange(count)) * self._header.total
        table["rows"] = np.minimum(block_rows, rows - np.arange(count) * block_rows)
        table["crc32"] = [zlib.crc32(block.data) for block in blocks]
        self._write(blocks.reshape(-1).data)
        self._done, self._filled = self._done + rows, 0

    def _write(self, content: memoryview | bytes) -> None:
        self._sha256.update(content)
        view = memoryview(content).cast("B")
        while view:  # larger writes were up to ten times slower in the kernel (EXPERIMENTS.md)
            view = view[self._file.write(view[:_BYTES_AT_ONCE]) :]


def check_shard(path: Path, geometry: Geometry, *, size: int, num_blocks: int, names: Sequence[str]) -> None:
    """Raise ValueError unless the file has this size, these modalities, and its blocks lie where the geometry says."""
    check_size(f"shard {path}", path.stat().st_size if path.is_file() else None, size)
    content = np.memmap(path, np.uint8, mode="r")
    if bytes(content[:6]) != _MAGIC or bytes(content[-6:]) != _MAGIC:
        raise ValueError(f"shard {path}: not an Arrow IPC file")
    try:
        fields = _names(path)
        laid_out = _first_header(content.data).geometry()
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise ValueError(f"shard {path}: not readable as Arrow IPC, {str(error).partition(chr(10))[0]}") from None
    if laid_out != geometry:
        raise ValueError(f"shard {path}: its blocks are laid out differently from what the manifest says")
    last = geometry.first_block + (num_blocks - 1) * geometry.block_bytes
    if bytes(content[last : last + 8]) != bytes(content[geometry.first_block :][:8]):  # the size of its header too
        raise ValueError(f"shard {path}: block {num_blocks - 1} does not start at byte {last} as the manifest says")
    if fields != list(names):
        found = quoted(", ".join(fields))
        raise ValueError(f"shard {path}: holds modalities {found}, the manifest says {', '.join(names)}")


def _names(path: Path) -> list[str]:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).schema.names


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


def _sample(schema: pa.Schema, block_rows: int) -> pa.Buffer:
    """A file of one block of zeros that claims a null per column, so that its bitmaps are written."""
    columns = []
    for field in schema:
        numbers = block_rows * field.type.list_size
        item = pa.Array.from_buffers(pa.float16(), numbers, [None, pa.py_buffer(bytes(2 * numbers))], null_count=0)
        bitmap = pa.py_buffer(bytes(-(-block_rows // 8)))
        columns.append(pa.Array.from_buffers(field.type, block_rows, [bitmap], null_count=1, children=[item]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue()


def _footer(schema: pa.Schema, block: np.ndarray, header: "_Header", num_blocks: int) -> bytes:
    """What follows the blocks: pyarrow's own footer of as many empty blocks, their places and sizes set to ours."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for _ in range(num_blocks):
            writer.write_batch(pa.record_batch([pa.array([], field.type) for field in schema], schema=schema))
    content = np.frombuffer(sink.getvalue(), np.uint8).copy()
    size = struct.unpack_from("<i", content.data, len(content) - 10)[0]
    entries = _footer_blocks(content)
    entries[:] = block
    places = header.start + np.arange(num_blocks, dtype="<i8") * header.total
    entries[:, :8] = places.view(np.uint8).reshape(-1, 8)
    return _END_OF_STREAM + content[len(content) - 10 - size :].tobytes()


def _last_block(content: np.ndarray) -> np.ndarray:
    """The footer's 24 bytes about the last block: offset int64, header bytes int32, 4 unused, body bytes int64."""
    return _footer_blocks(content)[-1].copy()


def _footer_blocks(content: np.ndarray) -> np.ndarray:
    """The footer's entries [blocks, 24], a view. Source: `File.fbs` of the Arrow format."""
    footer = len(content) - 10 - struct.unpack_from("<i", content.data, len(content) - 10)[0]
    table = footer + struct.unpack_from("<I", content.data, footer)[0]
    start = _vector(content.data, _field(content.data, table, 3))
    count = struct.unpack_from("<I", content.data, start - 4)[0]
    return content[start : start + 24 * count].reshape(count, 24)


def _padded(present: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([present, np.zeros(rows - len(present), bool)])


def _set_counts(blocks: np.ndarray, header: "_Header", present: np.ndarray, block_rows: int) -> None:
    """Write the true null counts over the pretended ones, and the true lengths of a last, shorter block."""
    starts = np.arange(0, len(present), block_rows)
    nulls = np.add.reduceat((~present).astype("<i8"), starts, axis=0)
    for number in range(present.shape[1]):
        at = header.nodes_at + 32 * number + 8
        blocks[:, at : at + 8] = np.ascontiguousarray(nulls[:, number]).view(np.uint8).reshape(-1, 8)
    rows = len(present) - int(starts[-1])
    if rows == block_rows:
        return
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

    Raises ValueError or struct.error where there is no such header.
    """
    schema_bytes = struct.unpack_from("<i", content, 12)[0]
    start = 16 + schema_bytes
    prefix, header_bytes = struct.unpack_from("<4si", content, start)
    if prefix != _CONTINUATION:
        raise ValueError("its schema is not followed by a record batch")
    message = start + 8 + struct.unpack_from("<I", content, start + 8)[0]
    body = start + 8 + header_bytes
    batch_at = _field(content, message, 2)
    batch = batch_at + struct.unpack_from("<I", content, batch_at)[0]
    nodes = _vector(content, _field(content, batch, 1))
    buffers = _vector(content, _field(content, batch, 2))
    body_bytes = struct.unpack_from("<q", content, _field(content, message, 3))[0]
    modalities = struct.unpack_from("<I", content, nodes - 4)[0] // 2
    if 48 * modalities > header_bytes:  # 16 bytes for each of three buffers
        raise ValueError("its first record batch has more columns than its header has room for")
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
