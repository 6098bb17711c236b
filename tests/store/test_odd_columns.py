"""Odd but legal files: feature columns in another order, ids of other types, vectors that are all missing."""

import decimal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.reasons import Reason
from tests.store.sources import write_folder

VECTORS = [[1.0, 2.0], [3.0, 4.0]]


def parquet(path: Path, ids: object, vectors: object = VECTORS) -> Path:
    pq.write_table(pa.table({"id": ids, "vector": vectors}), path)
    return path


def found(source: Path, out: Path, **more: object) -> dict[str, list[float]]:
    """Vectors by id, packed from this source."""
    pack(PackInputs({"m": source}, **more), out=out)
    dataset = open_dataset(out)
    return dict(zip(dataset.table("train")["id"].to_pylist(), dataset.read("train").values["m"].tolist(), strict=True))


def refused(source: Path, sentence: str, **more: object) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        pack(PackInputs({"m": source}, **more), out=source.parent / "packed")
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert not (source.parent / "packed").exists()


def as_parquet(path: Path, columns: dict[str, list]) -> None:
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))


def as_feather(path: Path, columns: dict[str, list]) -> None:
    pyarrow.feather.write_feather(pa.table(columns), path.with_suffix(".feather"))


def as_csv(path: Path, columns: dict[str, list]) -> None:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(map(str, row)) for row in [columns, *rows]]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n")


WRITERS = [as_parquet, as_feather, as_csv]


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
def test_features_are_read_by_name_in_the_order_of_the_first_file(
    tmp_path: Path, first: Callable[[Path, dict], None], second: Callable[[Path, dict], None]
) -> None:
    (tmp_path / "s").mkdir()
    first(tmp_path / "s" / "1", {"id": ["x"], "f0": [1.0], "f1": [2.0], "f2": [3.0]})
    second(tmp_path / "s" / "2", {"f2": [6.0], "f0": [4.0], "id": ["y"], "f1": [5.0]})
    assert found(tmp_path / "s", tmp_path / "o") == {"x": [1, 2, 3], "y": [4, 5, 6]}


def test_features_of_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    as_csv(tmp_path / "s" / "1", {"id": ["x"], "f0": [1], "f1": [2]})
    as_csv(tmp_path / "s" / "2", {"id": ["y"], "mw": [300], "f1": [1]})
    refused(tmp_path / "s", r"modality m: .*2.csv has the features mw where .*1.csv has f0, the files of a modality")
    as_csv(tmp_path / "s" / "2", {"id": ["y"], "f1": [1], **{f"f{n}": [1] for n in range(3, 10)}})
    refused(tmp_path / "s", r"has the features f3, f4, f5, f6, f7, ... where .*1.csv has f0")


IDS = {
    "float64": pa.array([1e15, 2.0]),
    "float32": pa.array([16777215.0, 2.0], pa.float32()),
    "float16": pa.array(np.array([2047, 2], np.float16)),
    "decimal": pa.array([decimal.Decimal("12.00"), decimal.Decimal("2.00")]),
    "dictionary of floats": pa.array([1e15, 2.0]).dictionary_encode(),
    "large bytes": pa.array([b"a", b"2"], pa.large_binary()),
    "fixed bytes": pa.array([b"a", b"2"], pa.binary(1)),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_type_match_text_and_integers(tmp_path: Path, kind: str) -> None:
    first = {"float64": "1000000000000000", "float32": "16777215", "float16": "2047", "decimal": "12"}
    expected = first.get(kind, "1000000000000000" if "floats" in kind else "a")
    source = parquet(tmp_path / "s.parquet", IDS[kind])
    assert found(source, tmp_path / "o") == {expected: [1, 2], "2": [3, 4]}
    table = {"id": IDS[kind], "y": [0.5, 1.5]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    text = parquet(tmp_path / "text.parquet", [expected, "2"])
    pack(PackInputs({"m": text}, table=tmp_path / "t.parquet", labels=("y",)), out=tmp_path / "with-table")
    rows = open_dataset(tmp_path / "with-table").table("train").to_pylist()
    assert {row["id"]: row["y"] for row in rows} == {expected: 0.5, "2": 1.5}


def broken_text() -> pa.Array:
    """A string column that claims to be UTF-8, as other writers may leave it."""
    offsets, text = np.array([0, 1, 2], np.int32), b"a\xff"
    return pa.StringArray.from_buffers(2, pa.py_buffer(offsets.tobytes()), pa.py_buffer(text))


REFUSED_IDS = {
    "fraction": (pa.array([1.5, 2.0]), r"holds the number 1.5 as double, allowed are text"),
    "rounded": (pa.array([2.0**53, 2.0]), r"holds the number 9007199254740992.0 as double"),
    "rounded float32": (pa.array([2.0**24, 2.0], pa.float32()), r"whole numbers below 16777216"),
    "infinity": (pa.array([np.inf, 2.0]), r"holds the number inf as double"),
    "decimal fraction": (pa.array([decimal.Decimal("1.5"), decimal.Decimal("2.0")]), r"with a fraction"),
    "bytes": (pa.array([b"\xff", b"a"]), r"holds bytes that are not UTF-8"),
    "broken text": (broken_text(), r"holds bytes that are not UTF-8"),
    "lists": (pa.array([["a"], ["b"]]), r"holds list<.*>, allowed are text and whole numbers"),
}


@pytest.mark.parametrize("kind", REFUSED_IDS)
def test_ids_that_cannot_match_are_refused_by_file_and_column(tmp_path: Path, kind: str) -> None:
    ids, sentence = REFUSED_IDS[kind]
    refused(parquet(tmp_path / "s.parquet", ids), rf"modality m: .*s.parquet, column id, .*{sentence}")
    pq.write_table(pa.table({"name": ids}), tmp_path / "t.parquet")
    more = {"table": tmp_path / "t.parquet", "id_column": "name"}
    refused(parquet(tmp_path / "x.parquet", ["a", "b"]), rf"table .*t.parquet, column name, .*{sentence}", **more)


def test_a_missing_id_among_floats_is_missing(tmp_path: Path) -> None:
    refused(parquet(tmp_path / "s.parquet", pa.array([1.0, np.nan])), "has no id in row 1")


def test_groups_may_be_any_numbers(tmp_path: Path) -> None:
    columns = {"id": ["a", "b", "c"], "group": [1e15, 0.5, None], "vector": [[1.0], [2.0], [3.0]]}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    pack(PackInputs({"m": tmp_path / "s.parquet"}), out=tmp_path / "o")
    rows = open_dataset(tmp_path / "o").table("train").to_pylist()
    assert {row["id"]: row["group"] for row in rows} == {"a": "1000000000000000", "b": "0.5", "c": None}


@pytest.mark.parametrize("dtype", [">i8", "<u2", ">f8", "S2", ">U3"])
def test_ids_of_either_byte_order_are_read_from_numpy_files(tmp_path: Path, dtype: str) -> None:
    ids = np.array([1, 20]).astype(dtype)
    np.savez(tmp_path / "s.npz", ids=ids, embeddings=np.array(VECTORS, ">f4"))
    assert found(tmp_path / "s.npz", tmp_path / "o") == {"1": [1, 2], "20": [3, 4]}
    if "f" not in dtype:
        np.save(tmp_path / "s.npy", np.array(VECTORS, ">f2"))
        np.save(tmp_path / "s.ids.npy", ids)
        assert found(tmp_path / "s.npy", tmp_path / "p") == {"1": [1, 2], "20": [3, 4]}


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (np.array([b"\xff", b"a"]), "array ids, holds bytes that are not UTF-8"),
        (np.array(["\ud800", "a"]), "array ids, holds bytes that are not UTF-8"),
        (np.array([1.5, 2]), "array ids, holds the number 1.5"),
        (np.array([1, 2], "M8[s]"), r"array ids, holds datetime64\[s\], allowed are text and whole numbers"),
    ],
)
def test_other_ids_in_numpy_files_are_refused(tmp_path: Path, ids: np.ndarray, sentence: str) -> None:
    np.savez(tmp_path / "s.npz", ids=ids, embeddings=np.array(VECTORS))
    refused(tmp_path / "s.npz", f"s.npz, {sentence}")


def test_a_column_twice_is_refused_where_it_matters(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,f,f\na,1,5\n")
    refused(tmp_path / "s.csv", "modality m: .*s.csv has the column f 2 times, each may stand once")
    (tmp_path / "t.csv").write_text("id,y,y,z,z\na,1,5,1,2\n")
    source = parquet(tmp_path / "s.parquet", ["a", "b"])
    refused(source, "table .*t.csv has the column y 2 times", table=tmp_path / "t.csv", labels=("y",))
    (tmp_path / "t.csv").write_text("id,y,z,z\na,None,1,2\nb,1,1,2\n")
    pack(PackInputs({"m": source}, table=tmp_path / "t.csv", labels=("y",)), out=tmp_path / "o")
    rows = open_dataset(tmp_path / "o").table("train").to_pylist()
    assert {row["id"]: row["y"] for row in rows} == {"a": None, "b": 1.0}


@pytest.mark.parametrize(
    "nulls", [pa.nulls(2, pa.list_(pa.float32())), pa.nulls(2), pa.nulls(2, pa.list_(pa.float16(), 2))]
)
@pytest.mark.parametrize("name", ["1.parquet", "9.parquet"])
def test_a_file_without_vectors_is_all_absent_when_another_tells_the_width(
    tmp_path: Path, nulls: pa.Array, name: str
) -> None:
    (tmp_path / "s").mkdir()
    parquet(tmp_path / "s" / name, ["c", "d"], nulls)
    parquet(tmp_path / "s" / "5.parquet", ["a", "b"])
    assert found(tmp_path / "s", tmp_path / "o") == {"a": [1, 2], "b": [3, 4]}
    dropped = open_dataset(tmp_path / "o").table("dropped").to_pylist()
    assert {row["id"]: row["reason:m"] for row in dropped} == {"c": Reason.FAILED, "d": Reason.FAILED}


def test_a_file_without_vectors_alone_tells_no_width(tmp_path: Path) -> None:
    source = parquet(tmp_path / "s.parquet", ["c", "d"], pa.nulls(2, pa.list_(pa.float32())))
    refused(source, "s.parquet has vectors of no numbers or none at all, and no other file tells their width")


@pytest.mark.parametrize("kind", ["null list", "NaN list", "features", "csv", "npy"])
def test_a_row_without_a_vector_means_the_encoder_failed_in_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    ids, nan = ["a", "b", "c"], float("nan")
    source = tmp_path / "s.parquet"
    if kind == "csv":
        source = tmp_path / "s.csv"
        source.write_text("id,f,g\na,1,2\nb,,\nc,nan,None\n")
    elif kind == "features":
        pq.write_table(pa.table({"id": ids, "f": [1.0, None, nan], "g": [2.0, None, None]}), source)
    elif kind == "npy":
        source = write_folder(tmp_path / "s", np.array([[1, 2], [nan, nan], [nan, nan]]), ids)
    else:
        parquet(source, ids, [[1.0, 2.0], *([None] * 2 if "null" in kind else [[nan, nan]] * 2)])
    pack(PackInputs({"m": source}), out=tmp_path / "o", settings=PackSettings(threads=1))
    assert open_dataset(tmp_path / "o").manifest.absent == {"m": {Reason.FAILED.label: 2}}


def test_a_column_that_nobody_asked_for_is_not_looked_at(tmp_path: Path) -> None:
    half_a_day = pa.Array.from_buffers(pa.date64(), 2, [None, pa.py_buffer(np.array([1, 2]).tobytes())])
    table = pa.table({"id": ["a", "b"], "y": [0.5, 1.5], "created": half_a_day, "note": broken_text()})
    pyarrow.feather.write_feather(table, tmp_path / "t.feather", compression="uncompressed")
    source = parquet(tmp_path / "s.parquet", ["a", "b"])
    pack(PackInputs({"m": source}, table=tmp_path / "t.feather", labels=("y",)), out=tmp_path / "o")
    rows = open_dataset(tmp_path / "o").table("train").to_pylist()
    assert {row["id"]: row["y"] for row in rows} == {"a": 0.5, "b": 1.5}
