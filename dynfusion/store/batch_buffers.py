"""The memory that batches are handed out in; it goes round and nothing of its size is made after the start."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynfusion.store.memory import zeroed_pages

_LINE_BYTES = 64


@dataclass
class BatchBuffer:
    """One rank's batch: float16 [rows, dim] per modality, bool [rows, modalities], int64 [rows].

    On a GPU `filled` is recorded when the batch is complete and `released` when its reader has got a later one.
    """

    values: tuple[Tensor, ...]
    present: Tensor
    row_ids: Tensor
    filled: torch.cuda.Event | None = field(default=None, compare=False)
    released: torch.cuda.Event | None = field(default=None, compare=False)


def buffer_bytes(rows: int, dims: Sequence[int]) -> int:
    """What one buffer takes, in bytes."""
    return rows * (2 * sum(dims) + len(dims) + 8)


def make_buffer(rows: int, dims: Sequence[int], device: torch.device) -> BatchBuffer:
    """A buffer of zeros; in huge pages when it lies in the machine's own memory."""
    shapes = [(rows, dim) for dim in dims] + [(rows, len(dims)), (rows,)]
    types = [torch.float16] * len(dims) + [torch.bool, torch.int64]
    if device.type == "cpu":
        tensors = _cut(shapes, types)
    else:
        tensors = [torch.zeros(shape, dtype=kind, device=device) for shape, kind in zip(shapes, types, strict=True)]
    return BatchBuffer(tuple(tensors[:-2]), tensors[-2], tensors[-1])


def _cut(shapes: Sequence[tuple[int, ...]], types: Sequence[torch.dtype]) -> list[Tensor]:
    sizes = [torch.Size(shape).numel() * kind.itemsize for shape, kind in zip(shapes, types, strict=True)]
    room = [-(-size // _LINE_BYTES) * _LINE_BYTES for size in sizes]
    memory = torch.from_numpy(zeroed_pages(sum(room)))
    starts = [sum(room[:number]) for number in range(len(room))]
    return [
        memory[start : start + size].view(kind).view(shape)
        for start, size, kind, shape in zip(starts, sizes, types, shapes, strict=True)
    ]
