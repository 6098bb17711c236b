"""The same vectors in every kind of file give the same pack, byte for byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.manifest import with_fingerprint
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.source import typed
from dynfusion.store.sources import open_source
from tests.store.sources import write_folder

ROWS, DIM = 90, 4
IDS = [f"m{number}" for number in range(ROWS)]
VALUES = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float16)
HALVES = VALUES.view(np.uint16)
BRAIN = (VALUES.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
"""The same numbers cut to bfloat16, as bits."""


def binary(bits: np.ndarray, metadata: dict[str, str] | None = None) -> pa.Table:
    width = bits.itemsize * DIM
    column = pa.Array.from_buffers(pa.binary(width), ROWS, [None, pa.py_buffer(np.ascontiguousarray(bits).tobytes())])
    field = pa.field("vector", pa.binary(width), metadata=metadata)
    return pa.table([pa.array(IDS), column], schema=pa.schema([pa.field("id", pa.string()), field]))


def lists(kind: pa.DataType) -> pa.Table:
    return pa.table({"id": IDS, "vector": pa.array(VALUES.astype(np.float64).tolist(), kind)})


def features(kind: pa.DataType) -> pa.Table:
    return pa.table({"id": IDS, **{f"f{m}": pa.array(VALUES[:, m].astype(np.float64), kind) for m in range(DIM)}})


def npy(dtype: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / "x.npy", VALUES.astype(dtype))
        (folder / "x.ids.txt").write_text("".join(f"{name}\r\n" for name in IDS))
        return folder / "x.npy"

    return write


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "x.npz", ids=np.array(IDS), vectors=VALUES)
    return folder / "x.npz"


def npy_ids(folder: Path) -> Path:
    np.save(folder / "x.npy", VALUES)
    np.save(folder / "x.ids.npy", np.array(IDS))
    return folder / "x.npy"


def stream(folder: Path) -> Path:
    with pa.ipc.new_stream(str(folder / "x.arrow"), lists(pa.list_(pa.float16(), DIM)).schema) as writer:
        writer.write_table(lists(pa.list_(pa.float16(), DIM)), max_chunksize=20)
    return folder / "x.arrow"


def parquet(table: pa.Table) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(table, folder / "x.parquet", row_group_size=40)
        return folder / "x.parquet"

    return write


def feather(table: pa.Table) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pyarrow.feather.write_feather(table, folder / "x.feather", compression="lz4", chunksize=37)
        return folder / "x.feather"

    return write


def csv(folder: Path) -> Path:
    pyarrow.csv.write_csv(features(pa.float64()), folder / "x.csv")
    return folder / "x.csv"


def several(folder: Path) -> Path:
    for number, part in enumerate((slice(0, 30), slice(30, 31), slice(31, ROWS))):
        write_folder(folder / f"part-{number}", VALUES[part], IDS[part])
        (folder / f"part-{number}" / "encoder.txt").unlink()
    return folder


def pattern(folder: Path) -> Path:
    for number, part in enumerate((slice(50, ROWS), slice(0, 50))):
        pq.write_table(lists(pa.list_(pa.float32()))[part], folder / f"part-{number}.parquet")
    (folder / "part-9.txt").write_text("not a source")
    return folder / "part-*.parquet"


KINDS: dict[str, Callable[[Path], Path]] = {
    "npy float32": npy("float32"),
    "npy float64": npy("float64"),
    "npy with npy ids": npy_ids,
    "npz": npz,
    "folders": several,
    "pattern": pattern,
    "csv": csv,
    "arrow stream": stream,
    "parquet list": parquet(lists(pa.list_(pa.float64()))),
    "parquet fixed list": parquet(lists(pa.list_(pa.float32(), DIM))),
    "parquet features": parquet(features(pa.float32())),
    "parquet bytes": parquet(binary(HALVES)),
    "feather bytes": feather(binary(VALUES.astype(np.float32).view(np.uint32), {"dtype": "float32"})),
    "feather features": feather(features(pa.float64())),
    "feather list": feather(lists(pa.large_list(pa.float16()))),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("expected")
    source = write_folder(folder / "a", VALUES, IDS)
    (source / "encoder.txt").unlink()
    return pack(PackInputs({"a": source}), out=folder / "packed").fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_pack(tmp_path: Path, expected: str, kind: str) -> None:
    (tmp_path / "sources").mkdir()
    source = KINDS[kind](tmp_path / "sources")
    manifest = pack(PackInputs({"a": source}), out=tmp_path / "packed")
    spec = manifest.modalities[0]
    assert spec.features == (("f0", "f1", "f2", "f3") if kind == "csv" or "features" in kind else ())
    nameless = manifest.model_copy(update={"modalities": (spec.model_copy(update={"features": ()}),)})
    assert with_fingerprint(nameless.model_dump(exclude={"fingerprint"})).fingerprint == expected


def test_bfloat16_is_read_from_bytes_and_from_raw_npy(tmp_path: Path) -> None:
    pq.write_table(binary(BRAIN), tmp_path / "x.parquet")
    np.save(tmp_path / "y.npy", BRAIN.view("V2"))
    (tmp_path / "y.ids.txt").write_text("".join(f"{name}\n" for name in IDS))
    inputs = PackInputs({"x": tmp_path / "x.parquet", "y": tmp_path / "y.npy"}, binary_dtype="bfloat16")
    pack(inputs, out=tmp_path / "packed")
    dataset = open_dataset(tmp_path / "packed")
    rows = [int(name[1:]) for name in dataset.table("train")["id"].to_pylist()]
    read = dataset.read("train").values
    exact = typed(BRAIN.view(np.uint8), "bfloat16")
    assert (exact.view(np.uint32) == BRAIN.astype(np.uint32) << 16).all()
    assert (read["x"] == exact[rows].astype(np.float16)).all()
    assert (read["y"] == read["x"]).all()


def test_a_bfloat16_number_beyond_float16_is_bad(tmp_path: Path) -> None:
    large = (np.full((ROWS, DIM), 1e5, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    pq.write_table(binary(large, {"dtype": "bfloat16"}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"modality x: 90 rows of .* beyond float16"):
        pack(PackInputs({"x": tmp_path / "x.parquet"}), out=tmp_path / "packed")


def test_pieces_of_a_long_file_start_at_their_own_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynfusion.store.npy_files.PIECE_BYTES", 7 * DIM * 2)
    monkeypatch.setattr("dynfusion.store.text_lines._SCAN_BYTES", 11)
    source = open_source("a", str(write_folder(tmp_path / "a", VALUES, IDS)))
    assert len(source.pieces) == 13
    chunks = [chunk for piece in source.pieces for chunk in piece.read(LOCAL, 5)]
    assert [name for chunk in chunks for name in chunk.ids.to_pylist()] == IDS
    whole = [chunk.vectors.copy() for piece in source.pieces for chunk in piece.read(LOCAL, 100)]
    assert (np.concatenate(whole) == VALUES).all()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another width": (
        lambda folder: [np.savez(folder / f"{dim}.npz", ids=["x"], v=np.ones((1, dim))) for dim in (3, 4)],
        r"modality a: .*4.npz has vectors of 4 numbers, .*3.npz of 3",
    ),
    "an npz without ids": (
        lambda folder: np.savez(folder / "x.npz", v=np.ones((1, 3))),
        r"x.npz holds arrays v, needed are ids and one array of two axes",
    ),
    "not an npz": (lambda folder: (folder / "x.npz").write_bytes(b"no"), "x.npz is not a readable .npz file"),
    "column order": (
        lambda folder: [
            np.save(folder / "x.npy", np.asfortranarray(VALUES)),
            (folder / "x.ids.txt").write_text("x\n"),
        ],
        "x.npy lies in column order, save numpy.ascontiguousarray",
    ),
    "text among the features": (
        lambda folder: pq.write_table(pa.table({"id": ["x"], "f": [1.0], "note": ["n"]}), folder / "x.parquet"),
        "x.parquet, column note, holds string, a feature is a column of numbers",
    ),
    "bytes of another type": (
        lambda folder: pq.write_table(binary(VALUES, {"dtype": "int8"}), folder / "x.parquet"),
        "binary_dtype: found 'int8', allowed are float16, float32, float64, bfloat16",
    ),
    "words in a csv": (
        lambda folder: (folder / "x.csv").write_text("id,f\nx,one\n"),
        "x.csv is not readable as CSV, In CSV column #1",
    ),
    "nothing known": (lambda folder: (folder / "x.bin").write_text("?"), "nothing else here ends with .npy, .npz"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_packed_is_refused_with_a_sentence(tmp_path: Path, fault: str) -> None:
    write, sentence = REFUSED[fault]
    (tmp_path / "sources").mkdir()
    write(tmp_path / "sources")
    with pytest.raises(ValueError, match=sentence) as caught:
        pack(PackInputs({"a": tmp_path / "sources"}), out=tmp_path / "packed")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "packed").exists()


def test_sources_are_read_through_the_three_functions_alone(tmp_path: Path) -> None:
    real = write_folder(tmp_path / "real", VALUES, IDS)
    opened: list[str] = []

    def open_far(uri: str):
        opened.append(uri)
        return LOCAL.open(uri.replace("far://", f"{tmp_path}/"))

    def find_far(uri: str) -> list[str]:
        return [file.replace(f"{tmp_path}/", "far://") for file in LOCAL.find(uri.replace("far://", f"{tmp_path}/"))]

    far = Files(open_far, find_far, lambda uri: "1", lambda uri: None)
    one = pack(PackInputs({"a": "far://real"}), out=tmp_path / "one", files=far, settings=PackSettings(threads=1))
    assert one.fingerprint == pack(PackInputs({"a": real}), out=tmp_path / "other").fingerprint
    assert {uri.rpartition("/")[2] for uri in opened} == {"embeddings.npy", "ids.txt", "encoder.txt"}


def test_texts_that_only_some_files_have_are_unknown_in_the_others(tmp_path: Path) -> None:
    source = several(tmp_path / "sources")
    (source / "part-0" / "smiles.txt").write_text("C\n" * 30)
    pack(PackInputs({"a": source}), out=tmp_path / "packed")
    found = {row["id"]: row["smiles"] for row in open_dataset(tmp_path / "packed").table("train").to_pylist()}
    assert found == {name: "C" if row < 30 else None for row, name in enumerate(IDS)}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path: Path, end: str) -> None:
    folder = write_folder(tmp_path / "m", np.ones((3, 2), np.float16), list("abc"))
    (folder / "ids.txt").write_bytes(b"\xef\xbb\xbf" + "".join(f"{name}{end}" for name in "abc").encode())
    pack(PackInputs({"m": folder}), out=tmp_path / "packed")
    assert set(open_dataset(tmp_path / "packed").table("train")["id"].to_pylist()) == set("abc")
