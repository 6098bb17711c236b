"""Everything a person or a file can get wrong: one sentence that says where and what, and nothing left behind."""

import errno
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.manifest import read_manifest
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from tests.store.sources import packed, write_folder

IDS = ["a", "b", "c", "d"]


def good(folder: Path) -> Path:
    return write_folder(folder, np.ones((4, 3), np.float16), IDS)


def refused(folder: Path, *, sentence: str, settings: PackSettings | None = None) -> None:
    """Packing refuses with this sentence, ends it nowhere else, and leaves no file."""
    with pytest.raises(ValueError, match=sentence) as caught:
        pack(PackInputs({"morgan": folder}), out=folder.parent / "packed", settings=settings)
    assert "\n" not in str(caught.value)
    assert not [path for path in folder.parent.iterdir() if "packed" in path.name]


def with_embeddings(values: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "embeddings.npy", values)


def with_file(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def spoiled(value: float) -> np.ndarray:
    values = np.ones((4, 3), np.float32)
    values[2, 1] = value
    return values


BAD = "morgan: 1 row of .* with NaN, .* beyond float16's 65504 or all too small for float16 .* .ids c.*--on-bad absent"
NPY = "modality morgan: .*embeddings.npy"
FAULTS = {
    "duplicate ids": (
        with_file("ids.txt", b"a\nb\nb\nd\n"),
        r"ids.txt has duplicate ids \(1 of them, such as 'b', 2 times",
    ),
    "blank id": (with_file("ids.txt", b"a\n\nc\nd\n"), "ids.txt has no id in row 1"),
    "fewer ids than rows": (with_file("ids.txt", b"a\nb\nc\n"), "ids.txt has 3 rows, embeddings.npy has 4"),
    "empty ids": (with_file("ids.txt", b""), "ids.txt is empty"),
    "ids not text": (with_file("ids.txt", b"a\n\xff\nc\nd\n"), "ids.txt is not UTF-8 text, byte 2 is wrong"),
    "no ids": (lambda folder: (folder / "ids.txt").unlink(), "ids.txt is missing"),
    "fewer smiles than rows": (with_file("smiles.txt", b"C\n"), "smiles.txt has 1 rows, embeddings.npy has 4"),
    "one NaN": (with_embeddings(spoiled(np.nan)), BAD),
    "infinity": (with_embeddings(spoiled(-np.inf)), BAD),
    "too small for float16": (with_embeddings(np.array([[1, 1], [0, 1e-9], [0, 0]], np.float32)[[0, 2, 1, 0]]), BAD),
    "beyond float16": (with_embeddings(spoiled(70_000)), BAD),
    "wrong type": (
        with_embeddings(np.ones((4, 3), np.int32)),
        NPY + r" holds int32 of shape \(4, 3\), allowed is float16",
    ),
    "one axis": (with_embeddings(np.ones(4, np.float16)), NPY + r" holds float16 of shape \(4,\)"),
    "no file": (lambda folder: (folder / "embeddings.npy").unlink(), NPY + " is missing"),
    "empty file": (with_file("embeddings.npy", b""), NPY + " is empty"),
    "pickle": (
        with_file("embeddings.npy", pickle.dumps([1.0])),
        NPY + r" is not a .npy file \(pickles are never read\)",
    ),
    "truncated": (
        lambda folder: (folder / "embeddings.npy").write_bytes((folder / "embeddings.npy").read_bytes()[:-5]),
        NPY + " is truncated",
    ),
    "wrong reasons": (
        lambda folder: np.save(folder / "reasons.npy", np.full(4, 9, np.uint8)),
        "holds 9, known are 0 to 5",
    ),
    "reasons of another type": (
        lambda folder: np.save(folder / "reasons.npy", np.zeros(4)),
        "holds float64, allowed is uint8",
    ),
    "nothing left": (with_embeddings(np.full((4, 3), np.nan)), "none of 4 rows is left for training"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_refused_with_a_sentence(tmp_path: Path, fault: str) -> None:
    spoil, sentence = FAULTS[fault]
    folder = good(tmp_path / "morgan")
    spoil(folder)
    refused(folder, sentence=sentence)


def test_an_array_of_python_objects_is_refused(tmp_path: Path) -> None:
    folder = good(tmp_path / "morgan")
    np.save(folder / "embeddings.npy", np.array([[1, None]] * 4, object), allow_pickle=True)
    refused(folder, sentence=NPY + " is truncated or holds Python objects")


def test_a_place_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", sentence="modality morgan: .*nothing is neither a folder nor a file")


def table_of(column: pa.Array) -> pa.Table:
    return pa.table({"id": IDS, "vector": column})


PARQUET_FAULTS = {
    "widths differ": (
        table_of(pa.array([[1.0, 2.0], [1.0], [1.0], [1.0]])),
        "has vectors of 1, 2 numbers, all need one width",
    ),
    "no id": (pa.table({"vector": pa.array([[1.0]])}), "has no column id, found vector"),
    "two vectors": (
        pa.table({"id": ["a"], "v": pa.array([[1.0]]), "w": pa.array([[1.0]])}),
        r"needs exactly one vector column .*found \['v', 'w'\]",
    ),
    "no vector": (pa.table({"id": ["a"]}), "needs exactly one vector column .*found none"),
    "text": (table_of(pa.array([["x"]] * 4)), r"holds list<.*string>, allowed is a list of float16"),
    "missing number": (table_of(pa.array([[1.0, None]] * 4)), "has 4 missing numbers inside vectors"),
    "no rows": (table_of(pa.array([[1.0]] * 4)).slice(0, 0), "has vectors of no numbers"),
}


@pytest.mark.parametrize("fault", PARQUET_FAULTS)
def test_a_faulty_parquet_file_is_refused_with_a_sentence(tmp_path: Path, fault: str) -> None:
    table, sentence = PARQUET_FAULTS[fault]
    path = tmp_path / "vectors.parquet"
    pq.write_table(table, path)
    refused(path, sentence=sentence)


@pytest.mark.parametrize("content", [b"", pickle.dumps({"id": []}), b"PAR1 something else PAR1"])
def test_an_empty_or_pickled_or_damaged_parquet_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vectors.parquet"
    path.write_bytes(content)
    refused(path, sentence="vectors.parquet is (empty|not a readable Parquet file .pickles are never read.)")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,y\na,1\na,2\n", r"table .*table.csv, column id, has duplicate ids \(1 of them, such as 'a'"),
        ("name,y\na,1\n", "table .*table.csv: no column id, found name, y"),
        ("id,y\na,inf\n", "table .*column y: a label is infinite"),
        ("id,y\na,1,2\n", "table: .*table.csv is not readable as CSV"),
        ("", "table: .*table.csv is not readable as CSV"),
    ],
)
def test_a_faulty_table_is_refused_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    inputs = PackInputs({"morgan": good(tmp_path / "morgan")}, table=tmp_path / "table.csv", labels=("y",))
    with pytest.raises(ValueError, match=sentence) as caught:
        pack(inputs, out=tmp_path / "packed")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["morgan", "table.csv"]


def test_labels_without_a_table_and_names_used_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no table was given"):
        PackInputs({"a": tmp_path}, labels=("y",))
    with pytest.raises(ValueError, match="found y, y, each once"):
        PackInputs({"a": tmp_path}, table=tmp_path / "t.csv", labels=("y",), split_column="y")
    with pytest.raises(ValueError, match="modalities: found none"):
        PackInputs({})


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    folder = good(tmp_path / "morgan")
    with pytest.raises(OSError, match="disk full"):
        pack(PackInputs({"morgan": folder}), out=tmp_path / "packed", progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["morgan"]


def test_what_a_killed_pack_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".packed.partial" / "train-00000.arrow"
    left.parent.mkdir()
    left.write_text("half")
    pack(PackInputs({"morgan": good(tmp_path / "morgan")}), out=tmp_path / "packed")
    assert not left.parent.exists()
    assert open_dataset(tmp_path / "packed").read("train").present.all()


def test_a_truncated_shard_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    dataset = packed(tmp_path, 200)
    shard = tmp_path / "packed" / dataset.manifest.shards[0].path
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"shard .*train-00000.arrow: found \d+ bytes, the manifest says \d+"):
        dataset.read("train")
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard .*train-00000.arrow: cannot be opened, No such file"):
        open_dataset(tmp_path / "packed").read("train")


def test_a_damaged_block_table_or_sidecar_is_refused(tmp_path: Path) -> None:
    dataset = packed(tmp_path, 200)
    table = tmp_path / "packed" / "blocks.bin"
    content = bytearray(table.read_bytes())
    content[16] ^= 8
    table.write_bytes(content)
    with pytest.raises(ValueError, match=r"blocks.bin: block 0 of shard train-00000.arrow does not lie"):
        dataset.read("train")
    table.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"blocks.bin: found \d+ bytes"):
        dataset.read("train")
    (tmp_path / "packed" / "train-00000.rows.arrow").write_bytes(b"")
    with pytest.raises(ValueError, match=r"sidecar .*train-00000.rows.arrow: its SHA-256 is not"):
        dataset.table("train")


def test_a_missing_foreign_or_changed_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing: no packed dataset here, manifest.json is missing"):
        open_dataset(tmp_path / "nothing")
    packed(tmp_path, 100)
    path = tmp_path / "packed" / "manifest.json"
    content = json.loads(path.read_text())
    for change, sentence in [
        ({"format_version": 99}, "found format_version 99, this program reads 1"),
        ({"pack_seed": 7}, "changed since it was packed"),
        ({"rows": 7}, "found shards of 99 rows, the manifest says 7"),
        ({"rows": "many"}, "not a valid manifest, setting rows: found 'many'"),
        ({"colour": 1}, "not a valid manifest, setting colour: unknown name"),
    ]:
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=sentence):
            read_manifest(tmp_path / "packed")
    for text, sentence in [("{", "not a readable manifest"), ("[]", "found format_version None")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            read_manifest(tmp_path / "packed")


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="not s3://"):
        open_dataset("s3://bucket/packed")
