from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dynfusion.store.shard import check_shard, write_shard

NAMES = ["first", "second", "third"]
DIMS = [8, 5, 33]


def cells(rows: int) -> tuple[list[np.ndarray], np.ndarray]:
    random = np.random.default_rng(rows)
    present = random.random((rows, len(DIMS))) < 0.7
    present[:40] = True
    values = [
        np.where(present[:, [m]], random.standard_normal((rows, dim)), 0).astype(np.float16)
        for m, dim in enumerate(DIMS)
    ]
    return values, present


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100, 160])
def test_plain_pyarrow_reads_back_every_value_null_and_count(tmp_path: Path, rows: int) -> None:
    values, present = cells(rows)
    write_shard(tmp_path / "shard.arrow", NAMES, values, present=present, block_rows=16)
    with pa.memory_map(str(tmp_path / "shard.arrow")) as source:
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        assert [batch.num_rows for batch in batches] == [min(16, rows - start) for start in range(0, rows, 16)]
        for number, batch in enumerate(batches):
            batch.validate(full=True)
            part = slice(16 * number, 16 * number + 16)
            for m, column in enumerate(batch.columns):
                assert column.null_count == (~present[part, m]).sum()
                assert (column.is_valid().to_numpy(zero_copy_only=False) == present[part, m]).all()
                flat = column.values.to_numpy()[: batch.num_rows * DIMS[m]]
                assert (flat.reshape(-1, DIMS[m]) == values[m][part]).all()


@pytest.mark.parametrize("rows", [7, 160, 171])
def test_every_block_lies_at_the_stride_the_short_and_the_complete_one_too(tmp_path: Path, rows: int) -> None:
    values, present = cells(rows)
    written = write_shard(tmp_path / "shard.arrow", NAMES, values, present=present, block_rows=16)
    content, geometry = (tmp_path / "shard.arrow").read_bytes(), written.geometry
    for row in range(rows):
        block = geometry.first_block + row // 16 * geometry.block_bytes
        assert block == written.blocks["offset"][row // 16]
        for m, dim in enumerate(DIMS):
            at = block + geometry.values_offsets[m] + row % 16 * 2 * dim
            assert content[at : at + 2 * dim] == values[m][row].tobytes()
            assert (
                bool(content[block + geometry.validity_offsets[m] + row % 16 // 8] >> (row % 8) & 1) == present[row, m]
            )


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    values, present = cells(50)
    one = write_shard(tmp_path / "one.arrow", NAMES, values, present=present, block_rows=16)
    other = write_shard(tmp_path / "other.arrow", NAMES, values, present=present, block_rows=16)
    assert one.sha256 == other.sha256


def test_a_shard_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    values, present = cells(50)
    path = tmp_path / "shard.arrow"
    written = write_shard(path, NAMES, values, present=present, block_rows=16)
    geometry, size = written.geometry, written.bytes
    check_shard(path, geometry, size=size, num_blocks=4, names=NAMES)
    with pytest.raises(ValueError, match="holds modalities first, second, third, the manifest says first"):
        check_shard(path, geometry, size=size, num_blocks=4, names=["first"])
    wrong = geometry.model_copy(update={"block_bytes": geometry.block_bytes + 8})
    with pytest.raises(ValueError, match="laid out differently"):
        check_shard(path, wrong, size=size, num_blocks=4, names=NAMES)
    with pytest.raises(ValueError, match="block 4 does not start at byte"):
        check_shard(path, geometry, size=size, num_blocks=5, names=NAMES)
    with pytest.raises(ValueError, match="the file is missing"):
        check_shard(tmp_path / "none.arrow", geometry, size=size, num_blocks=4, names=NAMES)
    path.write_bytes(b"x" * size)
    with pytest.raises(ValueError, match="not an Arrow IPC file"):
        check_shard(path, geometry, size=size, num_blocks=4, names=NAMES)
