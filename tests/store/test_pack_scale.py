"""Packing in pieces: any number of buckets, threads and runs gives the same bytes, in bounded memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.store import pack_plan
from dynfusion.store.dataset import open_dataset
from dynfusion.store.join import shuffled_union
from dynfusion.store.pack import pack
from dynfusion.store.pack_files import run_join, run_shard
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.run_jobs import run_on_threads
from dynfusion.store.scatter import bucket_of, scatter
from tests.store.sources import write_folder, write_sources
from tests.store.test_pack import files_of

SMALL = PackSettings(holdout=0.1, shard_bytes=4_000, seed=3)


def table_of(folder: Path, rows: int) -> Path:
    lines = [f"m{row:06d},{'C' * (row % 7) or ''},{row % 3},g{row // 5}" for row in range(0, rows + 50, 2)]
    (folder / "table.csv").write_text("\n".join(["id,smiles,y,group", *lines]) + "\n")
    return folder / "table.csv"


def inputs_of(folder: Path, rows: int = 900) -> PackInputs:
    sources = write_sources(folder / "sources", rows)
    return PackInputs(sources, table=table_of(folder, rows), labels=("y",))


def in_many_pieces(patch: pytest.MonkeyPatch, bucket_bytes: int, chunk_rows: int) -> None:
    patch.setattr(pack_plan, "_BUCKET_BYTES", bucket_bytes)
    patch.setattr(pack_plan, "_CHUNK_ROWS", chunk_rows)
    patch.setattr(pack_plan, "_JOB_BYTES", 3_000)
    patch.setattr("dynfusion.store.npy_files.PIECE_BYTES", 2_000)


@pytest.mark.parametrize(
    ("bucket_bytes", "chunk_rows", "threads"), [(40_000, 64, 1), (7_000, 100, 3), (600_000, 70, 2)]
)
def test_buckets_chunks_and_threads_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_bytes: int, chunk_rows: int, threads: int
) -> None:
    inputs = inputs_of(tmp_path)
    pack(inputs, out=tmp_path / "whole", settings=SMALL)
    in_many_pieces(monkeypatch, bucket_bytes, chunk_rows)
    settings = SMALL.model_copy(update={"threads": threads})
    manifest = pack(inputs, out=tmp_path / "pieces", settings=settings)
    assert manifest.dropped_rows > 0
    assert manifest.holdout_rows > 0
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "pieces")


def test_buckets_follow_each_other_in_the_order_of_the_hashes() -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 1 << 64, 1000, dtype=np.uint64, endpoint=False))
    buckets = bucket_of(hashes, 7)
    assert (np.diff(buckets) >= 0).all()
    assert set(buckets.tolist()) == set(range(7))
    assert bucket_of(np.array([0, (1 << 64) - 1], np.uint64), 65_000).tolist() == [0, 64_999]


def test_ids_with_equal_hashes_stand_in_the_order_of_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynfusion.store.join.hash_strings", lambda ids, key: np.zeros(len(ids), np.uint64))
    assert shuffled_union([pa.array(["b", "c"]), pa.array(["a", "b"])], key=0).to_pylist() == ["a", "b", "c"]


class KilledError(BaseException):
    """What no handler of errors catches, as a signal."""


@pytest.mark.parametrize("function", [scatter, run_join, run_shard], ids=lambda function: function.__name__)
@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_pack_continues_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: object, after: int
) -> None:
    in_many_pieces(monkeypatch, 30_000, 100)
    inputs = inputs_of(tmp_path)
    pack(inputs, out=tmp_path / "whole", settings=SMALL)
    done: list[str] = []

    def run(call, jobs, *, finished):
        def count(number, result):
            done.append(call.__name__)
            finished(number, result)
            if call is function and done.count(call.__name__) == after:
                raise KilledError

        run_on_threads(call, jobs, finished=count, threads=1)

    with pytest.raises(KilledError):
        pack(inputs, out=tmp_path / "killed", settings=SMALL, run_jobs=run)
    assert not (tmp_path / "killed").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".killed.partial").rglob("*.bin")}
    kept |= {path: path.stat().st_mtime_ns for path in (tmp_path / ".killed.partial").glob("train-*")}
    assert kept
    calls: list[tuple[int, int]] = []
    pack(inputs, out=tmp_path / "killed", settings=SMALL, progress=lambda done, total: calls.append((done, total)))
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "killed")
    for path, time in kept.items():
        if path.name.startswith("train-") and path.suffix == ".arrow" and function is run_shard:
            now = tmp_path / "killed" / path.name
            assert now.stat().st_mtime_ns == time or after == len(done)
    assert calls[-1][0] == calls[-1][1]
    assert not (tmp_path / ".killed.partial").exists()


def test_other_inputs_start_over_where_a_killed_pack_left_files(tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        raise KilledError

    inputs = inputs_of(tmp_path)
    with pytest.raises(KilledError):
        pack(inputs, out=tmp_path / "packed", settings=SMALL, progress=kill)
    other = SMALL.model_copy(update={"seed": 4})
    pack(inputs, out=tmp_path / "packed", settings=other)
    pack(inputs, out=tmp_path / "fresh", settings=other)
    assert files_of(tmp_path / "packed") == files_of(tmp_path / "fresh")


def test_the_first_or_last_of_an_id_given_twice_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_many_pieces(monkeypatch, 3_000, 64)
    values = np.arange(300, dtype=np.float32).reshape(150, 2)
    ids = [f"m{row % 100}" for row in range(150)]
    inputs = PackInputs({"a": write_folder(tmp_path / "a", values, ids)})
    with pytest.raises(
        ValueError, match=r"duplicate ids \(50 of them, such as 'm\d+', 2 times\).*--on-duplicate first"
    ):
        pack(inputs, out=tmp_path / "error")
    for rule, first in (("first", 0), ("last", 100)):
        pack(inputs, out=tmp_path / rule, settings=PackSettings(on_duplicate=rule))
        dataset = open_dataset(tmp_path / rule)
        numbers = np.array([int(name[1:]) for name in dataset.table("train")["id"].to_pylist()])
        assert sorted(numbers.tolist()) == list(range(100))
        assert (dataset.read("train").values["a"] == values[np.where(numbers < 50, numbers + first, numbers)]).all()


PACK_AND_TELL = """
import json, sys
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
manifest = pack(PackInputs({"a": sys.argv[1]}), out=sys.argv[2], settings=PackSettings(memory_bytes=int(sys.argv[3])))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([int(peak.split()[1]) << 10, manifest.rows]))
"""


def pack_in_process(source: Path, out: Path, memory_bytes: int) -> tuple[int, int]:
    """The most resident bytes of a process that packs, and the rows. (`ru_maxrss` would be the parent's.)"""
    command = [sys.executable, "-c", PACK_AND_TELL, str(source), str(out), str(memory_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    peak, rows = json.loads(done.stdout)
    return peak, rows


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize(("rows", "fits"), [(70_000, True), (400_000, False)])
def test_memory_stays_within_its_setting_whatever_the_input(tmp_path: Path, rows: int, fits: bool) -> None:
    dim, memory_bytes = 512, 384 << 20
    (tmp_path / "a").mkdir()
    values = np.lib.format.open_memmap(tmp_path / "a" / "embeddings.npy", "w+", np.float16, (rows, dim))
    noise = np.random.default_rng(0).standard_normal((4096, dim)).astype(np.float16)
    for start in range(0, rows, len(noise)):
        values[start : start + len(noise)] = noise[: len(values[start : start + len(noise)])]
    values.flush()
    (tmp_path / "a" / "ids.txt").write_text("".join(f"{number:09d}\n" for number in range(rows)))
    assert (values.nbytes <= pack_plan.mappable_bytes(memory_bytes)) == fits
    peak, packed = pack_in_process(tmp_path / "a", tmp_path / "packed", memory_bytes)
    assert packed == rows
    assert peak < memory_bytes


def one_parquet_group(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=len(table), use_dictionary=False, compression="none")
    assert pq.ParquetFile(path).num_row_groups == 1


def one_arrow_batch(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    with pa.memory_map(str(path)) as source:
        assert pa.ipc.open_file(source).num_record_batches == 1


def one_stream_batch(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "write"),
    [("a.parquet", one_parquet_group), ("a.arrow", one_arrow_batch), ("stream.arrow", one_stream_batch)],
)
def test_memory_stays_within_its_setting_for_a_file_in_one_piece(
    tmp_path: Path, name: str, write: Callable[[Path, pa.Table], None]
) -> None:
    rows, dim, memory_bytes = 131_072, 768, 384 << 20
    noise = np.random.default_rng(0).standard_normal((4096, dim), np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(noise, (rows // len(noise), 1)).reshape(-1)), dim)
    write(tmp_path / name, pa.table({"id": [f"{number:09d}" for number in range(rows)], "v": vectors}))
    assert (tmp_path / name).stat().st_size > memory_bytes
    peak, packed = pack_in_process(tmp_path / name, tmp_path / "packed", memory_bytes)
    assert packed == rows
    assert peak < memory_bytes
