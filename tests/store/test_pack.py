import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.reasons import Reason
from tests.store.sources import DIMS, packed, vectors, write_folder, write_sources


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "inputs.json"
    }


@pytest.mark.parametrize("rows", [40, 700, 3000])
def test_what_was_packed_is_read_back(tmp_path: Path, rows: int) -> None:
    dataset = packed(tmp_path, rows, PackSettings(holdout=0.1, shard_bytes=20_000))
    assert len(dataset.manifest.shards) > 1 or rows == 40
    seen = set()
    for part in ("train", "holdout"):
        read, table = dataset.read(part), dataset.table(part)
        numbers = np.array([int(name[1:]) for name in table["id"].to_pylist()], dtype=int)
        seen |= set(numbers.tolist())
        for m, (name, dim) in enumerate(DIMS.items()):
            given = vectors(rows, dim, seed=m)[numbers]
            there = ~np.isnan(given[:, 0])
            assert (read.present[:, m] == there).all()
            assert (read.values[name] == np.where(there[:, None], given, 0)).all()
            assert ((table[f"reason:{name}"].to_numpy() == Reason.PRESENT) == there).all()
    dropped = {int(name[1:]) for name in dataset.table("dropped")["id"].to_pylist()}
    assert len(seen) + len(dropped) == rows
    assert not seen & dropped
    whole = np.stack([np.isnan(vectors(rows, dim, seed=m)[:, 0]) for m, dim in enumerate(DIMS.values())])
    assert dropped == set(np.flatnonzero(whole.all(axis=0)).tolist())


def test_statistics_are_those_of_the_training_rows_that_are_present(tmp_path: Path) -> None:
    dataset = packed(tmp_path, 2000, PackSettings(holdout=0.2, shard_bytes=20_000))
    read = dataset.read("train")
    for m, spec in enumerate(dataset.manifest.modalities):
        there = read.values[spec.name][read.present[:, m]].astype(np.float64)
        assert spec.present_rows == len(there)
        np.testing.assert_allclose(spec.mean, there.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(spec.std, there.std(axis=0), rtol=1e-12)
        assert spec.minimum == tuple(there.min(axis=0))
        assert spec.maximum == tuple(there.max(axis=0))
        assert spec.encoder == "random numbers, version 1"


def test_any_rows_in_any_order_equal_those_of_the_whole(tmp_path: Path) -> None:
    dataset = packed(tmp_path, 500, PackSettings(shard_bytes=2_000))
    whole = dataset.read("train")
    for rows in (np.array([3, 3, 0, 450]), slice(10, 400, 7), slice(None), np.array([], int)):
        some = dataset.read("train", rows)
        assert (some.row_ids == np.arange(dataset.manifest.rows)[rows]).all()
        assert (some.present == whole.present[rows]).all()
        assert all((some.values[name] == whole.values[name][rows]).all() for name in DIMS)
    with pytest.raises(ValueError, match="rows of train: found 0 to 99999, allowed are 0 to"):
        dataset.read("train", np.array([0, 99_999]))


def test_the_order_of_the_sources_rows_changes_no_byte(tmp_path: Path) -> None:
    ids = [f"m{number}" for number in range(300)]
    for name, order in (("one", np.arange(300)), ("other", np.random.default_rng(1).permutation(300))):
        shuffled = [ids[row] for row in order]
        inputs = {
            "a": write_folder(tmp_path / name / "a", vectors(300, 4, seed=0)[order], shuffled),
            "b": write_folder(tmp_path / name / "b", vectors(300, 7, seed=1), ids),
        }
        pack(PackInputs(inputs), out=tmp_path / name / "packed", settings=PackSettings(holdout=0.1))
    assert files_of(tmp_path / "one" / "packed") == files_of(tmp_path / "other" / "packed")


def test_a_seed_is_another_order_of_the_same_rows_and_the_same_held_out_ones(tmp_path: Path) -> None:
    inputs = PackInputs(write_sources(tmp_path / "sources", 600))
    tables = []
    for seed in (0, 1):
        pack(inputs, out=tmp_path / f"packed{seed}", settings=PackSettings(seed=seed, holdout=0.2))
        dataset = open_dataset(tmp_path / f"packed{seed}")
        tables.append((dataset.table("train")["id"].to_pylist(), dataset.table("holdout")["id"].to_pylist()))
    (train, holdout), (other_train, other_holdout) = tables
    assert train != other_train
    assert set(train) == set(other_train)
    assert set(holdout) == set(other_holdout)
    assert 80 < len(holdout) < 160


def test_packed_rows_stand_in_no_order_of_their_source(tmp_path: Path) -> None:
    """Neighbours in the pack are as far apart in the source as random pairs are: a third of all rows."""
    numbers = np.array([int(name[1:]) for name in packed(tmp_path, 3000).table("train")["id"].to_pylist()])
    assert abs(np.abs(np.diff(numbers)).mean() / (3000 / 3) - 1) < 0.05


def test_rows_of_one_group_are_held_out_together(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", vectors(400, 4, seed=0, absent=0), [f"m{n}" for n in range(400)])
    (folder / "groups.txt").write_text("".join(f"group{n // 4}\n" for n in range(400)))
    pack(PackInputs({"a": folder}), out=tmp_path / "packed", settings=PackSettings(holdout=0.3))
    dataset = open_dataset(tmp_path / "packed")
    groups = [{int(i[1:]) // 4 for i in dataset.table(part)["id"].to_pylist()} for part in ("train", "holdout")]
    assert not groups[0] & groups[1]
    assert len(groups[1]) * 4 == dataset.manifest.holdout_rows > 0


def test_different_ids_are_joined_in_full_and_counted(tmp_path: Path) -> None:
    inputs = {
        "a": write_folder(tmp_path / "a", np.ones((3, 2), np.float16), ["x", "y", "z"]),
        "b": write_folder(tmp_path / "b", np.full((2, 2), 2, np.float32), ["z", "w"]),
    }
    table = tmp_path / "table.csv"
    table.write_text("name,smiles,active,kind,split\nx,CCO,1,good,train\nw,,,,test\nlost,CC,0,bad,test\n")
    manifest = pack(
        PackInputs(inputs, table=table, id_column="name", labels=("active", "kind"), split_column="split"),
        out=tmp_path / "packed",
    )
    assert (manifest.rows, manifest.dropped_rows) == (4, 1)
    assert manifest.absent == {"a": {"not given": 2}, "b": {"not given": 3}}
    dataset = open_dataset(tmp_path / "packed")
    found = {row.pop("id"): row for row in dataset.table("train").to_pylist()}
    assert found["x"] == {
        "smiles": "CCO", "reason:a": 0, "reason:b": 1, "active": 1.0, "kind": "good", "split": "train",
    }  # fmt: skip
    assert found["w"] == {"smiles": None, "reason:a": 1, "reason:b": 0, "active": None, "kind": None, "split": "test"}
    assert found["y"]["split"] is None
    assert dataset.table("dropped").to_pylist() == [
        {"id": "lost", "smiles": "CC", "reason:a": 1, "reason:b": 1, "active": 0.0, "kind": "bad", "split": "test"}
    ]
    assert dataset.table("holdout").num_rows == 0
    assert dataset.table("holdout").schema == dataset.table("train").schema
    assert dataset.read("holdout").present.shape == (0, 2)


def test_parquet_and_folder_give_the_same_pack(tmp_path: Path) -> None:
    ids, values = [f"m{n}" for n in range(100)], vectors(100, 4, seed=0)
    there = ~np.isnan(values[:, 0])
    folder = write_folder(tmp_path / "folder", values, ids)
    (folder / "encoder.txt").unlink()
    (folder / "reasons.npy").unlink(missing_ok=True)
    np.save(folder / "reasons.npy", np.where(there, 0, Reason.FAILED).astype(np.uint8))
    lists = [row.tolist() if ok else None for row, ok in zip(values, there, strict=True)]
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float16(), 4), pa.large_list(pa.float64())):
        column = pa.array(lists, pa.list_(pa.float32(), 4) if kind == pa.list_(pa.float16(), 4) else kind)
        path = tmp_path / "vectors.parquet"
        pq.write_table(pa.table({"id": ids, "vector": column}), path)
        pack(PackInputs({"a": path}), out=tmp_path / "from_parquet")
        pack(PackInputs({"a": folder}), out=tmp_path / "from_folder") if not (
            tmp_path / "from_folder"
        ).exists() else None
        one, other = open_dataset(tmp_path / "from_parquet"), open_dataset(tmp_path / "from_folder")
        assert one.manifest.fingerprint == other.manifest.fingerprint
        shutil.rmtree(tmp_path / "from_parquet")


def test_packing_again_finds_the_pack_and_anything_else_is_refused(tmp_path: Path) -> None:
    inputs = PackInputs(write_sources(tmp_path / "sources", 100))
    first = pack(inputs, out=tmp_path / "packed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").iterdir()}
    assert pack(inputs, out=tmp_path / "packed") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").iterdir()} == before
    again = tmp_path / "sources" / "tall" / "ids.txt"
    again.write_bytes(again.read_bytes())
    assert pack(inputs, out=tmp_path / "packed") == first
    with pytest.raises(ValueError, match="packed: already holds something else"):
        pack(inputs, out=tmp_path / "packed", settings=PackSettings(seed=1))
    with pytest.raises(ValueError, match="sources: already holds something else"):
        pack(inputs, out=tmp_path / "sources")


def test_progress_counts_every_row_read_and_written_once(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    manifest = pack(
        PackInputs(write_sources(tmp_path / "sources", 300)),
        out=f"file://{tmp_path / 'packed'}",
        settings=PackSettings(shard_bytes=2_000, holdout=0.1),
        progress=lambda done, total: calls.append((done, total)),
    )
    total = len(DIMS) * 300 + manifest.rows + manifest.holdout_rows
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert all(done <= total for done, total in calls)


def test_why_a_cell_is_absent_is_kept(tmp_path: Path) -> None:
    values = np.ones((6, 3), np.float32)
    values[1], values[2, 0], values[3, 1], values[4] = np.nan, np.nan, 70_000, 0
    folder = write_folder(tmp_path / "a", values, list("abcdef"))
    np.save(folder / "reasons.npy", np.array([0, 0, 0, 0, 0, Reason.DROPPED], np.uint8))
    other = write_folder(tmp_path / "b", np.ones((6, 1), np.float16), list("abcdef"))
    settings = PackSettings(on_bad="absent", zero_rows="absent")
    manifest = pack(PackInputs({"a": folder, "b": other}), out=tmp_path / "packed", settings=settings)
    assert manifest.absent["a"] == {
        "encoder failed": 2,
        "not finite or out of float16's range": 2,
        "dropped on purpose": 1,
    }
    table = open_dataset(tmp_path / "packed").table("train")
    assert dict(zip(table["id"].to_pylist(), table["reason:a"].to_pylist(), strict=True)) == {
        "a": 0, "b": Reason.FAILED, "c": Reason.NOT_FINITE, "d": Reason.NOT_FINITE, "e": Reason.FAILED,
        "f": Reason.DROPPED,
    }  # fmt: skip
    assert open_dataset(tmp_path / "packed").read("train").values["a"].max() == 1


def test_the_same_pack_over_one_that_lost_a_file_is_refused(tmp_path: Path) -> None:
    inputs = PackInputs(write_sources(tmp_path / "sources", 40))
    manifest = pack(inputs, out=tmp_path / "packed")
    more = PackInputs({"odd": write_folder(tmp_path / "more", vectors(2, 5, seed=5), ["x", "y"])})
    shard = tmp_path / "packed" / manifest.shards[0].path
    address = extend(more, tmp_path / "packed")
    added = Path(address).parent / open_dataset(address).manifest.shards[0].path
    commands = (shard, lambda: pack(inputs, out=shard.parent)), (added, lambda: extend(more, shard.parent))
    for path, again in commands:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match=rf"{path}: found {len(whole) - 1} bytes, .*`dynfusion verify`.* removed"):
            again()
        path.unlink()
        with pytest.raises(ValueError, match=f"{path}: the manifest lists it but the file is missing"):
            again()
        path.write_bytes(whole)
        again()
