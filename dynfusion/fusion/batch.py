"""One batch of molecules as the mathematics sees it, and the words for what is there.

`present` was observed in the data, `hidden` is masked by us this step, `visible = present & ~hidden`.
Rows come in contrast groups of equal length: every loss that couples rows does so inside one group only.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows of one micro-batch on one rank.

    values: one tensor [rows, dim] per modality, in the model's order; whatever stands in an absent slot is never used.
    present, hidden: [rows, modalities]. row_ids: the data set's row numbers. group_rows: rows of one contrast group.
    """

    values: tuple[Float[Tensor, "rows _"], ...]
    present: Bool[Tensor, "rows modalities"]
    hidden: Bool[Tensor, "rows modalities"]
    row_ids: Int[Tensor, " rows"]
    group_rows: int

    def __post_init__(self) -> None:
        rows, modalities = self.present.shape
        assert self.hidden.shape == (rows, modalities)
        assert len(self.values) == modalities
        assert rows % self.group_rows == 0, f"{rows} rows do not fill contrast groups of {self.group_rows}"

    @property
    def visible(self) -> Bool[Tensor, "rows modalities"]:
        """Where the model may look."""
        return self.present & ~self.hidden

    @property
    def targets(self) -> Bool[Tensor, "rows modalities"]:
        """What was observed and hidden: the cells to be reconstructed."""
        return self.present & self.hidden

    @property
    def num_groups(self) -> int:
        return len(self.row_ids) // self.group_rows

    def micro_batches(self, number: int) -> list["Batch"]:
        """The batch as `number` parts of whole contrast groups, as even as they go.

        Raises ValueError when there are fewer groups than parts.
        """
        if number > self.num_groups:
            raise ValueError(
                f"train.accumulation: found {number}, allowed at most {self.num_groups}, "
                f"since a worker's batch holds {self.num_groups} contrast groups of {self.group_rows} rows, never split"
            )
        borders = [self.num_groups * part // number * self.group_rows for part in range(number + 1)]
        return [self._rows(slice(start, stop)) for start, stop in pairwise(borders)]

    def _rows(self, rows: slice) -> "Batch":
        return Batch(
            values=tuple(value[rows] for value in self.values),
            present=self.present[rows],
            hidden=self.hidden[rows],
            row_ids=self.row_ids[rows],
            group_rows=self.group_rows,
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(
            values=tuple(value.to(device, non_blocking=True) for value in self.values),
            present=self.present.to(device, non_blocking=True),
            hidden=self.hidden.to(device, non_blocking=True),
            row_ids=self.row_ids.to(device, non_blocking=True),
            group_rows=self.group_rows,
        )
