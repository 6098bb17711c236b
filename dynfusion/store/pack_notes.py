"""What a person should know of a table once it is joined: whose rows it tells about, and what is trained on."""

from collections import Counter
from collections.abc import Sequence

from dynfusion.store.pack_files import JoinedCounts
from dynfusion.store.pack_work import Work


def tell_of_table(work: Work, joined: Sequence[JoinedCounts]) -> None:
    """Say which of the table's ids are in no source, and which splits the training rows are of.

    Raises ValueError for a table none of whose ids is in a source.
    """
    if work.table is None:
        return
    ids, matched = sum(counts.in_table for counts in joined), sum(counts.matched for counts in joined)
    if ids and not matched:
        raise ValueError(
            f"{work.table.ids_at} has {ids} ids and none of them is in a modality, are they written as in the sources?"
        )
    if matched < ids:
        work.say(
            f"{work.table.ids_at} has {ids} ids, {matched} of them in a modality; {ids - matched} rows have none and "
            "are kept without vectors"
        )
    splits = Counter[str]()
    for counts in joined:
        splits.update(counts.splits)
    if splits["valid"] or splits["test"]:
        found = ", ".join(f"{splits[name]} {name}" for name in ("train", "valid", "test"))
        work.say(
            f"split column {work.table.split_column}: among the training rows of this pack are {found}; the split is "
            "for `evaluate`, training without labels sees them all (--holdout keeps rows out)"
        )
