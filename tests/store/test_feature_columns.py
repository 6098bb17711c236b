"""One column per feature: which columns are features, and in which order they stay."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.manifest import read_manifest, write_manifest
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.verbs.pack import pack as pack_verb


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["", "index", "Unnamed: 0", "__index_level_0__", "level_0"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_row_numbers_among_features_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    source = tmp_path / f"x.{kind}"
    if kind == "csv":
        csv(source, f"{name},id,f0\n0,a,1\n1,b,2\n")
    else:
        pq.write_table(pa.table({name: [0, 1], "id": ["a", "b"], "f0": [1.0, 2.0]}), source)
    with pytest.raises(ValueError, match=rf"modality m: .*x.{kind}, column '{name}', looks like row numbers .*without"):
        pack(PackInputs({"m": source}), out=tmp_path / "packed")


def test_labels_and_split_of_the_table_are_no_features(tmp_path: Path) -> None:
    table = csv(tmp_path / "t.csv", "name,y,s\na,1,train\nb,0,test\n")
    for column in ("y", "s", "name"):
        source = csv(tmp_path / "x.csv", f"id,f0,{column}\na,1,1\nb,2,0\n")
        inputs = PackInputs({"m": source}, table=table, id_column="name", labels=("y",), split_column="s")
        with pytest.raises(ValueError, match=f"modality m: .*x.csv, column {column}, is a label, the split or the id"):
            pack(inputs, out=tmp_path / "packed")


def test_a_label_of_the_base_is_no_feature_of_its_extension(tmp_path: Path) -> None:
    old = csv(tmp_path / "x.csv", "id,f0\na,1\nb,2\n")
    table = csv(tmp_path / "t.csv", "id,y\na,1\nb,0\n")
    pack(PackInputs({"m": old}, table=table, labels=("y",)), out=tmp_path / "packed")
    with pytest.raises(ValueError, match=r"modality n: .*n.csv, column y, is a label"):
        extend(PackInputs({"n": csv(tmp_path / "n.csv", "id,f,y\na,5,1\n")}), tmp_path / "packed")


def test_an_extension_reads_features_in_the_order_of_the_base(tmp_path: Path) -> None:
    old = csv(tmp_path / "x.csv", "id,f0,f1,f2\na,1,2,3\n")
    assert pack(PackInputs({"m": old}), out=tmp_path / "packed").modalities[0].features == ("f0", "f1", "f2")
    address = extend(PackInputs({"m": csv(tmp_path / "y.csv", "f2,f0,id,f1\n6,4,b,5\n")}), tmp_path / "packed")
    extended = open_dataset(address)
    rows = zip(extended.table("train")["id"].to_pylist(), extended.read("train").values["m"].tolist(), strict=True)
    assert dict(rows) == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert extended.manifest.modalities[0].features == ("f0", "f1", "f2")
    with pytest.raises(ValueError, match=r"z.csv has the features mw where .*packed has f0, the files of a modality"):
        extend(PackInputs({"m": csv(tmp_path / "z.csv", "id,mw,f1,f2\nc,1,2,3\n")}), tmp_path / "packed")


def test_a_manifest_without_feature_names_is_as_it_was(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0, 2.0]]}), tmp_path / "x.parquet")
    manifest = pack(PackInputs({"m": tmp_path / "x.parquet"}), out=tmp_path / "packed")
    assert "features" not in json.loads((tmp_path / "packed" / "manifest.json").read_text())["modalities"][0]
    write_manifest(manifest, tmp_path / "packed", "manifest-1.json")
    assert read_manifest(tmp_path / "packed" / "manifest-1.json") == manifest


def test_pack_says_the_width_and_the_first_and_last_feature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = csv(tmp_path / "x.csv", "id,f0,f1,f2\na,1,2,3\nb,1,2,3\nc,nan,2,3\n")
    other = csv(tmp_path / "y.csv", "id,g\na,1\nb,2\nc,2\nd,\n")
    pack_verb(modalities=[f"m={source}", f"n={other}"], out=str(tmp_path / "packed"), on_bad="absent", seed=1)
    said = capsys.readouterr().out
    assert "m: 3 numbers, columns f0 to f2, present in 66.7% of the training rows" in said
    assert "n: 1 numbers, columns g to g, present in 100.0% of the training rows" in said


def test_a_new_label_named_like_a_feature_is_refused(tmp_path: Path) -> None:
    pack(PackInputs({"m": csv(tmp_path / "x.csv", "id,f0,f1\na,1,2\n")}), out=tmp_path / "packed")
    labels = PackInputs(
        {"n": csv(tmp_path / "n.csv", "id,g\na,1\n")}, table=csv(tmp_path / "t.csv", "id,f1\na,3\n"), labels=("f1",)
    )
    with pytest.raises(ValueError, match=r"f1 is a feature of modality m of .*packed"):
        extend(labels, tmp_path / "packed")


def test_an_extension_says_the_order_of_columns_that_the_base_does_not(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0, 2.0]]}), tmp_path / "x.parquet")
    pack(PackInputs({"m": tmp_path / "x.parquet"}), out=tmp_path / "packed")
    said: list[str] = []
    extend(PackInputs({"m": csv(tmp_path / "y.csv", "id,f1,f0\nb,1,2\n")}), tmp_path / "packed", say=said.append)
    assert any("does not say the order of its columns" in line and line.endswith("f1, f0") for line in said)
