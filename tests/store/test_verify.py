from pathlib import Path

import pytest

from dynfusion.store.pack_inputs import PackSettings
from dynfusion.store.verify import verify
from tests.store.sources import packed


def spoil(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_fresh_pack_is_right(tmp_path: Path) -> None:
    packed(tmp_path, 300, PackSettings(holdout=0.2, shard_bytes=2_000))
    assert verify(tmp_path / "packed") == []


def test_one_wrong_bit_is_found_in_every_file_and_its_block_named(tmp_path: Path) -> None:
    manifest = packed(tmp_path, 300, PackSettings(holdout=0.2, shard_bytes=3_000)).manifest
    geometry, shard = manifest.geometry, manifest.shards[1]
    assert shard.blocks > 1
    for file in manifest.files:
        path = tmp_path / "packed" / file.path
        spoil(path, file.bytes - 1)
        assert verify(tmp_path / "packed")[0].startswith(f"{path}: its SHA-256 is not the manifest's")
        spoil(path, file.bytes - 1)
    path = tmp_path / "packed" / shard.path
    spoil(path, geometry.first_block + geometry.block_bytes + 500)
    [problem] = verify(tmp_path / "packed")
    assert problem.endswith(f"(1 of {shard.blocks} blocks are wrong, the first is block 1)")


def test_missing_and_truncated_files_are_named_all_at_once(tmp_path: Path) -> None:
    manifest = packed(tmp_path, 300, PackSettings(shard_bytes=3_000)).manifest
    first, second = (tmp_path / "packed" / manifest.shards[number].path for number in (0, 1))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-9])
    assert verify(tmp_path / "packed") == [
        f"{first}: missing",
        f"{second}: found {manifest.shards[1].bytes - 9} bytes, the manifest says {manifest.shards[1].bytes}",
    ]
    with pytest.raises(ValueError, match="no packed dataset here"):
        verify(tmp_path / "nothing")
