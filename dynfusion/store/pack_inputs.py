"""What is packed and how: the settings, the addresses, and both as text that says when two packs would be equal."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from dynfusion.settings import Settings
from dynfusion.store.cells import OnBad, ZeroRows
from dynfusion.store.files import Files, folder_of
from dynfusion.store.join import OnDuplicate
from dynfusion.store.manifest import FORMAT_VERSION, NAME_PATTERN
from dynfusion.store.source import OpenedFile, binary_width
from dynfusion.store.source_versions import SeenSources, see_sources
from dynfusion.store.sources import Source, open_source
from dynfusion.store.table import Table, open_metadata

LEAST_MEMORY_BYTES = 384 << 20
_RESERVED = {"id", "smiles", "group"}


class PackSettings(Settings):
    """How to pack; what to pack is `PackInputs`. `memory_bytes` and `threads` change no byte of the result."""

    on_bad: OnBad = Field(
        default="error", description="rows with NaN, infinity or numbers beyond float16: refuse or leave out"
    )
    on_duplicate: OnDuplicate = Field(
        default="error", description="an id more than once in a source: refuse, or keep the first or the last"
    )
    zero_rows: ZeroRows = Field(
        default="keep", description="rows of zeros are vectors (keep) or missing values (absent)"
    )
    holdout: float = Field(default=0.0, ge=0, lt=1, description="share of groups kept out of training")
    seed: int = Field(default=0, ge=0, description="of the shuffle; the held-out rows do not depend on it")
    block_rows: int | None = Field(
        default=None, ge=8, multiple_of=8, description="rows of a block; chosen by size when None"
    )
    lanes: int | None = Field(default=None, ge=1, description="lanes of the order; chosen by size when None")
    shard_bytes: int = Field(default=192 << 20, ge=1, description="embeddings in one shard, about")
    memory_bytes: int = Field(
        default=2 << 30, ge=LEAST_MEMORY_BYTES, description="of the process, about; docs/data.md has the exceptions"
    )
    threads: int | None = Field(default=None, ge=1, description="jobs at a time; one a core when None")


@dataclass(frozen=True)
class PackInputs:
    """Addresses of the modalities by name, in the order they are packed, and of the optional metadata table.

    `binary_dtype` is the type of the numbers in columns of bytes that do not say it themselves.
    """

    modalities: Mapping[str, str | Path]
    table: str | Path | None = None
    id_column: str = "id"
    labels: tuple[str, ...] = ()
    split_column: str | None = None
    binary_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities: found none, at least one NAME=PATH is needed")
        wrong = [name for name in self.modalities if not re.fullmatch(NAME_PATTERN, name)]
        if wrong:
            raise ValueError(f"modality {wrong[0]}: a name is made of letters, digits and any of _ . + -")
        if self.table is None and (self.labels or self.split_column):
            raise ValueError("labels and split: they are columns of a table, and no table was given")
        named = [*self.labels, *([self.split_column] if self.split_column else [])]
        if len(set(named)) < len(named) or _RESERVED & set(named):
            raise ValueError(f"labels and split: found {', '.join(named)}, each once and none of id, smiles, group")
        binary_width(self.binary_dtype)


def open_inputs(
    inputs: PackInputs,
    files: Files,
    *,
    known: Mapping[str, OpenedFile] | None = None,
    columns: Mapping[str, pa.DataType] | None = None,
    elsewhere: Iterable[str] = (),
) -> tuple[list[Source], Table | None]:
    """The sources and the table, opened.

    `known` says what a dataset that is extended has of a modality, `columns` the types of its labels; names of the
    table's columns and those taken `elsewhere` are no features, but for those that are the dataset's features already.

    Raises ValueError for what can be seen to be wrong before rows are read.
    """
    named = (*elsewhere, *inputs.labels, *([inputs.split_column] if inputs.split_column else []))
    taken = {*named, *([inputs.id_column] if inputs.table is not None else [])}
    sources = [
        open_source(
            name,
            str(uri),
            files=files,
            binary_dtype=inputs.binary_dtype,
            like=(known or {}).get(name),
            elsewhere=taken.difference(known[name].features if known and name in known else ()),
        )
        for name, uri in inputs.modalities.items()
    ]
    if inputs.table is None:
        return sources, None
    table = open_metadata(
        str(inputs.table),
        id_column=inputs.id_column,
        labels=inputs.labels,
        split_column=inputs.split_column,
        files=files,
        known=columns or {},
    )
    return sources, table


def see_inputs(inputs: PackInputs, files: Files) -> SeenSources:
    """The files of all modalities and of the table as they are now."""
    return see_sources(map(str, filter(None, [*inputs.modalities.values(), inputs.table])), files)


def describe_inputs(inputs: PackInputs, settings: PackSettings, seen: SeenSources) -> str:
    """What was packed and how, as text that is equal exactly when the pack would be: the versions of all files, and
    the settings that change a byte."""
    content = {
        "format_version": FORMAT_VERSION,
        "modalities": [[name, _by_path(seen.versions(str(uri)))] for name, uri in inputs.modalities.items()],
        "table": _by_path(seen.versions(str(inputs.table))) if inputs.table else None,
        "columns": [inputs.id_column, list(inputs.labels), inputs.split_column, inputs.binary_dtype],
        "settings": settings.model_dump(mode="json", exclude={"memory_bytes", "threads"}),
    }
    return json.dumps(content, indent=1) + "\n"


def _by_path(versions: Mapping[str, str]) -> dict[str, str]:
    """The version of every file by its path below the folder that all of them share."""
    folders = sorted(folder_of(file).split("/") for file in versions)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*folders[:1], *folders[-1:], strict=False)))
    return {"/".join(file.split("/")[shared:]): version for file, version in versions.items()}
