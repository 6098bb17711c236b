"""What is damaged in a dataset is an error wherever it is read, and is never packed again as if it were right."""

from pathlib import Path

import numpy as np
import pytest

from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.verbs.sample import sample
from tests.store.sources import packed, write_folder
from tests.store.test_verify import spoil


@pytest.fixture
def base(tmp_path: Path) -> Dataset:
    """Sixteen rows a block, several shards, the last of them not full."""
    return packed(tmp_path, 300, PackSettings(holdout=0.2, shard_bytes=3_000, block_rows=16))


@pytest.fixture
def rows(tmp_path: Path) -> PackInputs:
    """One more row."""
    return PackInputs({"tall": write_folder(tmp_path / "rows", np.ones((1, 6), np.float16), ["new"])})


@pytest.fixture
def modality(tmp_path: Path) -> PackInputs:
    """A modality that the base lacks, of one of its rows."""
    return PackInputs({"more": write_folder(tmp_path / "more", np.ones((1, 2), np.float16), ["m000000"])})


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_block_is_not_packed_again(base: Dataset, modality: PackInputs, number: int) -> None:
    geometry, shard = base.manifest.geometry, base.manifest.shards[1]
    at = geometry.first_block + geometry.block_bytes + geometry.values_offsets[number]
    spoil(Path(base.uri) / shard.path, at)
    with pytest.raises(ValueError, match=f"shard .*{shard.path}: the checksum of block 1 is wrong"):
        extend(modality, base.uri)
    assert not (Path(base.uri) / "manifest-1.json").exists()


def test_a_damaged_block_of_the_shard_whose_rows_are_shuffled_again_is_found(base: Dataset, rows: PackInputs) -> None:
    shard = base.manifest.shards[-1]
    assert shard.rows % base.manifest.block_rows
    spoil(Path(base.uri) / shard.path, base.manifest.geometry.first_block + base.manifest.geometry.values_offsets[0])
    with pytest.raises(ValueError, match=f"shard .*{shard.path}: the checksum of block 0 is wrong"):
        extend(rows, base.uri)


def test_a_truncated_or_missing_shard_is_one_sentence(base: Dataset, modality: PackInputs) -> None:
    shard = base.manifest.shards[0]
    path = Path(base.uri) / shard.path
    path.write_bytes(path.read_bytes()[:-700])
    sentence = f"shard .*{shard.path}: found {shard.bytes - 700} bytes, the manifest says {shard.bytes}, "
    with pytest.raises(ValueError, match=sentence):
        extend(modality, base.uri)
    with pytest.raises(ValueError, match=sentence):
        sample(base.uri)
    path.unlink()
    with pytest.raises(ValueError, match=f"shard .*{shard.path}: the manifest lists it but the file is missing"):
        extend(modality, base.uri)


def test_a_damaged_sidecar_is_an_error_wherever_it_is_read(
    base: Dataset, rows: PackInputs, modality: PackInputs
) -> None:
    path = Path(base.uri) / base.manifest.shards[0].sidecar.path
    at = path.read_bytes().index(b"m0000")
    spoil(path, at)
    sentence = rf"{path.name}: its SHA-256 is not the manifest's"
    with pytest.raises(ValueError, match=sentence):
        open_dataset(base.uri).table("train")
    with pytest.raises(ValueError, match=sentence):
        sample(base.uri)
    for inputs in (rows, modality):  # the first looks at its ids alone
        with pytest.raises(ValueError, match=sentence):
            extend(inputs, base.uri)


def test_a_sidecar_is_hashed_once(base: Dataset) -> None:
    before = base.table("train")["id"].to_pylist()
    path = Path(base.uri) / base.manifest.shards[0].sidecar.path
    spoil(path, path.read_bytes().index(before[0].encode()))
    assert base.table("train")["id"].to_pylist() != before
