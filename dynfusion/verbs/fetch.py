"""`dynfusion data fetch`: published labelled sets as one CSV file each, ready for `evaluate --tasks`."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from dynfusion.edges.download import download
from dynfusion.evaluation.tasks.moleculenet import MOLECULENET, PUBLISHED, content_sha256, file_of
from dynfusion.evaluation.tasks.task import SPLITS
from dynfusion.verbs.display import console

COLLECTIONS = ("moleculenet",)
PARTS_FOLDER = ".parts"
CHANGED = "but is not the published set; it is left as it is, remove it to fetch the set again"


def fetch(
    collection: str, *, out: Path, source: Path | None = None, tasks: Sequence[str] = (), address: str = PUBLISHED
) -> list[Path]:
    """`out/<set>.csv` of each set, all six without `tasks`: columns id, smiles, the set's labels, split.

    Ids are the set's name and the row in the order train, valid, test. Without `source` the published files are
    downloaded from under `address`, checked against their pinned SHA-256 and kept in `out/.parts` until their set is
    written; the same command continues an interrupted download, and a set that is there is not fetched again, but told
    apart from a changed one.
    `source` is a folder of local ones, `<set>/train.csv` and so on; files that are not the published ones are said.

    Raises ValueError for an unknown collection or set, a file that is missing or is no such table, and as `download`
    does.
    """
    if collection not in COLLECTIONS:
        raise ValueError(f"data: found {collection!r}, allowed is {', '.join(COLLECTIONS)}")
    unknown = [name for name in tasks if name not in MOLECULENET]
    if unknown:
        raise ValueError(f"tasks: found {unknown[0]!r}, allowed are {', '.join(MOLECULENET)}")
    written = []
    for name in tasks or MOLECULENET:
        path = out / f"{name}.csv"
        if source is None and path.exists():
            whole = content_sha256(path.read_bytes()) == MOLECULENET[name].whole_sha256
            console.print(f"{path}: is there already, {'as published' if whole else CHANGED}")
        else:
            rows = _write(name, path, _downloaded(name, out, address) if source is None else _local(name, source))
            console.print(f"{path}: {rows} molecules, labels {', '.join(MOLECULENET[name].labels)}")
        written.append(path)
    return written


def _downloaded(name: str, out: Path, address: str) -> dict[str, Path]:
    """The set's files by part, downloaded where they are not there yet."""
    parts = {part: out / PARTS_FOLDER / file_of(name, part) for part in SPLITS}
    for part, path in parts.items():
        url, sha256 = f"{address}/{file_of(name, part)}", MOLECULENET[name].sha256[part]
        download(url, path, sha256=sha256, digest=content_sha256)
    return parts


def _local(name: str, source: Path) -> dict[str, Path]:
    parts = {part: source / file_of(name, part) for part in SPLITS}
    for part, path in parts.items():
        if not path.exists():
            raise ValueError(f"{path}: no such file, expected {', '.join(f'{each}.csv' for each in SPLITS)} beside it")
        if content_sha256(path.read_bytes()) != MOLECULENET[name].sha256[part]:
            console.print(f"{path}: is not the published file, its molecules or their split differ")
    return parts


def _write(name: str, path: Path, parts: dict[str, Path]) -> int:
    """How many rows all parts have, now in one file, which appears whole; downloaded parts are then removed."""
    labels = MOLECULENET[name].labels
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, number = path.with_name(f".{path.name}.{os.getpid()}.partial"), 0
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "smiles", *labels, "split"])
            for part, source in parts.items():
                for row in _rows(source, ("smiles", *labels)):
                    number += 1
                    writer.writerow([f"{name}-{number:05d}", *row, part])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _remove_parts(parts, path.parent / PARTS_FOLDER)
    return number


def _rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path}: no column {missing[0]!r}, found {', '.join(reader.fieldnames or ())[:200]}")
            return [[(row[column] or "").strip() for column in columns] for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as a UTF-8 CSV file, {error}") from None


def _remove_parts(parts: dict[str, Path], downloaded: Path) -> None:
    """Downloaded parts and the folders that are empty without them; local ones stay."""
    for path in parts.values():
        if path.is_relative_to(downloaded):
            path.unlink()
    for folder in (next(iter(parts.values())).parent, downloaded):
        if folder.is_relative_to(downloaded) and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
