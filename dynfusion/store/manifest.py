"""A dataset's identity: `manifest.json`, written last. No manifest, no dataset."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_serializer, model_validator

from dynfusion.printable import short
from dynfusion.settings import Settings, build, parse_json
from dynfusion.store.manifest_checks import check_different, check_geometry, check_numbers, check_part, check_rows
from dynfusion.store.order import Layout

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
NAME_PATTERN = r"^[A-Za-z0-9_.+-]+$"
_FILE_NAME = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*")


class ModalitySpec(Settings):
    """One modality. Statistics are float64 over the training rows where it is present, one number per dimension."""

    name: str = Field(pattern=NAME_PATTERN)
    dim: int = Field(ge=1)
    encoder: str = Field(description="what made the vectors, in one line; empty when unknown")
    mean: tuple[float, ...]
    std: tuple[float, ...] = Field(description="population standard deviation")
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    present_rows: int = Field(ge=0, description="training rows where it is present")
    features: tuple[str, ...] = Field(default=(), description="names of its numbers, where each had a column")

    @model_validator(mode="after")
    def _has_dim_numbers(self) -> "ModalitySpec":
        columns = {name: len(getattr(self, name)) for name in ("mean", "std", "minimum", "maximum")}
        check_numbers(self.dim, columns | ({"features": len(self.features)} if self.features else {}))
        return self

    @model_serializer(mode="wrap")
    def _without_unknown_features(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        content = handler(self)
        if not self.features:
            del content["features"]
        return content


class FileSpec(Settings):
    """One file of the dataset, beside the manifest: its path is a plain name, so no manifest reaches another folder."""

    path: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _is_a_plain_name(cls, path: str) -> str:
        if not _FILE_NAME.fullmatch(path):
            raise ValueError(
                f"found {path!r}, allowed is the name of a file beside the manifest, made of letters, digits and any "
                "of _ . + -, each dot between two others"
            )
        return path


class ShardSpec(FileSpec):
    """One Arrow IPC file of embeddings and the sidecar that lies beside it row for row."""

    blocks: int = Field(ge=1)
    sidecar: FileSpec


class Geometry(Settings):
    """Where things lie in every shard, in bytes: block i starts at `first_block + i * block_bytes`, all blocks alike.

    The offsets are relative to the block's start, one per modality: a row's values lie at
    `values_offsets[m] + row * 2 * dim`, its presence is bit `row % 8` of byte `validity_offsets[m] + row // 8`.
    """

    first_block: int = Field(ge=0)
    block_bytes: int = Field(ge=1)
    validity_offsets: tuple[int, ...]
    values_offsets: tuple[int, ...]


class Manifest(Settings):
    """Everything that identifies the rows and their order; the URI is no part of it."""

    format_version: int
    modalities: tuple[ModalitySpec, ...] = Field(min_length=1)
    rows: int = Field(ge=1, description="training rows")
    holdout_rows: int = Field(ge=0)
    dropped_rows: int = Field(ge=0, description="rows without any modality; listed in their own sidecar")
    block_rows: int = Field(ge=8, multiple_of=8)
    lanes: int = Field(ge=1)
    window_blocks: int = Field(ge=1)
    pack_seed: int
    holdout_fraction: float = Field(ge=0, lt=1)
    geometry: Geometry
    shards: tuple[ShardSpec, ...]
    holdout_shards: tuple[ShardSpec, ...]
    dropped: FileSpec | None
    blocks: FileSpec = Field(description="binary table of block offsets and checksums, see blocks.py")
    absent: dict[str, dict[str, int]] = Field(description="modality -> reason -> cells, over all rows of the sources")
    label_columns: tuple[str, ...]
    split_column: str | None
    extends: str | None = Field(default=None, description="fingerprint of the manifest that this one adds to")
    fingerprint: str = Field(description="32 hexadecimal digits over everything above")

    @model_validator(mode="after")
    def _fits_together(self) -> "Manifest":
        check_different("modality", self.names)
        check_different("file", [file.path for file in self.files])
        starts = (self.geometry.first_block, self.geometry.block_bytes)
        offsets = (self.geometry.validity_offsets, self.geometry.values_offsets)
        check_geometry(starts, *offsets, self.dims, self.block_rows)
        parts = {"shards": (self.rows, self.shards), "holdout_shards": (self.holdout_rows, self.holdout_shards)}
        for name, (rows, shards) in parts.items():
            sizes = [(shard.rows, shard.blocks, shard.bytes) for shard in shards]
            check_part(name, rows, self.block_rows, starts, sizes)
            check_rows(f"{name}.sidecar", [(shard.rows, shard.sidecar.rows) for shard in shards])
        check_rows("dropped", [(self.dropped_rows, self.dropped.rows if self.dropped else 0)])
        blocks = sum(shard.blocks for shard in (*self.shards, *self.holdout_shards))
        check_rows("blocks", [(blocks, self.blocks.rows)])
        return self

    @property
    def layout(self) -> Layout:
        """What the order needs to know."""
        return Layout(self.rows, self.block_rows, self.lanes, self.window_blocks)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.modalities)

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(spec.dim for spec in self.modalities)

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """Every file of the dataset but the manifest."""
        shards = (*self.shards, *self.holdout_shards)
        dropped = (self.dropped,) if self.dropped else ()
        return (*shards, *(shard.sidecar for shard in shards), *dropped, self.blocks)


def check_size(where: str, found: int | None, expected: int) -> None:
    """Raise ValueError unless a file that the manifest lists has the size it says; None where it is missing."""
    if found is None:
        raise ValueError(f"{where}: the manifest lists it but the file is missing")
    if found != expected:
        raise ValueError(f"{where}: found {found} bytes, the manifest says {expected}, the file is truncated or wrong")


def split_address(uri: str | Path) -> tuple[str, str]:
    """The folder of a dataset's address, and the name of its manifest.

    An address is a folder (its `manifest.json`) or a manifest itself (`folder/manifest-1.json`, from `--extend`).
    """
    folder, _, name = str(uri).rpartition("/")
    return (folder or ".", name) if name.endswith(".json") else (str(uri), MANIFEST_NAME)


def local_folder(uri: str | Path) -> Path:
    """The folder that a dataset's address names.

    Raises ValueError for a scheme other than `file://`.
    """
    text = split_address(uri)[0]
    scheme, found, rest = text.partition("://")
    if not found:
        return Path(text)
    if scheme not in ("file", "s3"):
        raise ValueError(f"{text}: found {scheme}://, known are local folders, file:// and s3:// addresses")
    if scheme != "file":
        raise ValueError(f"{text}: allowed is a local folder or a file:// address, not {scheme}://")
    return Path(rest)


def with_fingerprint(content: dict[str, Any]) -> Manifest:
    """The manifest of these fields, its fingerprint computed from all of them."""
    manifest = build(Manifest, {**content, "fingerprint": ""})
    return manifest.model_copy(update={"fingerprint": _fingerprint(manifest)})


def write_manifest(manifest: Manifest, folder: Path, name: str = MANIFEST_NAME) -> None:
    """`manifest.json`, the same bytes for the same content; it appears whole or not at all."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1)
    partial = folder / f".{name}.partial"
    partial.unlink(missing_ok=True)  # what lies there may be a link to somewhere else
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / name)


def read_manifest(uri: str | Path) -> Manifest:
    """The manifest of a packed dataset.

    Raises ValueError when there is none, it is of another version, damaged, does not match its own fingerprint, or
    lists a file that is a link out of its folder.
    """
    folder, name = local_folder(uri), split_address(uri)[1]
    path = folder / name
    try:
        manifest = parse_manifest(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{uri}: no packed dataset here, {name} is missing") from error
    check_links(folder, manifest)
    return manifest


def check_links(folder: Path, manifest: Manifest) -> None:
    """Raise ValueError when a file that the manifest lists is a symbolic link to somewhere outside the folder."""
    listed = {file.path for file in manifest.files}
    with os.scandir(folder) as entries:
        links = sorted(entry.name for entry in entries if entry.is_symlink() and entry.name in listed)
    for name in links:
        target = (folder / name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise ValueError(
                f"{folder / name}: a link to {target}, allowed are files of the folder itself; copy the file here, or "
                "link the whole folder"
            )


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in these bytes of `manifest.json`; `where` opens the sentences.

    Raises ValueError when it is of another version, damaged, or does not match its own fingerprint.
    """
    tree = parse_json(content, where, "a readable manifest")
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{where}: found format_version {short(version)}, this program reads {FORMAT_VERSION}")
    try:
        manifest = build(Manifest, tree)
    except ValueError as error:
        raise ValueError(f"{where}: not a valid manifest, {error}") from None
    if manifest.fingerprint != _fingerprint(manifest):
        raise ValueError(f"{where}: changed since it was packed, its content does not match its fingerprint")
    return manifest


def _fingerprint(manifest: Manifest) -> str:
    content = manifest.model_dump(mode="json", exclude={"fingerprint"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
