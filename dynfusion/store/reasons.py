"""Why a cell (one modality of one row) is absent: one byte per cell, in the sidecars row for row."""

from enum import IntEnum


class Reason(IntEnum):
    """Stored as uint8. Zero means present; everything else means an Arrow null and a zeroed row."""

    PRESENT = 0
    NOT_GIVEN = 1
    FAILED = 2
    TRUNCATED = 3
    NOT_FINITE = 4
    DROPPED = 5

    @property
    def label(self) -> str:
        """The words a person reads in `inspect` and the key in the manifest's counts."""
        return _LABELS[self]


_LABELS = {
    Reason.PRESENT: "present",
    Reason.NOT_GIVEN: "not given",
    Reason.FAILED: "encoder failed",
    Reason.TRUNCATED: "truncated",
    Reason.NOT_FINITE: "not finite or out of float16's range",
    Reason.DROPPED: "dropped on purpose",
}
