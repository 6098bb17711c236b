import os
import time
from pathlib import Path

import pytest

from dynfusion.store.cache import block_room, whole_room
from dynfusion.store.dataset import Dataset
from dynfusion.store.file_lock import locked, take_lock
from dynfusion.store.pack_inputs import PackSettings
from tests.store.sources import packed

MANY = 1 << 40


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return [packed(tmp_path_factory.mktemp("data"), 200 + 100 * number, PackSettings()) for number in range(2)]


def no_word(sentence: str) -> None:
    raise AssertionError(sentence)


def size_of(dataset: Dataset) -> int:
    return sum(file.bytes for file in dataset.manifest.files)


def fill(folder: Path, dataset: Dataset) -> None:
    for file in dataset.manifest.files:
        (folder / file.path).write_bytes((Path(dataset.uri) / file.path).read_bytes())


def test_a_lock_excludes_others_until_it_is_let_go(tmp_path: Path) -> None:
    first = take_lock(tmp_path / "lock")
    assert first is not None
    assert take_lock(tmp_path / "lock", wait=False) is None
    assert take_lock(tmp_path / "lock", shared=True, wait=False) is None
    os.close(first)
    shared = [take_lock(tmp_path / "lock", shared=True, wait=False) for _ in range(2)]
    assert None not in shared
    assert take_lock(tmp_path / "lock", wait=False) is None
    for descriptor in shared:
        os.close(descriptor)  # type: ignore[arg-type]
    with locked(tmp_path / "lock"):
        assert take_lock(tmp_path / "lock", wait=False) is None


def test_a_data_set_that_nobody_reads_makes_room_and_one_in_use_does_not(tmp_path: Path, sets: list[Dataset]) -> None:
    first, second = sets
    limit = size_of(first) + size_of(second) - 1
    room = whole_room(tmp_path, first.manifest, limit)
    assert room is not None
    fill(room.path, first)
    assert whole_room(tmp_path, second.manifest, limit) is None
    again = whole_room(tmp_path, first.manifest, limit)
    assert again is not None
    room.release()
    assert whole_room(tmp_path, second.manifest, limit) is None
    again.release()
    other = whole_room(tmp_path, second.manifest, limit)
    assert other is not None
    assert not room.path.exists()
    other.release()


def test_blocks_take_what_is_left_and_go_with_their_reader(tmp_path: Path, sets: list[Dataset]) -> None:
    room = whole_room(tmp_path, sets[0].manifest, MANY)
    assert room is not None
    limit = size_of(sets[0]) + 10_000
    blocks = block_room(
        tmp_path, wanted_bytes=50_000, least_bytes=4_000, limit_bytes=limit, wait_seconds=0.0, say=no_word
    )
    assert 9_000 <= blocks.path.stat().st_size <= 10_000
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"data.cache_bytes: found \d+, .* take 4000; give more bytes or another"):
        block_room(
            tmp_path, wanted_bytes=4_000, least_bytes=4_000, limit_bytes=limit, wait_seconds=0.3, say=said.append
        )
    assert time.monotonic() - started >= 0.3
    assert len(said) == 1
    assert said[0].startswith("waiting for room: data.cache_bytes: found")
    blocks.release()
    assert not blocks.path.exists()
    room.release()


def test_a_dead_reader_s_blocks_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "blocks-1-0").write_bytes(bytes(90_000))
    room = block_room(
        tmp_path, wanted_bytes=80_000, least_bytes=80_000, limit_bytes=100_000, wait_seconds=0.0, say=no_word
    )
    assert not (tmp_path / "blocks-1-0").exists()
    room.release()
